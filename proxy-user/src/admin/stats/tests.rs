// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a view and numbers to what is answered.

use std::collections::HashMap;

use proxy_ebpf::abi::{
    backend::{DRAINING, LOCAL, task_id},
    tally::{FLOW, OPENED},
};

use super::*;
use crate::{
    model::{Cookie, Writer},
    providers::file::parse,
};

#[derive(Default)]
struct Fake {
    slots: HashMap<FrontKey, Vec<(u32, Backend)>>,
    draining: Vec<(u32, Backend)>,
    words: HashMap<u32, u64>,
}

impl Numbers for Fake {
    fn slots(&self, frontend: &FrontKey) -> Vec<(u32, Backend)> {
        self.slots.get(frontend).cloned().unwrap_or_default()
    }
    fn draining(&self) -> Vec<(u32, Backend)> {
        self.draining.clone()
    }
    fn tally_of(&self, backend: u32) -> Tally {
        Tally::of(self.words.get(&backend).copied().unwrap_or_default())
    }
}

const FILE: &str = r#"
node = "n1"
[[nodes]]
name = "n1"
address = "192.168.99.101"
[[nodes]]
name = "n2"
address = "192.168.99.102"
[[networks]]
name = "proxy"
[[tasks]]
name = "a.1"
node = "n2"
networks = { ingress = "10.0.0.5", proxy = "10.0.1.5" }
[[tasks]]
name = "a.2"
node = "n2"
draining = true
networks = { ingress = "10.0.0.6", proxy = "10.0.1.6" }
[[services]]
name = "a"
vips = { proxy = "10.0.1.2" }
ports = [ { published = 80, target = 8080 } ]
tasks = ["a.1", "a.2"]
[[services]]
name = "b"
vips = { proxy = "10.0.1.3:53/udp" }
"#;

fn view() -> View {
    let mut writer = Writer::new(Cookie(1));
    let snapshot = parse("test", FILE, None).unwrap();
    assert!(writer.apply(&snapshot).is_empty());
    let mut view = View::new("file", "test", "n1");
    view.tables = Arc::new(writer.tables());
    view
}

fn be(text: &str) -> u32 {
    u32::from_ne_bytes(text.parse::<std::net::Ipv4Addr>().unwrap().octets())
}

fn task(ingress: &str, flags: u16) -> Backend {
    let addr_be = be(ingress);
    Backend {
        addr_be,
        task: task_id(addr_be),
        flags,
        ..Backend::default()
    }
}

#[test]
fn numbers_are_summed_up_and_those_who_drain_are_found() {
    let view = view();
    let mut fake = Fake::default();
    let direct = Backend {
        addr_be: be("10.0.1.5"),
        ..Backend::default()
    };
    let keys: Vec<FrontKey> = view
        .tables
        .services
        .values()
        .next()
        .unwrap()
        .frontends()
        .map(frontend_key)
        .collect();
    fake.slots.insert(keys[0], vec![(1, direct)]);
    fake.slots.insert(keys[1], vec![(2, task("10.0.0.5", LOCAL))]);
    fake.draining = vec![
        (9, task("10.0.0.7", LOCAL | DRAINING)),
        (3, task("10.0.0.6", LOCAL | DRAINING)),
    ];
    fake.words = HashMap::from([(1, OPENED * 5), (2, FLOW * 4 + OPENED), (3, FLOW * 2), (9, FLOW)]);

    let all = services(&view, &fake, None).unwrap();
    assert_eq!(all.len(), 2);
    let a = &all[0];
    assert_eq!(
        (&a["name"], &a["opened"], &a["open"]),
        (&json!("a"), &json!(12), &json!(6))
    );
    let [vip, port] = &a["frontends"].as_array().unwrap()[..] else {
        panic!("{a:#}")
    };
    assert_eq!(vip["frontend"], "proxy=10.0.1.2");
    assert_eq!((&vip["kind"], &vip["opened"]), (&json!("vip"), &json!(5)));
    assert_eq!(
        vip["open"],
        Value::Null,
        "sockets do not say when they are closed"
    );
    assert_eq!(vip["backends"][0]["open"], Value::Null);
    assert_eq!(
        vip["backends"][1]["id"],
        Value::Null,
        "not in the kernel: {vip:#}"
    );
    assert_eq!(vip["backends"][1]["opened"], Value::Null);
    assert_eq!(port["frontend"], "*:80/tcp");
    assert_eq!((&port["opened"], &port["open"]), (&json!(7), &json!(6)));
    let [one, two] = &port["backends"].as_array().unwrap()[..] else {
        panic!("{port:#}")
    };
    assert_eq!(
        (&one["task"], &one["opened"], &one["open"]),
        (&json!("a.1"), &json!(5), &json!(4))
    );
    assert_eq!(
        (&two["task"], &two["opened"], &two["draining"]),
        (&json!("a.2"), &json!(2), &json!(true))
    );
    assert_eq!(all[1]["frontends"][0]["frontend"], "proxy=10.0.1.3:53/udp");
    assert_eq!((&all[1]["opened"], &all[1]["open"]), (&json!(0), &Value::Null));
}

#[test]
fn one_service_or_an_error() {
    let view = view();
    let one = services(&view, &Fake::default(), Some("b")).unwrap();
    assert_eq!(one.len(), 1);
    let (status, body) = services(&view, &Fake::default(), Some("c")).unwrap_err();
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(body["error"], "there is no service 'c'");
}

#[test]
fn drops_are_told_from_events() {
    assert!(is_drop("source_denied") && !is_drop("flow_local") && !is_drop("unheard of"));
}
