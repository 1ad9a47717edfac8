// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which connection goes where: the ports of services in modes `tcp` and `sni`, their rules in order of precedence.
//!
//! *Who writes it*: [`super::super::router::Snapshot`], from services in their order. The first rule whose name
//! matches wins; of the rules that ask for no name the last one takes the rest, as in the original. What concerns a
//! whole port or group comes from its first rule.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use regex::Regex;

use crate::l7::domain::DomainPattern;
use crate::l7::limits;
use crate::l7::proxy_protocol::Version;
use crate::l7::router::CompiledService;
use crate::l7::stats::Backend;

/// A destination in mode `tcp` or `sni`, as its service compiles it.
#[derive(Debug)]
pub struct StreamDest {
    /// Name of the service.
    pub service: Box<str>,
    /// srcPort.
    pub port: u16,
    /// Names that it takes; without one it takes the rest.
    pub names: Vec<NamePattern>,
    /// It takes the rest as well.
    pub is_default: bool,
    /// serviceGroup; empty without one.
    pub group: Box<str>,
    /// Where its connections go.
    pub target: Target,
    /// What it asks of its port or group.
    pub settings: StreamSettings,
    /// What the original calls its port.
    pub frontend: Box<str>,
    /// What is counted of it.
    pub stats: Arc<Backend>,
}

impl StreamDest {
    /// For people.
    pub fn describe(&self) -> String {
        let hosts = self.target.hosts.join(" or ");
        let default = if self.is_default { " (default)" } else { "" };
        let group = match &*self.group {
            "" => String::new(),
            group => format!(" in group {group}, {:?}", self.settings.balance),
        };
        let names = match self.names.as_slice() {
            [] => String::new(),
            names => format!(" when {names:?}"),
        };
        format!("{hosts}:{}{default}{group}{names}", self.target.port)
    }
}

/// What a destination asks of its port or group.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// Among the members of a group.
    pub balance: Balance,
    /// timeoutClient: how long a ClientHello may take.
    pub timeout_client: Duration,
    /// timeoutTunnel: how long nothing may move.
    pub timeout_tunnel: Duration,
    /// clitcpka.
    pub keepalive: bool,
    /// proxyProtocol: the service is told who its client is.
    pub proxy_protocol: Option<Version>,
}

/// Which member of a group is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// All take turns.
    RoundRobin,
    /// The one with the fewest open connections of this worker.
    LeastConnections,
    /// The same for the same client, while the members stay.
    Source,
    /// The first that can be reached.
    First,
}

/// Names to ask the resolver for, the first that has an address.
#[derive(Debug)]
pub struct Target {
    /// In order.
    pub hosts: Vec<Box<str>>,
    /// Port.
    pub port: u16,
    /// What the resolver said last, for when it fails.
    pub last: ArcSwap<Vec<IpAddr>>,
}

/// A pattern of a server name.
#[derive(Debug)]
pub enum NamePattern {
    /// A domain, perhaps with an asterisk.
    Domain(DomainPattern),
    /// A part.
    Contains(Box<str>),
    /// Not anchored.
    Regex(Regex),
}

impl NamePattern {
    fn matches(&self, name: &str) -> bool {
        match self {
            NamePattern::Domain(domain) => domain.matches(name),
            NamePattern::Contains(part) => name.contains(&**part),
            NamePattern::Regex(regex) => regex.is_match(name),
        }
    }
}

/// Destinations that take the same connections: one, or the members of a group.
#[derive(Debug)]
pub struct StreamRule {
    /// Never empty; the first decides.
    pub members: Vec<Arc<StreamDest>>,
}

impl StreamRule {
    /// What the rule is about.
    pub fn first(&self) -> &StreamDest {
        &self.members[0]
    }

    /// The settings of the whole rule.
    pub fn settings(&self) -> &StreamSettings {
        &self.first().settings
    }
}

/// One port.
#[derive(Debug)]
pub struct StreamPort {
    rules: Vec<Arc<StreamRule>>,
}

impl StreamPort {
    /// In their order.
    pub fn rules(&self) -> &[Arc<StreamRule>] {
        &self.rules
    }

    /// The rule that takes a connection with this name, or without one.
    pub fn choose(&self, name: Option<&str>) -> Option<&Arc<StreamRule>> {
        let by_name = name.and_then(|name| {
            self.rules
                .iter()
                .find(|rule| rule.first().names.iter().any(|pattern| pattern.matches(name)))
        });
        by_name.or_else(|| self.rules.iter().rfind(|rule| rule.first().is_default))
    }

    /// Whether a rule asks for a name.
    pub fn needs_hello(&self) -> bool {
        self.rules.iter().any(|rule| !rule.first().names.is_empty())
    }

    /// How long a ClientHello may take.
    pub fn hello_time(&self) -> Duration {
        self.rules.first().map_or(limits::HELLO_TIME_MAX, |rule| {
            rule.settings().timeout_client.min(limits::HELLO_TIME_MAX)
        })
    }

    /// Whether clients are asked if they are still there.
    pub fn keepalive(&self) -> bool {
        self.rules.first().is_some_and(|rule| rule.settings().keepalive)
    }
}

/// All ports.
#[derive(Clone, Debug, Default)]
pub struct StreamTable(BTreeMap<u16, Arc<StreamPort>>);

impl StreamTable {
    /// From services in the order of precedence.
    pub fn new<'a>(services: impl Iterator<Item = &'a Arc<CompiledService>>) -> Self {
        let mut ports: BTreeMap<u16, Vec<StreamRule>> = BTreeMap::new();
        let mut groups: BTreeMap<&str, (u16, usize)> = BTreeMap::new();
        for dest in services.flat_map(|service| &service.streams) {
            let member = dest.clone();
            if let Some((port, at)) = groups.get(&*dest.group)
                && let Some(rule) = ports.get_mut(port).and_then(|rules| rules.get_mut(*at))
            {
                rule.members.push(member);
                continue;
            }
            let rules = ports.entry(dest.port).or_default();
            if !dest.group.is_empty() {
                groups.insert(&dest.group, (dest.port, rules.len()));
            }
            rules.push(StreamRule {
                members: vec![member],
            });
        }
        let ports = ports.into_iter().map(|(port, rules)| {
            let rules = rules.into_iter().map(Arc::new).collect();
            (port, Arc::new(StreamPort { rules }))
        });
        StreamTable(ports.collect())
    }

    /// The rules of a port.
    pub fn get(&self, port: u16) -> Option<&Arc<StreamPort>> {
        self.0.get(&port)
    }

    /// All ports with their rules.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &StreamPort)> {
        self.0.iter().map(|(port, rules)| (*port, &**rules))
    }
}
