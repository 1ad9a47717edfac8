// SPDX-License-Identifier: MIT OR Apache-2.0
//! The format of portico.toml, case by case: what is read and what each mistake is called.

use super::*;

#[test]
fn no_toml_is_an_error_with_a_position() {
    let error = parse("p.toml", "node = \"a\"\n[[services]\n", None)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("p.toml: ") && error.contains("line 2"),
        "{error}"
    );
}

#[test]
fn an_empty_file_is_an_error_and_an_empty_list_is_not() {
    assert!(parse("p.toml", " \n", None).is_err());
    assert!(
        parse("p.toml", "services = []", None)
            .unwrap()
            .problems
            .is_empty()
    );
}

#[test]
fn the_flag_overrides_the_node() {
    assert_eq!(parse("p.toml", "node = \"a\"", Some("b")).unwrap().node, "b");
}

#[test]
fn an_unknown_key_at_the_top_is_a_problem_of_the_file() {
    let snapshot = parse("p.toml", "node = \"a\"\nservcies = []", None).unwrap();
    assert_eq!(snapshot.problems[0].field, "servcies");
}
