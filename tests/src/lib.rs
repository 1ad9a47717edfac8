// SPDX-License-Identifier: MIT OR Apache-2.0
//! Support for the tests that need more than one module.
pub mod go_demo;
