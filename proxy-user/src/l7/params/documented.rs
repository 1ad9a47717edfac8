// SPDX-License-Identifier: MIT OR Apache-2.0
//! docs/compatibility.md and the parameters that are read agree.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::known::PARAMETERS;
use super::{Params, read_service};
use crate::compatibility::rows;
use crate::l7::table::Table;
use crate::l7::tests::settings;

#[test]
fn every_parameter_stands_in_the_table_and_does_what_it_says() {
    let table = rows("Every parameter");
    let documented: BTreeSet<&str> = table.iter().map(|row| row.name.as_str()).collect();
    let known: BTreeSet<&str> = PARAMETERS.iter().map(|known| known.name).collect();
    assert_eq!(
        documented.len(),
        table.len(),
        "a parameter stands in the table twice"
    );
    let wrong: Vec<_> = documented.symmetric_difference(&known).collect();
    assert!(
        wrong.is_empty(),
        "only in one of docs/compatibility.md (Every parameter) and params/known.rs: {wrong:?}"
    );
    let settings = settings(Path::new("/nonexistent"));
    let mut services = Table::new(Arc::default(), settings);
    for row in table {
        assert!(
            ["same", "better", "own", "refused"].contains(&row.status.as_str()),
            "{}: `{}` is no status",
            row.name,
            row.status
        );
        // What needs a file beside it has a test of its own.
        if row.example.is_empty() {
            continue;
        }
        let mut params = Params::default();
        for pair in row.example.split('&') {
            let (name, value) = pair.split_once('=').expect("name=value");
            params.0.push((name.into(), value.into()));
        }
        assert!(
            params.first(&row.name).is_some(),
            "{}: the example does not give it",
            row.name
        );
        for (name, value) in [("serviceName", "s"), ("servicePath", "/"), ("port", "1")] {
            if params.first(name).is_none() {
                params.0.push((name.into(), value.into()));
            }
        }
        let (spec, problems) = read_service(&params, services.defaults());
        let problem = problems
            .into_iter()
            .next()
            .or_else(|| services.check(&spec).err());
        match (row.status.as_str(), problem) {
            ("refused", None) => panic!("{} is refused in the table and taken by the code", row.name),
            ("refused", Some(problem)) => assert_eq!(problem.name, row.name, "{problem}"),
            (_, Some(problem)) => panic!("{}: `{}`: {problem}", row.name, row.example),
            (_, None) => {}
        }
    }
}

#[test]
fn header_rules_know_what_the_table_says() {
    let settings = settings(Path::new("/nonexistent"));
    let mut services = Table::new(Arc::default(), settings);
    for row in rows("Header rules") {
        let mut params = Params::default();
        for (name, value) in [
            ("serviceName", "s"),
            ("servicePath", "/"),
            ("port", "1"),
            ("setReqHeader", row.example.as_str()),
        ] {
            params.0.push((name.into(), value.into()));
        }
        let (spec, problems) = read_service(&params, services.defaults());
        let problem = (problems.into_iter().next()).or_else(|| services.check(&spec).err());
        match (row.status.as_str(), problem) {
            ("same", None) => {}
            ("refused", Some(problem)) => {
                assert_eq!(problem.name, "setReqHeader", "{problem}");
                // It says what there is instead.
                let text = problem.to_string();
                assert!(
                    text.contains("servicePath.N") || text.contains("src_port"),
                    "{}: {text}",
                    row.name
                );
            }
            (status, problem) => panic!("{} is {status} in the table: {problem:?}", row.name),
        }
    }
}
