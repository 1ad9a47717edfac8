// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules of the repository that a machine can check.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file below a folder, with its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of this repository") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path
                    .strip_prefix(root())
                    .expect("below the root")
                    .display()
                    .to_string();
                found.push((name, fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has sources");
    found
}

fn all() -> Vec<(String, String)> {
    [
        "proxy-ebpf/src",
        "proxy-user/src",
        "xtask/src",
        "tests/src",
        "tests/tests",
        "tests/benches",
    ]
    .iter()
    .flat_map(|folder| sources(folder))
    .collect()
}

#[test]
fn every_file_names_its_licence_and_its_purpose() {
    let mut wrong = Vec::new();
    for (name, text) in all() {
        let licence = if name.starts_with("proxy-ebpf/src/bin") {
            "MIT OR GPL-2.0-only"
        } else {
            "MIT OR Apache-2.0"
        };
        if !text.starts_with(&format!("// SPDX-License-Identifier: {licence}\n")) {
            wrong.push(format!(
                "{name}: the first line is not its SPDX licence ({licence})"
            ));
        }
        if !text.lines().take(4).any(|line| line.starts_with("//!")) {
            wrong.push(format!("{name}: no module doc says what it is for"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Who must not know whom: data flows from providers to the kernel, and only status comes back.
const MUST_NOT_IMPORT: [(&str, &[&str]); 5] = [
    (
        "proxy-user/src/model",
        &["providers", "reconcile", "l7", "admin", "daemon", "cli"],
    ),
    (
        "proxy-user/src/providers",
        &["reconcile", "l7", "admin", "daemon"],
    ),
    (
        "proxy-user/src/reconcile",
        &["providers", "l7", "admin", "daemon", "cli"],
    ),
    (
        "proxy-user/src/kernel",
        &["model", "providers", "l7", "admin", "daemon"],
    ),
    (
        "proxy-user/src/l7",
        &["model", "providers", "reconcile", "kernel", "admin", "daemon"],
    ),
];

#[test]
fn no_import_goes_against_the_flow_of_data() {
    let mut wrong = Vec::new();
    for (folder, forbidden) in MUST_NOT_IMPORT {
        for (name, text) in sources(folder) {
            if name.contains("tests") {
                continue;
            }
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for module in imports(code) {
                if forbidden.contains(&module.as_str()) {
                    wrong.push(format!("{name} imports crate::{module}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// First segments of everything that a file takes from its own crate.
fn imports(code: &str) -> Vec<String> {
    let code: String = code
        .lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let mut depth = 0;
        let mut word = String::new();
        let group = rest.starts_with('{');
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if c.is_alphanumeric() || c == '_' {
                word.push(c);
                continue;
            }
            // Outside a group the first word is all; inside, each word that follows `{` or `,` at depth one.
            if !word.is_empty() {
                if !group || depth <= 1 && c != '}' || depth == 0 {
                    found.push(word.clone());
                }
                word.clear();
            }
            if !group || depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn only_the_kernel_module_speaks_to_the_kernel() {
    for (name, text) in sources("proxy-user/src") {
        if !name.starts_with("proxy-user/src/kernel") {
            for word in ["aya::", "rtnetlink", "libc::setns", "libc::unshare"] {
                assert!(
                    !text.contains(word),
                    "{name} uses {word}: that belongs to kernel/"
                );
            }
        }
    }
}

#[test]
fn the_datapath_library_knows_no_helper_no_clock_and_no_std() {
    for (name, text) in sources("proxy-ebpf/src") {
        let host_only = name.contains("tests.rs") || name.contains("model.rs");
        if !name.starts_with("proxy-ebpf/src/bin") && !host_only {
            for word in ["aya_ebpf", "std::", "Instant"] {
                assert!(!text.contains(word), "{name} uses {word}");
            }
        }
    }
}

#[test]
fn no_test_sleeps() {
    for (name, text) in all() {
        let is_test = (name.contains("tests/") || name.ends_with("tests.rs")) && !name.contains("benches/");
        if is_test && !name.ends_with("tidy.rs") {
            assert!(
                !text.contains("thread::sleep"),
                "{name}: wait for a state with a deadline instead"
            );
        }
    }
}
