// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starting and stopping: state replayed, addresses bound, then threads; and the reverse.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::api::{self, Api, Guard};
use super::listen::{self, Entry, Listener, Registry};
use super::metrics::Counters;
use super::peers::{Copy, Peers};
use super::settings::{Port, Settings};
use super::source::{KeptService, Source};
use super::stats::view::View;
use super::table::Table;
use super::tls::{self, Tls};
use super::worker::{self, Shared};
use super::{access_log, labels, limits, listener, state};

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A service in the environment cannot be used.
    #[error("{0}")]
    Service(String),
    /// rustls refuses the settings.
    #[error("TLS: {0}")]
    Tls(#[source] rustls::Error),
    /// A thread or runtime cannot be made.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// A proxy that runs until it is stopped.
pub struct Proxy {
    /// Addresses of the data listeners, in the order of the ports.
    pub data: Vec<SocketAddr>,
    /// Address of the API.
    pub api: SocketAddr,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Binds every address, replays the state, then starts the threads.
    pub fn start(settings: Settings) -> Result<Proxy, StartError> {
        let (keeper, mut kept) = state::open(&settings.state_dir);
        // Where nobody reads labels, nobody would ever say that they are gone.
        let is_watched =
            |service: &KeptService| service.source != Source::Labels || settings.docker.is_some();
        kept.services.retain(is_watched);
        let snapshot = Arc::new(ArcSwap::default());
        // Before our own API has a port, because one of the addresses may be ours.
        let copies = ask_replicas(&settings)?;
        let certs = tls::Store::open(settings.tls.clone());
        let tls = Tls::new(&settings.tls, certs.current()).map_err(StartError::Tls)?;
        adopt_certificates(&settings, &certs)?;

        let data = bind_data(&settings)?;
        let bind_api = listen::bind(settings.api, false);
        let api_listener = bind_api.map_err(|source| StartError::Bind {
            address: settings.api,
            source,
        })?;
        let api_address = api_listener.local_addr().map_err(StartError::Thread)?;

        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..settings.workers).map(|_| mpsc::unbounded_channel()).unzip();
        let ports = data.iter().map(|data| data.entry.port);
        let registry = Registry::new(
            settings.listen,
            senders.clone(),
            ports,
            settings.proxy_protocol.clone(),
        );
        let mut table = Table::new(snapshot.clone(), settings.clone())
            .with_ports(Box::new(registry))
            .with_certificates(certs.clone());
        table.merge(kept);
        for mut copy in copies {
            copy.kept.services.retain(is_watched);
            let merged = table.merge(copy.kept);
            tracing::info!(services = merged, "taken over from another replica");
        }
        for service in &settings.services {
            let put = table.put(Source::Environment, service.params.clone(), service.spec.clone());
            put.map_err(|error| {
                StartError::Service(format!("{}: {}", service.variable(&error.name), error.text))
            })?;
        }
        let addresses = data
            .iter()
            .map(|data| SocketAddr::new(settings.listen, data.entry.port))
            .collect();
        for Data { entry, sockets } in data {
            for (worker, socket) in senders.iter().zip(sockets) {
                // The receivers are still here.
                let _ = worker.send(Listener { socket, entry });
            }
        }

        let counters: Vec<Arc<Counters>> = (0..settings.workers).map(|_| Arc::default()).collect();
        let view = Arc::new(View::new(
            counters.clone(),
            snapshot.clone(),
            settings.connections_max,
        ));
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            tls: Some(tls),
            snapshot,
            view: view.clone(),
        });
        let (stop, stopped) = watch::channel(false);
        let (mut log, mut log_thread) = (None, None);
        if settings.access_log.is_some() {
            let (sender, buffers) = std::sync::mpsc::sync_channel(limits::LOG_QUEUE);
            log = Some(sender);
            log_thread = Some(thread("log", move |_| access_log::write(buffers))?);
        }
        let mut threads = Vec::new();
        for (index, (listeners, counters)) in receivers.into_iter().zip(counters.iter().cloned()).enumerate()
        {
            let (shared, stopped, log) = (shared.clone(), stopped.clone(), log.clone());
            threads.push(thread(&format!("worker-{index}"), move |runtime| {
                let local = tokio::task::LocalSet::new();
                let run = worker::run(shared, counters, index, log, listeners, stopped);
                if let Err(error) = local.block_on(&runtime, run) {
                    tracing::error!(%error, "worker ended");
                }
            })?);
        }
        // The log ends with the last worker.
        drop(log);
        threads.extend(log_thread);
        let mut stopped = stopped;
        threads.push(thread("api", move |runtime| {
            runtime.block_on(async move {
                let listener = match tokio::net::TcpListener::from_std(api_listener) {
                    Ok(listener) => listener,
                    Err(error) => return tracing::error!(%error, "API ended"),
                };
                let guard = Guard::new(settings.admin.clone());
                if guard.is_open() {
                    tracing::warn!(
                        "the admin port is open to everyone who can reach it; close it with \
                         PORTICO_ADMIN_TOKEN_FILE, PORTICO_ADMIN_CA_FILE or PORTICO_ADMIN_ALLOW"
                    );
                }
                let api = Arc::new(Api {
                    guard,
                    listener_answered: AtomicBool::new(false),
                    labels: labels::State::default(),
                    view,
                    table: Mutex::new(table),
                    keeper,
                    peers: Peers::new(&settings, api_address.port()),
                    counters,
                    certs,
                    settings,
                });
                let view = api.view.clone();
                tokio::spawn(async move { view.count_rates().await });
                let sources = async {
                    let watched = (api.settings.listener.clone(), api.settings.docker.clone());
                    let listener = async {
                        if let Some(listener) = watched.0 {
                            listener::watch(api.clone(), listener).await;
                        }
                    };
                    let labels = async {
                        if let Some(host) = watched.1 {
                            labels::watch(api.clone(), host).await;
                        }
                    };
                    tokio::join!(listener, labels);
                    std::future::pending::<()>().await;
                };
                tokio::spawn(settle(api.clone()));
                tokio::spawn(scan_certificates(api.clone()));
                tokio::select! {
                    () = api::serve(api.clone(), listener) => {}
                    () = sources => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            });
        })?);
        Ok(Proxy {
            data: addresses,
            api: api_address,
            stop,
            threads,
        })
    }

    /// Stops accepting, lets requests finish within the drain time, and waits for the end.
    pub fn stop(self) {
        self.stop.send_replace(true);
        for thread in self.threads {
            // A panic has been printed by the thread that had it.
            let _ = thread.join();
        }
    }
}

/// What the other replicas know, if there can be any. On a thread of its own, because the caller may have a runtime.
fn ask_replicas(settings: &Settings) -> Result<Vec<Copy>, StartError> {
    let settings = settings.clone();
    let (sender, receiver) = std::sync::mpsc::channel();
    let asking = thread("replicas", move |runtime| {
        runtime.block_on(async {
            let peers = Peers::new(&settings, settings.api.port());
            let copies = match peers.can_exist() {
                true => peers.copies().await,
                false => Vec::new(),
            };
            let _ = sender.send(copies);
        });
    })?;
    let copies = receiver.recv().unwrap_or_default();
    // It has sent, and ends.
    let _ = asking.join();
    Ok(copies)
}

fn thread(
    name: &str,
    body: impl FnOnce(tokio::runtime::Runtime) + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || body(runtime))
        .map_err(StartError::Thread)
}

/// Certificates that somebody put into the folder, and secrets that were replaced.
async fn scan_certificates(api: Arc<Api>) {
    loop {
        tokio::time::sleep(limits::CERT_SCAN_INTERVAL).await;
        if api.certs.rescan() {
            tracing::info!("certificates changed");
        }
    }
}

/// Asks the other replicas for their certificates before anybody connects. On a thread of its own, because the caller
/// may have a runtime.
fn adopt_certificates(settings: &Settings, certs: &Arc<tls::Store>) -> Result<(), StartError> {
    let (settings, certs) = (settings.clone(), certs.clone());
    let asking = thread("certificates", move |runtime| {
        runtime.block_on(async {
            let peers = Peers::new(&settings, settings.api.port());
            if !peers.can_exist() {
                return;
            }
            let asked = tokio::time::timeout(limits::CERT_COPY_TIME_MAX, peers.certificates()).await;
            for answer in asked.unwrap_or_default() {
                match tls::siblings::adopt(&certs, &answer) {
                    Ok(0) => {}
                    Ok(taken) => tracing::info!(certificates = taken, "taken over from another replica"),
                    Err(error) => tracing::debug!(error, "replica"),
                }
            }
        });
    })?;
    // A panic has been printed by the thread that had it.
    let _ = asking.join();
    Ok(())
}

/// What a change leaves for later: a port that a kept service wants may be taken by a process that is about to end, and
/// routes are indexed once for many changes.
async fn settle(api: Arc<Api>) {
    loop {
        tokio::time::sleep(limits::SETTLE_INTERVAL).await;
        let mut table = api.table();
        table.retry_ports();
        table.index_routes();
    }
}

/// The sockets of one port, one for each worker.
struct Data {
    entry: Entry,
    sockets: Vec<TcpListener>,
}

/// One listener per worker and port; the workers' listeners of a port share it.
fn bind_data(settings: &Settings) -> Result<Vec<Data>, StartError> {
    let one = |port: &Port| {
        let mut address = SocketAddr::new(settings.listen, port.number);
        let open = |address: &mut SocketAddr| {
            listen::refuse_if_taken(*address)?;
            let mut sockets = Vec::new();
            for _ in 0..settings.workers {
                let socket = listen::bind(*address, true)?;
                // Port 0 became a real one, which the other workers must share.
                *address = socket.local_addr()?;
                sockets.push(socket);
            }
            Ok(sockets)
        };
        let sockets = open(&mut address).map_err(|source| StartError::Bind { address, source })?;
        let entry = Entry {
            port: address.port(),
            is_http: true,
            tls: port.tls,
            accept_proxy: port.accept_proxy || settings.proxy_protocol.concerns(address.port()),
        };
        Ok(Data { entry, sockets })
    };
    settings.ports.iter().map(one).collect()
}
