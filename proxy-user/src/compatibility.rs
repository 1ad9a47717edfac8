// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables at the end of docs/compatibility.md, for the tests that compare them with the code.

/// A row: what, how it compares with the original, how to give it.
pub struct Row {
    /// Parameter or variable.
    pub name: String,
    /// `same`, `better`, `own`, `refused`, `no effect` or `not yet`.
    pub status: String,
    /// Query or value; empty when no test gives it.
    pub example: String,
}

/// The rows below a heading.
pub fn rows(heading: &str) -> Vec<Row> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md");
    let text = std::fs::read_to_string(path).expect("docs/compatibility.md");
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let rows: Vec<Row> = rows
        .map(|line| {
            let line = line.replace("\\|", "\u{0}");
            let mut cells = line
                .split('|')
                .skip(1)
                .map(|cell| cell.trim().trim_matches('`').replace('\u{0}', "|"));
            let mut cell = || cells.next().unwrap_or_default();
            Row {
                name: cell(),
                status: cell(),
                example: cell(),
            }
        })
        .collect();
    assert!(rows.len() > 20, "{heading} has {} rows", rows.len());
    rows
}
