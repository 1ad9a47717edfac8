//! The only module that makes system calls concerning BPF, netlink and namespaces.
pub mod netns;
