// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wiring of the node agent: providers -> mailbox -> control thread (Writer, namespaces, reconciler) -> kernel;
//! the control thread publishes a [`View`] that the unix socket and the metrics read.
//!
//! Life: the kernel side is loaded or adopted, then the provider speaks, then things change. Nothing is written
//! to the kernel before the provider's first snapshot. At SIGTERM or SIGINT the agent stops looking and leaves
//! everything in the kernel as it is: forwarding goes on, and the next agent adopts it.

mod control;
mod drains;
mod echoes;
mod mailbox;
mod sandboxes;
mod view;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

pub use control::{Control, RESYNC, TICK};
pub use mailbox::Mailbox;
pub use view::{ProviderState, SandboxProblem, View};

use crate::{
    admin::{self, observe::hub::Hub},
    cli::Exit,
    health::Health,
    kernel::{KernelParts, events::Source, mirror::Mirror, parts::Engine},
    providers::{Provider, Report, api::Store},
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
    /// Rings when there is a newer view.
    pub shown: watch::Sender<()>,
    /// What the operator's verbs have said.
    pub api: Arc<Store>,
    /// Who is asked for their health, and what came of it.
    pub health: Arc<Health>,
    /// The programs' counters.
    pub counters: Counters,
    /// The maps, for looking; a kernel in memory has none.
    pub mirror: Option<Mirror>,
    /// Who observes.
    pub observers: Arc<Hub>,
    /// What the kernel side told about itself.
    pub info: serde_json::Value,
}

/// Reads the programs' counters.
pub type Counters = Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>;

impl Shared {
    /// What the admin side reads from now on.
    pub fn new(
        view: View,
        api: Store,
        counters: Counters,
        mirror: Option<Mirror>,
        info: serde_json::Value,
    ) -> Arc<Self> {
        let state = api.path().parent().unwrap_or(Path::new("."));
        Arc::new(Self {
            health: Health::new(state),
            view: ArcSwap::from_pointee(view),
            shown: watch::Sender::new(()),
            api: Arc::new(api),
            counters,
            mirror,
            observers: Arc::default(),
            info,
        })
    }

    /// Replaces the view.
    pub fn show(&self, view: View) {
        self.view.store(Arc::new(view));
        self.shown.send_replace(());
    }
}

/// Tells the control thread what the operator's verbs want, now and whenever that changes.
async fn follow(api: &Store, mailbox: &Mailbox) {
    let mut revisions = api.revisions();
    loop {
        revisions.borrow_and_update();
        mailbox.put_wanted(api.wanted());
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

/// Tells observers what the programs tell.
async fn observe(shared: &Shared) {
    let open = || -> io::Result<Box<dyn Source>> {
        let mirror = shared.mirror.as_ref();
        let mirror = mirror.ok_or_else(|| io::Error::other("this data plane has no events"))?;
        Ok(Box::new(mirror.events()?))
    };
    shared.observers.run(open).await;
}

/// Runs until a signal says stop.
pub async fn run<D: Into<Engine>>(
    parts: KernelParts<D>,
    provider: Provider,
    api: Store,
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

    let view = View::new(provider.kind(), &provider.source(), provider.node());
    let shared = Shared::new(view, api, parts.counters, parts.mirror, parts.info);
    let mailbox = Arc::new(Mailbox::default());
    // Before the other provider speaks for the first time, so that nothing is taken for removed.
    mailbox.put_wanted(shared.api.wanted());
    if let Some(report) = first {
        mailbox.put(report);
    }
    let control = Control::start(
        parts.datapath,
        parts.own_cookie,
        parts.local_addrs,
        (parts.inspect, parts.reset, parts.echo),
        shared.clone(),
    )?;
    let thread = {
        let mailbox = mailbox.clone();
        std::thread::Builder::new()
            .name("portico-control".into())
            .spawn(move || control.run(&mailbox))
            .map_err(|error| failed("control thread", &error))?
    };
    // Dropped with this function, and then the checks end as well.
    let (_asking, asked) = tokio::sync::oneshot::channel::<()>();
    {
        let (health, mailbox) = (shared.health.clone(), mailbox.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed("runtime of the health checks", &error))?;
        std::thread::Builder::new()
            .name("portico-health".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = health.run(move |down| mailbox.put_down(down)) => {}
                        _ = asked => {}
                    }
                });
            })
            .map_err(|error| failed("health thread", &error))?;
    }
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
        () = follow(&shared.api, &mailbox) => Err(Exit::Failed("the api provider ended".into())),
        () = socket.serve(shared.clone()) => Err(Exit::Failed("the unix socket was closed".into())),
        () = admin::metrics::serve(metrics, shared.clone()) => Err(Exit::Failed("metrics ended".into())),
        () = observe(&shared) => Err(Exit::Failed("the reader of events ended".into())),
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
