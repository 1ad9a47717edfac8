// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wiring of the node agent: provider -> mailbox -> control thread (Writer, namespaces, reconciler) -> kernel;
//! the control thread publishes a [`View`] that the unix socket and the metrics read.
//!
//! Life: the kernel side is loaded or adopted, then the provider speaks, then things change. Nothing is written
//! to the kernel before the provider's first snapshot. At SIGTERM or SIGINT the agent stops looking and leaves
//! everything in the kernel as it is: forwarding goes on, and the next agent adopts it.

mod control;
mod mailbox;
mod sandboxes;
mod view;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

pub use control::{Control, TICK};
pub use mailbox::Mailbox;
pub use view::{ProviderState, SandboxProblem, View};

use crate::{
    admin,
    cli::Exit,
    kernel::KernelParts,
    providers::{Provider, Report},
};

/// Where the agent listens.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The unix socket.
    pub socket: PathBuf,
    /// Metrics over TCP.
    pub metrics: Option<SocketAddr>,
}

/// What the admin side reads.
pub struct Shared {
    /// The latest view.
    pub view: ArcSwap<View>,
    /// The programs' counters.
    pub counters: Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>,
    /// What the kernel side told about itself.
    pub info: serde_json::Value,
}

/// Runs until a signal says stop.
pub async fn run(
    parts: KernelParts,
    provider: Provider,
    first: Option<Report>,
    socket: admin::Socket,
    metrics: Option<SocketAddr>,
) -> Result<(), Exit> {
    let mut term = signal(SignalKind::terminate()).map_err(|error| failed("signal handler", &error))?;
    let mut int = signal(SignalKind::interrupt()).map_err(|error| failed("signal handler", &error))?;
    let metrics = match metrics {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .map_err(|error| in_use(address, &error))?,
        ),
        None => None,
    };

    let shared = Arc::new(Shared {
        view: ArcSwap::from_pointee(View::new(provider.kind(), &provider.source(), provider.node())),
        counters: parts.counters,
        info: parts.info,
    });
    let mailbox = Arc::new(Mailbox::default());
    if let Some(report) = first {
        mailbox.put(report);
    }
    let control = Control::start(
        parts.datapath,
        parts.own_cookie,
        parts.local_addrs,
        parts.inspect,
        shared.clone(),
    )?;
    let thread = {
        let mailbox = mailbox.clone();
        std::thread::Builder::new()
            .name("portico-control".into())
            .spawn(move || control.run(&mailbox))
            .map_err(|error| failed("control thread", &error))?
    };
    let (died, control_died) = tokio::sync::oneshot::channel();
    // A control thread that panicked must not leave an agent that looks alive and does nothing.
    let watcher = std::thread::Builder::new()
        .name("portico-watch".into())
        .spawn(move || died.send(thread.join().is_err()))
        .map_err(|error| failed("watch thread", &error))?;

    let outcome = tokio::select! {
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
        () = provider.run(mailbox.clone()) => Err(Exit::Failed("the provider ended".into())),
        () = socket.serve(shared.clone()) => Err(Exit::Failed("the unix socket was closed".into())),
        () = admin::metrics::serve(metrics, shared.clone()) => Err(Exit::Failed("metrics ended".into())),
        _ = control_died => Err(Exit::Failed("the control thread died; see the log".into())),
    };
    tracing::info!("stopping; what is in the kernel stays and goes on forwarding");
    mailbox.stop();
    drop(watcher.join());
    outcome
}

fn failed(what: &str, error: &io::Error) -> Exit {
    Exit::Failed(format!("{what}: {error}"))
}

fn in_use(address: SocketAddr, error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::AddrInUse {
        Exit::Lacks {
            what: format!("{address} for metrics is in use"),
            how: "give another --metrics address, or stop what listens there (ss -ltnp)".into(),
        }
    } else {
        Exit::Failed(format!("metrics on {address}: {error}"))
    }
}

#[cfg(test)]
mod tests;
