// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico status`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Exit, table};
use crate::unix_http::{self, Error};

/// Where the agent listens unless told otherwise.
pub const SOCKET: &str = "/run/portico/node.sock";

/// Flags of every verb that asks the agent.
#[derive(clap::Args, Clone, Debug)]
pub struct Ask {
    /// Unix socket of the agent
    #[arg(long, value_name = "PATH", env = "PORTICO_SOCKET", default_value = SOCKET)]
    pub socket: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `portico status`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    ask: Ask,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    let status = ask(&args.ask.socket, "/v1/status")?;
    if args.ask.json {
        super::print(&format!("{status:#}\n"))
    } else {
        super::print(&render(&status))
    }
}

/// Asks the agent.
pub fn ask(socket: &Path, path: &str) -> Result<Value, Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::Failed(format!("runtime: {error}")))?;
    let body = runtime.block_on(unix_http::get(socket, path)).map_err(|error| match error {
        Error::Connect { .. } => Exit::Lacks {
            what: format!("no agent answers: {error}"),
            how: "start it (portico node), name its socket with --socket, or use an account that may open it".into(),
        },
        error => Exit::Failed(error.to_string()),
    })?;
    serde_json::from_slice(&body).map_err(|error| Exit::Failed(format!("{path}: {error}")))
}

/// A JSON value as one cell.
pub fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
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
            row(
                "frontends",
                format!(
                    "{} ({} done, {} pending, {} error)",
                    frontends["total"], frontends["done"], frontends["pending"], frontends["error"]
                ),
            ),
            row("backends", cell(&status["backends"])),
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
