// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico backend`.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{
    Exit,
    ask::{Ask, cell},
    table,
};
use crate::providers::api::{BackendSpec, Edit};

/// Flags of `portico backend`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List backends and tasks, of all providers
    Ls(List),
    /// Add backends to a service that `service add` made; adding one that is there as it is changes nothing
    Add(Add),
    /// Change a backend; what is not named stays
    Set(Set),
    /// Give backends no new flow; they keep the flows they have. --undo takes it back
    Drain(Drain),
    /// Remove backends at once, with their flows (first drain them); removing one that is not there changes nothing
    Rm(Remove),
}

#[derive(clap::Args)]
struct List {
    /// Only of this service
    service: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
struct Named {
    /// Name of the service
    service: String,
    /// The backends: ADDRESS:PORT
    #[arg(required = true, value_name = "ADDRESS:PORT")]
    backends: Vec<String>,
}

#[derive(clap::Args)]
struct Add {
    #[command(flatten)]
    named: Named,
    /// Share of new flows, 0 (none) to 255, where the scheduler counts weights [default: 1]
    #[arg(long, value_name = "NUMBER")]
    weight: Option<u8>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
struct Set {
    #[command(flatten)]
    named: Named,
    /// Whether it gets no new flow
    #[arg(long, value_name = "BOOL")]
    draining: Option<bool>,
    /// Share of new flows, 0 (none) to 255, where the scheduler counts weights
    #[arg(long, value_name = "NUMBER")]
    weight: Option<u8>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
struct Drain {
    #[command(flatten)]
    named: Named,
    /// Let it have new flows again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
struct Remove {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    ask: Ask,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    match args.verb {
        Verb::Ls(list) => ls(&list),
        Verb::Add(add) => {
            let edits = add.named.edits(|service, backend| Edit::AddBackend {
                service,
                backend,
                spec: BackendSpec {
                    weight: add.weight.map(i64::from),
                    ..BackendSpec::default()
                },
            });
            tell(&add.ask, &edits, "added", "is there as it is")
        }
        Verb::Set(set) => {
            let mut fields = Map::new();
            if let Some(draining) = set.draining {
                fields.insert("draining".into(), json!(draining));
            }
            if let Some(weight) = set.weight {
                fields.insert("weight".into(), json!(weight));
            }
            if fields.is_empty() {
                return Err(Exit::Usage(
                    "nothing to set; name a field (portico backend set --help)".into(),
                ));
            }
            tell(&set.ask, &set.named.set(&fields), "changed", "was so already")
        }
        Verb::Drain(drain) => {
            let fields = Map::from_iter([("draining".to_owned(), json!(!drain.undo))]);
            let (done, nothing) = if drain.undo {
                ("gets new flows again", "was not draining")
            } else {
                ("drains", "drains already")
            };
            tell(&drain.ask, &drain.named.set(&fields), done, nothing)
        }
        Verb::Rm(remove) => {
            let edits = remove
                .named
                .edits(|service, backend| Edit::RemoveBackend { service, backend });
            tell(&remove.ask, &edits, "removed", "was not there")
        }
    }
}

impl Named {
    fn edits(self, edit: impl Fn(String, String) -> Edit) -> Vec<Edit> {
        let Self { service, backends } = self;
        let edits = backends.into_iter().map(|backend| edit(service.clone(), backend));
        edits.collect()
    }

    fn set(self, fields: &Map<String, Value>) -> Vec<Edit> {
        self.edits(|service, backend| Edit::SetBackend {
            service,
            backend,
            fields: fields.clone(),
        })
    }
}

fn tell(ask: &Ask, edits: &[Edit], done: &str, nothing: &str) -> Result<(), Exit> {
    ask.edit(edits, |edit, changed| {
        let backend = match edit {
            Edit::AddBackend { backend, .. }
            | Edit::SetBackend { backend, .. }
            | Edit::RemoveBackend { backend, .. } => backend,
            _ => "",
        };
        let what = if changed { done } else { nothing };
        format!("backend {backend} of {}: {what}", edit.service())
    })
}

fn ls(list: &List) -> Result<(), Exit> {
    let services = list.ask.get("/v1/services")?;
    let services = services.as_array().map_or(&[][..], Vec::as_slice);
    let wanted = |service: &&Value| list.service.as_ref().is_none_or(|name| service["name"] == **name);
    let found: Vec<&Value> = services.iter().filter(wanted).collect();
    if let (true, Some(name)) = (found.is_empty(), &list.service) {
        return Err(Exit::Usage(format!(
            "there is no service '{name}' (portico service ls shows all)"
        )));
    }
    let rows: Vec<Value> = found.into_iter().flat_map(backends).collect();
    if list.ask.json {
        return super::print(&format!("{:#}\n", Value::Array(rows)));
    }
    let cells = |row: &Value| {
        ["service", "backend", "kind", "node", "weight", "state"]
            .map(|field| cell(&row[field]))
            .to_vec()
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    super::print(&table::render(
        &["SERVICE", "BACKEND", "KIND", "NODE", "WEIGHT", "STATE"],
        &rows,
    ))
}

/// One row for each that serves it.
fn backends(service: &Value) -> Vec<Value> {
    let of = |field: &str| service[field].as_array().into_iter().flatten();
    let state = |value: &Value| {
        let mut text = if value["drained"] == true {
            "drained"
        } else if value["draining"] == true {
            "draining"
        } else {
            "active"
        }
        .to_owned();
        if let Some(health) = value["health"].as_object() {
            text.push_str(&format!(", {}", cell(&health["state"])));
            let why = cell(&health["why"]);
            if !why.is_empty() {
                text.push_str(&format!(" ({why})"));
            }
        }
        text
    };
    let tasks = of("tasks").map(|task| {
        json!({
            "service": service["name"],
            "backend": task["address"],
            "task": task["name"],
            "kind": format!("{} task", cell(&task["place"])),
            "node": task["node"],
            "weight": task["weight"],
            "draining": task["draining"],
            "drained": task["drained"],
            "health": task["health"],
            "state": state(task),
        })
    });
    let plain = of("backends").map(|backend| {
        json!({
            "service": service["name"],
            "backend": format!("{}:{}", cell(&backend["address"]), cell(&backend["port"])),
            "kind": "plain",
            "weight": backend["weight"],
            "draining": backend["draining"],
            "drained": backend["drained"],
            "health": backend["health"],
            "state": state(backend),
        })
    });
    tasks.chain(plain).collect()
}
