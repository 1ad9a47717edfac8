//! Support for the tests that need more than one module.
pub mod go_demo;
