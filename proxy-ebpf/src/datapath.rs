//! The datapath's decisions.
