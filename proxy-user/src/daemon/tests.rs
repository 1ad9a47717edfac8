// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole agent on a kernel in memory: file in, maps and API out.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::*;
use crate::{
    kernel::{
        echo::Echo,
        netns::{GatewayPort, NamespaceFacts, NetnsError},
    },
    providers::file::watch::Watcher,
    reconcile::{fake::Fake, key::FrontKey},
    unix_http,
};

const FILE: &str = r#"
node = "n1"
[[nodes]]
name = "n1"
address = "192.168.99.101"
[[networks]]
name = "proxy"
[[tasks]]
name = "a.1"
node = "n1"
netns = "/nowhere/a1"
networks = { ingress = "10.0.0.5", proxy = "10.0.1.5" }
[[services]]
name = "a"
vips = { proxy = "10.0.1.2" }
ports = [ { published = 80, target = 8080 } ]
tasks = ["a.1"]
"#;

fn inspect(path: &Path) -> Result<NamespaceFacts, NetnsError> {
    if path.ends_with("a1") {
        let gateway = GatewayPort {
            address: [172, 18, 0, 3].into(),
            mac: [1; 6],
            host_ifindex: 9,
            gateway_mac: [2; 6],
        };
        return Ok(NamespaceFacts {
            cookie: 77,
            gateway: Some(gateway),
            addresses: Vec::new(),
        });
    }
    Err(NetnsError {
        path: path.display().to_string(),
        operation: "open",
        source: io::ErrorKind::NotFound.into(),
    })
}

fn parts(kernel: &Fake) -> KernelParts {
    KernelParts {
        datapath: Box::new(kernel.clone()),
        own_cookie: 1,
        local_addrs: Box::new(|| vec![[192, 168, 99, 101].into()]),
        inspect: Box::new(inspect),
        reset: Box::new(|_| ()),
        echo: Echo::none(),
        counters: Box::new(|| vec![("flow_local".into(), 3)]),
        mirror: None,
        info: serde_json::json!({ "tunnel": "none" }),
    }
}

async fn status(socket: &Path) -> Option<Value> {
    serde_json::from_slice(&unix_http::get(socket, "/v1/status").await.ok()?).ok()
}

/// Waits until the status is as wanted, and shows it when it does not become so.
async fn until(socket: &Path, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = None;
    let waiting = async {
        loop {
            last = status(socket).await;
            if let Some(found) = last.as_ref().filter(|status| wanted(status)) {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    outcome.unwrap_or_else(|_| panic!("{what}: {last:#?}"))
}

fn agent(kernel: &Fake, file: &Path, socket: &Path) -> tokio::task::JoinHandle<Result<(), Exit>> {
    let provider = Provider::File {
        watcher: Box::new(Watcher::new(file.into(), None)),
        source: file.display().to_string(),
        node: "n1".into(),
    };
    let claimed = admin::Socket::claim(socket).unwrap();
    tokio::spawn(run(parts(kernel), provider, api(file), None, claimed, None))
}

/// The operator's verbs, kept beside the file.
fn api(file: &Path) -> Store {
    Store::open(&file.with_extension("state")).unwrap()
}

fn replace(file: &Path, text: &str) {
    let next: PathBuf = file.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(&next, file).unwrap();
}

/// With a deadline a draining backend leaves the kernel by itself; without one it stays until its provider drops it.
#[tokio::test]
async fn a_drain_has_an_end_where_its_service_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (file, socket) = (folder.path().join("portico.toml"), folder.path().join("s"));
    let text = |draining: bool| {
        let service = |name: &str, vip: &str, drain: &str| {
            format!(
                "[[services]]\nname = \"{name}\"\nvips = {{ proxy = \"{vip}\" }}\ndrain = \"{drain}\"\n\
                 backends = [ {{ address = \"{vip}1\", port = 80 }}, \
                 {{ address = \"{vip}2\", port = 80, draining = {draining} }} ]\n"
            )
        };
        format!(
            "{FILE}\n{}{}",
            service("ends", "10.0.1.3", "1s"),
            service("stays", "10.0.1.4", "none")
        )
    };
    fs::write(&file, text(false)).unwrap();
    let kernel = Fake::default();
    let running = agent(&kernel, &file, &socket);
    until(&socket, "programmed", |status| status["frontends"]["done"] == 4).await;
    let addresses = || -> Vec<String> {
        let state = kernel.state();
        let addresses = state.backends.values().map(crate::reconcile::desired::address_of);
        let mut addresses: Vec<String> = addresses.map(|address| address.to_string()).collect();
        addresses.retain(|address| address.starts_with("10.0.1.3") || address.starts_with("10.0.1.4"));
        addresses.sort();
        addresses
    };
    let all = ["10.0.1.31", "10.0.1.32", "10.0.1.41", "10.0.1.42"];
    assert_eq!(addresses(), all);
    replace(&file, &text(true));
    until(&socket, "drained", |_| addresses() != all).await;
    assert_eq!(addresses(), ["10.0.1.31", "10.0.1.41", "10.0.1.42"]);
    let services = unix_http::get(&socket, "/v1/services").await.unwrap();
    let services: Value = serde_json::from_slice(&services).unwrap();
    let told = |name: &str| -> Vec<bool> {
        let all = services.as_array().unwrap().iter();
        let backends = all
            .filter(|service| service["name"] == name)
            .map(|service| &service["backends"]);
        let backends = backends.flat_map(|list| list.as_array().unwrap());
        backends.map(|backend| backend["drained"] == true).collect()
    };
    assert_eq!(
        (told("ends"), told("stays")),
        (vec![false, true], vec![false, false])
    );
    // Taken back, it serves again.
    replace(&file, &text(false));
    until(&socket, "taken back", |_| addresses() == all).await;
    running.abort();
}

#[tokio::test]
async fn the_kernel_follows_the_file_and_the_socket_tells() {
    let folder = tempfile::tempdir().unwrap();
    let (file, socket) = (folder.path().join("portico.toml"), folder.path().join("s"));
    fs::write(&file, FILE).unwrap();
    let kernel = Fake::default();
    let running = agent(&kernel, &file, &socket);

    let found = until(&socket, "programmed", |status| status["frontends"]["done"] == 2).await;
    assert_eq!(found["node"], "n1");
    assert_eq!(found["counters"]["flow_local"], 3);
    assert_eq!(kernel.state().task_links.len(), 1);
    assert!(kernel.state().scopes.contains_key(&77));

    // A bad edit, by rename: refused by name, nothing changes.
    let before = kernel.state().clone();
    replace(&file, &FILE.replace("published = 80", "published = 0"));
    let found = until(&socket, "refused", |status| !status["refused"][0].is_null()).await;
    let message = found["refused"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("portico.toml: service 'a': ports[0].published: 0 is not a port"),
        "{message}"
    );
    assert_eq!(*kernel.state(), before);

    // No TOML, in place: kept, and said.
    fs::write(&file, "[[[").unwrap();
    until(&socket, "unreadable", |status| {
        status["provider"]["state"] == "unreadable"
    })
    .await;
    fs::remove_file(&file).unwrap();
    assert_eq!(*kernel.state(), before);

    // Another service, in place, whose task's namespace does not exist.
    let more = format!(
        "{FILE}\n[[tasks]]\nname = \"b.1\"\nnode = \"n1\"\nnetns = \"/nowhere/b1\"\nnetworks = {{ ingress = \"10.0.0.6\" }}\n\
         [[services]]\nname = \"b\"\nports = [ {{ published = 81, target = 1 }} ]\ntasks = [\"b.1\"]\n"
    );
    fs::write(&file, more).unwrap();
    let found = until(&socket, "more", |status| status["frontends"]["done"] == 3).await;
    assert_eq!(found["provider"]["state"], "ok");
    assert_eq!(found["sandboxes"][0]["task"], "b.1");
    assert_eq!(found["refused"], serde_json::json!([]));
    let services: Value =
        serde_json::from_slice(&unix_http::get(&socket, "/v1/services").await.unwrap()).unwrap();
    assert_eq!(services[0]["name"], "a");
    assert_eq!(services[0]["ports"][0]["active"], 1);
    assert_eq!(services[1]["ports"][0]["active"], 0);

    // Killed and started again: adopts, changes nothing.
    let before = kernel.state().clone();
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let again = agent(&kernel, &file, &socket);
    let found = until(&socket, "again", |status| status["frontends"]["done"] == 3).await;
    assert_eq!(found["reconciler"]["operations"], 0, "{found:#}");
    assert_eq!(*kernel.state(), before);

    let error = unix_http::get(&socket, "/v1/nothing")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("404"), "{error}");
    again.abort();
}

#[tokio::test]
async fn metrics_are_served_and_an_address_in_use_is_said() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut view = View::new("file", "portico.toml", "n1");
    view.state = ProviderState::Unreadable("gone".into());
    view.statuses
        .insert(FrontKey::published(0, 0), crate::reconcile::Status::Done);
    view.operations = 7;
    let api = Store::open(folder.path()).unwrap();
    let counters = Box::new(|| vec![("flow_local".into(), 3)]);
    let shared = Shared::new(view, api, counters, None, Value::Null);
    let serving = tokio::spawn(admin::metrics::serve(Some(listener), shared.clone()));
    let ask = |request: &'static str| async move {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(10), read)
            .await
            .expect("an answer")
            .unwrap();
        answer
    };
    let answer = ask("GET /metrics HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: text/plain; version=0.0.4\r\n"),
        "{answer}"
    );
    for line in [
        "# TYPE portico_datapath_events_total counter",
        "portico_datapath_events_total{name=\"flow_local\"} 3",
        "portico_frontends{status=\"done\"} 1",
        "portico_provider_up 0",
        "portico_operations_total 7",
    ] {
        assert!(answer.lines().any(|found| found == line), "{line} in {answer}");
    }
    // Every family is announced once, and every sample belongs to the family announced last.
    let mut families = Vec::new();
    for line in answer.split("\r\n\r\n").nth(1).unwrap().lines() {
        if let Some(name) = line.strip_prefix("# TYPE ") {
            families.push(name.split(' ').next().unwrap());
        } else if !line.starts_with('#') {
            assert_eq!(line.split(['{', ' ']).next(), families.last().copied(), "{line}");
        }
    }
    let unique: std::collections::BTreeSet<_> = families.iter().collect();
    assert_eq!(unique.len(), families.len(), "{families:?}");

    let answer = ask("GET / HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let answer = ask("POST /metrics HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");

    let provider = Provider::File {
        watcher: Box::new(Watcher::new(folder.path().join("portico.toml"), None)),
        source: "portico.toml".into(),
        node: "n1".into(),
    };
    let socket = admin::Socket::claim(&folder.path().join("s")).unwrap();
    let api = Store::open(folder.path()).unwrap();
    let outcome = run(
        parts(&Fake::default()),
        provider,
        api,
        None,
        socket,
        Some(address),
    )
    .await;
    assert!(
        matches!(&outcome, Err(Exit::Lacks { what, .. }) if what.contains(&format!("{address} for metrics is in use"))),
        "{outcome:?}"
    );
    serving.abort();
}

mod effort;
mod verbs;
