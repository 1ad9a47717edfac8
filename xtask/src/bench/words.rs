// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the figures say, in sentences, and whether the project's targets are met.

use super::{
    markdown::{capitalized, grouped, interval},
    plan::{Contestant, Row, Workload},
    results::Results,
    stats::{self, Estimate},
};

/// A bound on what a contestant adds, from the issue that asked for this bench.
pub struct Target {
    pub title: &'static str,
    pub unit: &'static str,
    pub limit: f64,
    pub measured: Estimate,
    /// Of the contestant or of the direct way, whichever has fewer.
    pub samples: usize,
}

impl Target {
    /// Only an interval that is wholly on one side says something.
    pub fn verdict(&self) -> &'static str {
        match (self.measured.high <= self.limit, self.measured.low > self.limit) {
            // One sample has no spread.
            _ if self.samples < 2 => "too few samples",
            (true, _) => "met",
            (_, true) => "**not met**",
            _ => "cannot be told",
        }
    }
}

/// In instructions: contestant, workload, the most that it may add to the direct way.
const TARGETS: [(Contestant, Workload, f64); 7] = [
    (Contestant::PorticoSocket, Workload::KeepAlive, 200.0),
    (Contestant::PorticoSocket, Workload::Connections, 3000.0),
    (Contestant::PorticoTc, Workload::KeepAlive, 4500.0),
    (Contestant::PorticoTc, Workload::Connections, 10_000.0),
    (Contestant::PorticoXdp, Workload::KeepAlive, 2500.0),
    (Contestant::PorticoXdp, Workload::Connections, 6000.0),
    (Contestant::PorticoL7, Workload::KeepAlive, 53_800.0),
];

/// What was known of IPVS NAT before this bench: Linux 6.1, the same places in namespaces, the same load.
const KNOWN: [(Workload, f64); 2] = [(Workload::KeepAlive, 7500.0), (Workload::Connections, 16_000.0)];

/// What is known of IPVS NAT, and what was measured: unit, both, and how they stand to each other.
pub fn known(results: &Results) -> Vec<(&'static str, f64, Estimate, &'static str)> {
    let beside = |(workload, before): (Workload, f64)| {
        let measured = results.added(Row::of(Contestant::IpvsNat), workload)?;
        let verdict = match (measured.low > before, measured.high < before) {
            (true, _) => "more than known",
            (_, true) => "less than known",
            _ => "as known",
        };
        Some((workload.unit(), before, measured, verdict))
    };
    if results.plan.counted.is_none() {
        return Vec::new();
    }
    KNOWN.into_iter().filter_map(beside).collect()
}

/// Targets with what was measured; none when the figures are no instructions.
pub fn targets(results: &Results) -> Vec<Target> {
    let measured = |(contestant, workload, limit): (Contestant, Workload, f64)| {
        let added = results.added(Row::of(contestant), workload)?;
        Some(Target {
            title: contestant.title(),
            unit: workload.unit(),
            limit,
            measured: added,
            samples: [Row::of(contestant), Row::of(contestant).direct()]
                .map(|row| results.costs(row, workload).len())
                .into_iter()
                .min()?,
        })
    };
    if results.plan.counted.is_none() {
        return Vec::new();
    }
    TARGETS.into_iter().filter_map(measured).collect()
}

/// One sentence for each thing that can be said.
pub fn findings(results: &Results) -> Vec<String> {
    let mut found = Vec::new();
    for workload in &results.plan.workloads {
        found.extend(claim(results, *workload));
        found.extend(
            [false, true]
                .into_iter()
                .filter_map(|far| summary(results, *workload, far)),
        );
    }
    let measured = |contestant| {
        results
            .samples
            .iter()
            .any(|sample| sample.row.contestant == contestant)
    };
    if measured(Contestant::PorticoXdp) {
        found.push(XDP_ON_A_VETH.to_owned());
    }
    for contestant in Contestant::ALL {
        found.extend(flatness(results, contestant));
    }
    for row in results
        .plan
        .rows
        .iter()
        .filter(|row| row.services == 1 && !row.far && !row.is_plain())
    {
        found.extend(circumstance(results, *row));
    }
    found
}

/// What the reader must know of that row (drivers/net/veth.c, `veth_convert_skb_to_xdp_buff`).
const XDP_ON_A_VETH: &str = "XDP ran in the driver of a veth, which copies each packet of a socket into a frame and makes \
     a packet of it again behind the program; a network card has frames to begin with. So what XDP adds here is more \
     than it adds on a card, and answers of 1 MiB lose their segmentation offload on the way.";

/// What more backends, flows or changes cost the contestant, per connection.
fn circumstance(results: &Results, row: Row) -> Option<String> {
    let workload = Workload::Connections;
    let plain = results.costs(Row::of(row.contestant), workload);
    let change = stats::of_two(&results.costs(row, workload), &plain, |there, plain| {
        (there / plain - 1.0) * 100.0
    })?;
    let noise = if change.contains(0.0) { ", noise" } else { "" };
    Some(format!(
        "{} with {}: a connection costs {:+.1} % ({:+.1} to {:+.1}{noise}).",
        row.contestant.title(),
        row.variant()?,
        change.value,
        change.low,
        change.high
    ))
}

/// From so few services on, the cost per request is to stay the same.
const FLAT_FROM: u32 = 10;

/// How far kept requests change from few services to many, of the contestants that the target is about.
pub fn flat_targets(results: &Results) -> Vec<(&'static str, f64, &'static str)> {
    let ours = [Contestant::PorticoSocket, Contestant::PorticoTc];
    let change = |contestant: Contestant| {
        let with = |services| Row {
            services,
            ..Row::of(contestant)
        };
        let many = results.plan.rows.iter().map(|row| row.services).max()?;
        let few = results.cost(with(FLAT_FROM), Workload::KeepAlive)?;
        let change = results.cost(with(many), Workload::KeepAlive)?.value / few.value - 1.0;
        let verdict = if change.abs() <= FLAT {
            "met"
        } else {
            "**not met**"
        };
        (many > FLAT_FROM).then_some((contestant.title(), change, verdict))
    };
    ours.into_iter().filter_map(change).collect()
}

/// The article's claim: "much faster than nginx or HAProxy".
fn claim(results: &Results, workload: Workload) -> Option<String> {
    let added = |contestant| results.added(Row::of(contestant), workload);
    let ipvs = added(Contestant::IpvsNat)?;
    let userspace = [
        Contestant::HaproxyTcp,
        Contestant::NginxStream,
        Contestant::HaproxyHttp,
        Contestant::NginxHttp,
    ];
    let factors: Vec<(Contestant, Estimate)> = userspace
        .into_iter()
        .filter_map(|contestant| Some((contestant, added(contestant)?)))
        .collect();
    let (least, most) = (
        factors.iter().map(|(_, cost)| cost.value).reduce(f64::min)?,
        factors.iter().map(|(_, cost)| cost.value).reduce(f64::max)?,
    );
    if ipvs.value <= 0.0 {
        return Some(format!(
            "With {}, what IPVS adds cannot be told from nothing ({}).",
            workload.title(),
            interval(ipvs)
        ));
    }
    let (dearer, others): (Vec<_>, Vec<_>) = factors.iter().partition(|(_, cost)| cost.low > ipvs.high);
    let names = |list: &[&(Contestant, Estimate)]| {
        let names: Vec<&str> = list.iter().map(|(contestant, _)| contestant.title()).collect();
        names.join(", ")
    };
    let verdict = match (dearer.is_empty(), others.is_empty()) {
        (_, true) => "confirmed".to_owned(),
        (true, _) => "refuted".to_owned(),
        _ => format!("true of {}, and not of {}", names(&dearer), names(&others)),
    };
    let (low, high) = (least / ipvs.value, most / ipvs.value);
    Some(format!(
        "\"IPVS is much faster than nginx or HAProxy\", for {}: {verdict}. They add {low:.1} to {high:.1} times \
         what IPVS adds ({} {} per {}).",
        workload.title(),
        grouped(ipvs.value),
        results.unit(),
        workload.unit()
    ))
}

/// What each contestant adds, cheapest first; with tasks on the node that is asked, or on another.
fn summary(results: &Results, workload: Workload, far: bool) -> Option<String> {
    let rows = Contestant::ALL.map(|contestant| Row {
        far,
        ..Row::of(contestant)
    });
    let mut costs: Vec<(Contestant, Estimate)> = rows
        .into_iter()
        .filter(|row| row.contestant != Contestant::Direct)
        .filter_map(|row| Some((row.contestant, results.added(row, workload)?)))
        .collect();
    costs.sort_by(|a, b| a.1.value.total_cmp(&b.1.value));
    let each: Vec<String> = costs
        .iter()
        .map(|(contestant, cost)| {
            let noise = if cost.contains(0.0) { ", noise" } else { "" };
            format!("{} ({}{noise})", contestant.title(), grouped(cost.value))
        })
        .collect();
    let direct = Row {
        far,
        ..Row::of(Contestant::Direct)
    };
    let direct = results.cost(direct, workload)?;
    let place = if far { ", tasks on another node" } else { "" };
    (!each.is_empty()).then(|| {
        format!(
            "{}{place}: added to the {} {} of the direct way, cheapest first: {}.",
            capitalized(workload.title()),
            grouped(direct.value),
            results.unit(),
            each.join(", ")
        )
    })
}

/// How far a cost may differ between few services and many and still be called flat.
const FLAT: f64 = 0.05;

fn flatness(results: &Results, contestant: Contestant) -> Option<String> {
    let cost = |row: Row| Some((row.services, results.cost(row, Workload::KeepAlive)?.value));
    // Others are special in another way.
    let only_services = |row: &&Row| row.contestant == contestant && Row { services: 1, ..**row }.is_plain();
    let rows = results.plan.rows.iter().filter(only_services);
    let costs: Vec<(u32, f64)> = rows.filter_map(|row| cost(*row)).collect();
    let ((few, first), (many, last)) = (*costs.first()?, *costs.last()?);
    if few == many {
        return None;
    }
    let change = last / first - 1.0;
    let verdict = if change.abs() <= FLAT { "flat" } else { "not flat" };
    Some(format!(
        "{} is {verdict} in the number of services: from {few} to {many}, a kept request changes by {:+.1} %.",
        contestant.title(),
        change * 100.0
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::{
            plan::Plan,
            results::{Environment, Sample},
        },
        *,
    };

    fn results(costs: &[(Contestant, u32, f64)]) -> Results {
        let rows: Vec<Row> = costs
            .iter()
            .map(|(contestant, services, _)| Row {
                services: *services,
                ..Row::of(*contestant)
            })
            .collect();
        let sample = |(contestant, services, cost): &(Contestant, u32, f64), round: u32| Sample {
            row: Row {
                services: *services,
                ..Row::of(*contestant)
            },
            workload: Workload::KeepAlive,
            round,
            requests: 1000,
            seconds: 1.0,
            cost: cost + f64::from(round),
            idle: 0.0,
            balancer_cpu: 0.0,
            softirq: 0.0,
            latency: vec![1.0; 4],
            shares: BTreeMap::new(),
            processes: BTreeMap::new(),
            void: None,
        };
        Results {
            plan: Plan {
                rows,
                workloads: vec![Workload::KeepAlive],
                rounds: 3,
                seconds: 1,
                connections: 8,
                counted: Some(0),
                seed: 1,
            },
            environment: Environment::default(),
            left_out: Vec::new(),
            samples: costs
                .iter()
                .flat_map(|cost| (0..3).map(move |round| sample(cost, round)))
                .collect(),
            complete: true,
        }
    }

    #[test]
    fn the_claim_follows_from_the_figures() {
        let ipvs = |cost| (Contestant::IpvsNat, 1, cost);
        let direct = (Contestant::Direct, 1, 50_000.0);
        let nginx = (Contestant::NginxHttp, 1, 100_000.0);
        let text = findings(&results(&[direct, ipvs(57_500.0), nginx])).join("\n");
        assert!(
            text.contains("confirmed") && text.contains("6.7 to 6.7 times"),
            "{text}"
        );
        let text = findings(&results(&[direct, ipvs(120_000.0), nginx])).join("\n");
        assert!(text.contains("refuted"), "{text}");
    }

    #[test]
    fn what_was_known_stands_beside_what_was_measured() {
        let direct = (Contestant::Direct, 1, 50_000.0);
        let verdict = |cost| known(&results(&[direct, (Contestant::IpvsNat, 1, cost)]))[0].3;
        assert_eq!(
            [52_600.0, 57_500.0, 60_000.0].map(verdict),
            ["less than known", "as known", "more than known"]
        );
    }

    #[test]
    fn targets_and_flatness_are_judged() {
        let results = results(&[
            (Contestant::Direct, 1, 50_000.0),
            (Contestant::PorticoTc, 1, 54_000.0),
            (Contestant::PorticoTc, 1000, 60_000.0),
            (Contestant::PorticoSocket, 1, 50_900.0),
            (Contestant::PorticoSocket, 1000, 50_901.0),
        ]);
        let met: Vec<(&str, &str)> = targets(&results)
            .iter()
            .map(|target| (target.title, target.verdict()))
            .collect();
        assert_eq!(
            met,
            [
                ("Portico socket hooks", "**not met**"),
                ("Portico tc (preserve)", "met")
            ]
        );
        let text = findings(&results).join("\n");
        assert!(text.contains("Portico tc (preserve) is not flat"), "{text}");
        assert!(text.contains("Portico socket hooks is flat"), "{text}");
    }
}
