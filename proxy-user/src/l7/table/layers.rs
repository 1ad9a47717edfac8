// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several sources for one name, removals, and what replicas tell each other.

use super::tests::{put_as, table};
use super::*;

/// Port of the service `a` in force; 0 without one.
fn port(table: &Table) -> u16 {
    let snapshot = table.snapshot();
    let service = snapshot.services.iter().find(|service| &*service.name == "a");
    service.map_or(0, |service| port_of(&service.rules[0]))
}

fn port_of(rule: &crate::l7::router::Rule) -> u16 {
    rule.upstream.target.port
}

fn say(table: &mut Table, source: Source, port: u16) {
    put_as(table, source, &format!("serviceName=a&servicePath=/&port={port}")).unwrap();
}

#[test]
fn a_call_wins_over_labels_and_labels_over_the_environment() {
    use Source::{Call, Environment, Labels};
    for order in [
        [Call, Labels, Environment],
        [Environment, Labels, Call],
        [Labels, Call, Environment],
    ] {
        let mut table = table();
        for source in order {
            say(&mut table, source, 1 + source as u16);
        }
        assert_eq!(port(&table), 1, "{order:?}");
        assert!(table.withdraw(Call, "a") && !table.withdraw(Call, "a"));
        assert_eq!(port(&table), 2);
        table.withdraw(Labels, "a");
        assert_eq!(port(&table), 3);
        table.withdraw(Environment, "a");
        assert_eq!(port(&table), 0);
        assert_eq!(table.kept(), Kept::default());
    }
}

#[test]
fn a_removal_hides_every_source_until_it_speaks_again() {
    let mut table = table();
    say(&mut table, Source::Labels, 2);
    say(&mut table, Source::Call, 1);
    assert!(table.remove("a") && !table.remove("a"));
    assert_eq!(port(&table), 0);
    // Also after a restart.
    let kept = table.kept();
    table = self::table();
    table.merge(kept);
    assert_eq!(port(&table), 0);
    table.restate(Source::Labels);
    assert_eq!(port(&table), 2);
    table.remove("a");
    say(&mut table, Source::Labels, 3);
    assert_eq!(port(&table), 3);
}

#[test]
fn between_replicas_the_later_word_counts() {
    let (mut one, mut two) = (table(), table());
    say(&mut one, Source::Call, 1);
    two.merge(one.kept());
    assert_eq!(port(&two), 1);
    say(&mut two, Source::Call, 2);
    // An older copy changes nothing, and twice is once.
    assert_eq!(two.merge(one.kept()), 0);
    assert_eq!((one.merge(two.kept()), one.merge(two.kept())), (1, 0));
    assert_eq!((port(&one), port(&two)), (2, 2));
    // A removal is a word as well.
    two.remove("a");
    assert_eq!(one.merge(two.kept()), 1);
    assert_eq!(port(&one), 0);
    say(&mut one, Source::Call, 3);
    two.merge(one.kept());
    assert_eq!(port(&two), 3);
}

#[test]
fn words_of_the_same_millisecond_come_to_the_same_everywhere() {
    let said = |port: u16| {
        let query = format!("serviceName=a&servicePath=/&port={port}");
        let service = KeptService {
            source: Source::Call,
            changed: 5,
            params: Arc::new(Params::parse(&query)),
        };
        Kept {
            services: vec![service],
            removed: Vec::new(),
        }
    };
    let (mut one, mut two) = (table(), table());
    for (table, first, second) in [(&mut one, 1, 2), (&mut two, 2, 1)] {
        table.merge(said(first));
        table.merge(said(second));
    }
    assert_eq!((port(&one), port(&two)), (2, 2));
    // A removal at that time wins in any order.
    let removal = || Kept {
        services: Vec::new(),
        removed: vec![("a".into(), 5)],
    };
    one.merge(removal());
    one.merge(said(3));
    two.merge(said(3));
    two.merge(removal());
    assert_eq!((port(&one), port(&two)), (0, 0));
}

#[test]
fn what_a_source_says_wrongly_is_shown_and_its_last_good_word_stays() {
    let mut table = table();
    say(&mut table, Source::Labels, 2);
    let wrong = "serviceName=a&servicePath=/&port=2&backendExtra=x";
    assert!(put_as(&mut table, Source::Labels, wrong).is_err());
    table.reject(Source::Labels, "a", "wrong".into());
    assert_eq!(port(&table), 2);
    let shown: Vec<_> = table.problems().map(|(name, source, _)| (name, source)).collect();
    assert_eq!(shown, [("a", Source::Labels)]);
    say(&mut table, Source::Labels, 3);
    assert_eq!((port(&table), table.problems().count()), (3, 0));
    // One without a good version is shown until it is withdrawn.
    let wrong = "serviceName=b&servicePath=/&port=2&backendExtra=x";
    assert!(put_as(&mut table, Source::Labels, wrong).is_err());
    table.reject(Source::Labels, "b", "wrong".into());
    assert_eq!(table.problems().count(), 1);
    // Calls are told; what they say wrongly is not collected.
    table.reject(Source::Call, "c", "wrong".into());
    assert_eq!(table.problems().count(), 1);
    table.withdraw(Source::Labels, "b");
    assert_eq!(table.problems().count(), 0);
}

#[test]
fn removals_are_remembered_up_to_the_limit_and_the_oldest_go() {
    let mut table = table();
    for number in 0..limits::REMOVALS_MAX + 10 {
        put_as(
            &mut table,
            Source::Call,
            &format!("serviceName=s{number}&servicePath=/&port=1"),
        )
        .unwrap();
        table.remove(&format!("s{number}"));
    }
    let kept = table.kept().removed;
    assert_eq!(kept.len(), limits::REMOVALS_MAX);
    assert!(kept.iter().all(|(name, _)| name != "s0"));
}
