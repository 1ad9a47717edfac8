// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an event has cost, and whether that is within its limits.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    events::{Event, Loss},
    load::{Lane, Record},
};

/// A dead node's backends leave within this time of the provider's knowing (issue: "within 2 s").
pub const LEFT_WITHIN: Duration = Duration::from_secs(2);
/// Failures that are shown one by one.
const EXAMPLES: usize = 8;

/// An event's line.
#[derive(Debug, Serialize)]
pub struct Row {
    pub event: &'static str,
    /// How long the load ran.
    pub seconds: f64,
    pub requests: usize,
    /// All that failed, by kind.
    pub failures: BTreeMap<&'static str, usize>,
    /// Of these, requests that entered the cluster by the lost node.
    pub own: usize,
    /// The longest time in which one lane had no answer, lanes of the lost node left out.
    pub longest_gap_ms: u128,
    /// The slowest answer, the same lanes.
    pub slowest_ms: u128,
    /// From the loss to the providers' knowing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_after_ms: Option<u128>,
    pub limits: Vec<Limit>,
    /// Some failures, one by one.
    pub examples: Vec<String>,
}

/// A target, and how many requests it was missed by.
#[derive(Debug, Serialize)]
pub struct Limit {
    pub what: String,
    pub missed: usize,
}

impl Row {
    /// Judges what the load has recorded.
    pub fn of(event: Event, lanes: &[Lane], records: &[Record], loss: Option<Loss>) -> Row {
        let own = |record: &Record| loss.is_some_and(|loss| lanes[record.lane].node == loss.node);
        let failed: Vec<&Record> = records.iter().filter(|record| record.failure.is_some()).collect();
        let mut failures = BTreeMap::new();
        for failure in failed.iter().filter_map(|record| record.failure) {
            *failures.entry(failure.name()).or_default() += 1;
        }
        let others: Vec<&Record> = records.iter().filter(|record| !own(record)).collect();
        let answered = others.iter().filter(|record| record.failure.is_none());
        // What a lost node loses by itself is expected.
        let (of_node, others_failed): (Vec<&Record>, Vec<&Record>) =
            failed.iter().partition(|record| own(record));
        let examples = others_failed.iter().chain(&of_node).take(EXAMPLES).map(|record| {
            let name = record.failure.map_or("", |failure| failure.name());
            let (start, took) = (record.start.as_secs_f64(), record.took.as_secs_f64());
            format!("{start:.3} s: {}: {name} after {took:.3} s", lanes[record.lane])
        });
        Row {
            event: event.name(),
            seconds: records
                .iter()
                .map(|record| record.start + record.took)
                .max()
                .unwrap_or_default()
                .as_secs_f64(),
            requests: records.len(),
            own: failed.iter().filter(|record| own(record)).count(),
            longest_gap_ms: longest_gap(lanes.len(), &others).as_millis(),
            slowest_ms: answered
                .map(|record| record.took)
                .max()
                .unwrap_or_default()
                .as_millis(),
            known_after_ms: loss.map(|loss| loss.known.saturating_sub(loss.at).as_millis()),
            limits: limits(lanes, records, &failed, loss),
            failures,
            examples: examples.collect(),
        }
    }

    /// Whether all limits hold, and there was something to judge.
    pub fn holds(&self) -> bool {
        self.requests > 0 && self.limits.iter().all(|limit| limit.missed == 0)
    }

    /// How many requests failed.
    pub fn failed(&self) -> usize {
        self.failures.values().sum()
    }
}

/// A clean event loses nothing; a lost node loses what is its own, and only until the others know.
fn limits(lanes: &[Lane], records: &[Record], failed: &[&Record], loss: Option<Loss>) -> Vec<Limit> {
    let Some(loss) = loss else {
        return vec![Limit {
            what: "no request fails".to_owned(),
            missed: failed.len(),
        }];
    };
    let of_node = |lane: usize| lanes[lane].node == loss.node;
    let outside = |record: &&&Record| {
        let before = record.start + record.took < loss.at;
        let after = record.start > loss.known + LEFT_WITHIN && !of_node(record.lane);
        before || after
    };
    let ports = (0..lanes.len()).filter(|lane| of_node(*lane) && lanes[*lane].way != "vip");
    let silent = ports.filter(|lane| {
        let last = records.iter().rev().find(|record| record.lane == *lane);
        last.is_none_or(|record| record.failure.is_some() || record.start < loss.back)
    });
    vec![
        Limit {
            what: format!(
                "no request by another node fails from {} s after the providers know",
                LEFT_WITHIN.as_secs()
            ),
            missed: failed.iter().filter(outside).count(),
        },
        Limit {
            what: format!("{} answers again when it is back", loss.node),
            missed: silent.count(),
        },
    ]
}

/// The longest time between two answers that one lane got.
fn longest_gap(lanes: usize, records: &[&Record]) -> Duration {
    let mut last: Vec<Option<Duration>> = vec![None; lanes];
    let mut longest = Duration::ZERO;
    for record in records.iter().filter(|record| record.failure.is_none()) {
        let end = record.start + record.took;
        if let Some(before) = last[record.lane].replace(end) {
            longest = longest.max(end.saturating_sub(before));
        }
    }
    longest
}

/// The table for people.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<8}{:>8}{:>10}{:>8}{:>7}{:>9}{:>9}{:>9}  {}\n",
        "EVENT", "SECONDS", "REQUESTS", "FAILED", "OWN", "GAP MS", "SLOW MS", "KNOWN MS", "FAILURES"
    );
    for row in rows {
        let kinds: Vec<String> = row
            .failures
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let known = row
            .known_after_ms
            .map_or("-".to_owned(), |known| known.to_string());
        text += &format!(
            "{:<8}{:>8.1}{:>10}{:>8}{:>7}{:>9}{:>9}{:>9}  {}\n",
            row.event,
            row.seconds,
            row.requests,
            row.failed(),
            row.own,
            row.longest_gap_ms,
            row.slowest_ms,
            known,
            if kinds.is_empty() {
                "-".to_owned()
            } else {
                kinds.join(", ")
            }
        );
        for limit in &row.limits {
            let verdict = match limit.missed {
                0 => "holds".to_owned(),
                missed => format!("MISSED by {missed}"),
            };
            text += &format!("          {}: {verdict}\n", limit.what);
        }
        for example in row.examples.iter().filter(|_| !row.holds()) {
            text += &format!("          {example}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::client::Failure, *};

    fn lanes() -> Vec<Lane> {
        ["node-1", "node-2"]
            .map(|node| Lane {
                way: "port",
                node,
                keep: true,
                namespace: String::new(),
                target: "192.0.2.1:80".parse().unwrap(),
            })
            .to_vec()
    }

    fn record(lane: usize, start: u64, failure: Option<Failure>) -> Record {
        Record {
            lane,
            start: Duration::from_millis(start),
            took: Duration::from_millis(10),
            failure,
        }
    }

    fn loss() -> Loss {
        let second = Duration::from_secs(1);
        Loss {
            node: "node-2",
            at: second,
            known: second * 3,
            back: second * 8,
        }
    }

    #[test]
    fn one_failed_request_is_one_too_many() {
        let good = [record(0, 0, None), record(1, 100, None), record(0, 300, None)];
        let row = Row::of(Event::Kill, &lanes(), &good, None);
        assert!(row.holds());
        assert_eq!((row.longest_gap_ms, row.slowest_ms), (300, 10));
        let bad = [good[0], record(1, 100, Some(Failure::Reset))];
        let row = Row::of(Event::Kill, &lanes(), &bad, None);
        assert!(!row.holds());
        assert_eq!(row.failures, BTreeMap::from([("reset", 1)]));
        assert!(
            !Row::of(Event::Kill, &lanes(), &[], None).holds(),
            "nothing was asked"
        );
    }

    #[test]
    fn a_lost_node_loses_its_own_and_only_until_it_is_known() {
        let timeout = Some(Failure::Timeout);
        let check = |records: &[Record]| Row::of(Event::Link, &lanes(), records, Some(loss())).holds();
        let back = record(1, 9000, None);
        assert!(check(&[record(0, 2000, timeout), record(0, 4900, timeout), back]));
        assert!(
            check(&[record(1, 6000, timeout), back]),
            "by the lost node itself"
        );
        assert!(!check(&[record(0, 5100, timeout), back]), "too late");
        assert!(!check(&[record(0, 100, timeout), back]), "too early");
        assert!(
            !check(&[record(0, 5100, None), record(1, 9000, timeout)]),
            "not back"
        );
    }
}
