// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that are passed on whole: reqMode `tcp` and `sni`.
//!
//! A service with such a destination opens a port of its own ([`super::listen`]); several may share one. A connection
//! goes through: choose (by the name in its ClientHello, if a rule of the port asks for one), connect, copy. The name
//! is peeked at: the bytes stay in the socket for whoever gets the connection, so a port may belong to HTTP as well,
//! which takes what no rule takes. A connection keeps what it was given when it began; changes of the rules do not
//! touch it.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::Instant;

pub mod compile;
mod connect;
pub mod copy;
pub mod hello;
pub mod table;

pub use connect::State;

use self::hello::Hello;
use self::table::{StreamPort, StreamRule};
use super::access_log::StreamLine;
use super::limits;
use super::listen::Entry;
use super::proxy_protocol::{self, Peers, peek_more};
use super::refusal::Refusal;
use super::stats::InProgress;
use super::worker::Worker;

/// Serves a connection until it ends, or gives it back: it is HTTP's.
pub async fn serve(worker: &Rc<Worker>, stream: TcpStream, peers: Peers, entry: Entry) -> Option<TcpStream> {
    let (at, began) = (SystemTime::now(), Instant::now());
    let port = worker.rules().streams.get(entry.port).cloned();
    let choice = match &port {
        Some(port) => choose(port, &stream).await,
        // The service has gone since the connection was accepted.
        None => Err(Refusal::NoStreamRoute),
    };
    let mut end = None;
    let outcome = match choice {
        Err(_) if entry.is_http => return Some(stream),
        Err(refusal) => Err(refusal),
        Ok(rule) => {
            if port.is_some_and(|port| port.keepalive()) {
                // Finds out that a client has vanished; without it the tunnel's timeout does.
                let _ = socket2::SockRef::from(&stream).set_keepalive(true);
            }
            run(
                worker,
                &stream,
                &peers,
                &rule,
                end.insert(StreamEnd::new(worker, rule.clone())),
            )
            .await
        }
    };
    // Counted before the client sees the end.
    if let Err(refusal) = outcome {
        worker.counters.refused(refusal);
        if let Some(end) = &end {
            end.counted.refused(refusal);
        }
    }
    let line = StreamLine {
        at,
        began,
        worker,
        peers: &peers,
        port: entry.port,
        end: end.as_ref(),
        refusal: outcome.err(),
    };
    line.write();
    None
}

/// How a connection that a rule took went.
pub struct StreamEnd {
    /// The rule.
    pub rule: Arc<StreamRule>,
    /// Counts it for as long as it is there.
    counted: InProgress,
    /// When it was connected.
    pub connected: Option<Instant>,
    /// Bytes from the client and to it.
    pub bytes: (u64, u64),
    /// Nothing moved for too long, or a side broke off.
    pub ended: Option<copy::End>,
}

impl StreamEnd {
    fn new(worker: &Rc<Worker>, rule: Arc<StreamRule>) -> Self {
        StreamEnd {
            counted: worker.in_progress(&rule.first().stats),
            rule,
            connected: None,
            bytes: (0, 0),
            ended: None,
        }
    }
}

/// The rule that takes the connection.
async fn choose(port: &StreamPort, stream: &TcpStream) -> Result<Arc<StreamRule>, Refusal> {
    let hello = match port.needs_hello() {
        true => tokio::time::timeout(port.hello_time(), peek(stream)).await,
        false => Ok(Ok(Hello::Other)),
    };
    let (name, refusal) = match &hello {
        Ok(Ok(Hello::Name(name))) => (Some(name.as_str()), Refusal::NoStreamRoute),
        Ok(Ok(_)) => (None, Refusal::NoStreamRoute),
        Ok(Err(_)) => return Err(Refusal::HelloTimeout),
        // Perhaps a protocol in which the server speaks first.
        Err(_) => (None, Refusal::HelloTimeout),
    };
    port.choose(name).cloned().ok_or(refusal)
}

/// Reads the ClientHello and leaves it in the socket.
async fn peek(stream: &TcpStream) -> io::Result<Hello> {
    let mut seen = Vec::with_capacity(limits::HELLO_BYTES_MAX);
    let mut known = 0;
    loop {
        let arrived = stream.async_io(Interest::READABLE, || peek_more(stream, &mut seen, known));
        known = arrived.await?;
        match hello::read(&seen) {
            Hello::Partial if known < seen.capacity() => {}
            Hello::Partial => return Ok(Hello::Other),
            done => return Ok(done),
        }
    }
}

async fn run(
    worker: &Rc<Worker>,
    client: &TcpStream,
    peers: &Peers,
    rule: &StreamRule,
    end: &mut StreamEnd,
) -> Result<(), Refusal> {
    let (mut upstream, _counted) = connect::connect(worker, rule, peers.client).await?;
    let _ = upstream.set_nodelay(true);
    if let Some(version) = rule.settings().proxy_protocol {
        let header = proxy_protocol::write(version, peers);
        // The first bytes of a connection always find room.
        let sent = upstream.write_all(&header).await;
        sent.map_err(|_| Refusal::UpstreamUnreachable)?;
    }
    end.connected = Some(Instant::now());
    worker.counters.streams.up();
    worker.counters.streams_open.up();
    let (ended, up, down) = copy::both(worker, client, &upstream, rule.settings().timeout_tunnel).await;
    end.bytes = (up, down);
    end.counted.shard().bytes_in.add(up);
    end.counted.shard().bytes_out.add(down);
    end.ended = Some(ended);
    worker.counters.streams_open.down();
    match ended {
        copy::End::Whole | copy::End::Idle => {}
        copy::End::Broken => {
            // What was cut off must not look whole to the other side.
            for socket in [client, &upstream] {
                let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
            }
        }
    }
    Ok(())
}
