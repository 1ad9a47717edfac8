// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: one file per verb, and the exit codes that are a contract.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the kernel or the machine lacks something.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod ask;
pub mod backend;
pub mod doctor;
pub mod flows;
pub mod log;
pub mod node;
pub mod observe;
pub mod proxy;
pub mod run;
pub mod service;
pub mod stats;
pub mod status;
pub mod table;
pub mod trace;

/// The front door of a Docker Swarm: eBPF data plane and L7 proxy.
#[derive(Parser)]
#[command(name = "portico", version, about, long_about = None, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Node agent: programs the kernel of this node from a provider (root, one per node)
    Node(node::Args),
    /// L7 proxy with the reconfigure API (no privileges)
    Proxy(proxy::Args),
    /// Node agent and proxy in one process, for one machine
    Run(run::Args),
    /// What the agent of this node does
    Status(status::Args),
    /// List, add, change and remove services
    Service(service::Args),
    /// List, add, change, drain and remove backends
    Backend(backend::Args),
    /// List, filter and forget flows of published ports
    Flows(flows::Args),
    /// What services and backends were given, what is open, and what the node counted; as rates, live
    Stats(stats::Args),
    /// Flows that open and end, and whatever is dropped or refused, as it happens
    #[command(long_about = observe::LONG)]
    Observe(observe::Args),
    /// Which service, backend and path a connection gets, and why; sends nothing
    Trace(trace::Args),
    /// What this machine offers and what Portico will do with it
    Doctor(doctor::Args),
}

/// Why a verb did not succeed; decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    /// Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Exit code 2: the command line or a file is wrong.
    #[error("{0}")]
    Usage(String),
    /// Exit code 3: the kernel or the machine lacks something.
    #[error("{what}\n  how to get it: {how}")]
    Lacks {
        /// What is missing.
        what: String,
        /// What the operator can do about it.
        how: String,
    },
}

impl Exit {
    /// The process exit code.
    pub fn code(&self) -> u8 {
        match self {
            Exit::Failed(_) => 1,
            Exit::Usage(_) => 2,
            Exit::Lacks { .. } => 3,
        }
    }
}

/// Writes to stdout. A reader that has enough (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<(), Exit> {
    print_more(text).map(drop)
}

/// The same, of what goes on: whether the reader may want more.
pub(crate) fn print_more(text: &str) -> Result<bool, Exit> {
    use std::io::{ErrorKind, Write, stdout};
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Exit::Failed(format!("stdout: {error}"))),
    }
}

/// Parses the arguments, runs the verb, prints its error.
pub fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Node(args) => node::run(args),
        Verb::Proxy(args) => proxy::run(args),
        Verb::Run(args) => run::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Service(args) => service::run(args),
        Verb::Backend(args) => backend::run(args),
        Verb::Flows(args) => flows::run(args),
        Verb::Stats(args) => stats::run(args),
        Verb::Observe(args) => observe::run(args),
        Verb::Trace(args) => trace::run(args),
        Verb::Doctor(args) => doctor::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("portico: {exit}");
            ExitCode::from(exit.code())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
        super::run::ProxyOnly::command().debug_assert();
    }
}
