// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about checks, who is asked from where, and what a verdict does.

use crate::{
    model::{Cookie, Refusal, Snapshot, Writer},
    providers::file::parse,
};

use super::*;

const FILE: &str = r#"
node = "n1"
[[nodes]]
name = "n1"
address = "192.168.99.101"
[[nodes]]
name = "n2"
address = "192.168.99.102"
[[networks]]
name = "net"
[[networks]]
name = "far"
[[tasks]]
name = "a.1"
node = "n1"
netns = "/ns/a1"
networks = { ingress = "10.0.0.5", net = "10.0.1.5" }
[[tasks]]
name = "a.2"
node = "n2"
networks = { ingress = "10.0.0.6", net = "10.0.1.6" }
[[tasks]]
name = "b.1"
node = "n2"
networks = { far = "10.0.2.6" }
[[services]]
name = "a"
ports = [ { published = 80, target = 8080 } ]
tasks = ["a.1", "a.2"]
health = { kind = "http", path = "/ok", expect = "200,300-399" }
[[services]]
name = "b"
vips = { far = "10.0.2.2" }
tasks = ["b.1"]
health = { port = 9 }
[[services]]
name = "own"
vips = { host = "10.9.0.1" }
backends = [ { address = "10.5.0.1", port = 80 }, { address = "10.5.0.2", port = 80 } ]
health = { kind = "grpc", port = 81 }
[[services]]
name = "inside"
vips = { net = "10.0.1.2" }
backends = [ { address = "10.5.0.1", port = 80 } ]
health = {}
"#;

fn snapshot(text: &str) -> Snapshot {
    parse("p.toml", text, None).unwrap()
}

fn writer() -> Writer {
    let mut writer = Writer::new(Cookie(1));
    let refusals = writer.apply(&snapshot(FILE));
    assert!(refusals.is_empty(), "{refusals:?}");
    writer
}

#[test]
fn each_member_is_asked_from_where_its_clients_are() {
    let targets = writer().targets();
    let shown: Vec<String> = targets
        .iter()
        .map(|((service, member), target)| {
            let from = target
                .netns
                .as_ref()
                .map_or("own".into(), |path| path.display().to_string());
            format!(
                "{service} {member}: {}:{} from {from}",
                target.address, target.port
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "a a.1: 10.0.0.5:8080 from /ns/a1",
            "a a.2: 10.0.0.6:8080 from /ns/a1",
            // b.1 is on a network that nobody here has: its own node asks it.
            "inside 10.5.0.1:80: 10.5.0.1:80 from /ns/a1",
            "own 10.5.0.1:80: 10.5.0.1:81 from own",
            "own 10.5.0.2:80: 10.5.0.2:81 from own",
        ]
    );
    let a = &targets[&(ServiceName::new("a"), Member::Task(TaskName::new("a.1")))].check;
    let expect = vec![(200, 200), (300, 399)];
    let path = "/ok".to_owned();
    assert_eq!(
        a.probe,
        Probe::Http {
            path,
            host: String::new(),
            expect
        }
    );
}

#[test]
fn who_is_down_gets_no_new_flow_and_when_all_are_all_are_used() {
    let mut writer = writer();
    let name = ServiceName::new("own");
    let member = |n: u8| Member::Plain(TaskAddr([10, 5, 0, n].into()), 80);
    let draining = |writer: &mut Writer| -> Vec<bool> {
        let tables = writer.tables();
        let of = tables
            .frontends
            .values()
            .find(|frontend| frontend.service == name);
        let backends = of.expect("the frontend").backends.iter();
        backends.map(|backend| backend.draining).collect()
    };
    assert_eq!(draining(&mut writer), [false, false]);
    let down =
        |members: &[u8]| -> Down { [(name.clone(), members.iter().map(|n| member(*n)).collect())].into() };
    assert!(writer.set_down(down(&[2])));
    assert!(!writer.set_down(down(&[2])), "nothing new");
    assert_eq!(draining(&mut writer), [false, true]);
    assert!(writer.all_down().is_empty());
    assert!(writer.set_down(down(&[1, 2])));
    assert_eq!(draining(&mut writer), [false, false]);
    assert_eq!(writer.all_down(), std::slice::from_ref(&name));
    // One that drains is not there to be used: the other one is all.
    let text = FILE.replace(
        "\"10.5.0.2\", port = 80",
        "\"10.5.0.2\", port = 80, draining = true",
    );
    writer.apply(&snapshot(&text));
    assert!(writer.set_down(down(&[1])));
    assert_eq!(draining(&mut writer), [false, true]);
    assert_eq!(writer.all_down(), std::slice::from_ref(&name));
    assert!(writer.set_down(Down::new()));
    assert_eq!(draining(&mut writer), [false, true]);
}

#[test]
fn a_wrong_check_is_named_by_its_field() {
    for (health, expected) in [
        (
            "kind = \"ping\"",
            "health.kind: 'ping' is none of tcp, http, grpc",
        ),
        ("path = \"ok\"", "health.path: 'ok' is not a path"),
        ("path = \"/a b\"", "health.path: '/a b' is not a path"),
        ("host = \"a\\r\\nb\"", "health.host: has white space"),
        (
            "kind = \"http\", expect = \"2xx\"",
            "health.expect: '2xx' is not a list of status codes",
        ),
        (
            "kind = \"http\", expect = \"299-200\"",
            "health.expect: '299-200' is not a list",
        ),
        ("port = 70000", "health.port: 70000 is not a port"),
        (
            "interval_ms = 10",
            "health.interval_ms: 10 is not between 100 and 3600000",
        ),
        ("timeout_ms = -1", "health.timeout_ms: -1 is not between"),
        ("fall = 0", "health.fall: 0 is not between 1 and 100"),
        ("raise = 3", "health.raise: unknown key"),
    ] {
        let text = FILE.replace("kind = \"grpc\", port = 81", health);
        let mut writer = Writer::new(Cookie(1));
        let refusals: Vec<String> = writer
            .apply(&snapshot(&text))
            .iter()
            .map(Refusal::to_string)
            .collect();
        assert_eq!(refusals.len(), 1, "{health}: {refusals:?}");
        assert!(refusals[0].contains(expected), "{health}: {refusals:?}");
    }
    let text = FILE.replace("health = { port = 9 }", "health = {}");
    let mut writer = Writer::new(Cookie(1));
    let refusals = writer.apply(&snapshot(&text));
    assert!(
        refusals[0].to_string().contains("health.port: is missing"),
        "{refusals:?}"
    );
}
