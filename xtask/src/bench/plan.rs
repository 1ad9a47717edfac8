// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is to be measured: contestants, workloads, rounds. Written by the host, read by the guest.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Who stands between client and origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// Nobody: the packets are routed through the same namespace
    Direct,
    /// IPVS, masquerading
    IpvsNat,
    /// IPVS, direct routing: replies do not pass it
    IpvsDr,
    /// Portico's connect() hooks
    PorticoSocket,
    /// Portico's tc programs, the client's address preserved
    PorticoTc,
    /// The same, tasks on another node, which answers the client itself
    PorticoDsr,
    /// The same, tasks on another node, which see the entry node as the client
    PorticoMasquerade,
    /// Portico's XDP program in the driver, tasks on another node
    PorticoXdp,
    /// HAProxy as a relay of connections
    HaproxyTcp,
    /// nginx as a relay of connections
    NginxStream,
    /// HAProxy as an HTTP proxy
    HaproxyHttp,
    /// nginx as an HTTP proxy
    NginxHttp,
    /// Portico's HTTP proxy
    PorticoL7,
}

use Contestant::*;

impl Contestant {
    /// Kernel first, then relays, then HTTP proxies.
    pub const ALL: [Contestant; 13] = [
        Direct,
        IpvsNat,
        IpvsDr,
        PorticoSocket,
        PorticoTc,
        PorticoDsr,
        PorticoMasquerade,
        PorticoXdp,
        HaproxyTcp,
        NginxStream,
        HaproxyHttp,
        NginxHttp,
        PorticoL7,
    ];

    /// As in tables.
    pub fn title(self) -> &'static str {
        match self {
            Direct => "direct",
            IpvsNat => "IPVS NAT",
            IpvsDr => "IPVS DR",
            PorticoSocket => "Portico socket hooks",
            PorticoTc => "Portico tc (preserve)",
            PorticoDsr => "Portico tc (dsr)",
            PorticoMasquerade => "Portico tc (masquerade)",
            PorticoXdp => "Portico XDP",
            HaproxyTcp => "HAProxy tcp",
            NginxStream => "nginx stream",
            HaproxyHttp => "HAProxy http",
            NginxHttp => "nginx http",
            PorticoL7 => "Portico L7",
        }
    }

    /// As in pictures, where every bar stands for another comparison only if it says so.
    pub fn short(self) -> String {
        let far = if self.is_far() { ", other node" } else { "" };
        format!("{}{far}", self.title())
    }

    /// Where it claims to work.
    pub fn is_userspace(self) -> bool {
        matches!(
            self,
            HaproxyTcp | NginxStream | HaproxyHttp | NginxHttp | PorticoL7
        )
    }

    /// The most services that it is measured with; 1 where their number is not part of what it looks up.
    ///
    /// A relay has a listening socket for each, so the kernel chooses.
    pub fn services_max(self) -> u32 {
        match self {
            Direct | HaproxyTcp | NginxStream => 1,
            PorticoDsr | PorticoMasquerade | PorticoXdp => 1,
            IpvsNat | IpvsDr | PorticoSocket | PorticoTc | HaproxyHttp | NginxHttp | PorticoL7 => 10_000,
        }
    }

    /// Whether Portico's agent programs the kernel to do it.
    pub fn is_kernel(self) -> bool {
        matches!(self, IpvsNat | IpvsDr | PorticoSocket) || self.is_tc()
    }

    /// Whether Portico's programs are on the way of the packets.
    pub fn is_tc(self) -> bool {
        matches!(self, PorticoTc) || self.is_far()
    }

    /// Whether it is about tasks of another node, and nothing special where they are on the client's entry node.
    pub const fn is_far(self) -> bool {
        matches!(self, PorticoDsr | PorticoMasquerade | PorticoXdp)
    }

    /// Why it has no part in a workload.
    pub fn lacks(self, workload: Workload) -> Option<&'static str> {
        match (workload, self) {
            (Workload::Udp, HaproxyTcp) => Some("HAProxy relays no UDP"),
            (Workload::Udp, HaproxyHttp | NginxHttp | PorticoL7) => Some("an HTTP proxy relays no UDP"),
            _ => None,
        }
    }

    /// Programs and files that it cannot do without, each with its Debian package.
    pub fn needs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            HaproxyTcp | HaproxyHttp => &[("haproxy", "haproxy")],
            NginxStream => &[(
                "/usr/lib/nginx/modules/ngx_stream_module.so",
                "libnginx-mod-stream",
            )],
            _ => &[],
        }
    }
}

/// What one might look for and does not find, so that a report names it.
pub const NOT_COMPARED: [(&str, &str); 2] = [
    (
        "IPVS, tasks on another node",
        "Portico does not program a tunnel for IPVS, and Swarm's own mesh needs a Swarm",
    ),
    (
        "HAProxy tcp, nginx stream, many services",
        "each service has a listening socket of its own, and it is the kernel that finds it",
    ),
];

/// What the client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Requests on kept connections
    KeepAlive,
    /// A connection for each request
    Connections,
    /// Answers of 1 MiB
    Bulk,
    /// Datagrams of 64 bytes and their echoes
    Udp,
    /// How long connect() takes, one connection at a time
    Connect,
}

impl Workload {
    /// In the order of the report.
    pub const ALL: [Workload; 5] = [
        Workload::KeepAlive,
        Workload::Connections,
        Workload::Bulk,
        Workload::Udp,
        Workload::Connect,
    ];

    /// As in headings.
    pub fn title(self) -> &'static str {
        match self {
            Workload::KeepAlive => "kept connections",
            Workload::Connections => "a connection per request",
            Workload::Bulk => "answers of 1 MiB",
            Workload::Udp => "small datagrams",
            Workload::Connect => "one connection after another",
        }
    }

    /// As on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What one unit of the cost is for.
    pub fn unit(self) -> &'static str {
        match self {
            Workload::KeepAlive => "request",
            Workload::Connections | Workload::Connect => "connection",
            Workload::Bulk => "answer",
            Workload::Udp => "datagram and echo",
        }
    }
}

/// One line of a table: a contestant in certain circumstances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Row {
    pub contestant: Contestant,
    /// Services that it serves, of which one is asked.
    pub services: u32,
    /// Backends of that one.
    #[serde(default = "usual_backends")]
    pub backends: u32,
    /// Other clients' flows that it remembers.
    #[serde(default)]
    pub flows: u32,
    /// A backend drains and comes back all the time.
    #[serde(default)]
    pub churn: bool,
    /// The backends are behind another node than the one that the client asks.
    #[serde(default)]
    pub far: bool,
}

/// Backends of a row that says nothing else.
pub const BACKENDS: u32 = 2;

/// That a balancer or all of its backends have room for.
pub const CONNECTIONS_MAX: u32 = 8192;
/// For looks at a backend's status, and for a share that is more than fair.
const CONNECTIONS_SPARE: u32 = 128;

fn usual_backends() -> u32 {
    BACKENDS
}

impl Row {
    /// One service, two backends, nothing special.
    pub const fn of(contestant: Contestant) -> Row {
        Row {
            contestant,
            services: 1,
            backends: BACKENDS,
            flows: 0,
            churn: false,
            far: contestant.is_far(),
        }
    }

    /// Nobody in between, over the same nodes: what the row is compared with.
    pub const fn direct(self) -> Row {
        Row {
            far: self.far,
            ..Row::of(Direct)
        }
    }

    /// Connections that each backend has room for: many backends share the load, and what is not used by it is memory.
    pub fn origin_connections(self) -> u32 {
        CONNECTIONS_MAX / self.backends.max(1) + CONNECTIONS_SPARE
    }

    /// Whether only the contestant is special.
    pub fn is_plain(self) -> bool {
        self == Row::of(self.contestant)
    }

    /// What the row does that a plain one does not.
    pub fn variant(self) -> Option<String> {
        let plain = Row::of(self.contestant);
        let mut words = Vec::new();
        if self.services != plain.services {
            words.push(format!("{} services", self.services));
        }
        if self.backends != plain.backends {
            words.push(match self.backends {
                1 => "1 backend".to_owned(),
                many => format!("{many} backends"),
            });
        }
        if self.flows > 0 {
            words.push(format!("{} flows", self.flows));
        }
        if self.churn {
            words.push("a backend that comes and goes".to_owned());
        }
        if self.far {
            words.push("tasks on another node".to_owned());
        }
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// As in tables.
    pub fn title(self) -> String {
        match self.variant() {
            None => self.contestant.title().to_owned(),
            Some(variant) => format!("{}, {variant}", self.contestant.title()),
        }
    }

    /// The workloads that this row is for: what many backends, flows or changes cost shows where connections begin
    /// and where packets are many.
    pub fn does(self, workload: Workload) -> bool {
        if self.contestant.lacks(workload).is_some() {
            return false;
        }
        match workload {
            // Kept connections stay where they are when a backend drains.
            Workload::KeepAlive => self.backends <= BACKENDS && !self.churn,
            Workload::Connections => true,
            Workload::Bulk => self.is_plain() || self.far,
            Workload::Udp | Workload::Connect => self.is_plain() && !self.far,
        }
    }

    /// Arguments of the bench that measure this row again.
    pub fn arguments(self) -> String {
        let name = self.contestant.to_possible_value();
        let mut text = format!("--only {}", name.as_ref().map_or("", |name| name.get_name()));
        if self.services > 1 {
            text += &format!(" --services {}", self.services);
        }
        if self.backends != BACKENDS {
            text += &format!(" --backends {}", self.backends);
        }
        if self.flows > 0 {
            text += &format!(" --flows {}", self.flows);
        }
        if self.churn {
            text += " --churn";
        }
        if self.far {
            text += " --far";
        }
        text
    }
}

/// Everything that the measuring side must know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub rows: Vec<Row>,
    pub workloads: Vec<Workload>,
    pub rounds: u32,
    /// Of one sample, on the clock of the machine that measures.
    pub seconds: u32,
    pub connections: u32,
    /// The clock advances 2^this nanoseconds per instruction; none: it is a clock.
    pub counted: Option<u32>,
    /// Of the order inside rounds.
    pub seed: u64,
}

impl Plan {
    /// How long one sample is. Large answers take long, and some of them are needed for a figure.
    pub fn seconds_of(&self, workload: Workload) -> u32 {
        match workload {
            Workload::Bulk => 2 * self.seconds,
            _ => self.seconds,
        }
    }

    /// Every sample once, round by round; inside a round the rows are in another order each time.
    pub fn schedule(&self) -> Vec<(u32, Row, Workload)> {
        let mut random = self.seed | 1;
        let mut all = Vec::new();
        for round in 0..self.rounds {
            for workload in &self.workloads {
                let mut rows = self.rows.clone();
                super::stats::shuffle(&mut rows, &mut random);
                let able = rows.into_iter().filter(|row| row.does(*workload));
                all.extend(able.map(|row| (round, row, *workload)));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_every_row_once_and_in_an_order_of_its_own() {
        let plan = Plan {
            rows: Contestant::ALL.map(Row::of).to_vec(),
            workloads: vec![Workload::KeepAlive],
            rounds: 3,
            seconds: 1,
            connections: 8,
            counted: Some(0),
            seed: 7,
        };
        let schedule = plan.schedule();
        let order = |round| {
            schedule
                .iter()
                .filter(move |s| s.0 == round)
                .map(|s| s.1)
                .collect::<Vec<_>>()
        };
        for round in 0..3 {
            let mut rows = order(round);
            rows.sort();
            assert_eq!(rows, plan.rows);
        }
        assert_ne!(order(0), order(1));
        assert_eq!(schedule, plan.schedule(), "the seed decides");
    }

    #[test]
    fn a_row_says_what_is_special_and_how_to_measure_it_again() {
        let row = Row {
            services: 1000,
            backends: 1,
            flows: 10_000,
            churn: true,
            ..Row::of(IpvsNat)
        };
        assert_eq!(
            row.title(),
            "IPVS NAT, 1000 services, 1 backend, 10000 flows, a backend that comes and goes"
        );
        assert_eq!(
            row.arguments(),
            "--only ipvs-nat --services 1000 --backends 1 --flows 10000 --churn"
        );
        assert_eq!(Row::of(IpvsNat).title(), "IPVS NAT");
    }

    #[test]
    fn a_row_is_left_out_of_workloads_that_it_cannot_do() {
        assert!(!Row::of(HaproxyTcp).does(Workload::Udp));
        assert!(Row::of(NginxStream).does(Workload::Udp));
        let many = Row {
            backends: 100,
            ..Row::of(PorticoTc)
        };
        assert!(many.does(Workload::Connections) && !many.does(Workload::KeepAlive));
    }

    #[test]
    fn what_is_behind_another_node_is_compared_with_the_way_over_both() {
        let row = Row::of(PorticoXdp);
        assert!(row.far && row.is_plain());
        assert_eq!(row.title(), "Portico XDP, tasks on another node");
        assert_eq!(row.arguments(), "--only portico-xdp --far");
        assert_eq!(row.direct().title(), "direct, tasks on another node");
        assert!(!Row::of(IpvsNat).direct().far);
    }

    #[test]
    fn a_run_from_before_there_were_backends_is_read() {
        let row: Row = serde_json::from_str(r#"{"contestant": "ipvs-nat", "services": 10}"#).unwrap();
        assert_eq!(
            row,
            Row {
                services: 10,
                ..Row::of(IpvsNat)
            }
        );
    }
}
