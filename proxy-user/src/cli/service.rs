// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico service`.

mod health;
mod ipvsadm;
mod list;
mod policy;
mod transfer;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{Exit, ask::Ask};
use crate::{
    model::snapshot::HealthParams,
    providers::api::{Edit, ServiceSpec},
};

/// Flags of `portico service`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List services, of all providers
    Ls(Ask),
    /// Add a service; adding one that is there as it is changes nothing
    ///
    /// It is kept in the agent's state directory and survives restarts. Example:
    ///   portico service add web --vip 10.9.0.1:80 --backend 10.0.0.7:8080 --backend 10.0.0.8:8080 --scheduler wrr
    #[command(verbatim_doc_comment)]
    Add(Add),
    /// Change a service that `service add` made; what is not named stays
    Set(Set),
    /// Remove a service that `service add` made, with its backends; removing one that is not there changes nothing
    Rm(Remove),
    /// Print the services that `service add` made as `ipvsadm -S -n` prints them
    Export(transfer::Export),
    /// Add the services of a table that `ipvsadm -S -n` printed, all or none
    ///
    /// A line that Portico has no equal for is refused with its number and the reason, and nothing is done.
    Import(transfer::Import),
}

/// Fields of a service that have a default.
const UNSET: [&str; 10] = [
    "vips",
    "ports",
    "tasks",
    "health",
    "scheduler",
    "affinity",
    "client",
    "allow",
    "deny",
    "drain",
];

/// What a service is.
#[derive(clap::Args)]
struct Fields {
    /// Virtual address: [NETWORK=]ADDRESS[:PORT[/PROTOCOL]]; repeat for more. Without a network it is one of the
    /// node's own namespace; without a port it is every port and protocol
    #[arg(long = "vip", value_name = "VIP")]
    vips: Vec<String>,
    /// Port published on every node: PUBLISHED[:TARGET][/PROTOCOL]; repeat for more. Served by --task
    #[arg(long = "publish", short = 'p', value_name = "PORT")]
    ports: Vec<String>,
    /// Task of the other provider that serves it; repeat for more
    #[arg(long = "task", value_name = "NAME")]
    tasks: Vec<String>,
    #[arg(long, value_name = "CHECK", help = health::HELP, value_parser = health::parse)]
    health: Option<HealthParams>,
    #[command(flatten)]
    policy: policy::Flags,
}

#[derive(clap::Args)]
struct Add {
    /// Name of the service
    service: String,
    #[command(flatten)]
    fields: Fields,
    /// Backend of the virtual addresses: ADDRESS:PORT; repeat for more (also: portico backend add)
    #[arg(long = "backend", value_name = "ADDRESS:PORT")]
    backends: Vec<String>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
struct Set {
    /// Name of the service
    service: String,
    #[command(flatten)]
    fields: Fields,
    /// Give a field its default back; repeat for more
    #[arg(long = "unset", value_name = "FIELD", value_parser = UNSET)]
    unset: Vec<String>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
struct Remove {
    /// Names of the services
    #[arg(required = true)]
    services: Vec<String>,
    #[command(flatten)]
    ask: Ask,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    match args.verb {
        Verb::Ls(ask) => {
            let services = ask.get("/v1/services")?;
            if ask.json {
                super::print(&format!("{services:#}\n"))
            } else {
                super::print(&list::render(&services))
            }
        }
        Verb::Add(add) => {
            let edit = Edit::AddService {
                service: add.service,
                spec: Box::new(ServiceSpec {
                    vips: add.fields.vips,
                    ports: add.fields.ports,
                    tasks: add.fields.tasks,
                    health: add.fields.health,
                    scheduler: add.fields.policy.scheduler,
                    affinity: add.fields.policy.affinity,
                    client: add.fields.policy.client,
                    allow: add.fields.policy.allow,
                    deny: add.fields.policy.deny,
                    drain: add.fields.policy.drain,
                    backends: add
                        .backends
                        .into_iter()
                        .map(|name| (name, Default::default()))
                        .collect(),
                }),
            };
            add.ask.edit(&[edit], |edit, changed| {
                told(edit, changed, "added", "is there as it is")
            })
        }
        Verb::Set(set) => {
            let mut fields = set.fields.json();
            fields.extend(set.unset.iter().map(|field| (field.clone(), Value::Null)));
            if fields.is_empty() {
                return Err(Exit::Usage(
                    "nothing to set; name a field (portico service set --help)".into(),
                ));
            }
            let edit = Edit::SetService {
                service: set.service,
                fields,
            };
            set.ask.edit(&[edit], |edit, changed| {
                told(edit, changed, "changed", "was so already")
            })
        }
        Verb::Export(export) => transfer::export(&export),
        Verb::Import(import) => transfer::import(&import),
        Verb::Rm(remove) => {
            let edits = remove
                .services
                .into_iter()
                .map(|service| Edit::RemoveService { service });
            let edits: Vec<Edit> = edits.collect();
            remove.ask.edit(&edits, |edit, changed| {
                told(edit, changed, "removed", "was not there")
            })
        }
    }
}

fn told(edit: &Edit, changed: bool, done: &str, nothing: &str) -> String {
    format!(
        "service {}: {}",
        edit.service(),
        if changed { done } else { nothing }
    )
}

impl Fields {
    /// What was named.
    fn json(self) -> Map<String, Value> {
        let policy = self.policy;
        let named = [
            ("vips", self.vips),
            ("ports", self.ports),
            ("tasks", self.tasks),
            ("allow", policy.allow),
            ("deny", policy.deny),
        ];
        let named = named.into_iter().filter(|(_, list)| !list.is_empty());
        let named = named.map(|(field, list)| (field.to_owned(), json!(list)));
        let health = self.health.map(|health| ("health".to_owned(), json!(health)));
        let words = [
            ("scheduler", policy.scheduler),
            ("affinity", policy.affinity),
            ("client", policy.client),
            ("drain", policy.drain),
        ];
        let words = words
            .into_iter()
            .filter_map(|(field, word)| Some((field.to_owned(), json!(word?))));
        named.chain(health).chain(words).collect()
    }
}
