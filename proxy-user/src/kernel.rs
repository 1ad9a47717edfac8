// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only module that makes system calls concerning BPF, netlink and namespaces.
//!
//! Life of the kernel state. [`start()`] makes sure that the machine has what is needed, creates the tunnel device,
//! opens or creates the pinned maps, loads the programs or takes the pinned ones when they are the same, and
//! attaches what is not attached. From then on the reconciler changes maps and task attachments through
//! [`dataplane`]. When the agent ends, everything stays: the pins hold maps, programs and links. [`uninstall`] finds
//! and removes it.
//!
//! Pins, below `--bpffs`, by ABI version: `v1/maps/NAME`, `v1/programs/HASH/NAME` (hash of object and settings),
//! `v1/links/NAME`.

pub mod attach;
pub mod clsact;
pub mod dataplane;
pub mod echo;
pub mod events;
pub mod exchange;
pub mod firewall;
pub mod genetlink;
pub mod guard;
pub mod ipvs;
mod legacy;
pub mod mirror;
pub mod netlink;
pub mod netns;
pub mod object;
pub mod others;
pub mod parts;
pub mod pins;
pub mod reset;
mod shared;
pub mod sock_diag;
mod tables;
pub mod uninstall;
pub mod xdp;

pub use parts::{KernelParts, Options, start};
