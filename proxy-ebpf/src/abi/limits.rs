// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every limit of the kernel side, with its arithmetic.

/// Networks that one namespace can be in: a scope is one 64-byte cache line, 8 bytes of it header.
pub const SCOPE_NETWORKS_MAX: usize = 14;
/// Frontends per node: VIPs plus published ports (a protocol each).
pub const FRONTENDS_MAX: u32 = 65_536;
/// Slots over all frontends: 262 144 / 65 536 = 4 each on average, or 26 000 services of 10.
pub const SLOTS_MAX: u32 = 262_144;
/// Backends over all frontends; as many as slots.
pub const BACKENDS_MAX: u32 = SLOTS_MAX;
/// Namespaces with a scope: tasks of this node.
pub const SCOPES_MAX: u32 = 4_096;
/// The node's own addresses.
pub const LOCAL_ADDRS_MAX: u32 = 1_024;
/// Tasks of this node that publish ports.
pub const LOCAL_TASKS_MAX: u32 = 4_096;
/// Flow entries of published ports: 131 072 flows of two entries; an entry is 16 + 32 bytes plus about 64 of
/// the kernel's, so 28 MiB when full. Beyond it the least recently used flows are forgotten.
pub const FLOWS_MAX: u32 = 262_144;
/// Sockets with a translated address (UDP affinity and reverse entries, TCP reverse entries).
pub const SOCKS_MAX: u32 = 131_072;
