// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names and numbers by role.

use std::{borrow::Borrow, fmt, net::IpAddr, sync::Arc};

use proxy_ebpf::abi::backend::task_id;

use super::{TaskAddr, addr::be};

macro_rules! name {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps a name that a provider gave.
            pub fn new(text: &str) -> Self {
                Self(text.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        // Looks names up without making one; text and name compare alike.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name! {
    /// Name of a service.
    ServiceName
}
name! {
    /// Name of a task (`service.slot.id` in a Swarm).
    TaskName
}

/// A network as the kernel maps name it.
///
/// A hash of the network's identity instead of a running number, so that a restarted agent gives the same
/// number without having to remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkId(u32);

impl NetworkId {
    /// FNV-1a (32 bit) of the network's key: its name in a file, its id in a Swarm. Never 0, which means
    /// "published port" in a frontend's key.
    pub fn of(key: &str) -> Self {
        const OFFSET: u32 = 0x811c_9dc5;
        const PRIME: u32 = 0x0100_0193;
        let hash = key
            .bytes()
            .fold(OFFSET, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(PRIME));
        Self(hash.max(1))
    }

    /// The number in the maps.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A task as the tunnel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(u32);

impl TaskId {
    /// The low 24 bits of the task's ingress address; none of an IPv6 one.
    pub fn of(ingress: TaskAddr) -> Option<Self> {
        match ingress.0 {
            IpAddr::V4(address) => Some(Self(task_id(be(address)))),
            IpAddr::V6(_) => None,
        }
    }

    /// The number in the maps.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// The kernel's never-reused number of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_ids_are_fnv_1a() {
        // Vectors of the reference implementation (Noll).
        assert_eq!(NetworkId::of("").get(), 0x811c_9dc5);
        assert_eq!(NetworkId::of("a").get(), 0xe40c_292c);
        assert_eq!(NetworkId::of("foobar").get(), 0xbf9c_f968);
    }

    #[test]
    fn task_ids_are_the_low_24_bits() {
        let id = |text| TaskId::of(TaskAddr::parse(text).unwrap()).map(TaskId::get);
        assert_eq!(id("10.0.0.5"), Some(5));
        assert_eq!(id("10.1.2.3"), Some(0x01_0203));
        assert_eq!(id("fd00::5"), None);
    }
}
