// SPDX-License-Identifier: MIT OR Apache-2.0
//! A swarm listener that the test plays.

use super::*;
use crate::l7::settings::Listener;

/// Answers get-services with what `list` says (nothing means 500), and counts notify-services.
fn listener(list: Arc<Mutex<Vec<Option<String>>>>, notified: Arc<AtomicUsize>) -> u16 {
    let serve = move |_: usize, mut wire: Wire| {
        let head = wire.head();
        let target = head.split(' ').nth(1).unwrap_or_default();
        let body = match target {
            "/v1/docker-flow-swarm-listener/get-services" => {
                let mut list = list.lock().unwrap();
                // The last answer stays.
                if list.len() > 1 {
                    list.remove(0)
                } else {
                    list[0].clone()
                }
            }
            "/v1/docker-flow-swarm-listener/notify-services" => {
                notified.fetch_add(1, Ordering::Relaxed);
                Some("{\"Status\":\"OK\"}".into())
            }
            _ => None,
        };
        let (status, body) = body.map_or((500, "[]".to_owned()), |body| (200, body));
        let length = body.len();
        wire.send(&format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    };
    origin(serve).port()
}

fn settings_for(ports: &[u16]) -> Listener {
    Listener {
        hosts: ports
            .iter()
            .map(|port| ("127.0.0.1".into(), Some(*port)))
            .collect(),
        interval: Duration::from_millis(20),
        repeat: false,
        attempts: 3,
    }
}

const INIT: &str = "/v1/docker-flow-proxy/successfulinitreload";

fn names(site: &Site) -> Vec<String> {
    let text = site.api("/v1/docker-flow-proxy/config?type=json").text();
    let all: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    all.into_keys().collect()
}

#[test]
fn the_list_is_fetched_until_it_comes_and_a_bad_entry_costs_nobody_else() {
    let services = r#"[
        {"serviceName":"good","servicePath":"/good","port":"80","replicas":"2","distribute":"true","alertName":"x"},
        {"serviceName":"indexed","servicePath.1":"/a","port.1":"80","servicePath.2":"/b","port.2":"81"},
        {"serviceName":"bad","servicePath":"/bad","port":"x"},
        {"serviceName":"pathless","port":"80"},
        {"servicePath":"/nameless","port":"80"},
        {"serviceName":"gone","servicePath":"/gone","port":"80","replicas":"0"}
    ]"#;
    let list = Arc::new(Mutex::new(vec![
        None,
        Some("nonsense".into()),
        Some(services.into()),
    ]));
    let notified = Arc::new(AtomicUsize::new(0));
    let port = listener(list, notified.clone());
    let site = Site::with(|settings| settings.listener = Some(settings_for(&[port])));
    eventually("the fetch succeeds", || site.api(INIT).status == 200);
    assert_eq!(names(&site), ["good", "indexed"]);

    assert_eq!(
        site.api("/v1/docker-flow-proxy/reload?fromListener=true").status,
        200
    );
    assert_eq!(notified.load(Ordering::Relaxed), 1);
}

#[test]
fn without_a_listener_there_never_is_a_successful_fetch() {
    let site = Site::start();
    assert_eq!(site.api(INIT).status, 500);
    let closed = TcpListener::bind((LOCAL, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let site = Site::with(|settings| settings.listener = Some(settings_for(&[closed])));
    assert_eq!(site.api(INIT).status, 500);
    let reply = site.api("/v1/docker-flow-proxy/reload?fromListener=true");
    assert_eq!(reply.status, 500);
    assert!(
        reply
            .text()
            .starts_with(r#"{"Status":"NOK","Message":"127.0.0.1: "#),
        "{}",
        reply.text()
    );
}

#[test]
fn repeated_reloads_follow_changes_and_remove_nothing() {
    let entry = |name: &str| {
        Some(format!(
            r#"[{{"serviceName":"{name}","servicePath":"/{name}","port":"80"}}]"#
        ))
    };
    let list = Arc::new(Mutex::new(vec![entry("a"), entry("b")]));
    let port = listener(list, Arc::default());
    let site = Site::with(|settings| {
        settings.listener = Some(Listener {
            repeat: true,
            ..settings_for(&[port])
        });
    });
    // A listener leaves out services whose tasks are not all running, so what it does not list stays.
    eventually("the second list is fetched", || names(&site) == ["a", "b"]);
}

#[test]
fn one_of_several_listeners_is_enough() {
    let closed = TcpListener::bind((LOCAL, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let list = Arc::new(Mutex::new(vec![Some("[]".into())]));
    let port = listener(list, Arc::default());
    let site = Site::with(|settings| settings.listener = Some(settings_for(&[closed, port])));
    eventually("one answers", || site.api(INIT).status == 200);
}
