// SPDX-License-Identifier: MIT OR Apache-2.0
//! Observers on a kernel in memory.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use proxy_ebpf::{
    abi::{PROTO_TCP, backend::REMOTE},
    datapath::ip::Ip as _,
};
use tokio::time::timeout;

use super::{
    hub::{Hub, OBSERVERS_MAX},
    *,
};
use crate::{
    daemon::View,
    kernel::events::Source,
    model::{Cookie, Writer},
    providers::{api::Store, file::parse},
};

/// What the fake kernel holds; one for all its sources.
#[derive(Default)]
struct Memory {
    waiting: VecDeque<Event>,
    /// What it was told to watch, and whether a source is open.
    watch: (u32, bool),
    open: bool,
    opened: u32,
    lost: u64,
    refuses: bool,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Memory>>);

impl Fake {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap()
    }

    fn hub(&self) -> Arc<Hub> {
        let hub = Arc::new(Hub::default());
        let (running, kernel) = (hub.clone(), self.clone());
        tokio::spawn(async move {
            let open = || -> io::Result<Box<dyn Source>> {
                let mut memory = kernel.memory();
                if memory.refuses {
                    return Err(io::Error::other("no ring"));
                }
                memory.open = true;
                memory.opened += 1;
                Ok(Box::new(Reader(kernel.clone())))
            };
            running.run(open).await;
        });
        hub
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Memory) -> bool) {
        let waiting = async {
            while !wanted(&self.memory()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(10), waiting).await.expect(what);
    }
}

struct Reader(Fake);

impl Source for Reader {
    fn watch(&mut self, flows: u32, drops: bool) -> io::Result<()> {
        self.0.memory().watch = (flows, drops);
        Ok(())
    }
    fn drain(&mut self, visit: &mut dyn FnMut(Event, Option<Backend>)) {
        let waiting = std::mem::take(&mut self.0.memory().waiting);
        for event in waiting {
            let backend = Backend {
                flags: REMOTE,
                ..Backend::default()
            };
            visit(event, (event.backend != 0).then_some(backend));
        }
    }
    fn lost(&self) -> io::Result<u64> {
        Ok(self.0.memory().lost)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut memory = self.0.memory();
        (memory.watch, memory.open) = ((0, false), false);
    }
}

fn be(text: &str) -> u32 {
    u32::from_ne_bytes(text.parse::<std::net::Ipv4Addr>().unwrap().octets())
}

fn words(text: &str) -> [u32; 4] {
    be(text).words()
}

fn event(counter: Counter, from: &str, port: u16) -> Event {
    Event {
        from: words(from),
        from_port_be: 4000_u16.to_be(),
        to: words("192.168.99.101"),
        to_port_be: port.to_be(),
        protocol: PROTO_TCP,
        reason: counter as u8,
        tcp_flags: 2,
        ..Event::default()
    }
}

const FILE: &str = r#"
node = "n1"
[[nodes]]
name = "n1"
address = "192.168.99.101"
[[networks]]
name = "proxy"
[[services]]
name = "a"
vips = { proxy = "10.0.1.2" }
ports = [ { published = 80, target = 8080 } ]
"#;

fn shared(folder: &std::path::Path) -> Arc<Shared> {
    let mut writer = Writer::new(Cookie(1));
    assert!(writer.apply(&parse("test", FILE, None).unwrap()).is_empty());
    let mut view = View::new("file", "test", "n1");
    view.tables = Arc::new(writer.tables());
    let api = Store::open(folder).unwrap();
    Shared::new(view, api, Box::new(Vec::new), None, Value::Null)
}

fn stream(hub: &Arc<Hub>, shared: &Arc<Shared>, filter: Value) -> Stream {
    let filter: Filter = serde_json::from_value(filter).unwrap();
    Stream {
        observer: hub.join(filter.wants()).expect("room"),
        shower: Shower::new(shared.clone()),
        filter,
        begun: false,
    }
}

async fn next(stream: &mut Stream) -> Value {
    let line = timeout(Duration::from_secs(10), stream.next()).await;
    line.expect("a line in time").expect("a line")
}

async fn begun(stream: &mut Stream) {
    assert_eq!(next(stream).await, json!({ "event": "observing" }));
}

#[tokio::test]
async fn the_kernel_watches_while_somebody_observes_and_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let (kernel, shared) = (Fake::default(), shared(folder.path()));
    let hub = kernel.hub();
    let mut drops = stream(&hub, &shared, json!({ "drops": true }));
    begun(&mut drops).await;
    assert_eq!(kernel.memory().watch, (0, true));
    let mut some = stream(&hub, &shared, json!({ "sample": 10 }));
    begun(&mut some).await;
    assert_eq!(kernel.memory().watch, (10, true));
    let mut all = stream(&hub, &shared, json!({}));
    begun(&mut all).await;
    assert_eq!(kernel.memory().watch, (1, true), "the most that anybody wants");
    assert_eq!(kernel.memory().opened, 1, "one reader for all");
    drop(all);
    kernel
        .until("less is wanted", |memory| memory.watch == (10, true))
        .await;
    drop(some);
    drop(drops);
    kernel
        .until("nothing is wanted", |memory| {
            !memory.open && memory.watch == (0, false)
        })
        .await;
    begun(&mut stream(&hub, &shared, json!({}))).await;
    assert_eq!(kernel.memory().opened, 2);
}

#[tokio::test]
async fn events_have_names_and_go_to_those_who_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (kernel, shared) = (Fake::default(), shared(folder.path()));
    let hub = kernel.hub();
    let mut all = stream(&hub, &shared, json!({}));
    let mut of_a = stream(&hub, &shared, json!({ "service": "a", "client": "10.0.0.0/24" }));
    let mut drops = stream(&hub, &shared, json!({ "drops": true }));
    for stream in [&mut all, &mut of_a, &mut drops] {
        begun(stream).await;
    }
    let flow = Event {
        backend: 7,
        task: words("10.0.9.5"),
        task_port_be: 8080_u16.to_be(),
        node_be: be("192.168.99.102"),
        ..event(Counter::FlowRemote, "10.0.0.1", 80)
    };
    let socket = Event {
        from: [0; 4],
        from_port_be: 0,
        to: words("10.0.1.2"),
        network: crate::model::NetworkId::of("proxy").get(),
        namespace: 99,
        ..event(Counter::SockConnect, "0.0.0.0", 81)
    };
    let other = event(Counter::SourceDenied, "10.0.5.1", 81);
    kernel.memory().waiting.extend([socket, other, flow]);

    let first = next(&mut all).await;
    assert_eq!(
        (&first["event"], &first["reason"]),
        (&json!("opened"), &json!("sock_connect"))
    );
    assert_eq!(
        (&first["service"], &first["from"]),
        (&json!("a"), &json!("namespace 99"))
    );
    assert_eq!(
        (&first["to"], &first["path"]),
        (&json!("10.0.1.2:81"), &json!("socket"))
    );
    let second = next(&mut all).await;
    assert_eq!(
        (&second["event"], &second["reason"]),
        (&json!("drop"), &json!("source_denied"))
    );
    assert_eq!(
        (&second["service"], &second["backend"]),
        (&Value::Null, &Value::Null)
    );
    let third = next(&mut all).await;
    assert_eq!(third["backend"]["id"], 7);
    let fields = [
        "from",
        "to",
        "task_address",
        "path",
        "node",
        "tcp_flags",
        "protocol",
    ];
    let found: Vec<&str> = fields
        .iter()
        .map(|field| third[field].as_str().unwrap())
        .collect();
    let expected = [
        "10.0.0.1:4000",
        "192.168.99.101:80",
        "10.0.9.5:8080",
        "tunnel",
        "192.168.99.102",
        "S",
        "tcp",
    ];
    assert_eq!(found, expected);
    let ended = Event {
        reason: Counter::FlowReset as u8,
        by_task: 1,
        ..flow
    };
    kernel.memory().waiting.push_back(ended);
    let end = next(&mut all).await;
    let found = ["event", "reason", "by", "path"].map(|field| end[field].as_str().unwrap().to_owned());
    assert_eq!(found, ["reset", "flow_reset", "task", "tunnel"]);
    assert_eq!(third["by"], Value::Null);
    assert_eq!(
        next(&mut of_a).await["reason"],
        "flow_remote",
        "neither the socket nor the other"
    );
    assert_eq!(next(&mut drops).await["reason"], "source_denied");
    kernel
        .memory()
        .waiting
        .push_back(event(Counter::FlowUnknown, "10.0.0.9", 80));
    assert_eq!(
        next(&mut drops).await["reason"],
        "flow_unknown",
        "no flow was shown before"
    );
}

#[tokio::test]
async fn who_wants_fewer_flows_gets_his_share() {
    let folder = tempfile::tempdir().unwrap();
    let (kernel, shared) = (Fake::default(), shared(folder.path()));
    let hub = kernel.hub();
    let mut all = stream(&hub, &shared, json!({}));
    let mut fourth = stream(&hub, &shared, json!({ "sample": 4 }));
    begun(&mut all).await;
    begun(&mut fourth).await;
    // In the order of their hashes, which decide: a quarter of 2^32 is one of four.
    let flows = (0..8_u16).map(|n| Event {
        chance: u32::from(n) << 29,
        ..event(
            [Counter::FlowLocal, Counter::FlowClosed][usize::from(n % 2)],
            "10.0.0.1",
            n,
        )
    });
    kernel.memory().waiting.extend(flows);
    let end = event(Counter::FlowUnknown, "10.0.0.9", 80);
    kernel.memory().waiting.push_back(end);
    let mut shown = Vec::new();
    loop {
        let line = next(&mut fourth).await;
        if line["event"] == "drop" {
            break;
        }
        shown.push(line["to"].as_str().unwrap().to_owned());
    }
    assert_eq!(shown, ["192.168.99.101:0", "192.168.99.101:1"]);
}

#[tokio::test]
async fn what_is_lost_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (kernel, shared) = (Fake::default(), shared(folder.path()));
    kernel.memory().lost = 5;
    let hub = kernel.hub();
    let mut one = stream(&hub, &shared, json!({ "drops": true }));
    begun(&mut one).await;
    kernel.memory().lost = 12;
    let lost = next(&mut one).await;
    assert_eq!(lost, json!({ "event": "lost", "events": 7, "where": "kernel" }));
    // More than an observer may be behind.
    let denied = event(Counter::SourceDenied, "10.0.5.1", 81);
    kernel
        .memory()
        .waiting
        .extend(std::iter::repeat_n(denied, 10_000));
    kernel
        .until("taken out", |memory| memory.waiting.is_empty())
        .await;
    let behind = next(&mut one).await;
    assert_eq!(
        (&behind["event"], &behind["where"]),
        (&json!("lost"), &json!("agent"))
    );
    assert!(behind["events"].as_u64().unwrap() >= 5_000, "{behind}");
    assert_eq!(behind["events"], hub.missed(), "and counted");
    assert_eq!(next(&mut one).await["event"], "drop", "and then it goes on");
}

#[tokio::test]
async fn there_is_room_for_some_and_a_kernel_that_refuses_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (kernel, shared) = (Fake::default(), shared(folder.path()));
    kernel.memory().refuses = true;
    let hub = kernel.hub();
    let mut first = stream(&hub, &shared, json!({}));
    assert_eq!(
        next(&mut first).await,
        json!({ "event": "problem", "problem": "no ring" })
    );
    let others: Vec<Stream> = (1..OBSERVERS_MAX)
        .map(|_| stream(&hub, &shared, json!({})))
        .collect();
    assert!(hub.join(Wants::default()).is_none());
    drop(first);
    assert!(hub.join(Wants::default()).is_some());
    drop(others);
}
