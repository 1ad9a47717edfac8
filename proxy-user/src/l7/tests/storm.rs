// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reconfigures in a loop: nothing that is under way may notice, and everything that was answered is kept.

use std::sync::atomic::AtomicBool;

use super::*;

/// Services beside the one under load.
const OTHERS: usize = 200;
/// Calls of each of the callers.
const CALLS: usize = 400;
const CALLERS: usize = 3;

/// An origin that answers at once, after a word (`/slow`), or with an echo of an upgraded connection.
fn lively_origin(go: Arc<AtomicBool>) -> SocketAddr {
    origin(move |_, mut wire| {
        loop {
            let head = wire.head();
            if head.is_empty() {
                return;
            }
            if field(&head, "upgrade").is_some() {
                wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
                loop {
                    let line = wire.line();
                    if line.is_empty() {
                        return;
                    }
                    wire.send(&line);
                }
            }
            wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
            while head.starts_with("GET /slow") && !go.load(Ordering::Relaxed) {
                std::thread::yield_now();
                wire.send("1\r\n.\r\n");
            }
            wire.send("0\r\n\r\n");
        }
    })
}

/// Calls on one connection, and what they answer.
struct Caller(Wire);

impl Caller {
    fn call(&mut self, verb: &str, query: &str) {
        let wire = &mut self.0;
        wire.send(&format!(
            "GET /v1/docker-flow-proxy/{verb}?{query} HTTP/1.1\r\nHost: api\r\n\r\n"
        ));
        let reply = wire.reply();
        assert_eq!(reply.status, 200, "{query}: {}", reply.text());
        assert!(reply.text().contains(r#""Message":"""#), "{}", reply.text());
    }
}

#[test]
fn a_storm_of_reconfigures_fails_no_request_and_loses_no_configuration() {
    let go = Arc::new(AtomicBool::new(false));
    let port = lively_origin(go.clone()).port();
    let site = Site::start();
    let api = site.proxy.as_ref().unwrap().api;
    let target = format!("outboundHostname=127.0.0.1&port={port}");
    let mut setup = Caller(Wire::connect(api));
    for number in 0..OTHERS {
        setup.call(
            "reconfigure",
            &format!("serviceName=o{number}&servicePath=/o{number}/&{target}"),
        );
    }
    setup.call("reconfigure", &format!("serviceName=z&servicePath=/&{target}"));

    // Under way before the storm and until after it.
    let mut slow = site.connect();
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = slow.head();
    let mut socket = site.connect();
    socket.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert!(socket.head().starts_with("HTTP/1.1 101 "));

    let over = AtomicBool::new(false);
    let requests = std::thread::scope(|scope| {
        let clients: Vec<_> = [true, true, false]
            .into_iter()
            .map(|keeps| {
                let (site, over) = (&site, &over);
                scope.spawn(move || {
                    let (mut wire, mut count) = (site.connect(), 0);
                    while !over.load(Ordering::Relaxed) {
                        wire.send("GET /o7/x HTTP/1.1\r\nHost: a\r\n\r\n");
                        let reply = wire.reply();
                        assert_eq!((reply.status, reply.text()), (200, "ok".into()));
                        count += 1;
                        if !keeps {
                            wire = site.connect();
                        }
                    }
                    count
                })
            })
            .collect();
        let echo = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                socket.send("hello\n");
                assert_eq!(socket.line(), "hello\n");
            }
        });
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let target = &target;
                scope.spawn(move || {
                    let mut api = Caller(Wire::connect(api));
                    for turn in 0..CALLS {
                        // The service under load changes too, and others come and go.
                        let number = if turn % 4 == 0 { 7 } else { turn % OTHERS };
                        let query = format!(
                            "serviceName=o{number}&servicePath=/o{number}/&{target}&setReqHeader=X-Turn%20{turn}"
                        );
                        api.call("reconfigure", &query);
                        let passing = format!("serviceName=t{caller}&servicePath=/t{caller}/{turn}&{target}");
                        api.call(if turn % 2 == 0 { "reconfigure" } else { "remove" }, &passing);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        echo.join().unwrap();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect::<Vec<usize>>()
    });
    assert!(requests.iter().all(|count| *count > 0), "{requests:?}");
    go.store(true, Ordering::Relaxed);
    assert!(slow.rest(head, true).text().starts_with("ok"));

    // What a process that is killed now would find.
    let left = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(site.state.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, left.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = |site: &Site| site.api("/v1/docker-flow-proxy/config?type=json").text();
    let want = config(&site);
    let mut other = Site::with(|settings| settings.state_dir = left.path().to_owned());
    assert_eq!(config(&other), want);
    other.stop();
}
