//! The only module that makes system calls concerning BPF, netlink and namespaces.
pub mod netns;
pub mod parts;

pub use parts::{KernelParts, Options, start};
