//! Tables -> plan -> kernel.
pub mod datapath;
