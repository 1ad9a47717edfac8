// SPDX-License-Identifier: MIT OR Apache-2.0
//! The short way and the long way end in the same place, whatever the sequence of snapshots.

use std::net::Ipv4Addr;

use super::*;
use crate::model::{
    Cookie, Facts,
    snapshot::{BackendParams, NetworkParams, NodeParams, PortParams, TaskParams},
};

/// A repeatable source of numbers (xorshift64*, Vigna 2016).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }
}

fn node(name: &str, last: u8) -> NodeParams {
    NodeParams {
        name: name.into(),
        address: Ipv4Addr::new(192, 0, 2, last).to_string(),
        problems: Vec::new(),
    }
}

fn start() -> Snapshot {
    let networks = ["net", "other"].map(|name| NetworkParams {
        name: name.into(),
        key: name.into(),
        problems: Vec::new(),
    });
    Snapshot {
        source: "p.toml".into(),
        node: "n1".into(),
        nodes: vec![node("n1", 1), node("n2", 2)],
        networks: networks.to_vec(),
        ..Snapshot::default()
    }
}

fn task(dice: &mut Dice, number: usize) -> Arc<TaskParams> {
    let here = dice.roll(4) == 0;
    let address = |high: u8, dice: &mut Dice| Ipv4Addr::new(10, high, 0, dice.roll(40) as u8 + 1).to_string();
    Arc::new(TaskParams {
        name: format!("t{number}"),
        node: if here {
            "n1"
        } else {
            ["n2", "n2", "n2", "nowhere"][dice.roll(4).min(dice.roll(40))]
        }
        .into(),
        netns: here.then(|| format!("/ns/{}", number % 5).into()),
        networks: vec![
            ("ingress".into(), address(0, dice)),
            ("net".into(), address(1, dice)),
        ],
        weight: (dice.roll(4) == 0).then(|| dice.roll(5) as i64 * 64),
        draining: dice.roll(6) == 0,
        problems: Vec::new(),
    })
}

fn service(dice: &mut Dice, number: usize, tasks: &[Arc<TaskParams>]) -> Arc<ServiceParams> {
    let mut params = ServiceParams {
        name: format!("s{number}"),
        ..ServiceParams::default()
    };
    let network = ["net", "other", "host", "unknown"][dice.roll(4).min(dice.roll(20))];
    let port = ["", "", "", ":80", ":81/udp"][dice.roll(5)];
    params
        .vips
        .push((network.into(), format!("10.9.0.{}{port}", 1 + dice.roll(30))));
    if dice.roll(3) == 0 {
        params.ports.push(PortParams {
            published: 80 + dice.roll(12) as i64,
            target: 8080,
            protocol: "tcp".into(),
            guessed: false,
        });
    }
    if dice.roll(5) == 0 {
        params.backends.push(BackendParams {
            address: "10.3.0.1".into(),
            port: dice.roll(40) as i64,
            weight: (dice.roll(4) == 0).then(|| dice.roll(300) as i64),
            draining: dice.roll(3) == 0,
        });
    }
    if dice.roll(4) == 0 {
        let policy = Arc::make_mut(&mut params.policy);
        policy.scheduler = Some(["rr", "wlc", "mh", "nonsense"][dice.roll(4)].into());
        policy.allow = vec![format!("10.0.0.0/{}", 8 + dice.roll(2))];
    }
    for _ in 0..dice.roll(5) {
        if let Some(task) = tasks.get(dice.roll(tasks.len().max(1))) {
            params.tasks.push(task.name.clone());
        }
    }
    params.tasks.dedup();
    Arc::new(params)
}

/// Changes one thing.
fn change(dice: &mut Dice, snapshot: &mut Snapshot, next: &mut usize) {
    *next += 1;
    let fresh = if dice.roll(20) == 0 { *next - 1 } else { *next };
    match dice.roll(10) {
        0 | 1 if snapshot.tasks.len() < 24 => {
            let place = dice.roll(snapshot.tasks.len() + 1);
            snapshot.tasks.insert(place, task(dice, fresh));
        }
        2 | 3 if snapshot.services.len() < 10 => {
            let place = dice.roll(snapshot.services.len() + 1);
            let new = service(dice, fresh, &snapshot.tasks);
            snapshot.services.insert(place, new);
        }
        4 if !snapshot.tasks.is_empty() => {
            let place = dice.roll(snapshot.tasks.len());
            snapshot.tasks.remove(place);
        }
        5 if !snapshot.services.is_empty() => {
            let place = dice.roll(snapshot.services.len());
            snapshot.services.remove(place);
        }
        6 | 7 if !snapshot.tasks.is_empty() => {
            let place = dice.roll(snapshot.tasks.len());
            let number = snapshot.tasks[place].name[1..].parse().unwrap();
            snapshot.tasks[place] = task(dice, number);
        }
        8 if !snapshot.services.is_empty() => {
            let place = dice.roll(snapshot.services.len());
            let number = snapshot.services[place].name[1..].parse().unwrap();
            snapshot.services[place] = service(dice, number, &snapshot.tasks);
        }
        9 if snapshot.services.len() > 1 => {
            let (a, b) = (
                dice.roll(snapshot.services.len()),
                dice.roll(snapshot.services.len()),
            );
            snapshot.services.swap(a, b);
        }
        _ => {}
    }
}

#[test]
fn both_ways_end_in_the_same_place() {
    let mut short_ways = 0;
    for seed in 1..60 {
        let mut dice = Dice(seed);
        let mut snapshot = start();
        let [mut short, mut long] = [Writer::new(Cookie(1)), Writer::new(Cookie(1))];
        let (mut good, mut next) = (snapshot.clone(), 0);
        for step in 0..150 {
            for _ in 0..=dice.roll(3) {
                change(&mut dice, &mut snapshot, &mut next);
            }
            snapshot.partial = dice.roll(30) == 0;
            if dice.roll(10) == 0 {
                let facts = Facts {
                    cookie: Cookie(dice.roll(3) as u64 + 10),
                    gateway: None,
                };
                let facts: BTreeMap<_, _> = [("/ns/1".into(), facts)].into();
                short.set_facts(facts.clone());
                long.set_facts(facts);
            }
            // Some services may come from the other source.
            let mut said_by_two = snapshot.clone();
            if dice.roll(2) == 0 {
                let own = dice.roll(snapshot.services.len() + 1);
                let added = said_by_two.services.split_off(own);
                said_by_two = said_by_two.with("api", &added.into());
            }
            let before = short.flawless.is_some();
            let said = short.apply(&said_by_two).to_vec();
            short_ways += usize::from(before && short.flawless.is_some() && said.is_empty());
            long.flawless = None;
            let long_said = long.apply(&said_by_two).to_vec();
            let place = format!("seed {seed}, step {step}");
            assert_eq!(said, long_said, "{place}");
            assert_eq!(short.namespaces(), long.namespaces(), "{place}");
            // Not after every snapshot: changes also pile up.
            if dice.roll(3) > 0 {
                long.changes = super::super::Changes::Everything;
                assert_eq!(short.tables(), long.tables(), "{place}");
            }
            // Back to something good, or nearly every snapshot would have a fault from some point on.
            if said.is_empty() {
                good = snapshot.clone();
            } else if dice.roll(3) == 0 {
                snapshot = good.clone();
            }
        }
    }
    assert!(
        short_ways > 1000,
        "the short way was taken {short_ways} times only"
    );
}
