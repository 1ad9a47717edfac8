// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico status`.

use serde_json::Value;

use super::{
    Exit,
    ask::{Ask, cell},
    table,
};

/// Flags of `portico status`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    ask: Ask,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    let status = args.ask.get("/v1/status")?;
    if args.ask.json {
        super::print(&format!("{status:#}\n"))
    } else {
        super::print(&render(&status))
    }
}

/// Empty when nobody is checked.
fn health(health: &Value) -> String {
    let [up, down, unknown] =
        ["up", "down", "unknown"].map(|state| health[state].as_u64().unwrap_or_default());
    if up + down + unknown == 0 {
        return "no checks".into();
    }
    let mut text = format!("{up} up, {down} down, {unknown} unknown");
    let all: Vec<&str> = health["all_down"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !all.is_empty() {
        text.push_str(&format!(
            "; all members down, so all are used: {}",
            all.join(", ")
        ));
    }
    text
}

/// `rr 3, mh 1; 2 with affinity`: schedulers always, the rest where it is not the default.
fn policies(policies: &Value) -> String {
    let counted = |field: &str| -> Vec<String> {
        let entries = policies[field].as_object().into_iter().flatten();
        entries.map(|(word, count)| format!("{word} {count}")).collect()
    };
    let mut parts = vec![counted("scheduler").join(", ")];
    parts.extend(
        counted("client")
            .into_iter()
            .filter(|text| !text.starts_with("preserve ")),
    );
    for (field, text) in [("affinity", "with affinity"), ("filtered", "with allow or deny")] {
        let count = policies[field].as_u64().unwrap_or_default();
        if count > 0 {
            parts.push(format!("{count} {text}"));
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("; ")
}

fn render(status: &Value) -> String {
    let provider = &status["provider"];
    let mut source = format!(
        "{} {}: {}",
        cell(&provider["kind"]),
        cell(&provider["source"]),
        cell(&provider["state"])
    );
    if let Some(problem) = provider["problem"].as_str() {
        source.push_str(&format!(" ({problem}; the last state stays in force)"));
    }
    let frontends = &status["frontends"];
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut out = table::render(
        &["AGENT", ""],
        &[
            row("node", cell(&status["node"])),
            row("version", cell(&status["version"])),
            row("uptime", format!("{} s", cell(&status["uptime_s"]))),
            row("provider", source),
            row("services", cell(&status["services"])),
            row("policies", policies(&status["policies"])),
            row(
                "frontends",
                format!(
                    "{} ({} done, {} pending, {} error)",
                    frontends["total"], frontends["done"], frontends["pending"], frontends["error"]
                ),
            ),
            row("backends", cell(&status["backends"])),
            row("health", health(&status["health"])),
            row("namespaces", cell(&status["scopes"])),
            row("local tasks", cell(&status["local_tasks"])),
        ],
    );
    let mut section = |headings: &[&str], list: &Value, fields: &[&str]| {
        let rows: Vec<Vec<String>> = list
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| fields.iter().map(|field| cell(&entry[field])).collect())
            .collect();
        if !rows.is_empty() {
            out.push('\n');
            out.push_str(&table::render(headings, &rows));
        }
    };
    section(&["REFUSED"], &status["refused"], &["message"]);
    section(
        &["NAMESPACE OF", "PATH", "PROBLEM"],
        &status["sandboxes"],
        &["task", "path", "problem"],
    );
    section(
        &["FRONTEND", "SERVICE", "ERROR"],
        &status["frontend_errors"],
        &["frontend", "service", "error"],
    );
    let pairs = |value: &Value| -> Vec<Vec<String>> {
        let entries = value.as_object().into_iter().flatten();
        entries
            .map(|(name, value)| vec![name.clone(), cell(value)])
            .collect()
    };
    for (headings, value) in [
        (["OPERATION", "ERROR"], &status["errors"]),
        (["KERNEL", ""], &status["kernel"]),
        (["COUNTER", "COUNT"], &status["counters"]),
    ] {
        let rows = pairs(value);
        if !rows.is_empty() {
            out.push('\n');
            out.push_str(&table::render(&headings, &rows));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn policies_are_one_line() {
        let policies = |value| super::policies(&value);
        assert_eq!(policies(json!({})), "");
        let plain =
            json!({ "scheduler": { "rr": 3 }, "client": { "preserve": 3 }, "affinity": 0, "filtered": 0 });
        assert_eq!(policies(plain), "rr 3");
        let mixed = json!({ "scheduler": { "mh": 1, "rr": 3 }, "client": { "dsr": 1, "preserve": 3 }, "affinity": 2,
            "filtered": 1 });
        assert_eq!(
            policies(mixed),
            "mh 1, rr 3; dsr 1; 2 with affinity; 1 with allow or deny"
        );
    }
}
