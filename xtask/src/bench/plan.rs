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
    pub const ALL: [Contestant; 10] = [
        Direct,
        IpvsNat,
        IpvsDr,
        PorticoSocket,
        PorticoTc,
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
            HaproxyTcp => "HAProxy tcp",
            NginxStream => "nginx stream",
            HaproxyHttp => "HAProxy http",
            NginxHttp => "nginx http",
            PorticoL7 => "Portico L7",
        }
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
    /// A relay has a listening socket for each, so the kernel chooses; 10 000 HTTP services are more than anybody
    /// configures, and minutes of setting up.
    pub fn services_max(self) -> u32 {
        match self {
            Direct | HaproxyTcp | NginxStream => 1,
            IpvsNat | IpvsDr | PorticoSocket | PorticoTc => 10_000,
            HaproxyHttp | NginxHttp | PorticoL7 => 1000,
        }
    }

    /// Programs and files that it cannot do without, each with its Debian package.
    pub fn needs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            IpvsNat | IpvsDr => &[("ipvsadm", "ipvsadm")],
            HaproxyTcp | HaproxyHttp => &[("haproxy", "haproxy")],
            NginxStream => &[(
                "/usr/lib/nginx/modules/ngx_stream_module.so",
                "libnginx-mod-stream",
            )],
            _ => &[],
        }
    }
}

/// What of the issue is no contestant yet, so that a report names it.
pub const NOT_BUILT: [(&str, &str); 3] = [
    ("Portico tc (dsr)", "this mode does not exist yet"),
    ("Portico tc (masquerade)", "this mode does not exist yet"),
    ("Portico XDP", "this mode does not exist yet"),
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
}

impl Workload {
    /// In the order of the report.
    pub const ALL: [Workload; 3] = [Workload::KeepAlive, Workload::Connections, Workload::Bulk];

    /// As in headings.
    pub fn title(self) -> &'static str {
        match self {
            Workload::KeepAlive => "kept connections",
            Workload::Connections => "a connection per request",
            Workload::Bulk => "answers of 1 MiB",
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
            Workload::Connections => "connection",
            Workload::Bulk => "answer",
        }
    }
}

/// One line of a table: a contestant that serves so many services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Row {
    pub contestant: Contestant,
    pub services: u32,
}

impl Row {
    /// As in tables.
    pub fn title(self) -> String {
        match self.services {
            1 => self.contestant.title().to_owned(),
            many => format!("{}, {many} services", self.contestant.title()),
        }
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
    /// Every sample once, round by round; inside a round the rows are in another order each time.
    pub fn schedule(&self) -> Vec<(u32, Row, Workload)> {
        let mut random = self.seed | 1;
        let mut all = Vec::new();
        for round in 0..self.rounds {
            for workload in &self.workloads {
                let mut rows = self.rows.clone();
                super::stats::shuffle(&mut rows, &mut random);
                all.extend(rows.into_iter().map(|row| (round, row, *workload)));
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
        let row = |contestant| Row {
            contestant,
            services: 1,
        };
        let plan = Plan {
            rows: Contestant::ALL.map(row).to_vec(),
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
}
