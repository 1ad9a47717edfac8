// SPDX-License-Identifier: MIT OR Apache-2.0
//! The types that user space and the eBPF programs share: map keys, map values, settings, counters.
//!
//! Rules. Every struct is declared through `abi!`, which checks at compile time that its size is the sum of its
//! fields (no hidden padding, so that hash keys compare by bytes). No `bool`, no `Option`, no enum fields.
//! Names ending in `_be` are in network byte order as they stand in a packet header, loaded natively; everything
//! else is in host order. A changed layout means a new [`ABI_VERSION`], which is part of the pin path: an old
//! agent and a new one never read one map with two layouts.

#[macro_use]
mod macros;
pub mod backend;
pub mod counter;
pub mod event;
pub mod flow;
pub mod frontend;
pub mod limits;
pub mod schedule;
pub mod scope;
pub mod settings;
pub mod sock;
pub mod tally;

pub use backend::{Backend, LocalTask, SlotKey};
pub use counter::Counter;
pub use event::{Event, Watch};
pub use flow::{Bucket, Flow, FlowKey};
pub use frontend::{Frontend, FrontendKey, FrontendKey6};
pub use schedule::{Affinity, AffinityKey, Fragment, FragmentKey, SourceKey, TableBlock, TableKey};
pub use scope::{LocalAddr, Scope};
pub use settings::Settings;
pub use sock::{SockKey, SockKey6, SockPeer, SockPeer6};
pub use tally::Tally;

/// Version of every layout in this module; part of the pin path (`<bpffs>/v<ABI_VERSION>/…`).
pub const ABI_VERSION: u32 = 4;

/// IP protocol number of ICMP (RFC 792).
pub const PROTO_ICMP: u8 = 1;
/// IP protocol number of TCP (RFC 9293).
pub const PROTO_TCP: u8 = 6;
/// IP protocol number of UDP (RFC 768).
pub const PROTO_UDP: u8 = 17;
