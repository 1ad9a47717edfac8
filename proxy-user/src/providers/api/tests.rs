// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about edits and the store.

use std::fs;

use serde_json::{Value, from_value, json};

use super::*;
use crate::model::snapshot::PolicyParams;

fn edits(list: Value) -> Vec<Edit> {
    from_value(list).expect("edits")
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state")).unwrap();
    (folder, store)
}

fn add(name: &str, vip: &str) -> Value {
    json!({ "verb": "add-service", "service": name, "spec": { "vips": [vip] } })
}

fn add_backend(name: &str, backend: &str) -> Value {
    json!({ "verb": "add-backend", "service": name, "backend": backend })
}

#[test]
fn what_is_done_is_on_the_disk_and_can_be_repeated() {
    let (folder, store) = store();
    let list = edits(json!([
        add("web", "10.9.0.1:80"),
        add_backend("web", "10.0.0.7:8080"),
        add_backend("web", "10.0.0.8:8080"),
        { "verb": "set-backend", "service": "web", "backend": "10.0.0.8:8080", "fields": { "draining": true } },
    ]));
    let done = store.apply(&list).unwrap();
    assert_eq!((done.changed, done.revision), (vec![true; 4], 1));
    let again = store.apply(&list[..2]).unwrap();
    assert_eq!((again.changed, again.revision), (vec![false; 2], 1), "unchanged");
    let absent = edits(json!([
        { "verb": "remove-backend", "service": "web", "backend": "10.0.0.9:1" },
        { "verb": "remove-backend", "service": "none", "backend": "10.0.0.9:1" },
        { "verb": "remove-service", "service": "none" },
    ]));
    assert_eq!(store.apply(&absent).unwrap().changed, [false; 3]);

    let reopened = Store::open(&folder.path().join("state")).unwrap();
    assert_eq!(reopened.state(), store.state());
    let wanted = reopened.wanted();
    let web = &wanted.services[0];
    assert_eq!(web.vips, [("host".to_owned(), "10.9.0.1:80".to_owned())]);
    let draining: Vec<bool> = web.backends.iter().map(|backend| backend.draining).collect();
    assert_eq!(draining, [false, true]);
}

#[test]
fn of_several_edits_all_are_done_or_none() {
    let (_folder, store) = store();
    let list = edits(json!([
        add("web", "10.9.0.1:80"),
        add_backend("none", "10.0.0.7:8080")
    ]));
    let error = store.apply(&list).unwrap_err();
    assert!(matches!(error, EditError::Missing(_)), "{error}");
    assert!(store.state().services.is_empty());
    assert!(!store.path().exists());
}

#[test]
fn what_is_wrong_is_said_and_changes_nothing() {
    let (_folder, store) = store();
    store
        .apply(&edits(json!([
            add("web", "10.9.0.1:80"),
            add("all", "net=10.9.0.2")
        ])))
        .unwrap();
    let before = store.state();
    let service = |spec: Value| json!({ "verb": "add-service", "service": "bad", "spec": spec });
    for (edit, expected) in [
        (add("a b", "10.9.0.9"), "name: has white space"),
        (add("bad", "10.9.0"), "vips.host: '10.9.0' is not an address"),
        (
            add("bad", "10.9.0.1:80"),
            "10.9.0.1:80/tcp is the VIP of service 'web'",
        ),
        // A name that sorts before the owner's does not take it away.
        (
            add("a", "net=10.9.0.2:53/udp"),
            "10.9.0.2:53/udp is the VIP of service 'all'",
        ),
        (
            service(json!({ "ports": ["eighty"] })),
            "ports[0]: 'eighty' is not a port",
        ),
        (
            service(json!({ "ports": ["80/sctp"] })),
            "'sctp' is neither tcp nor udp",
        ),
        (
            service(json!({ "backends": { "10.0.0.1": {} } })),
            "'10.0.0.1' is not ADDRESS:PORT",
        ),
        (add_backend("web", "x:1"), "'x:1' is not ADDRESS:PORT"),
        (
            add_backend("web", "10.9.0.1:80"),
            "is the address of one of its own backends",
        ),
        (
            add("web", "10.9.0.7"),
            "exists and is different; change it with `portico service set web`",
        ),
        (
            json!({ "verb": "set-service", "service": "web", "fields": { "vpis": [] } }),
            "unknown field `vpis`",
        ),
        (
            json!({ "verb": "set-service", "service": "none", "fields": {} }),
            "there is no service 'none'; add it with",
        ),
        (
            json!({ "verb": "set-backend", "service": "web", "backend": "10.0.0.1:1", "fields": {} }),
            "service 'web' has no backend 10.0.0.1:1; add it with",
        ),
    ] {
        let error = store.apply(&edits(json!([edit]))).unwrap_err().to_string();
        assert!(error.contains(expected), "{edit}: {error}");
        assert!(!error.contains("stays in force"), "{error}");
    }
    assert_eq!(store.state(), before);
}

#[test]
fn a_policy_is_kept_and_a_wrong_word_names_field_and_choices() {
    let (folder, store) = store();
    let policy = json!({ "vips": ["10.9.0.1:80"], "scheduler": "mh", "affinity": "10m/24", "client": "dsr", "drain": "5m",
        "allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"], "backends": { "10.0.0.7:8080": { "weight": 3 } } });
    store
        .apply(&edits(json!([
            { "verb": "add-service", "service": "web", "spec": policy },
            { "verb": "add-backend", "service": "web", "backend": "10.0.0.8:8080", "spec": { "weight": 0 } },
        ])))
        .unwrap();
    let reopened = Store::open(&folder.path().join("state")).unwrap();
    assert_eq!(reopened.state(), store.state());
    let web = &reopened.wanted().services[0];
    let weights: Vec<Option<i64>> = web.backends.iter().map(|backend| backend.weight).collect();
    assert_eq!(weights, [Some(3), Some(0)]);
    let text = |text: &str| Some(text.to_owned());
    let expected = PolicyParams {
        scheduler: text("mh"),
        affinity: text("10m/24"),
        client: text("dsr"),
        allow: vec!["10.0.0.0/8".into()],
        deny: vec!["10.1.0.0/16".into()],
        drain: text("5m"),
    };
    assert_eq!(*web.policy, expected);

    let before = store.state();
    let set = |fields: Value| json!({ "verb": "set-service", "service": "web", "fields": fields });
    let weigh = |weight: Value| json!({ "verb": "set-backend", "service": "web", "backend": "10.0.0.7:8080", "fields": { "weight": weight } });
    for (edit, expected) in [
        (
            set(json!({ "scheduler": "sed" })),
            "scheduler: 'sed' is none of rr, wrr, lc, wlc, sh, mh, random",
        ),
        (
            set(json!({ "client": "nat" })),
            "client: 'nat' is none of preserve, dsr, masquerade",
        ),
        (
            set(json!({ "affinity": "soon" })),
            "affinity: 'soon' is not a time; the form is NUMBER[s|m|h|d][/PREFIX], or none",
        ),
        (
            set(json!({ "allow": ["10.0.0.1/8"] })),
            "allow[0]: '10.0.0.1/8' has bits behind its prefix; 10.0.0.0/8 is meant?",
        ),
        (
            set(json!({ "deny": ["here"] })),
            "deny[0]: 'here' is not an IPv4 prefix (ADDRESS or ADDRESS/BITS)",
        ),
        (
            weigh(json!(256)),
            "backends[10.0.0.7:8080].weight: 256 is not a weight (0 to 255)",
        ),
        (
            weigh(json!(-1)),
            "backends[10.0.0.7:8080].weight: -1 is not a weight (0 to 255)",
        ),
    ] {
        let error = store.apply(&edits(json!([edit]))).unwrap_err().to_string();
        assert!(error.contains(expected), "{edit}: {error}");
    }
    assert_eq!(store.state(), before);

    let list = json!([
        set(
            json!({ "scheduler": null, "affinity": null, "client": null, "allow": null, "deny": null, "drain": null })
        ),
        weigh(Value::Null),
    ]);
    store.apply(&edits(list)).unwrap();
    let web = &store.wanted().services[0];
    assert_eq!(
        (&*web.policy, web.backends[0].weight),
        (&PolicyParams::default(), None)
    );
}

#[test]
fn null_gives_a_field_its_default_back() {
    let (_folder, store) = store();
    let list = edits(json!([
        { "verb": "add-service", "service": "web", "spec": { "vips": ["10.9.0.1:80"], "tasks": ["t.1"] } },
        { "verb": "set-service", "service": "web", "fields": { "tasks": null, "vips": ["10.9.0.1:81"] } },
    ]));
    store.apply(&list).unwrap();
    let web = &store.state().services["web"];
    assert_eq!(
        (web.tasks.len(), &web.vips[..]),
        (0, &["10.9.0.1:81".to_owned()][..])
    );
}

#[test]
fn a_disk_that_fails_leaves_memory_and_file_as_they_were() {
    let (folder, store) = store();
    store.apply(&edits(json!([add("web", "10.9.0.1:80")]))).unwrap();
    fs::create_dir(folder.path().join("state/api.new")).unwrap();
    let error = store
        .apply(&edits(json!([add("more", "10.9.0.2:80")])))
        .unwrap_err();
    assert!(matches!(error, EditError::Disk(_)), "{error}");
    assert_eq!(store.state().services.len(), 1);
    assert_eq!(
        Store::open(&folder.path().join("state")).unwrap().state(),
        store.state()
    );
}

#[test]
fn a_broken_state_file_is_named() {
    let (folder, store) = store();
    for (text, expected) in [
        ("{", "api.json: EOF"),
        (
            r#"{"version":2,"services":{}}"#,
            "its version is 2, and this program knows 1",
        ),
        (r#"{"version":1,"services":{"a":{"x":1}}}"#, "unknown field `x`"),
    ] {
        fs::write(store.path(), text).unwrap();
        let error = Store::open(&folder.path().join("state")).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn there_is_a_limit_of_services() {
    let (_folder, store) = store();
    let many: Vec<Value> = (0..=SERVICES_MAX)
        .map(|n| add(&format!("s{n}"), &format!("10.9.{}.{}", n / 250, n % 250 + 1)))
        .collect();
    let error = store.apply(&edits(json!(many))).unwrap_err().to_string();
    assert!(error.contains("api::SERVICES_MAX"), "{error}");
    store.apply(&edits(json!(many[..SERVICES_MAX]))).unwrap();
    assert_eq!(store.wanted().services.len(), SERVICES_MAX);
}
