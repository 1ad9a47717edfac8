// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico node --dataplane ipvs`: its flags.

use std::path::PathBuf;

use crate::{
    kernel,
    reconcile::ipvs::{self, Forward, Scheduler, table::Affinity},
};

/// Flags of the data plane that is the kernel's.
// clap makes a group of every such struct, named after it, and the one that it is flattened into is named the same.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "ipvs")]
pub struct Args {
    /// Who forwards
    #[arg(
        long,
        value_enum,
        value_name = "WHO",
        env = "PORTICO_DATAPLANE",
        default_value = "ebpf"
    )]
    dataplane: Dataplane,
    /// How IPVS chooses a backend of a service that does not say so itself
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        env = "PORTICO_IPVS_SCHEDULER",
        default_value = "rr"
    )]
    ipvs_scheduler: Scheduler,
    /// Seconds for which IPVS keeps a client of such a service with its backend; 0 = not at all
    #[arg(
        long,
        value_name = "SECONDS",
        env = "PORTICO_IPVS_AFFINITY",
        default_value_t = 0
    )]
    ipvs_affinity: u32,
    /// How IPVS passes packets on
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        env = "PORTICO_IPVS_FORWARD",
        default_value = "nat"
    )]
    ipvs_forward: Forward,
}

/// Who forwards packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Dataplane {
    /// Portico's own programs
    Ebpf,
    /// The kernel's IPVS: published ports with tasks of this node, and VIPs of one port
    Ipvs,
}

/// All bits of a client's address.
const WHOLE_ADDRESS: u8 = 32;

impl Args {
    /// Whether IPVS is what forwards.
    pub fn forwards(&self) -> bool {
        self.dataplane == Dataplane::Ipvs
    }

    /// What the kernel side is started with.
    pub fn options(&self, uplinks: Vec<String>, state: PathBuf) -> kernel::ipvs::Options {
        kernel::ipvs::Options {
            uplinks,
            state,
            defaults: ipvs::Options {
                scheduler: self.ipvs_scheduler,
                affinity: (self.ipvs_affinity > 0).then_some(Affinity {
                    seconds: self.ipvs_affinity,
                    prefix: WHOLE_ADDRESS,
                }),
                forward: self.ipvs_forward,
            },
        }
    }
}
