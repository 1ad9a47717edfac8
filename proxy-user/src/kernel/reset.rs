// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections whose backend is gone are ended, so that their clients connect again at once.
//!
//! A client's packet to a published port whose backend is gone is answered with RST by the programs. Two kinds of
//! connection they never see: sockets that the hooks have connected to a VIP's backend (their packets go straight
//! there), and clients that only listen. So sockets are destroyed: those of VIPs by what the hooks have written down
//! (`SOCKS`, `SOCKS6`), in the client's namespace; those of published ports in the task's namespace, where the kernel
//! knows the sequence numbers that a RST needs.
//!
//! Life: the control thread says that backends have gone; a thread of its own looks, at most once in
//! [`SWEEP_INTERVAL`], and all that is said meanwhile is one look. A socket that the maps have forgotten
//! (`limits::SOCKS_MAX`) is not found, and ends when its own timeouts say so.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver},
    },
    time::Duration,
};

use aya::{
    Pod,
    maps::{self, Map, MapData},
};
use proxy_ebpf::abi::{
    Backend, SockKey, SockKey6, SockPeer, SockPeer6,
    limits::{SOCKS_MAX, SOCKS6_MAX},
    sock::REVERSE,
};

use super::{netns, pins::Pins, sock_diag};
use crate::reconcile::desired::address_of;

/// Shortest time between two looks: one reads up to `SOCKS_MAX + SOCKS6_MAX` entries, a fifth of a second.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Whose connections are to be ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Namespaces of clients, besides the agent's own.
    pub namespaces: Vec<PathBuf>,
    /// Servers whose time is over: namespace, address, TCP port.
    pub servers: Vec<(PathBuf, Ipv4Addr, u16)>,
}

/// Says that backends have gone. Returns at once.
pub type Reset = Box<dyn Fn(Gone) + Send>;

/// Starts the thread; the second is the number of sockets that were ended. The thread ends with the first.
pub fn start(pins: Pins) -> io::Result<(Reset, Arc<AtomicU64>)> {
    let (sender, receiver) = mpsc::channel();
    let ended = Arc::new(AtomicU64::new(0));
    let count = ended.clone();
    std::thread::Builder::new()
        .name("portico-reset".into())
        .spawn(move || run(&pins, &receiver, &count))?;
    // Without the thread nobody listens, and nothing is reset: forwarding does not depend on it.
    let reset = move |gone| drop(sender.send(gone));
    Ok((Box::new(reset), ended))
}

fn run(pins: &Pins, receiver: &Receiver<Gone>, ended: &AtomicU64) {
    while let Ok(mut gone) = receiver.recv() {
        while let Ok(newer) = receiver.try_recv() {
            gone = newer;
        }
        let (count, errors) = sweep(pins, &gone);
        ended.fetch_add(count as u64, Ordering::Relaxed);
        if count > 0 {
            tracing::info!(sockets = count, "reset connections of backends that are gone");
        }
        for error in errors {
            tracing::warn!("connections of backends that are gone are not reset: {error}");
        }
        std::thread::sleep(SWEEP_INTERVAL);
    }
}

/// Ends them; how many, and what went wrong.
pub fn sweep(pins: &Pins, gone: &Gone) -> (usize, Vec<String>) {
    let mut errors = Vec::new();
    let clients = Clients::stale(pins).unwrap_or_else(|error| {
        errors.push(format!("maps: {error}"));
        Clients::default()
    });
    let mut servers: BTreeMap<&Path, HashSet<SocketAddr>> = BTreeMap::new();
    for (path, address, port) in &gone.servers {
        let of_namespace = servers.entry(path).or_default();
        of_namespace.insert(SocketAddr::from((*address, *port)));
    }
    let mut ended = 0;
    let mut visit = |path: Option<&Path>| {
        let served = path.and_then(|path| servers.get(path));
        if clients.0.is_empty() && served.is_none() {
            return;
        }
        let destroy = || {
            sock_diag::destroy(|socket| {
                clients.has(socket) || served.is_some_and(|served| served.contains(&socket.local))
            })
        };
        let outcome = match path {
            None => destroy(),
            Some(path) => File::open(path).and_then(|namespace| netns::within(namespace.as_fd(), destroy)),
        };
        match (outcome, path) {
            (Ok(count), _) => ended += count,
            // A namespace that is gone has no sockets.
            (Err(error), Some(_)) if error.kind() == io::ErrorKind::NotFound => {}
            (Err(error), Some(path)) => errors.push(format!("{}: {error}", path.display())),
            (Err(error), None) => errors.push(error.to_string()),
        }
    };
    visit(None);
    let mut seen = HashSet::new();
    let servers = gone.servers.iter().map(|(path, ..)| path);
    for path in gone.namespaces.iter().chain(servers) {
        if seen.insert(path) {
            visit(Some(path));
        }
    }
    (ended, errors)
}

/// Sockets that the hooks have connected to a backend that is gone: cookie -> backend.
#[derive(Debug, Default)]
struct Clients(HashMap<u64, Vec<SocketAddr>>);

impl Clients {
    fn has(&self, socket: &sock_diag::Connected) -> bool {
        let backends = self.0.get(&socket.cookie);
        backends.is_some_and(|backends| backends.contains(&socket.peer))
    }

    /// Sockets first: where they are few, which backends there are is only asked of theirs.
    fn stale(pins: &Pins) -> io::Result<Clients> {
        let mut clients = Clients::default();
        let mut note = |cookie: u64, side: u8, at: SocketAddr| {
            if side == REVERSE {
                clients.0.entry(cookie).or_default().push(at);
            }
        };
        // The maps change meanwhile, and a walk begins anew where its place is gone: no walk is longer than this.
        let socks = open::<SockKey, SockPeer>(pins, "SOCKS", Map::LruHashMap)?;
        for key in socks.keys().take(2 * SOCKS_MAX as usize) {
            let key = key.map_err(io::Error::other)?;
            let address = Ipv4Addr::from(key.addr_be.to_ne_bytes());
            note(
                key.cookie,
                key.side,
                SocketAddr::from((address, u16::from_be(key.port_be))),
            );
        }
        let socks6 = open::<SockKey6, SockPeer6>(pins, "SOCKS6", Map::LruHashMap)?;
        for key in socks6.keys().take(2 * SOCKS6_MAX as usize) {
            let key = key.map_err(io::Error::other)?;
            let [a, b, c, d] = key.addr.map(u32::from_be);
            let address = Ipv6Addr::from(
                u128::from(a) << 96 | u128::from(b) << 64 | u128::from(c) << 32 | u128::from(d),
            );
            note(
                key.cookie,
                key.side,
                SocketAddr::from((address, u16::from_be(key.port_be))),
            );
        }
        clients.without_those_there(pins)
    }

    /// Forgets those whose backend is there. Another entry for the same address is the same backend, under another
    /// service or another number.
    fn without_those_there(mut self, pins: &Pins) -> io::Result<Clients> {
        if self.0.is_empty() {
            return Ok(self);
        }
        let asked: HashSet<IpAddr> = self.0.values().flatten().map(SocketAddr::ip).collect();
        let mut there: HashSet<(IpAddr, u16)> = HashSet::new();
        for entry in open::<u32, Backend>(pins, "BACKENDS", Map::HashMap)?.iter() {
            let (_, backend) = entry.map_err(io::Error::other)?;
            let address = address_of(&backend);
            if asked.contains(&address) {
                there.insert((address, u16::from_be(backend.port_be)));
            }
        }
        let is_there = |at: &SocketAddr| {
            [at.port(), 0]
                .iter()
                .any(|port| there.contains(&(at.ip(), *port)))
        };
        self.0.retain(|_, backends| {
            backends.retain(|at| !is_there(at));
            !backends.is_empty()
        });
        Ok(self)
    }
}

fn open<K: Pod, V: Pod>(
    pins: &Pins,
    name: &str,
    kind: fn(MapData) -> Map,
) -> io::Result<maps::HashMap<MapData, K, V>> {
    let data = MapData::from_pin(pins.maps().join(name)).map_err(io::Error::other)?;
    maps::HashMap::try_from(kind(data)).map_err(io::Error::other)
}
