// SPDX-License-Identifier: MIT OR Apache-2.0
//! What dashboards of the original read.

use super::*;

const CSV: &str = "/v1/docker-flow-proxy/metrics";

/// Value of a column in the row of a proxy and a server.
fn column(csv: &str, proxy: &str, server: &str, name: &str) -> String {
    let mut lines = csv.lines();
    let header: Vec<&str> = lines
        .next()
        .unwrap()
        .trim_start_matches("# ")
        .split(',')
        .collect();
    let at = header.iter().position(|column| *column == name).unwrap();
    let row = lines
        .map(|line| line.split(',').collect::<Vec<_>>())
        .find(|row| row[0] == proxy && row[1] == server)
        .unwrap_or_else(|| panic!("{proxy} {server} in {csv}"));
    assert_eq!(row.len(), header.len());
    row[at].to_owned()
}

fn traffic() -> Site {
    let site = Site::with(|settings| settings.workers = 3);
    let port = echo_origin().port();
    let query = format!(
        "serviceName=go-demo&aclName=01-demo&outboundHostname=127.0.0.1&servicePath.1=/demo&port.1={port}\
         &servicePath.2=/denied&port.2={port}&deniedMethods.2=GET&httpsPort.1=443"
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    for _ in 0..5 {
        assert_eq!(site.get("/demo").status, 200);
    }
    let mut wire = site.connect();
    wire.send("POST /demo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(wire.reply().status, 200);
    assert_eq!(site.get("/denied").status, 403);
    assert_eq!(site.get("/nothing").status, 503);
    let dead = TcpListener::bind((LOCAL, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let query = format!("serviceName=dead&servicePath=/dead&port={dead}&outboundHostname=127.0.0.1");
    assert_eq!(site.reconfigure(&query).status, 200);
    assert_eq!(site.get("/dead").status, 503);
    site
}

#[test]
fn csv_has_the_originals_rows_and_columns() {
    let site = traffic();
    let config = site.api("/v1/docker-flow-proxy/config").text();
    let port = config
        .split("to 127.0.0.1:")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    let demo = format!("01-demo-be{port}_1");
    eventually("requests end", || {
        column(&site.api(CSV).text(), &demo, "go-demo", "scur") == "0"
    });
    let csv = site.api(CSV).text();
    assert!(csv.starts_with("# pxname,svname,qcur,"), "{csv}");
    for (proxy, server, name, want) in [
        (demo.as_str(), "BACKEND", "stot", "6"),
        (&demo, "go-demo", "hrsp_2xx", "6"),
        (&demo, "BACKEND", "bin", "5"),
        (&demo, "BACKEND", "status", "UP"),
        (&demo, "go-demo", "type", "2"),
        (&format!("01-demo-be{port}_2"), "BACKEND", "dreq", "1"),
        (&format!("01-demo-be{port}_2"), "BACKEND", "hrsp_4xx", "1"),
        ("https-01-demo-be443_1", "go-demo", "stot", "0"),
        ("services", "FRONTEND", "hrsp_2xx", "6"),
        ("services", "FRONTEND", "hrsp_5xx", "2"),
        ("services", "FRONTEND", "req_tot", "9"),
        ("services", "FRONTEND", "dreq", "1"),
        ("services", "FRONTEND", "status", "OPEN"),
    ] {
        assert_eq!(column(&csv, proxy, server, name), want, "{proxy} {server} {name}");
    }
    let bytes = |name: &str| column(&csv, "services", "FRONTEND", name).parse::<u64>().unwrap();
    assert!(bytes("bin") > 9 * 30 && bytes("bout") > 9 * 60, "{csv}");
    assert_eq!(column(&csv, "services", "FRONTEND", "econ"), "");
    let dead = csv.lines().find(|line| line.starts_with("dead-be")).unwrap();
    assert_eq!(
        column(&csv, dead.split(',').next().unwrap(), "BACKEND", "econ"),
        "1"
    );
}

#[test]
fn prometheus_has_the_exporters_names() {
    let site = traffic();
    let text = site.api("/metrics").text();
    let config = site.api("/v1/docker-flow-proxy/config").text();
    let port = config
        .split("to 127.0.0.1:")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    for line in [
        "haproxy_up 1".to_owned(),
        "haproxy_frontend_http_responses_total{frontend=\"services\",code=\"2xx\"} 6".into(),
        "haproxy_frontend_http_requests_total{frontend=\"services\"} 9".into(),
        "haproxy_frontend_limit_sessions{frontend=\"services\"} 1000".into(),
        format!("haproxy_backend_connections_total{{backend=\"01-demo-be{port}_1\"}} 6"),
        format!("haproxy_backend_up{{backend=\"01-demo-be{port}_1\"}} 1"),
        format!("haproxy_server_bytes_in_total{{backend=\"01-demo-be{port}_1\",server=\"go-demo\"}} 5"),
        format!(
            "haproxy_server_http_responses_total{{backend=\"01-demo-be{port}_1\",server=\"go-demo\",code=\"5xx\"}} 0"
        ),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    // Every family has one TYPE line, before its samples.
    let mut types = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        assert!(types.insert(line), "{line}");
    }
}

/// Every name that the original's exporter has, but for those of the Go runtime.
#[test]
fn prometheus_has_all_of_the_exporters_names() {
    const ALL: &str = "current_sessions max_sessions connections_total bytes_in_total bytes_out_total \
                       current_session_rate max_session_rate http_responses_total limit_sessions";
    const FRONTEND: &str =
        "requests_denied_total request_errors_total limit_session_rate http_requests_total";
    const UPSTREAM: &str = "current_queue max_queue connection_errors_total response_errors_total \
                            retry_warnings_total redispatch_warnings_total up weight";
    const SERVER: &str = "check_failures_total downtime_seconds_total check_duration_milliseconds";
    let site = Site::start();
    // What there is only of a service that is checked, and of one that has a limit.
    let query = format!(
        "serviceName=s&servicePath=/&outboundHostname=127.0.0.1&port={}&checkTcp=true&maxRequests=100",
        echo_origin().port()
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    assert_eq!(site.get("/").status, 200);
    let text = site.api("/metrics").text();
    for (kind, lists) in [
        ("frontend", [ALL, FRONTEND, ""]),
        ("backend", [ALL, UPSTREAM, ""]),
        ("server", [ALL, UPSTREAM, SERVER]),
    ] {
        for name in lists.iter().flat_map(|list| list.split_whitespace()) {
            let name = format!("\nhaproxy_{kind}_{name}{{");
            assert!(text.contains(&name), "{name} in {text}");
        }
    }
    for name in [
        "up",
        "exporter_total_scrapes",
        "exporter_csv_parse_failures",
        "exporter_build_info",
    ] {
        assert!(text.contains(&format!("\nhaproxy_{name}")), "{name}");
    }
}

#[test]
fn a_repetition_is_a_retry_of_its_backend() {
    let site = Site::with(|settings| settings.workers = 1);
    // Each connection serves one request and then dies with the next on it.
    site.route_all(origin(|_, mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        wire.head();
    }));
    let retries = |site: &Site| {
        let text = site.api("/metrics").text();
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with("haproxy_backend_retry_warnings_total{"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    eventually("a request meets a connection that dies", || {
        assert_eq!(site.get("/").status, 200);
        retries(&site) > 0
    });
    assert_eq!(
        retries(&site),
        site.metric("portico_proxy_upstream_retries_total")
    );
}

#[test]
fn counters_survive_a_change_of_their_service_and_rates_are_seen() {
    let site = traffic();
    let rate = "haproxy_frontend_max_session_rate{frontend=\"services\"}";
    eventually("a rate is seen", || site.metric(rate) > 0);
    let total = |site: &Site| {
        let text = site.api("/metrics").text();
        let line = text
            .lines()
            .find(|line| line.starts_with("haproxy_backend_connections_total{backend=\"01-demo-be"));
        line.unwrap().to_owned()
    };
    let before = total(&site);
    assert_eq!(site.api("/v1/docker-flow-proxy/reload?recreate=true").status, 200);
    assert_eq!(total(&site), before);
    assert!(before.ends_with(" 6"), "{before}");
}

#[test]
fn the_csv_of_all_replicas_stands_one_after_the_other() {
    let first = Site::start();
    let api = first.proxy.as_ref().unwrap().api;
    let second = Site::with(|settings| {
        settings.siblings = vec![("127.0.0.1".into(), Some(api.port())), ("127.0.0.1".into(), None)];
    });
    let csv = second.api(&format!("{CSV}?distribute=true"));
    assert_eq!(csv.status, 200);
    assert_eq!(csv.text().matches("# pxname").count(), 2);
    assert_eq!(csv.text().matches("services,FRONTEND").count(), 2);
    let closed = TcpListener::bind((LOCAL, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let alone = Site::with(|settings| settings.siblings = vec![("127.0.0.1".into(), Some(closed))]);
    assert_eq!(alone.api(&format!("{CSV}?distribute=true")).status, 500);
}

#[test]
fn the_page_is_for_who_knows_its_password() {
    let user = crate::l7::spec::User::new("admin", "secret", false);
    let credentials = crate::l7::auth::Credentials::new("Strictly Private", &[user]).unwrap();
    let own = streams::free_port();
    let page = |port: Option<u16>| crate::l7::stats::page::Settings {
        uri: "/admin?stats".into(),
        port,
        port_is_own: port.is_some(),
        credentials: Some(Arc::new(credentials.clone())),
    };
    let ask = |address: SocketAddr, target: &str, login: &str| {
        let mut wire = Wire::connect(address);
        wire.send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n{login}\r\n"));
        wire.reply()
    };
    let login = "Authorization: Basic YWRtaW46c2VjcmV0\r\n";
    // On every port and before every rule.
    let site = Site::with(|settings| settings.stats = Some(page(None)));
    site.route_all(echo_origin());
    let reply = ask(site.data(), "/admin?stats", "");
    assert_eq!(reply.status, 401);
    assert_eq!(
        reply.field("www-authenticate"),
        Some("Basic realm=\"Strictly Private\"")
    );
    let reply = ask(site.data(), "/admin?stats", login);
    assert_eq!(
        (reply.status, reply.field("content-type")),
        (200, Some("text/html"))
    );
    assert!(reply.text().contains("Statistics Report") && reply.text().contains("<td>all</td>"));
    let reply = ask(site.data(), "/admin?stats;csv", login);
    assert!(reply.text().starts_with("# pxname,svname,"), "{}", reply.text());
    assert!(
        ask(site.data(), "/admin", login)
            .text()
            .starts_with("GET /admin ")
    );
    // Or on a port of its own, where nothing else is.
    let site = Site::with(|settings| {
        settings.stats = Some(page(Some(own)));
        settings.ports.push(Port::plain(own));
    });
    site.route_all(echo_origin());
    let own = SocketAddr::new(LOCAL, own);
    assert_eq!(ask(own, "/admin?stats", login).status, 200);
    assert_eq!(ask(own, "/", login).status, 503);
    assert!(
        ask(site.data(), "/admin?stats", "")
            .text()
            .starts_with("GET /admin?stats ")
    );
}

#[test]
fn connections_are_counted_under_the_originals_names() {
    let site = Site::start();
    let origin = origin(|_, mut wire| {
        let line = wire.line();
        wire.send(&line.repeat(2));
    });
    let (tcp, group) = (streams::free_port(), streams::free_port());
    streams::route_stream(&site, "db", "tcp", tcp, origin, "");
    streams::route_stream(&site, "pool", "tcp", group, origin, "&serviceGroup=g");
    for port in [tcp, group] {
        let mut wire = Wire::connect(SocketAddr::new(LOCAL, port));
        wire.send("hi\r\n");
        assert_eq!((wire.line(), wire.line()), ("hi\r\n".into(), "hi\r\n".into()));
        assert!(wire.is_closed());
    }
    let to = origin.port();
    let backend = format!("db-be{to}_0");
    eventually("both are counted", || {
        let csv = site.api("/v1/docker-flow-proxy/metrics").text();
        column(&csv, &backend, "BACKEND", "bout") == "8"
    });
    let csv = site.api("/v1/docker-flow-proxy/metrics").text();
    for (proxy, server) in [
        (format!("tcpFE_{tcp}"), "FRONTEND"),
        (backend, "db"),
        (format!("tcpListen_g_{group}"), "FRONTEND"),
        (format!("tcpListen_g_{group}"), "pool"),
    ] {
        let of = |name| column(&csv, &proxy, server, name);
        assert_eq!(
            (of("stot"), of("bin"), of("scur")),
            ("1".into(), "4".into(), "0".into()),
            "{proxy}"
        );
    }
}
