// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico proxy`: flags, environment and secrets to settings; then the proxy until a signal ends it.

use std::io::{self, IsTerminal};
use std::path::Path;

use super::Exit;
use crate::l7::limits;
use crate::l7::server::{Proxy, StartError};

mod environment;
mod flags;
mod resolve;
mod statistics;
mod tls;
mod unsupported;
mod values;

use environment::Sources;

/// Where Docker puts secrets.
const SECRETS: &str = "/run/secrets";

/// Flags of `portico proxy`.
#[derive(clap::Args)]
pub struct Args {
    /// In a box because the other verbs have far fewer.
    #[command(flatten)]
    flags: Box<flags::Flags>,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    log_to_stderr();
    let sources = Sources {
        secrets: Path::new(SECRETS),
        variable: &|name| std::env::var(name).ok(),
    };
    unsupported::refuse(&sources)?;
    let settings = resolve::settings(*args.flags, &sources, limits::connections_possible())?;
    let pause = resolve::pause(&sources)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Exit::Failed(format!("cannot make a runtime: {error}")))?;
    runtime.block_on(async {
        // Before the listeners exist, so that no signal finds the default action once somebody can connect.
        let signals = (
            signal(tokio::signal::unix::SignalKind::terminate())?,
            signal(tokio::signal::unix::SignalKind::interrupt())?,
        );
        let (mut terminate, mut interrupt) = signals;
        tokio::time::sleep(pause).await;
        let proxy = Proxy::start(settings).map_err(explain)?;
        tracing::info!(data = ?proxy.data, api = %proxy.api, "ready");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("draining");
        proxy.stop();
        Ok(())
    })
}

fn signal(kind: tokio::signal::unix::SignalKind) -> Result<tokio::signal::unix::Signal, Exit> {
    tokio::signal::unix::signal(kind).map_err(|error| Exit::Failed(format!("cannot handle signals: {error}")))
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PORTICO_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new(
            "info,rustls=error,hickory_resolver=error,hickory_net=error,hickory_proto=error",
        )
    });
    // Somebody else's subscriber is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}

fn explain(error: StartError) -> Exit {
    let (address, source) = match &error {
        StartError::Bind { address, source } => (address, source),
        StartError::Service(text) => return Exit::Usage(text.clone()),
        StartError::Tls(_) | StartError::Thread(_) => return Exit::Failed(error.to_string()),
    };
    let how = match source.kind() {
        io::ErrorKind::AddrInUse => format!(
            "stop what listens there (`ss -ltnp sport = :{}`), or choose other ports with DEFAULT_PORTS, BIND_PORTS or PORT",
            address.port()
        ),
        io::ErrorKind::PermissionDenied => {
            "grant CAP_NET_BIND_SERVICE, or choose ports from 1024 on with DEFAULT_PORTS, BIND_PORTS and PORT"
                .into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "choose an address of this machine with PORTICO_LISTEN or IP".into()
        }
        _ => "choose another address with PORTICO_LISTEN, IP, DEFAULT_PORTS or PORT".into(),
    };
    Exit::Lacks {
        what: error.to_string(),
        how,
    }
}

#[cfg(test)]
mod tests;
