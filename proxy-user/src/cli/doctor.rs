// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico doctor`: what this machine offers, and what follows from it. Needs no agent and changes nothing.

mod beside;
mod checks;

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Exit, table};
use crate::providers::docker;

pub use checks::{cgroup2_mount, require_capabilities};

/// Flags of `portico doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The engine's unix socket, as path or unix:// URL
    #[arg(long, value_name = "SOCKET", env = "PORTICO_DOCKER", default_value = docker::SOCKET)]
    docker: String,
    /// Directory of the pinned maps and links
    #[arg(
        long,
        value_name = "DIR",
        env = "PORTICO_BPFFS",
        default_value = "/sys/fs/bpf/portico"
    )]
    bpffs: PathBuf,
    /// Interface that clients come in through; again for more [default: those of the default routes]
    #[arg(long, value_name = "NAME", env = "PORTICO_UPLINK", value_delimiter = ',')]
    uplink: Vec<String>,
    /// Unix socket of the agent
    #[arg(long, value_name = "PATH", env = "PORTICO_SOCKET", default_value = super::ask::SOCKET)]
    socket: PathBuf,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at; stable, used by scripts.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether Portico cannot run without it.
    pub required: bool,
    /// What was found.
    pub found: String,
    /// What follows, and how to change it.
    pub follows: String,
}

impl Check {
    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "ok": self.ok,
            "required": self.required,
            "found": self.found,
            "follows": self.follows,
        })
    }
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    let mut found = checks::all(&args.docker, &args.bpffs, &args.socket);
    found.extend(beside::all(&beside::uplinks(&args.uplink)));
    if args.json {
        let list: Vec<Value> = found.iter().map(Check::json).collect();
        let ok = found.iter().all(|check| check.ok || !check.required);
        super::print(&format!("{:#}\n", json!({ "ok": ok, "checks": list })))?;
    } else {
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|check| {
                let ok = match (check.ok, check.required) {
                    (true, _) => "ok",
                    (false, true) => "MISSING",
                    (false, false) => "no",
                };
                vec![
                    check.name.into(),
                    ok.into(),
                    check.found.clone(),
                    check.follows.clone(),
                ]
            })
            .collect();
        super::print(&table::render(&["CHECK", "OK", "FOUND", "WHAT FOLLOWS"], &rows))?;
    }
    let missing: Vec<&Check> = found.iter().filter(|check| check.required && !check.ok).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let join = |part: fn(&Check) -> &str| {
        missing
            .iter()
            .map(|check| part(check))
            .collect::<Vec<_>>()
            .join("; ")
    };
    Err(Exit::Lacks {
        what: format!("required and missing: {}", join(|check| check.name)),
        how: join(|check| &check.follows),
    })
}
