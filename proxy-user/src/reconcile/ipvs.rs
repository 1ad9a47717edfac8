// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same tables for the kernel's own balancer, IPVS: for kernels whose BPF is too old, and to compare with.
//!
//! One pass, as with the maps: [`desired`] says which virtual services the tables mean, [`plan`] compares them with
//! what the kernel is known to have and yields operations as data, [`keeper`] performs them. The mirror is read
//! from the kernel at the start, so that a restarted agent plans nothing when nothing has changed.
//!
//! Order. A new service: its address, the service, its destinations. A changed one: destinations that come,
//! destinations that change, the service itself, destinations that go, so that it is never without one. A service
//! that goes takes its destinations along; its address goes last.
//!
//! Ownership. Others may program IPVS in the same namespace. What Portico has made is written down before it is made;
//! nothing else is changed or removed, and a service that somebody else has made is refused by name.
//!
//! What IPVS cannot do is refused and said: a VIP without a port, a task of another node, another port with direct
//! routing. It knows no networks: a VIP is one for the whole namespace.

pub mod desired;
pub mod keeper;
pub mod plan;
pub mod table;

pub use desired::Options;
pub use keeper::Keeper;
pub use table::{Destination, Forward, Ipvs, Key, Owned, Realized, Scheduler, Service};

#[cfg(test)]
mod tests;
