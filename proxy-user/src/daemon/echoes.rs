// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which namespace answers echo for which VIPs: those of its networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
};

use crate::{
    kernel::echo::{Namespace, Wanted},
    model::{Facts, FrontendAddr, NetworkId, Protocol, Tables, VipAddr, VipPort, limits::ECHOES_MAX},
};

/// What the tables want of the namespaces of this node's tasks. The node's own has none: every node has it, and all
/// of them would answer ARP for the address.
pub fn wanted(tables: &Tables, facts: &BTreeMap<PathBuf, Facts>) -> Wanted {
    let mut shared: BTreeMap<&BTreeSet<NetworkId>, Arc<BTreeSet<IpAddr>>> = BTreeMap::new();
    let found = facts.iter().filter_map(|(path, facts)| {
        let scope = tables.scopes.get(&facts.cookie).filter(|scope| !scope.host)?;
        let addresses = shared
            .entry(&scope.networks)
            .or_insert_with(|| Arc::new(vips(tables, &scope.networks)));
        let namespace = Namespace {
            cookie: facts.cookie.0,
            addresses: addresses.clone(),
        };
        Some((path.clone(), namespace))
    });
    found.collect()
}

/// The VIPs of some networks that serve every port, up to the limit. One that serves some ports may be an address that
/// somebody else has, who is reached by all others.
fn vips(tables: &Tables, networks: &BTreeSet<NetworkId>) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for network in networks {
        let vip = |address, port| FrontendAddr::Vip {
            network: *network,
            address,
            port,
        };
        let mut next = vip(VipAddr([0, 0, 0, 0].into()), None);
        while found.len() < ECHOES_MAX
            && let Some((key, _)) = tables.frontends.range(next..).next()
            && let FrontendAddr::Vip {
                network: of,
                address,
                port,
            } = key
            && of == network
        {
            if port.is_none() {
                found.insert(address.0);
            }
            // The last that this address can have: one look for all of its ports.
            let last = vip(
                *address,
                Some(VipPort {
                    port: u16::MAX,
                    protocol: Protocol::Udp,
                }),
            );
            next = match tables.frontends.range(last..).find(|(key, _)| **key != last) {
                Some((key, _)) => *key,
                None => break,
            };
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cookie, Frontend, Policy, ServiceName, tables::Scope};

    fn tables(vips: &[(&str, &str, Option<u16>)]) -> Tables {
        let mut tables = Tables::default();
        for (network, address, port) in vips {
            let key = FrontendAddr::Vip {
                network: NetworkId::of(network),
                address: VipAddr(address.parse().unwrap()),
                port: port.map(|port| VipPort {
                    port,
                    protocol: Protocol::Tcp,
                }),
            };
            let frontend = Frontend {
                service: ServiceName::new("web"),
                target_port: 0,
                policy: Arc::new(Policy::default()),
                backends: Vec::new(),
            };
            tables.frontends.insert(key, Arc::new(frontend));
        }
        tables
    }

    fn answers(tables: &mut Tables, host: bool, networks: &[&str]) -> Vec<String> {
        let scope = Scope {
            host,
            networks: networks.iter().map(|network| NetworkId::of(network)).collect(),
        };
        tables.scopes.insert(Cookie(7), scope);
        let facts = Facts {
            cookie: Cookie(7),
            gateway: None,
        };
        let wanted = wanted(tables, &[(PathBuf::from("/ns"), facts)].into());
        let of = |namespace: &Namespace| namespace.addresses.iter().map(IpAddr::to_string).collect();
        wanted.values().next().map(of).unwrap_or_default()
    }

    #[test]
    fn a_task_answers_for_the_vips_of_its_networks() {
        let mut tables = tables(&[
            ("a", "10.0.1.2", None),
            ("a", "10.0.1.3", Some(80)),
            ("a", "10.0.1.3", Some(443)),
            ("a", "10.0.1.3", Some(u16::MAX)),
            ("a", "10.0.1.4", None),
            ("a", "10.0.1.4", Some(80)),
            ("a", "fd00::2", None),
            ("b", "10.0.2.2", None),
            ("c", "10.0.3.2", None),
        ]);
        assert_eq!(
            answers(&mut tables, false, &["a", "c"]),
            ["10.0.1.2", "10.0.1.4", "10.0.3.2", "fd00::2"],
            "an address with some ports may be somebody else's"
        );
        assert!(answers(&mut tables, false, &["d"]).is_empty());
        assert!(answers(&mut tables, true, &["a"]).is_empty(), "the node's own");
    }

    #[test]
    fn there_is_a_limit() {
        let addresses: Vec<String> = (0..ECHOES_MAX + 10)
            .map(|n| format!("10.1.{}.{}", n >> 8, n & 255))
            .collect();
        let vips: Vec<_> = addresses
            .iter()
            .map(|address| ("a", address.as_str(), None))
            .collect();
        let mut tables = tables(&vips);
        assert_eq!(answers(&mut tables, false, &["a"]).len(), ECHOES_MAX);
    }
}
