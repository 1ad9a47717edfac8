// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who else forwards, filters or has programs on this machine, and what Portico does beside them
//! (`docs/coexistence.md`).

use std::{fs, path::Path};

use super::{Check, checks::cgroup2_mount};
use crate::kernel::{
    firewall::{self, Chain},
    netlink, others,
};

/// Names listed in one line of the table; the rest is counted.
const NAMES_MAX: usize = 6;

/// Everything.
pub(super) fn all(uplinks: &[String]) -> Vec<Check> {
    let chains = firewall::chains().map_err(|error| error.to_string());
    vec![
        ipvs(),
        of_chains("swarm-ingress", &chains, swarm_ingress),
        of_chains("firewall", &chains, rules),
        of_chains("docker-user", &chains, docker_user),
        programs(uplinks),
        hooks(),
    ]
}

fn finding(name: &'static str, found: Option<(String, &str)>, none: &str) -> Check {
    let ok = found.is_none();
    let (found, follows) = found.unwrap_or_else(|| (none.into(), "nothing to do"));
    Check {
        name,
        ok,
        required: false,
        found,
        follows: follows.into(),
    }
}

fn unknown(name: &'static str, error: &str) -> Check {
    Check {
        name,
        ok: false,
        required: false,
        found: format!("not known: {error}"),
        follows: "run doctor as root to find out".into(),
    }
}

type Chains = Result<Vec<Chain>, String>;

fn of_chains(
    name: &'static str,
    chains: &Chains,
    look: impl Fn(&[Chain]) -> (Option<(String, &'static str)>, &'static str),
) -> Check {
    match chains {
        Ok(chains) => {
            let (found, none) = look(chains);
            finding(name, found, none)
        }
        Err(error) => unknown(name, error),
    }
}

/// Virtual services of this namespace, which are not Swarm's: those are in namespaces of its own.
fn ipvs() -> Check {
    let text = fs::read_to_string("/proc/self/net/ip_vs").unwrap_or_default();
    let services = virtual_services(&text);
    let found = (services > 0).then(|| (
        format!("{services} virtual services of IPVS in this namespace"),
        "somebody balances here (keepalived, kube-proxy, or `portico node --dataplane ipvs`): addresses and ports that \
         both claim are Portico's where it runs; the rest stays as it is",
    ));
    finding("ipvs", found, "no virtual service of IPVS in this namespace")
}

fn virtual_services(table: &str) -> usize {
    let is_one = |line: &&str| {
        ["TCP ", "UDP ", "SCTP ", "FWM "]
            .iter()
            .any(|kind| line.starts_with(kind))
    };
    table.lines().filter(is_one).count()
}

fn swarm_ingress(chains: &[Chain]) -> (Option<(String, &'static str)>, &'static str) {
    let own = chains
        .iter()
        .filter(|chain| chain.name == "DOCKER-INGRESS" && chain.rules > chain.returns);
    let own: usize = own.map(|chain| chain.rules - chain.returns).sum();
    let balancer = chains.iter().any(|chain| chain.table == "docker-lb-nat");
    let found = match (own, balancer) {
        (0, false) => None,
        (0, true) => Some("table docker-lb-nat of the engine's nft balancer".to_owned()),
        (rules, _) => Some(format!("{rules} rules in DOCKER-INGRESS")),
    };
    let found = found.map(|found| (
        found,
        "Swarm's own ingress serves published ports; Portico answers before it, and when it is uninstalled Swarm's \
         serves again: leave the rules",
    ));
    (found, "no ingress of Swarm's")
}

fn rules(chains: &[Chain]) -> (Option<(String, &'static str)>, &'static str) {
    let mut tables: Vec<(String, usize)> = Vec::new();
    for chain in chains {
        let name = format!("{} {} {}", chain.kind, chain.family, chain.table);
        match tables.last_mut().filter(|(last, _)| *last == name) {
            Some((_, rules)) => *rules += chain.rules,
            None => tables.push((name, chain.rules)),
        }
    }
    tables.retain(|(_, rules)| *rules > 0);
    let texts: Vec<String> = tables
        .iter()
        .map(|(name, rules)| format!("{name}: {rules} rules"))
        .collect();
    let found = (!texts.is_empty()).then(|| (
        listed(&texts),
        "packets to published ports do not come by these rules: say who may with allow and deny (portico.allow, \
         portico.deny); between nodes the rules must let UDP 4790 pass",
    ));
    (found, "no rules of nft or iptables-legacy")
}

fn docker_user(chains: &[Chain]) -> (Option<(String, &'static str)>, &'static str) {
    let of_users = chains
        .iter()
        .filter(|chain| chain.name == "DOCKER-USER" && chain.rules > chain.returns);
    let texts: Vec<String> = of_users
        .map(|chain| {
            format!(
                "{} {}: {} rules",
                chain.kind,
                chain.family,
                chain.rules - chain.returns
            )
        })
        .collect();
    let found = (!texts.is_empty()).then(|| (
        listed(&texts),
        "does not see what Portico forwards: give services the same limits as portico.allow and portico.deny",
    ));
    (found, "no rules in DOCKER-USER")
}

fn programs(uplinks: &[String]) -> Check {
    const NAME: &str = "uplink-programs";
    let mut found = Vec::new();
    for uplink in uplinks {
        match others::on_interface(uplink) {
            Ok(programs) => found.extend(programs.iter().map(|program| format!("{uplink}: {program}"))),
            Err(error) => return unknown(NAME, &format!("{uplink}: {error}")),
        }
    }
    let found = (!found.is_empty()).then(|| (
        listed(&found),
        "what they take, Portico does not see (XDP and earlier tc programs come first): let only one of them serve a \
         port, or use another --uplink; beside a foreign XDP program --xdp auto stays with tc",
    ));
    finding(NAME, found, "no programs of others on the uplinks")
}

fn hooks() -> Check {
    const NAME: &str = "socket-hooks";
    let root = cgroup2_mount();
    let foreign = match root.as_deref().map(|root: &Path| others::on_connect(root)) {
        Some(Ok(foreign)) => foreign,
        Some(Err(error)) => return unknown(NAME, &error.to_string()),
        None => return unknown(NAME, "cgroup2 is not mounted"),
    };
    let found = (!foreign.is_empty()).then(|| (
        listed(&foreign),
        "another mesh translates connects (Cilium's socket balancer, for one): both see every connect, one after the \
         other; they go together as long as no VIP is in both",
    ));
    finding(NAME, found, "nobody else's connect hooks at the cgroup root")
}

fn listed(texts: &[String]) -> String {
    let first: Vec<&str> = texts.iter().take(NAMES_MAX).map(String::as_str).collect();
    match texts.len().saturating_sub(NAMES_MAX) {
        0 => first.join("; "),
        more => format!("{}; and {more} more", first.join("; ")),
    }
}

/// The interfaces that clients come in through: those named, or those of the default routes.
pub(super) fn uplinks(named: &[String]) -> Vec<String> {
    let named: Vec<String> = named.iter().filter(|name| !name.is_empty()).cloned().collect();
    if named.is_empty() {
        netlink::default_route_interfaces().unwrap_or_default()
    } else {
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(name: &str, rules: usize, returns: usize) -> Chain {
        Chain {
            kind: "legacy",
            family: "ip",
            table: "filter".into(),
            name: name.into(),
            rules,
            returns,
        }
    }

    #[test]
    fn a_return_in_docker_user_is_the_engines_own() {
        assert!(
            docker_user(&[chain("DOCKER-USER", 1, 1), chain("FORWARD", 4, 0)])
                .0
                .is_none()
        );
        let (found, _) = docker_user(&[chain("DOCKER-USER", 3, 1)]);
        assert_eq!(found.unwrap().0, "legacy ip: 2 rules");
    }

    #[test]
    fn swarms_ingress_is_told_by_its_chain_or_its_table() {
        assert!(swarm_ingress(&[chain("DOCKER-INGRESS", 1, 1)]).0.is_none());
        let (found, _) = swarm_ingress(&[chain("DOCKER-INGRESS", 3, 1)]);
        assert_eq!(found.unwrap().0, "2 rules in DOCKER-INGRESS");
        let table = Chain {
            table: "docker-lb-nat".into(),
            ..chain("prerouting", 1, 0)
        };
        assert!(swarm_ingress(&[table]).0.is_some());
    }

    #[test]
    fn virtual_services_are_counted_and_their_servers_are_not() {
        let table = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  \
                     -> RemoteAddress:Port Forward Weight ActiveConn InActConn\nTCP  0A090001:0050 rr\n  \
                     -> 0A000007:0050      Masq    1      0          0\nFWM  00000100 rr\n";
        assert_eq!(virtual_services(table), 2);
        assert_eq!(virtual_services(""), 0);
    }
}
