// SPDX-License-Identifier: MIT OR Apache-2.0
//! Services with known tasks: shares, sessions, coming and going, health, retries, limits, protocols.

use std::collections::BTreeSet;

use super::*;

pub(super) mod dns;
mod protocols;

use dns::Dns;

/// A port on which each of the addresses 127.0.0.2 … listens, and what serves them.
fn fleet(count: u8, serve: impl Fn(u8, Wire) + Send + Sync + 'static) -> u16 {
    let serve = Arc::new(serve);
    let first = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap();
    let port = first.local_addr().unwrap().port();
    let others =
        (3..2 + count).map(|last| TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port)).unwrap());
    for listener in std::iter::once(first).chain(others) {
        let serve = serve.clone();
        std::thread::spawn(move || {
            let IpAddr::V4(ip) = listener.local_addr().unwrap().ip() else {
                unreachable!("bound to IPv4")
            };
            for stream in listener.incoming() {
                let (serve, wire) = (serve.clone(), Wire::new(stream.unwrap()));
                std::thread::spawn(move || serve(ip.octets()[3], wire));
            }
        });
    }
    port
}

/// Answers every request with the task's number.
fn says_its_name(task: u8, mut wire: Wire) {
    loop {
        let head = wire.head();
        if head.is_empty() {
            return;
        }
        wire.rest(head, true);
        let name = task.to_string();
        wire.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
            name.len()
        ));
    }
}

/// A proxy with one worker whose names come from a server of the test.
fn site(dns: &Dns) -> Site {
    Site::with(|settings| {
        settings.workers = 1;
        settings.nameservers = vec![dns.address];
    })
}

fn route(site: &Site, port: u16, more: &str) {
    let query = format!("serviceName=app&servicePath=/&port={port}&discoveryType=tasks{more}");
    let reply = site.reconfigure(&query);
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// How many of `count` requests each task got.
fn shares(site: &Site, count: usize) -> BTreeMap<String, usize> {
    let mut wire = site.connect();
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let reply = wire.reply();
        assert_eq!(reply.status, 200, "{}", reply.text());
        *shares.entry(reply.text()).or_default() += 1;
    }
    shares
}

/// Waits until the tasks that answer are these.
fn wait_for_tasks(site: &Site, want: &[&str]) {
    let want: BTreeSet<String> = want.iter().map(|name| (*name).to_owned()).collect();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let got: BTreeSet<String> = shares(site, 30).into_keys().collect();
        if got == want {
            return;
        }
        assert!(Instant::now() < deadline, "{got:?} instead of {want:?}");
        std::thread::yield_now();
    }
}

/// The sum of a metric over its labels.
fn exported(site: &Site, name: &str) -> u64 {
    let text = site.api("/metrics").text();
    let values = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    let values: Vec<u64> = values
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(!values.is_empty(), "{name} in {text}");
    values.iter().sum()
}

#[test]
fn every_task_gets_its_share_with_every_method() {
    let dns = Dns::start();
    let site = site(&dns);
    let port = fleet(4, says_its_name);
    dns.set("app", &[2, 3, 4, 5]);
    for (balance, least) in [("roundrobin", 25), ("leastrequests", 25), ("p2c", 10)] {
        route(&site, port, &format!("&balance={balance}"));
        let shares = shares(&site, 100);
        assert!(
            shares.len() == 4 && shares.values().all(|count| *count >= least),
            "{balance}: {shares:?}"
        );
    }
    route(&site, port, "&balance=hash&balanceHeader=X-User");
    let mut all = BTreeSet::new();
    for user in 0..20 {
        let ask = || {
            let mut wire = site.connect();
            wire.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n"));
            wire.reply().text()
        };
        let task = ask();
        assert_eq!(ask(), task, "user {user}");
        all.insert(task);
    }
    assert!(all.len() > 1, "{all:?}");
    route(&site, port, "&balance=hash");
    assert_eq!(shares(&site, 20).len(), 1, "one client address, one task");
}

#[test]
fn a_task_that_leaves_gets_nothing_new_and_ends_what_it_has() {
    let dns = Dns::start();
    let site = site(&dns);
    let (arrived, wait_arrived) = std::sync::mpsc::channel::<u8>();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let shared = Mutex::new((arrived, wait));
    let port = fleet(3, move |task, mut wire| {
        loop {
            let head = wire.head();
            if head.is_empty() {
                return;
            }
            if head.starts_with("GET /slow") {
                let shared = shared.lock().unwrap();
                shared.0.send(task).unwrap();
                shared.1.recv_timeout(DEADLINE).unwrap();
            }
            wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{task}"));
        }
    });
    dns.set("app", &[2, 3]);
    route(&site, port, "");
    wait_for_tasks(&site, &["2", "3"]);
    let mut slow = site.connect();
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    let busy = wait_arrived.recv_timeout(DEADLINE).unwrap();
    let other = if busy == 2 { 3 } else { 2 };
    dns.set("app", &[other, 4]);
    let left = Instant::now();
    wait_for_tasks(&site, &[&other.to_string(), "4"]);
    // Swarm sends SIGTERM two seconds after DNS.
    assert!(left.elapsed() < Duration::from_secs(2), "{:?}", left.elapsed());
    go.send(()).unwrap();
    assert_eq!(slow.reply().text(), busy.to_string());
    dns.set("app", &[]);
    let deadline = Instant::now() + DEADLINE;
    while site.get("/").status != 503 {
        assert!(Instant::now() < deadline);
    }
    assert!(site.refused("upstream_unresolved") > 0);
    dns.set("app", &[2, 3, 4]);
    while site.get("/").status == 503 {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn a_session_stays_through_scaling_and_moves_when_its_task_is_gone() {
    let dns = Dns::start();
    let site = site(&dns);
    let port = fleet(6, |task, mut wire| {
        loop {
            let head = wire.head();
            if head.is_empty() {
                return;
            }
            assert!(!head.contains("app="), "the service sees the cookie: {head}");
            wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{task}"));
        }
    });
    let ask = |cookie: &str| {
        let mut wire = site.connect();
        wire.send(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\nCookie: x=y; {cookie}\r\n\r\n"
        ));
        let reply = wire.reply();
        assert_eq!(reply.status, 200);
        let set = reply.field("set-cookie").map(str::to_owned);
        (reply.text(), set)
    };
    dns.set("app", &[2, 3, 4]);
    route(&site, port, "&sessionType=sticky-server");
    let (task, set) = ask("a=b");
    let set = set.unwrap();
    assert!(
        set.starts_with("app=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax"),
        "{set}"
    );
    assert!(!set.contains("127."), "{set}");
    let cookie = set.split(';').next().unwrap();
    for _ in 0..10 {
        assert_eq!(ask(cookie), (task.clone(), None));
    }
    // An update of the route, more tasks, and a restart of the proxy's knowledge.
    dns.set("app", &[2, 3, 4, 5, 6, 7]);
    route(&site, port, "&sessionType=sticky-server&timeoutIdle=3");
    for _ in 0..10 {
        assert_eq!(ask(cookie), (task.clone(), None));
    }
    let gone: u8 = task.parse().unwrap();
    let rest: Vec<u8> = (2..=7).filter(|other| *other != gone).collect();
    dns.set("app", &rest);
    let deadline = Instant::now() + DEADLINE;
    while ask(cookie).0 == task {
        assert!(Instant::now() < deadline, "still at {task}");
    }
    let (_, set) = ask(cookie);
    assert!(set.is_some_and(|set| !set.starts_with(cookie)));
}

#[test]
fn what_may_be_repeated_goes_to_another_task_and_nothing_else() {
    let dns = Dns::start();
    let site = site(&dns);
    // Task 2 takes every request and ends without an answer.
    let port = fleet(2, |task, mut wire| match task {
        2 => drop(wire.head()),
        task => says_its_name(task, wire),
    });
    dns.set("app", &[2, 3]);
    route(&site, port, "&outlierErrors=0");
    assert_eq!(shares(&site, 20).len(), 1);
    assert!(site.metric("portico_proxy_upstream_retries_total") >= 10);
    let post = |body: &str| {
        let mut wire = site.connect();
        wire.send(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        wire.reply().status
    };
    let statuses: Vec<u16> = (0..4).map(|_| post("x")).collect();
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
    // Half an answer is an answer.
    let port = fleet(2, |task, mut wire| match task {
        2 => {
            wire.head();
            wire.send("HTTP/1.1 200");
        }
        task => says_its_name(task, wire),
    });
    route(&site, port, "&outlierErrors=0");
    let statuses: BTreeSet<u16> = (0..4).map(|_| site.get("/").status).collect();
    assert_eq!(statuses, BTreeSet::from([200, 502]));
}

#[test]
fn the_budget_ends_repetition() {
    let dns = Dns::start();
    let site = site(&dns);
    let port = fleet(2, |_, mut wire| drop(wire.head()));
    dns.set("app", &[2, 3]);
    route(&site, port, "&outlierErrors=0&retryPercent=0&retries=10");
    let asked = 40;
    for _ in 0..asked {
        assert_eq!(site.get("/").status, 502);
    }
    let retries = site.metric("portico_proxy_upstream_retries_total");
    assert!(retries < asked * 10 / 2, "{retries}");
    assert!(site.metric("portico_proxy_upstream_retries_denied_total") > 0);
}

#[test]
fn a_connection_that_fails_costs_no_request_of_any_method() {
    let dns = Dns::start();
    let site = site(&dns);
    let port = fleet(1, says_its_name);
    // Nothing listens on 127.0.0.9.
    dns.set("app", &[2, 9]);
    route(&site, port, "&outlierErrors=0");
    for _ in 0..10 {
        let mut wire = site.connect();
        wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(wire.reply().text(), "2");
    }
    assert!(site.metric("portico_proxy_upstream_connect_retries_total") > 0);
}

#[test]
fn a_task_that_fails_in_a_row_rests_but_never_most_of_them() {
    let dns = Dns::start();
    let site = site(&dns);
    let port = fleet(3, |task, mut wire| {
        while !wire.head().is_empty() {
            let status = if task == 4 {
                "200 OK"
            } else {
                "503 Service Unavailable"
            };
            wire.send(&format!("HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\n{task}"));
        }
    });
    dns.set("app", &[2, 3, 4]);
    route(&site, port, "&outlierErrors=2&outlierTime=60");
    let mut wire = site.connect();
    let mut names = Vec::new();
    for _ in 0..40 {
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        names.push(wire.reply().text());
    }
    assert_eq!(site.metric("portico_proxy_upstream_ejections_total"), 1);
    let late: BTreeSet<&str> = names[20..].iter().map(String::as_str).collect();
    assert!(late.len() == 2 && late.contains("4"), "{names:?}");
}

#[test]
fn a_task_that_fails_its_check_gets_nothing_until_it_is_well() {
    let dns = Dns::start();
    let site = site(&dns);
    let ill = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = ill.clone();
    let port = fleet(2, move |task, mut wire| {
        loop {
            let head = wire.head();
            if head.is_empty() {
                return;
            }
            let is_check = head.starts_with("GET /health ");
            let status = match is_check && task == 3 && seen.load(Ordering::Relaxed) {
                true => "500 Ill",
                false => "200 OK",
            };
            wire.send(&format!("HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\n{task}"));
            if is_check {
                return;
            }
        }
    });
    dns.set("app", &[2, 3]);
    route(
        &site,
        port,
        "&healthPath=/health&healthInterval=100ms&healthFall=2&healthRise=2",
    );
    wait_for_tasks(&site, &["2", "3"]);
    ill.store(true, Ordering::Relaxed);
    wait_for_tasks(&site, &["2"]);
    let server = |name: &str| exported(&site, &format!("haproxy_server_{name}"));
    assert!(server("check_failures_total") > 0);
    assert_eq!(
        (server("up"), server("downtime_seconds_total")),
        (1, 0),
        "another task is well"
    );
    ill.store(false, Ordering::Relaxed);
    wait_for_tasks(&site, &["2", "3"]);
    // A service whose every task is down answers at once.
    dns.set("app", &[3]);
    ill.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + DEADLINE;
    while site.refused("upstream_down") == 0 {
        site.get("/");
        assert!(Instant::now() < deadline);
    }
    eventually("all workers say that it is down", || server("up") == 0);
    assert_eq!(exported(&site, "haproxy_backend_up"), 0);
    let csv = site.api("/v1/docker-flow-proxy/metrics").text();
    assert!(csv.contains(",DOWN,"), "{csv}");
    eventually("for how long", || server("downtime_seconds_total") > 0);
    ill.store(false, Ordering::Relaxed);
    eventually("it is up again", || server("up") == 1);
}

#[test]
fn requests_beyond_the_limit_wait_or_are_turned_away() {
    let dns = Dns::start();
    let site = site(&dns);
    let (arrived, wait_arrived) = std::sync::mpsc::channel::<()>();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let shared = (Mutex::new(arrived), Mutex::new(wait));
    let port = fleet(1, move |task, mut wire| {
        while !wire.head().is_empty() {
            shared.0.lock().unwrap().send(()).unwrap();
            shared.1.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{task}"));
        }
    });
    dns.set("app", &[2]);
    route(&site, port, "&maxRequests=1&maxQueue=1");
    let (mut first, mut second) = (site.connect(), site.connect());
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_arrived.recv_timeout(DEADLINE).unwrap();
    second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // The second waits as soon as a third is turned away.
    let deadline = Instant::now() + DEADLINE;
    let third = loop {
        let mut wire = site.connect();
        wire.stream
            .get_mut()
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut byte = [0];
        if wire.stream.get_mut().peek(&mut byte).is_ok() {
            wire.stream.get_mut().set_read_timeout(Some(DEADLINE)).unwrap();
            break wire.reply();
        }
        assert!(Instant::now() < deadline);
    };
    assert_eq!((third.status, third.field("retry-after")), (503, Some("1")));
    let waiting = exported(&site, "haproxy_backend_current_queue");
    assert!(waiting > 0 && exported(&site, "haproxy_server_max_queue") >= waiting);
    assert_eq!(exported(&site, "haproxy_backend_limit_sessions"), 1);
    assert!(site.refused("queue_full") > 0);
    for wire in [&mut first, &mut second] {
        go.send(()).unwrap();
        assert_eq!(wire.reply().status, 200);
    }
}
