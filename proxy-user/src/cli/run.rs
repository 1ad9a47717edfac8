// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico run`: node agent and proxy in one process.
//!
//! Each keeps its own runtime and threads. When one ends with an error the process ends with it; when one ends
//! because it was told to, the other was told too and is waited for.

use std::{sync::mpsc, time::Duration};

use clap::Parser;

use super::{Exit, node, proxy};

/// How long the second of the two may take to end after the first has.
const FAREWELL: Duration = Duration::from_secs(30);

/// Flags of `portico run`.
// clap makes a group of every such struct, named after it, and the flattened one is named the same.
#[derive(clap::Args)]
#[group(id = "run")]
pub struct Args {
    #[command(flatten)]
    node: node::Args,
    /// Flags of `portico proxy`, after `--`; its environment variables count as well
    #[arg(last = true, value_name = "PROXY FLAGS")]
    proxy: Vec<String>,
}

#[derive(Parser)]
#[command(name = "portico run --")]
pub(super) struct ProxyOnly {
    #[command(flatten)]
    args: proxy::Args,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    let line = std::iter::once("portico run --".to_owned()).chain(args.proxy);
    let proxy_args = match ProxyOnly::try_parse_from(line) {
        Ok(parsed) => parsed.args,
        Err(error) => return Err(Exit::Usage(error.to_string())),
    };
    if args.node.uninstalls() {
        return Err(Exit::Usage("--uninstall belongs to portico node".into()));
    }
    let (ended, endings) = mpsc::channel();
    for (name, work) in [
        (
            "node",
            Box::new(move || node::run(args.node)) as Box<dyn FnOnce() -> Result<(), Exit> + Send>,
        ),
        ("proxy", Box::new(move || proxy::run(proxy_args))),
    ] {
        let ended = ended.clone();
        std::thread::Builder::new()
            .name(format!("portico-{name}"))
            .spawn(move || drop(ended.send(work())))
            .map_err(|error| Exit::Failed(format!("{name}: {error}")))?;
    }
    drop(ended);
    endings
        .recv()
        .unwrap_or_else(|_| Err(Exit::Failed("both parts died; see the log".into())))?;
    match endings.recv_timeout(FAREWELL) {
        Ok(ending) => ending,
        Err(_) => Err(Exit::Failed(format!(
            "the other part did not end within {} s",
            FAREWELL.as_secs()
        ))),
    }
}
