// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every eBPF program against the running kernel: packets through BPF_PROG_TEST_RUN, sockets and tunnel frames in
//! a network namespace that the test makes. Needs root; without it each test says that it was skipped.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod full;
mod guard;
mod health;
mod ipvs;
mod mirror;
mod observe;
mod policy;
mod programs;
mod property;
mod reset;
mod restart;
mod sock;
mod support;
mod task;
mod tunnel;
mod uninstall;
mod uplink;
mod xdp;
