// SPDX-License-Identifier: MIT OR Apache-2.0
//! Portico's kernel side, as far as it can run anywhere.
//!
//! Two parts, in reading order: [`abi`] has the keys and values of every map, shared by the programs and the
//! agent; [`datapath`] has the decisions (which service, which backend, what to rewrite) as pure functions that
//! know no helper, no map and no clock. The same source is compiled into the programs and run in host tests.
//! The entry points, the maps and the packet contexts are in `src/bin/portico`, the only place that uses
//! aya-ebpf.
#![cfg_attr(not(any(test, feature = "model")), no_std)]

pub mod abi;
pub mod datapath;
