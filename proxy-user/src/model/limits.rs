// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every limit of the desired state, with its arithmetic. What goes beyond one is refused, by name.

use std::time::Duration;

use proxy_ebpf::abi::limits as abi;

/// Services in force. More than the frontends that the kernel holds would be useless.
pub const SERVICES_MAX: usize = abi::FRONTENDS_MAX as usize;
/// Frontends of all services together (a VIP is one, a published port is one per protocol).
pub const FRONTENDS_MAX: usize = abi::FRONTENDS_MAX as usize;
/// Backends of all frontends together. One less than the map holds, because id 0 is never given.
pub const BACKENDS_MAX: usize = abi::BACKENDS_MAX as usize - 1;
/// Networks of one task.
pub const TASK_NETWORKS_MAX: usize = abi::SCOPE_NETWORKS_MAX;
/// Tasks of this node: each has a scope, and so has the node itself.
pub const LOCAL_TASKS_MAX: usize = abi::SCOPES_MAX as usize - 1;
/// VIPs that one task's namespace answers echo for: at 64 tasks 262 144 routes, in the kernel about 100 MiB. A Swarm of
/// 4 096 services in one network has left its subnet long before.
pub const ECHOES_MAX: usize = 4_096;
/// Own addresses of the node.
pub const LOCAL_ADDRS_MAX: usize = abi::LOCAL_ADDRS_MAX as usize;
/// Prefixes that one service allows and denies together: with one more for "nobody else", 255 services with full
/// lists fill the kernel's table.
pub const PREFIXES_MAX: usize = 63;
/// Longest drain, a day: who needs more wants no deadline.
pub const DRAIN_SECONDS_MAX: u32 = 24 * 3_600;
/// Longest affinity, 30 days: a client that comes back later is a new one.
pub const AFFINITY_SECONDS_MAX: u32 = 30 * 24 * 3_600;
/// Bytes of a name: of a DNS name (RFC 1035 section 2.3.4), which a service's name becomes.
pub const NAME_BYTES_MAX: usize = 255;
/// Refusals kept for `status`; the rest is counted.
pub const REFUSALS_MAX: usize = 1_000;
/// Shortest interval and timeout of a health check: ten checks a second are more than a backend should notice.
pub const HEALTH_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Longest: an hour; a check that is rarer says nothing about now.
pub const HEALTH_INTERVAL_MAX: Duration = Duration::from_secs(3_600);
/// Most checks in a row that change a member's state.
pub const HEALTH_COUNT_MAX: u32 = 100;
/// Members with a health check. Each costs a timer and about 1 KiB of the agent.
pub const HEALTH_TARGETS_MAX: usize = 16_384;
