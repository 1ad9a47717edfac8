// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico service`.

use clap::Subcommand;
use serde_json::Value;

use super::{
    Exit,
    status::{Ask, ask, cell},
    table,
};

/// Flags of `portico service`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List services
    Ls(Ask),
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    let Verb::Ls(flags) = args.verb;
    let services = ask(&flags.socket, "/v1/services")?;
    if flags.json {
        super::print(&format!("{services:#}\n"))
    } else {
        super::print(&render(&services))
    }
}

fn render(services: &Value) -> String {
    let list = |value: &Value, show: &dyn Fn(&Value) -> String| -> String {
        value
            .as_array()
            .into_iter()
            .flatten()
            .map(show)
            .collect::<Vec<_>>()
            .join(",")
    };
    let rows: Vec<Vec<String>> = services
        .as_array()
        .into_iter()
        .flatten()
        .map(|service| {
            let tasks = service["tasks"].as_array().map_or(&[][..], Vec::as_slice);
            let count =
                |field: &str, wanted: &Value| tasks.iter().filter(|task| task[field] == *wanted).count();
            let mut who = format!(
                "{} local, {} remote",
                count("place", &"local".into()),
                count("place", &"remote".into())
            );
            let draining = count("draining", &true.into());
            if draining > 0 {
                who.push_str(&format!(", {draining} draining"));
            }
            let plain = service["backends"].as_array().map_or(0, Vec::len);
            if plain > 0 {
                who.push_str(&format!(", {plain} plain"));
            }
            let mut state = cell(&service["status"]);
            if let Some(problem) = service["problem"].as_str() {
                state.push_str(&format!(": {problem}"));
            }
            vec![
                cell(&service["name"]),
                list(&service["vips"], &|vip| {
                    format!("{}@{}", cell(&vip["address"]), cell(&vip["network"]))
                }),
                list(&service["ports"], &|port| {
                    format!(
                        "{}->{}/{}",
                        port["published"],
                        port["target"],
                        cell(&port["protocol"])
                    )
                }),
                who,
                state,
            ]
        })
        .collect();
    table::render(&["SERVICE", "VIPS", "PORTS", "TASKS", "STATUS"], &rows)
}
