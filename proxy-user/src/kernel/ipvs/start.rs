// SPDX-License-Identifier: MIT OR Apache-2.0
//! Start of the kernel side when IPVS forwards: what the machine must have, and nothing of BPF.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use serde_json::json;

use super::{Kernel, OWNED, message::FAMILY, settings};
use crate::{
    cli::Exit,
    kernel::{
        genetlink::Family,
        netlink, netns,
        parts::{KernelParts, uplinks},
    },
    reconcile::ipvs::{self, Forward, Ipvs},
};

/// IPVS, and what holds for services that say nothing.
pub type Door = (Box<dyn Ipvs>, ipvs::Options);

/// What the operator may set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Interfaces whose addresses serve published ports; empty = those of the default routes.
    pub uplinks: Vec<String>,
    /// The agent's state directory.
    pub state: PathBuf,
    /// What holds for services that say nothing.
    pub defaults: ipvs::Options,
}

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Opens IPVS and sets what drain and removal need.
pub fn start(options: &Options) -> Result<KernelParts<Door>, Exit> {
    let (name, version) = FAMILY;
    let family = Family::open(name, version).map_err(|error| lacks(&error))?;
    let links = uplinks(&options.uplinks)?;
    let forwards = fs::read_to_string(IP_FORWARD).is_ok_and(|text| text.trim() == "1");
    if options.defaults.forward == Forward::Nat && !forwards {
        return Err(Exit::Lacks {
            what: "this namespace does not forward, so no reply would come back through it".into(),
            how: "sysctl -w net.ipv4.ip_forward=1, or --ipvs-forward dr".into(),
        });
    }
    fs::create_dir_all(&options.state)
        .map_err(|error| Exit::Failed(format!("{}: {error}", options.state.display())))?;
    settings::set(&options.state)?;
    let names: BTreeSet<String> = links.into_iter().map(|link| link.name).collect();
    let info = json!({
        "dataplane": "ipvs",
        "uplinks": names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "scheduler": options.defaults.scheduler.name(),
    });
    let own_cookie = netns::own_cookie().map_err(|error| Exit::Lacks {
        what: format!("SO_NETNS_COOKIE: {error}"),
        how: "Linux 5.14 or later".into(),
    })?;
    Ok(KernelParts {
        // IPVS has its own tables and tools (ipvsadm -Lcn).
        mirror: None,
        datapath: (
            Box::new(Kernel {
                family,
                owned: options.state.join(OWNED),
            }),
            options.defaults,
        ),
        own_cookie,
        local_addrs: Box::new(move || {
            let addresses = netlink::addresses().unwrap_or_default();
            let of_uplinks = addresses.into_iter().filter(|(name, _)| names.contains(name));
            of_uplinks.map(|(_, address)| address).collect()
        }),
        inspect: Box::new(netns::inspect),
        // IPVS has no sockets of ours.
        reset: Box::new(|_| ()),
        // The VIPs are addresses where IPVS is.
        echo: crate::kernel::echo::Echo::none(),
        counters: Box::new(counters),
        info,
    })
}

fn lacks(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::NotFound => Exit::Lacks {
            what: "this kernel has no IPVS".into(),
            how: "modprobe ip_vs, or boot a kernel that has it (CONFIG_IP_VS); or leave --dataplane out: Portico's own \
                  programs need no IPVS"
                .into(),
        },
        _ => Exit::Lacks {
            what: format!("IPVS over generic netlink: {error}"),
            how: "run as root (CAP_NET_ADMIN)".into(),
        },
    }
}

/// Totals of the namespace: connections, packets and bytes of both ways. Those of each processor are always of now; the
/// sums that the kernel shows elsewhere are two seconds old.
fn counters() -> Vec<(String, u64)> {
    let text = fs::read_to_string("/proc/net/ip_vs_stats_percpu").unwrap_or_default();
    read_counters(&text)
}

/// Hexadecimal lines of a processor and its five counters, below headings and above sums and rates.
fn read_counters(text: &str) -> Vec<(String, u64)> {
    const NAMES: [&str; 5] = [
        "ipvs_connections",
        "ipvs_packets_in",
        "ipvs_packets_out",
        "ipvs_bytes_in",
        "ipvs_bytes_out",
    ];
    let mut sums = [0; 5];
    for line in text.lines() {
        let numbers: Option<Vec<u64>> = line
            .split_whitespace()
            .map(|word| u64::from_str_radix(word, 16).ok())
            .collect();
        let Some([_, counters @ ..]) = numbers.as_deref() else {
            continue;
        };
        if counters.len() == sums.len() {
            sums.iter_mut()
                .zip(counters)
                .for_each(|(sum, counter)| *sum += counter);
        }
    }
    NAMES.into_iter().map(str::to_owned).zip(sums).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        let text = "       Total Incoming Outgoing         Incoming         Outgoing\n\
            CPU    Conns  Packets  Packets            Bytes            Bytes\n\
            \x20 0        A       1F        B             1C20              0FF\n\
            \x20 1        1        1        0                0                1\n\
            \x20 ~        9        9        9                9                9\n\n\
            \x20    Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n\
            \x20          5        5        5                5                5\n";
        let found = read_counters(text);
        let values: Vec<u64> = found.iter().map(|(_, value)| *value).collect();
        assert_eq!(values, [11, 32, 11, 7200, 256]);
        assert_eq!(found[0].0, "ipvs_connections");
        assert!(read_counters("").iter().all(|(_, value)| *value == 0));
    }

    #[test]
    fn a_kernel_without_ipvs_is_told_what_to_do() {
        let exit = lacks(&io::ErrorKind::NotFound.into());
        assert_eq!(exit.code(), 3);
        assert!(exit.to_string().contains("modprobe ip_vs"), "{exit}");
    }
}
