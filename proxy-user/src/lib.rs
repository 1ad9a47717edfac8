// SPDX-License-Identifier: MIT OR Apache-2.0
//! Portico's user space, in the order in which data flows through it.
//!
//! Node agent: [`providers`] read what services exist, [`model`]'s `Writer` validates them into three tables,
//! [`reconcile`] plans and applies the difference to the kernel, and [`kernel`] is the only module that makes
//! system calls for BPF, netlink and namespaces. [`daemon`] wires them. Only status flows back.
//!
//! L7 proxy: [`l7`] has the API, the route snapshot and the request path.
//!
//! [`cli`] has one file per verb.

pub mod admin;
pub mod backoff;
pub mod cli;
pub mod daemon;
pub mod durable;
pub mod engine;
pub mod health;
pub mod kernel;
pub mod l7;
pub mod memory;
pub mod model;
pub mod process;
pub mod providers;
pub mod reconcile;
pub mod shared_map;
pub mod unix_http;

#[cfg(test)]
mod compatibility;
#[cfg(test)]
mod test_memory;
#[cfg(test)]
use test_memory::allocated;
