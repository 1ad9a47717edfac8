// SPDX-License-Identifier: MIT OR Apache-2.0
//! The proxy as a process: what a SIGKILL leaves, and what never comes out of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);
const BASE: &str = "/v1/docker-flow-proxy";

struct Proxy {
    child: Child,
    api: u16,
    data: u16,
}

impl Proxy {
    fn start(dir: &Path, change: impl FnOnce(&mut Command)) -> Proxy {
        let free = || {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        };
        let (api, data) = (free(), free());
        let mut command = Command::new(env!("CARGO_BIN_EXE_portico"));
        command
            .args(["proxy", "--listen", "127.0.0.1", "--ip", "127.0.0.1"])
            .args([
                "--port",
                &api.to_string(),
                "--default-ports",
                &data.to_string(),
                "--state",
            ])
            .arg(dir.join("state"))
            .env_clear()
            .env("PORTICO_WORKERS", "2")
            .stdin(Stdio::null())
            .stdout(File::create(dir.join("stdout")).unwrap())
            .stderr(File::create(dir.join("stderr")).unwrap());
        change(&mut command);
        let child = command.spawn().unwrap();
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", api)).is_err() {
            assert!(
                began.elapsed() < DEADLINE,
                "{}",
                std::fs::read_to_string(dir.join("stderr")).unwrap()
            );
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Proxy { child, api, data }
    }

    /// Status and whole answer; nothing when the connection breaks.
    fn get(&self, port: u16, target: &str, fields: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer))
    }

    fn kill(mut self) {
        // SIGKILL: nothing of the process runs any more.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn what_was_answered_with_200_is_there_after_a_sigkill() {
    const CLIENTS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let mut want: BTreeSet<String> = BTreeSet::new();
    for round in 0..3 {
        let proxy = Proxy::start(dir.path(), |_| {});
        let added = Mutex::new(BTreeSet::new());
        let removed = Mutex::new(BTreeSet::new());
        let (done, dead) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (proxy, added, removed, done, dead) = (&proxy, &added, &removed, &done, &dead);
                scope.spawn(move || {
                    for number in 0.. {
                        if dead.load(Ordering::SeqCst) {
                            return;
                        }
                        let name = format!("r{round}c{client}n{number}");
                        let query =
                            format!("{BASE}/reconfigure?serviceName={name}&servicePath=/{name}&port=1");
                        if proxy
                            .get(proxy.api, &query, "")
                            .is_some_and(|(status, _)| status == 200)
                        {
                            added.lock().unwrap().insert(name.clone());
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                        let gone = format!("{BASE}/remove?serviceName={name}");
                        // A removal that was not answered may have happened or not.
                        if number % 5 == 0 {
                            added.lock().unwrap().remove(&name);
                            if proxy
                                .get(proxy.api, &gone, "")
                                .is_some_and(|(status, _)| status == 200)
                            {
                                removed.lock().unwrap().insert(name);
                            }
                        }
                    }
                });
            }
            let began = Instant::now();
            while done.load(Ordering::SeqCst) < 60 {
                assert!(
                    began.elapsed() < DEADLINE,
                    "only {} calls",
                    done.load(Ordering::SeqCst)
                );
                std::thread::park_timeout(Duration::from_millis(1));
            }
            let pid = i32::try_from(proxy.child.id()).unwrap();
            // SAFETY: a signal to a child that has not been waited for.
            assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
            dead.store(true, Ordering::SeqCst);
        });
        proxy.kill();
        want.extend(added.into_inner().unwrap());
        let again = Proxy::start(dir.path(), |_| {});
        let (_, config) = again
            .get(again.api, &format!("{BASE}/config?type=json"), "")
            .unwrap();
        let has = |name: &str| config.contains(&format!("\"ServiceName\":\"{name}\""));
        let lost: Vec<_> = want.iter().filter(|name| !has(name)).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?} of {}", want.len());
        let back: Vec<_> = removed
            .into_inner()
            .unwrap()
            .into_iter()
            .filter(|name| has(name))
            .collect();
        assert!(back.is_empty(), "round {round}: back again {back:?}");
        again.kill();
    }
}

/// Lines of the access log after these requests, the proxy having ended.
fn logged(change: impl FnOnce(&mut Command), requests: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = origin.local_addr().unwrap().port();
    let mut proxy = Proxy::start(dir.path(), |command| {
        // Lines of two workers may come in another order.
        command.env("PORTICO_WORKERS", "1");
        change(command);
    });
    std::thread::spawn(move || {
        for stream in origin.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            // The body is the head, so that the test sees what the service saw.
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                head.len()
            );
            let _ = stream.write_all(&head);
        }
    });
    let query = format!("serviceName=demo&servicePath=/demo&port={port}&outboundHostname=127.0.0.1");
    assert_eq!(
        proxy
            .get(proxy.api, &format!("{BASE}/reconfigure?{query}"), "")
            .unwrap()
            .0,
        200
    );
    for (target, fields) in requests {
        let (status, answer) = proxy.get(proxy.data, target, fields).unwrap();
        if status == 200 && fields.contains("traceparent") {
            assert!(
                answer.contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
                "{answer}"
            );
            assert!(answer.to_lowercase().contains("x-request-id: "), "{answer}");
        }
    }
    let pid = i32::try_from(proxy.child.id()).unwrap();
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    proxy.child.wait().unwrap();
    let text = std::fs::read_to_string(dir.path().join("stdout")).unwrap();
    text.lines().map(str::to_owned).collect()
}

const TRACE: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";

#[test]
fn debug_logs_what_haproxy_would() {
    let lines = logged(
        |command| {
            command
                .env("DEBUG", "true")
                .env("CAPTURE_REQUEST_HEADER", "X-A:3,X-B:10");
        },
        &[("/demo?a=b", "X-A: 12345\r\n"), ("/nothing\"quoted", "")],
    );
    assert_eq!(lines.len(), 2, "{lines:?}");
    let ok = &lines[0];
    assert!(ok.starts_with("HAPRoxy: 127.0.0.1:"), "{ok}");
    let words: Vec<&str> = ok.split(' ').collect();
    assert_eq!(words[3], "services", "{ok}");
    assert!(
        words[4].starts_with("demo-be") && words[4].ends_with("_0/demo"),
        "{ok}"
    );
    assert_eq!(words[5].split('/').count(), 5, "{ok}");
    assert_eq!(words[6], "200", "{ok}");
    assert_eq!(words[10], "----", "{ok}");
    assert!(ok.ends_with("{123|}  \"GET /demo?a=b HTTP/1.1\""), "{ok}");
    let refused = &lines[1];
    assert!(
        refused.contains(" services services/<NOSRV> ") && refused.contains(" 503 "),
        "{refused}"
    );
    assert!(
        refused.contains(" SC-- ") && refused.ends_with("\"GET /nothing\\x22quoted HTTP/1.1\""),
        "{refused}"
    );
}

#[test]
fn a_format_of_ones_own_and_errors_only() {
    let lines = logged(
        |command| {
            command
                .env("DEBUG", "true")
                .env("DEBUG_ERRORS_ONLY", "true")
                .env("DEBUG_HTTP_FORMAT", "%ST %HM\\ %HP");
        },
        &[("/demo", ""), ("/nothing?x", "")],
    );
    assert_eq!(lines, ["HAPRoxy: 503 GET /nothing"]);
}

#[test]
fn json_and_combined_have_the_trace_and_the_requests_id() {
    let requests = [
        ("/demo", TRACE),
        ("/demo", "X-Request-ID: mine\r\nUser-Agent: a\"b\r\n"),
    ];
    let lines = logged(
        |command| {
            command
                .env("PORTICO_ACCESS_LOG", "json")
                .env("PORTICO_REQUEST_ID", "X-Request-ID");
        },
        &requests,
    );
    let json: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(json[0]["traceparent"], TRACE["traceparent: ".len()..].trim_end());
    assert_eq!(json[0]["request_id"].as_str().unwrap().len(), 32);
    assert_eq!(
        (&json[1]["request_id"], &json[1]["status"], &json[1]["server"]),
        (&"mine".into(), &200.into(), &"demo".into())
    );
    assert_eq!(json[1]["user_agent"], "a\"b");
    let lines = logged(
        |command| {
            command
                .env("PORTICO_ACCESS_LOG", "combined")
                .env("PORTICO_REQUEST_ID", "X-Request-ID");
        },
        &requests,
    );
    assert!(lines[1].starts_with("127.0.0.1 - - ["), "{lines:?}");
    assert!(
        lines[1].contains("+0000] \"GET /demo HTTP/1.1\" 200 ") && lines[1].ends_with("\"-\" \"a\\x22b\""),
        "{lines:?}"
    );
}

#[test]
fn a_planted_secret_comes_out_nowhere() {
    const PLANTED: [&str; 3] = ["planted-password", "planted-token", "planted-key"];
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "planted-token\n").unwrap();
    let token = dir.path().join("token");
    let proxy = Proxy::start(dir.path(), |command| {
        command
            .env("PORTICO_ADMIN_TOKEN_FILE", &token)
            .env("PORTICO_LOG", "trace")
            .env("DEBUG", "true")
            .env("USERS", "global:planted-password")
            .env("STATS_USER", "planted-token")
            .env("STATS_PASS", "planted-password")
            .env("PORTICO_SIBLINGS", "127.0.0.1:1");
    });
    let field = "Authorization: Bearer planted-token\r\n";
    let mut seen = String::new();
    for query in [
        "reconfigure?serviceName=a&servicePath=/a&port=1&users=u:planted-password",
        "reconfigure?serviceName=a&servicePath=/a&port=x&users=u:planted-password",
        "reconfigure?serviceName=b&servicePath=/b&port=1&serviceCert=planted-key",
        "reconfigure?serviceName=a&users=u:planted-password&serviceCert=planted-key",
        "reconfigure?serviceName=a&servicePath=/a&port=1&users=u:planted-password&distribute=true",
        "reconfigure?serviceName=a&servicePath=/a&port=1&users=u:planted-password&persist=true",
        "reconfigure?serviceName=c&servicePath=/c&port=1&addReqHeader=X-A%20b,Authorization%20Basic%20planted-key",
        "reconfigure?serviceName=c&servicePath=/c&port=1&setReqHeader=Cookie%20planted-key%20%25[x]",
        "reconfigure?serviceName=c&servicePath=/c&port=1&setReqHeader=Authorization%20Basic%20a,planted-key",
        "reconfigure?serviceName=d&servicePath=/d&port=1&serviceHeader=X-Api-Key:planted-key",
        "reconfigure?serviceName=e&servicePath=/e&port=1&setResHeader=Set-Cookie%20a=planted-key",
        "config",
        "config?type=json",
        "certs",
        "metrics",
        "reload?recreate=true",
        "remove?serviceName=unknown&users=u:planted-password",
    ] {
        let (_, answer) = proxy.get(proxy.api, &format!("{BASE}/{query}"), field).unwrap();
        seen.push_str(&answer);
    }
    seen.push_str(&proxy.get(proxy.api, "/metrics", field).unwrap().1);
    // Wrong credentials, refused and echoed nowhere.
    let wrong = "Authorization: Basic cGxhbnRlZC1wYXNzd29yZDpwbGFudGVkLXBhc3N3b3Jk\r\n";
    let (status, answer) = proxy.get(proxy.data, "/a", wrong).unwrap();
    assert_eq!(status, 401);
    seen.push_str(&answer);
    seen.push_str(
        &proxy
            .get(
                proxy.api,
                &format!("{BASE}/config"),
                "Authorization: Bearer planted-toke\r\n",
            )
            .unwrap()
            .1,
    );
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", proxy.child.id())).unwrap();
    seen.push_str(&arguments);
    let began = Instant::now();
    while std::fs::metadata(dir.path().join("stdout")).unwrap().len() == 0 {
        assert!(began.elapsed() < DEADLINE, "the access log says nothing");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    proxy.kill();
    for file in ["stdout", "stderr"] {
        let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(!text.is_empty(), "{file} says something");
        seen.push_str(&text);
    }
    for planted in PLANTED {
        let at = seen.find(planted);
        assert!(
            at.is_none(),
            "{planted}: {}",
            &seen[at.unwrap().saturating_sub(300)..at.unwrap()]
        );
    }
    assert!(!seen.contains("cGxhbnRlZC1wYXNzd29yZ"), "nor in base64");
    // The one place that has them is its owner's alone.
    let state = dir.path().join("state/services.json");
    assert!(
        std::fs::read_to_string(&state)
            .unwrap()
            .contains("planted-password")
    );
    assert_eq!(
        std::fs::metadata(&state).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn connections_and_clients_that_leave_are_logged() {
    let dir = tempfile::tempdir().unwrap();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = origin.local_addr().unwrap().port();
    let proxy = Proxy::start(dir.path(), |command| {
        command.env("DEBUG", "true");
    });
    let entry = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for query in [
        format!("reconfigure?serviceName=web&servicePath=/&outboundHostname=127.0.0.1&port={port}"),
        format!(
            "reconfigure?serviceName=db&reqMode=tcp&srcPort={entry}&outboundHostname=127.0.0.1&port={port}"
        ),
    ] {
        assert_eq!(
            proxy.get(proxy.api, &format!("{BASE}/{query}"), "").unwrap().0,
            200
        );
    }
    // A client that resets while the service thinks.
    let mut client = TcpStream::connect(("127.0.0.1", proxy.data)).unwrap();
    client
        .write_all(b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let (mut thinking, _) = origin.accept().unwrap();
    let mut first = [0; 4];
    thinking.read_exact(&mut first).unwrap();
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    // A connection that is passed on whole.
    let mut client = TcpStream::connect(("127.0.0.1", entry)).unwrap();
    client.write_all(b"ask").unwrap();
    let (mut served, _) = origin.accept().unwrap();
    served.write_all(b"answer").unwrap();
    drop(served);
    let mut answer = String::new();
    // A reset is an end as well: what was asked was not read.
    let _ = client.read_to_string(&mut answer);
    drop(client);
    let began = Instant::now();
    loop {
        let log = std::fs::read_to_string(dir.path().join("stdout")).unwrap();
        let has = |parts: &[&str]| {
            log.lines()
                .any(|line| parts.iter().all(|part| line.contains(part)))
        };
        let gone = has(&[
            &format!(" services web-be{port}_0/web "),
            " -1 0 - - CH-- ",
            "\"GET /gone HTTP/1.1\"",
        ]);
        let passed = has(&[&format!(" tcpFE_{entry} db-be{port}_0/db "), " 6 "]);
        if gone && passed {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "{log}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    proxy.kill();
}

/// Asks the process to end, as Docker and systemd do.
fn terminate(proxy: &Proxy) {
    let status = Command::new("kill")
        .args(["-TERM", &proxy.child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

fn wait_for_end(mut proxy: Proxy) -> (Duration, Option<i32>) {
    let began = Instant::now();
    loop {
        if let Some(status) = proxy.child.try_wait().unwrap() {
            return (began.elapsed(), status.code());
        }
        assert!(began.elapsed() < DEADLINE, "it does not end");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn sigterm_lets_requests_end_and_cuts_what_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = origin.local_addr().unwrap().port();
    let start = |seconds: &str| {
        let proxy = Proxy::start(dir.path(), |command| {
            command.env("PORTICO_DRAIN_SECONDS", seconds);
        });
        let query = format!("reconfigure?serviceName=a&servicePath=/&outboundHostname=127.0.0.1&port={port}");
        assert_eq!(
            proxy.get(proxy.api, &format!("{BASE}/{query}"), "").unwrap().0,
            200
        );
        proxy
    };
    let ask = |proxy: &Proxy, fields: &str| {
        let mut client = TcpStream::connect(("127.0.0.1", proxy.data)).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client
            .write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes())
            .unwrap();
        let (mut thinking, _) = origin.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            thinking.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        (client, thinking)
    };
    // A request that is being answered.
    let proxy = start("30");
    let (mut client, mut thinking) = ask(&proxy, "");
    terminate(&proxy);
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", proxy.data)).is_ok() {
        assert!(began.elapsed() < DEADLINE, "still accepting");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    thinking
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\ndone"), "{answer}");
    let (took, code) = wait_for_end(proxy);
    assert!(
        took < Duration::from_secs(10) && code == Some(0),
        "{took:?} {code:?}"
    );
    // A tunnel that has no end of its own, and a request that nobody answers.
    let proxy = start("1");
    let (mut tunnel, mut other) = ask(&proxy, "Connection: upgrade\r\nUpgrade: websocket\r\n");
    other
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .unwrap();
    let mut first = [0; 12];
    tunnel.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 101");
    let (_client, _thinking) = ask(&proxy, "");
    terminate(&proxy);
    let (took, code) = wait_for_end(proxy);
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(10) && code == Some(0),
        "{took:?} {code:?}"
    );
}
