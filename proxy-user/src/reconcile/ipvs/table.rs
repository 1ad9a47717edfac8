// SPDX-License-Identifier: MIT OR Apache-2.0
//! IPVS's table as data, and the door to the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
};

use proxy_ebpf::abi::{PROTO_TCP, PROTO_UDP};

use super::plan::Op;
use crate::{model::Protocol, reconcile::datapath::DatapathError};

/// The identity of a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Address and port that clients use.
    pub address: SocketAddrV4,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.protocol)
    }
}

impl Key {
    /// From the protocol's number in an IP header; none for what Portico does not balance.
    pub fn of(protocol: u16, address: SocketAddrV4) -> Option<Key> {
        let protocol = match u8::try_from(protocol).ok()? {
            PROTO_TCP => Protocol::Tcp,
            PROTO_UDP => Protocol::Udp,
            _ => return None,
        };
        Some(Key { protocol, address })
    }

    /// The protocol's number in an IP header.
    pub fn protocol_number(self) -> u16 {
        u16::from(match self.protocol {
            Protocol::Tcp => PROTO_TCP,
            Protocol::Udp => PROTO_UDP,
        })
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Key> {
        let (address, protocol) = text.split_once('/')?;
        Some(Key {
            protocol: Protocol::parse(protocol)?,
            address: address.parse().ok()?,
        })
    }
}

/// How a destination is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scheduler {
    /// In turns
    Rr,
    /// In turns, by weight
    Wrr,
    /// Fewest connections
    Lc,
    /// Fewest connections for its weight
    Wlc,
    /// By the client's address
    Sh,
    /// Maglev, by the client's address and port
    Mh,
    /// One that Portico does not use
    #[value(skip)]
    Foreign,
}

/// Without these a hash that names a destination of weight 0 is a refused client: the next one is taken instead.
/// (`sh-fallback` and `mh-fallback`; `mh-port`.)
const FALLBACK: u32 = 0x0008;
const HASH_PORT: u32 = 0x0010;
/// Connections of a client stay with its destination.
const PERSISTENT: u32 = 0x0001;
const ONE_PACKET: u32 = 0x0004;
const SCHEDULER_3: u32 = 0x0020;
/// Flags that an operator chooses; the others are the kernel's own.
pub const CHOSEN_FLAGS: u32 = PERSISTENT | ONE_PACKET | FALLBACK | HASH_PORT | SCHEDULER_3;

impl Scheduler {
    const NAMES: [(Scheduler, &'static str); 6] = [
        (Scheduler::Rr, "rr"),
        (Scheduler::Wrr, "wrr"),
        (Scheduler::Lc, "lc"),
        (Scheduler::Wlc, "wlc"),
        (Scheduler::Sh, "sh"),
        (Scheduler::Mh, "mh"),
    ];

    /// The kernel's name of it.
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(scheduler, _)| *scheduler == self);
        found.map_or("", |(_, name)| name)
    }

    /// From the kernel's name.
    pub fn parse(name: &str) -> Scheduler {
        let found = Self::NAMES.iter().find(|(_, known)| *known == name);
        found.map_or(Scheduler::Foreign, |(scheduler, _)| *scheduler)
    }

    fn flags(self) -> u32 {
        match self {
            Scheduler::Sh => FALLBACK,
            Scheduler::Mh => FALLBACK | HASH_PORT,
            _ => 0,
        }
    }
}

/// For how long a client keeps its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Since its last connection ended.
    pub seconds: u32,
    /// Clients that share so many bits are one.
    pub prefix: u8,
}

/// A virtual service without its destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Who chooses.
    pub scheduler: Scheduler,
    /// [`CHOSEN_FLAGS`] only.
    pub flags: u32,
    /// Seconds of affinity; 0 = none.
    pub timeout: u32,
    /// Clients that are the same under it are one.
    pub netmask: Ipv4Addr,
}

impl Service {
    /// A service with the flags that follow from what is wanted.
    pub fn new(scheduler: Scheduler, affinity: Option<Affinity>) -> Service {
        let prefix = affinity.map_or(32, |affinity| affinity.prefix.min(32));
        Service {
            scheduler,
            flags: scheduler.flags() | affinity.map_or(0, |_| PERSISTENT),
            timeout: affinity.map_or(0, |affinity| affinity.seconds),
            netmask: Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)),
        }
    }
}

/// How a packet gets to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Forward {
    /// Destination address and port are rewritten; replies must come back through this node
    Nat,
    /// The packet goes there unchanged; the destination must have the address, and replies for itself
    Dr,
    /// One that Portico does not use
    #[value(skip)]
    Foreign,
}

/// Where connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// How.
    pub forward: Forward,
    /// Its share; 0 = no new connection, the old ones stay.
    pub weight: u32,
}

/// A virtual service with its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Virtual {
    /// The service.
    pub service: Service,
    /// Where its connections go.
    pub destinations: BTreeMap<SocketAddrV4, Destination>,
}

/// What the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Realized {
    /// Virtual services, whoever made them.
    pub services: BTreeMap<Key, Virtual>,
    /// Addresses of the namespace.
    pub addresses: BTreeSet<Ipv4Addr>,
}

/// What Portico has made, or was about to make when it was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Virtual services.
    pub services: BTreeSet<Key>,
    /// Addresses that make the kernel take packets for VIPs.
    pub addresses: BTreeSet<Ipv4Addr>,
}

/// IPVS in the agent's namespace, as the keeper sees it.
pub trait Ipvs: Send {
    /// Reads everything back.
    fn dump(&mut self) -> Result<Realized, DatapathError>;
    /// Does one thing.
    fn perform(&mut self, op: &Op) -> Result<(), DatapathError>;
    /// What was last given to [`Ipvs::remember`], by this process or an earlier one.
    fn owned(&mut self) -> Result<Owned, DatapathError>;
    /// Writes down what is Portico's, so that it outlives the process.
    fn remember(&mut self, owned: &Owned) -> Result<(), DatapathError>;
}
