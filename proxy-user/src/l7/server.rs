// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starting and stopping: state replayed, addresses bound, then threads; and the reverse.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use super::api::{self, Api, Guard};
use super::metrics::Counters;
use super::peers::Peers;
use super::settings::Settings;
use super::table::Table;
use super::worker::{self, Shared};
use super::{limits, state};

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
    /// Replays the state, binds every address, then starts the threads.
    pub fn start(settings: Settings) -> Result<Proxy, StartError> {
        let (keeper, kept) = state::open(&settings.state_dir);
        let snapshot = Arc::new(ArcSwap::default());
        let mut table = Table::new(snapshot.clone(), settings.clone());
        table.merge(kept);

        let (data, listeners) = bind_data(&settings)?;
        let api_listener = bind(settings.api, false)?;
        let api_address = api_listener.local_addr().map_err(StartError::Thread)?;

        let shared = Arc::new(Shared {
            settings: settings.clone(),
            snapshot,
        });
        let counters: Vec<Arc<Counters>> = (0..settings.workers).map(|_| Arc::default()).collect();
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        for (index, (listeners, counters)) in listeners.into_iter().zip(counters.iter().cloned()).enumerate()
        {
            let (shared, stopped) = (shared.clone(), stopped.clone());
            threads.push(thread(&format!("worker-{index}"), move |runtime| {
                let local = tokio::task::LocalSet::new();
                let seed = std::process::id().wrapping_add(index as u32);
                let run = worker::run(shared, counters, seed, listeners, stopped);
                if let Err(error) = local.block_on(&runtime, run) {
                    tracing::error!(%error, "worker ended");
                }
            })?);
        }
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
                         PORTICO_ADMIN_TOKEN_FILE or PORTICO_ADMIN_ALLOW"
                    );
                }
                let api = Api {
                    guard,
                    table: Mutex::new(table),
                    keeper,
                    peers: Peers::new(&settings, api_address.port()),
                    counters,
                    settings,
                };
                tokio::select! {
                    () = api::serve(Arc::new(api), listener) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            });
        })?);
        Ok(Proxy {
            data,
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

/// One listener per worker and port; the workers' listeners of a port share it.
fn bind_data(settings: &Settings) -> Result<(Vec<SocketAddr>, Vec<Vec<TcpListener>>), StartError> {
    let mut addresses = Vec::new();
    let mut listeners: Vec<Vec<TcpListener>> = (0..settings.workers).map(|_| Vec::new()).collect();
    for port in &settings.ports {
        let mut address = SocketAddr::new(settings.listen, *port);
        refuse_if_taken(address)?;
        for listeners in &mut listeners {
            let listener = bind(address, true)?;
            // Port 0 became a real one, which the other workers must share.
            address = listener.local_addr().map_err(StartError::Thread)?;
            listeners.push(listener);
        }
        addresses.push(address);
    }
    Ok((addresses, listeners))
}

/// With SO_REUSEPORT a second proxy of the same user would share the port and half of the requests in silence.
fn refuse_if_taken(address: SocketAddr) -> Result<(), StartError> {
    let probe = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    probe().map_err(|source| StartError::Bind { address, source })
}

fn bind(address: SocketAddr, shares: bool) -> Result<TcpListener, StartError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shares)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(limits::BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(|source| StartError::Bind { address, source })
}
