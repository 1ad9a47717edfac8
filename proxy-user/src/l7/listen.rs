// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listening sockets: one per worker and port, and the registry of ports that services open while the proxy runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc::UnboundedSender;

use super::limits;
use super::proxy_protocol::Acceptance;

/// What a worker accepts on.
pub struct Listener {
    /// The worker's own socket.
    pub socket: TcpListener,
    /// What the port is for.
    pub entry: Entry,
}

/// A port and what it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As the kernel has it.
    pub port: u16,
    /// HTTP takes what no stream rule of this port takes.
    pub is_http: bool,
    /// With certificates: TLS.
    pub tls: bool,
    /// Connections begin with a PROXY header.
    pub accept_proxy: bool,
}

/// With SO_REUSEPORT a second proxy of the same user would share the port and half of the requests in silence.
pub fn refuse_if_taken(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Binds and listens. Sockets that share a port must all say so.
pub fn bind(address: SocketAddr, shares: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shares)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Opens and closes the ports that services ask for with srcPort.
pub trait Ports: Send {
    /// Opens those that are not open, all or none. Nothing is accepted on them before [`Ports::settle`].
    fn open(&mut self, wanted: &BTreeSet<u16>) -> Result<(), (u16, io::Error)>;

    /// Serves exactly these. One that cannot be had is tried again with the next call.
    fn settle(&mut self, wanted: &BTreeSet<u16>);

    /// Ports that are wanted and cannot be had.
    fn missing(&self) -> usize;

    /// Whether HTTP is served there.
    fn is_http(&self, port: u16) -> bool;
}

/// For a table without workers.
pub struct NoPorts;

impl Ports for NoPorts {
    fn open(&mut self, _: &BTreeSet<u16>) -> Result<(), (u16, io::Error)> {
        Ok(())
    }

    fn settle(&mut self, _: &BTreeSet<u16>) {}

    fn missing(&self) -> usize {
        0
    }

    fn is_http(&self, _: u16) -> bool {
        false
    }
}

/// The ports of services, with a socket for each worker. *Who writes it*: the table. *Limits*:
/// [`limits::STREAM_PORTS_MAX`] ports.
pub struct Registry {
    listen: IpAddr,
    workers: Vec<UnboundedSender<Listener>>,
    http: BTreeSet<u16>,
    acceptance: Acceptance,
    ports: BTreeMap<u16, Opened>,
    missing: BTreeSet<u16>,
}

struct Opened {
    sockets: Vec<TcpListener>,
    /// The workers have them.
    is_served: bool,
}

impl Registry {
    /// No port is open yet. `http` are the ports that are bound for HTTP in any case.
    pub fn new(
        listen: IpAddr,
        workers: Vec<UnboundedSender<Listener>>,
        http: impl IntoIterator<Item = u16>,
        acceptance: Acceptance,
    ) -> Self {
        Registry {
            listen,
            workers,
            http: http.into_iter().collect(),
            acceptance,
            ports: BTreeMap::new(),
            missing: BTreeSet::new(),
        }
    }

    fn open_one(&self, port: u16) -> io::Result<Opened> {
        if self.ports.len() >= limits::STREAM_PORTS_MAX {
            return Err(io::Error::other(format!(
                "there are {} ports of services already",
                limits::STREAM_PORTS_MAX
            )));
        }
        let address = SocketAddr::new(self.listen, port);
        refuse_if_taken(address)?;
        let sockets = (self.workers.iter().map(|_| bind(address, true))).collect::<io::Result<_>>()?;
        Ok(Opened {
            sockets,
            is_served: false,
        })
    }

    fn serve(&self, port: u16, opened: &Opened) {
        let entry = Entry {
            port,
            is_http: false,
            tls: false,
            accept_proxy: self.acceptance.concerns(port),
        };
        for (worker, socket) in self.workers.iter().zip(&opened.sockets) {
            match socket.try_clone() {
                // A worker that has ended needs no socket.
                Ok(socket) => drop(worker.send(Listener { socket, entry })),
                Err(error) => tracing::error!(port, %error, "a worker does not listen"),
            }
        }
    }
}

impl Ports for Registry {
    fn open(&mut self, wanted: &BTreeSet<u16>) -> Result<(), (u16, io::Error)> {
        let mut opened = Vec::new();
        for &port in wanted {
            if self.http.contains(&port) || self.ports.contains_key(&port) {
                continue;
            }
            opened.push((port, self.open_one(port).map_err(|error| (port, error))?));
        }
        self.ports.extend(opened);
        Ok(())
    }

    fn settle(&mut self, wanted: &BTreeSet<u16>) {
        let unwanted: Vec<u16> = (self.ports.keys())
            .filter(|port| !wanted.contains(port))
            .copied()
            .collect();
        for port in unwanted {
            for socket in self.ports.remove(&port).into_iter().flat_map(|p| p.sockets) {
                // Ends the listening at once for the workers' copies too, so that the port can be had again.
                let _ = socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Read);
            }
        }
        for &port in wanted {
            if self.http.contains(&port) {
                continue;
            }
            if let Err((port, error)) = self.open(&BTreeSet::from([port])) {
                if self.missing.insert(port) {
                    tracing::error!(port, %error, "the port of a service cannot be opened; trying again");
                }
                continue;
            }
            self.missing.remove(&port);
            if let Some(mut opened) = self.ports.remove(&port) {
                if !opened.is_served {
                    self.serve(port, &opened);
                    opened.is_served = true;
                }
                self.ports.insert(port, opened);
            }
        }
        self.missing.retain(|port| wanted.contains(port));
    }

    fn missing(&self) -> usize {
        self.missing.len()
    }

    fn is_http(&self, port: u16) -> bool {
        self.http.contains(&port)
    }
}
