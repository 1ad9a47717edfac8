// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a rule to a connection: names to addresses, the order in which they are tried, attempts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::table::{Balance, StreamRule, Target};
use crate::l7::limits;
use crate::l7::refusal::Refusal;
use crate::l7::worker::Worker;

/// What a worker remembers of its streams.
pub struct State {
    /// Where bytes pass through on their way; never held across a wait.
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// Whose turn it is, by port.
    turns: RefCell<HashMap<u16, usize>>,
    /// Open connections by address.
    open: Rc<RefCell<HashMap<SocketAddr, usize>>>,
}

impl Default for State {
    fn default() -> Self {
        State {
            scratch: RefCell::new(vec![0; limits::STREAM_SCRATCH_BYTES].into()),
            turns: RefCell::default(),
            open: Rc::default(),
        }
    }
}

/// Counts a connection to an address for as long as it exists.
pub(super) struct Counted {
    address: SocketAddr,
    open: Rc<RefCell<HashMap<SocketAddr, usize>>>,
}

impl Counted {
    fn new(address: SocketAddr, open: &Rc<RefCell<HashMap<SocketAddr, usize>>>) -> Self {
        *open.borrow_mut().entry(address).or_default() += 1;
        Counted {
            address,
            open: open.clone(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.open.borrow_mut();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// Connects to one of the rule's addresses.
pub(super) async fn connect(
    worker: &Worker,
    rule: &StreamRule,
    client: SocketAddr,
) -> Result<(TcpStream, Counted), Refusal> {
    let limit = worker.shared.settings.timeouts.connect;
    match tokio::time::timeout(limit, attempt(worker, rule, client.ip())).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Refusal::UpstreamConnectTimeout),
    }
}

async fn attempt(
    worker: &Worker,
    rule: &StreamRule,
    client: IpAddr,
) -> Result<(TcpStream, Counted), Refusal> {
    let mut addresses = Vec::new();
    for member in &rule.members {
        addresses.extend(resolve(worker, &member.target).await);
    }
    if addresses.is_empty() {
        return Err(Refusal::UpstreamUnresolved);
    }
    order(&worker.streams, rule, client, &mut addresses);
    // Behind one address there may be several replicas, and the next attempt reaches another.
    for at in 0..limits::CONNECT_ATTEMPTS_MAX.max(addresses.len()) {
        let address = addresses[at % addresses.len()];
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok((stream, Counted::new(address, &worker.streams.open))),
            Err(error) => tracing::debug!(%address, %error, "connect"),
        }
    }
    Err(Refusal::UpstreamUnreachable)
}

async fn resolve(worker: &Worker, target: &Target) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for host in &target.hosts {
        found = worker.resolver.lookup(host).await;
        if !found.is_empty() {
            break;
        }
    }
    if found.is_empty() {
        found.clone_from(&target.last.load());
    } else {
        // All replicas agree on the order.
        found.sort_unstable();
        if **target.last.load() != found {
            target.last.store(Arc::new(found.clone()));
        }
    }
    found
        .into_iter()
        .map(|ip| SocketAddr::new(ip, target.port))
        .collect()
}

/// Puts the address that is to be tried first in front; the others follow for when it fails.
fn order(state: &State, rule: &StreamRule, client: IpAddr, addresses: &mut [SocketAddr]) {
    match rule.settings().balance {
        Balance::First => {}
        Balance::RoundRobin => {
            let mut turns = state.turns.borrow_mut();
            let turn = turns.entry(rule.first().port).or_default();
            *turn = turn.wrapping_add(1);
            let count = addresses.len();
            addresses.rotate_left(*turn % count);
        }
        Balance::LeastConnections => {
            let open = state.open.borrow();
            addresses.sort_by_key(|address| open.get(address).copied().unwrap_or_default());
        }
        // Rendezvous hashing: a member that goes takes only its own clients along.
        Balance::Source => addresses.sort_by_cached_key(|address| {
            let mut hasher = std::hash::DefaultHasher::new();
            (client, address).hash(&mut hasher);
            hasher.finish()
        }),
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;

    use super::*;
    use crate::l7::stream::table::{StreamDest, StreamSettings};
    use std::time::Duration;

    fn rule(balance: Balance) -> StreamRule {
        StreamRule {
            members: vec![Arc::new(StreamDest {
                service: "a".into(),
                port: 5432,
                names: Vec::new(),
                is_default: true,
                group: "g".into(),
                target: Target {
                    hosts: Vec::new(),
                    port: 1,
                    last: ArcSwap::default(),
                },
                settings: StreamSettings {
                    balance,
                    timeout_client: Duration::from_secs(1),
                    timeout_tunnel: Duration::from_secs(1),
                    keepalive: false,
                    proxy_protocol: None,
                },
                frontend: "tcpFE_5432".into(),
                stats: crate::l7::stats::Backends::new(1).intern("a-be1_0".into(), "a"),
            })],
        }
    }

    fn addresses() -> Vec<SocketAddr> {
        (1..=4).map(|n| SocketAddr::from(([10, 0, 0, n], 1))).collect()
    }

    fn first(state: &State, balance: Balance, client: IpAddr, mut among: Vec<SocketAddr>) -> SocketAddr {
        order(state, &rule(balance), client, &mut among);
        among[0]
    }

    #[test]
    fn members_take_turns() {
        let state = State::default();
        let client = IpAddr::from([192, 0, 2, 1]);
        let mut seen: Vec<_> = (0..8)
            .map(|_| first(&state, Balance::RoundRobin, client, addresses()))
            .collect();
        seen.sort_unstable();
        let twice: Vec<_> = addresses().into_iter().flat_map(|a| [a, a]).collect();
        assert_eq!(seen, twice);
    }

    #[test]
    fn the_least_busy_member_is_first_and_counts_end_with_their_connections() {
        let state = State::default();
        let client = IpAddr::from([192, 0, 2, 1]);
        let held: Vec<_> = addresses()[..3]
            .iter()
            .map(|address| Counted::new(*address, &state.open))
            .collect();
        assert_eq!(
            first(&state, Balance::LeastConnections, client, addresses()),
            addresses()[3]
        );
        drop(held);
        assert!(state.open.borrow().is_empty());
        assert_eq!(
            first(&state, Balance::LeastConnections, client, addresses()),
            addresses()[0]
        );
    }

    #[test]
    fn a_source_keeps_its_member_when_another_goes() {
        let state = State::default();
        for n in 0..200 {
            let client = IpAddr::from([192, 0, 2, n]);
            let chosen = first(&state, Balance::Source, client, addresses());
            for gone in addresses().into_iter().filter(|a| *a != chosen) {
                let left = addresses().into_iter().filter(|a| *a != gone).collect();
                assert_eq!(first(&state, Balance::Source, client, left), chosen);
            }
        }
    }
}
