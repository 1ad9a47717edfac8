//! Support for the tests that need more than one module.
