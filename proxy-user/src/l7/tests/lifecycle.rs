// SPDX-License-Identifier: MIT OR Apache-2.0
//! The API, the state between two starts, and the end.

use super::*;

#[test]
fn status_codes_and_their_order_are_the_originals() {
    let site = Site::start();
    let base = "/v1/docker-flow-proxy";
    for (target, status, part) in [
        ("/reconfigure", 400, "serviceName"),
        ("/reconfigure?port=1", 400, "serviceName"),
        ("/reconfigure?serviceName=a", 409, "servicePath"),
        ("/reconfigure?serviceName=a&port=1", 409, "servicePath"),
        ("/reconfigure?serviceName=a&reqMode=tcp&port=1", 400, "srcPort"),
        ("/reconfigure?serviceName=a&servicePath=/", 400, "port"),
        (
            "/reconfigure?serviceName=a&servicePath=/&port=x",
            400,
            "port: `x`",
        ),
        (
            "/reconfigure?serviceName=a&servicePath=/&port=1&users=a:hunter2&backendExtra=x",
            400,
            "backendExtra: lines of HAProxy",
        ),
        (
            "/reconfigure?serviceName=a&servicePath=/&port=1",
            200,
            "\"Status\":\"OK\"",
        ),
        (
            "/reconfigure?serviceName=a&servicePath=/&port=1&replicas=0",
            200,
            "\"Status\":\"OK\"",
        ),
        ("/remove", 400, "serviceName"),
        ("/remove?serviceName=unknown", 200, "\"Status\":\"OK\""),
        ("/reload", 200, "\"Status\":\"OK\""),
        ("/reload?recreate=true", 200, "\"Status\":\"OK\""),
        ("/reload?fromListener=true", 200, "\"Status\":\"OK\""),
        ("/config?type=JSON", 200, "{}"),
        ("/config", 200, "Routes in the order"),
        ("/ping", 200, "\"Status\":\"OK\""),
        ("/successfulinitreload", 500, ""),
        ("/cert", 405, ""),
        ("/certs", 200, "\"Certs\":[]"),
        ("/nothing", 404, "404 page not found"),
        ("/ping/", 301, ""),
    ] {
        let reply = site.api(&format!("{base}{target}"));
        assert_eq!(reply.status, status, "{target}: {}", reply.text());
        assert!(reply.text().contains(part), "{target}: {}", reply.text());
        assert!(!reply.text().contains("hunter2"), "{target}");
    }
    assert!(site.api("/v1/test").text().contains("Test v1"));
    assert!(site.api("/v2/test").text().contains("Test v2"));
}

#[test]
fn distribute_without_siblings_says_what_to_set() {
    let site = Site::with(|settings| settings.service_name = "no-such-service.invalid".into());
    let reply = site.reconfigure("serviceName=a&servicePath=/&port=1&distribute=true");
    assert_eq!(reply.status, 500);
    assert!(reply.text().contains("SERVICE_NAME"), "{}", reply.text());
    assert_eq!(site.api("/v1/docker-flow-proxy/config?type=json").text(), "{}");
}

#[test]
fn services_survive_a_restart_and_a_bad_update() {
    let mut site = Site::start();
    site.route_all(echo_origin());
    assert_eq!(
        site.reconfigure("serviceName=all&servicePath=/&port=none").status,
        400
    );
    assert_eq!(
        site.reconfigure("serviceName=all&servicePath=/&port=1&backendExtra=x")
            .status,
        400
    );
    assert_eq!(site.get("/").status, 200);
    site.stop();
    site.proxy = Some(Proxy::start(settings(site.state.path())).unwrap());
    assert_eq!(site.get("/").status, 200);
    assert_eq!(
        site.api("/v1/docker-flow-proxy/remove?serviceName=all").status,
        200
    );
    site.stop();
    site.proxy = Some(Proxy::start(settings(site.state.path())).unwrap());
    assert_eq!(site.get("/").status, 503);
}

#[test]
fn what_is_in_flight_ends_before_the_proxy_does() {
    let mut site = Site::with(|settings| settings.drain = DEADLINE);
    let (arrived, wait_arrived) = std::sync::mpsc::channel::<()>();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let shared = Mutex::new((arrived, wait));
    site.route_all(origin(move |_, mut wire| {
        wire.head();
        let shared = shared.lock().unwrap();
        shared.0.send(()).unwrap();
        shared.1.recv_timeout(DEADLINE).unwrap();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
    }));
    let data = site.data();
    let mut busy = site.connect();
    let mut idle = site.connect();
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_arrived.recv_timeout(DEADLINE).unwrap();
    let proxy = site.proxy.take().unwrap();
    let stopping = std::thread::spawn(move || proxy.stop());
    assert!(idle.is_closed(), "an idle connection is closed at once");
    let deadline = Instant::now() + DEADLINE;
    while TcpStream::connect(data).is_ok() {
        assert!(Instant::now() < deadline, "still accepting");
        std::thread::yield_now();
    }
    go.send(()).unwrap();
    assert_eq!(busy.reply().text(), "done");
    stopping.join().unwrap();
}

/// A call with a method and a body.
fn call(site: &Site, method: &str, target: &str, body: &str) -> Reply {
    let mut wire = Wire::connect(site.proxy.as_ref().unwrap().api);
    wire.send(&format!(
        "{method} /v1/docker-flow-proxy{target} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    wire.reply()
}

#[test]
fn any_method_and_a_form_for_scalars_only() {
    let site = Site::start();
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(call(&site, method, "/ping", "").status, 200, "{method}");
        let target = "/reconfigure?serviceName=a&servicePath=/&port=1";
        assert_eq!(call(&site, method, target, "").status, 200, "{method}");
    }
    let whole = "serviceName=a&servicePath=/&port=1";
    assert_eq!(call(&site, "POST", "/reconfigure", whole).status, 409);
    let reply = call(
        &site,
        "POST",
        "/reconfigure?servicePath=/&port=1",
        "serviceName=b&aclName=x",
    );
    assert!(
        reply.status == 200 && reply.text().contains("\"AclName\":\"x\""),
        "{}",
        reply.text()
    );
    assert_eq!(
        call(
            &site,
            "DELETE",
            "/reconfigure?servicePath=/&port=1",
            "serviceName=b"
        )
        .status,
        400
    );
}

#[test]
fn only_known_paths_lose_their_slash() {
    let site = Site::start();
    for (path, status, location) in [
        (
            "/v1/docker-flow-proxy/ping/",
            301,
            Some("/v1/docker-flow-proxy/ping"),
        ),
        (
            "/v1/docker-flow-proxy/config/?type=json",
            301,
            Some("/v1/docker-flow-proxy/config?type=json"),
        ),
        ("/metrics/", 301, Some("/metrics")),
        ("/v1/docker-flow-proxy/", 404, None),
        ("/nothing/", 404, None),
        ("/", 404, None),
        ("//evil/", 404, None),
        ("/v1/docker-flow-proxy//v1/test", 404, None),
    ] {
        let reply = site.api(path);
        assert_eq!(
            (reply.status, reply.field("location")),
            (status, location),
            "{path}"
        );
    }
    assert_eq!(site.api("/nothing").text(), "404 page not found\n");
}

#[test]
fn answers_without_a_service_have_no_lists() {
    let site = Site::start();
    for target in ["/ping", "/reload", "/remove?serviceName=x"] {
        let text = site.api(&format!("/v1/docker-flow-proxy{target}")).text();
        assert!(text.contains("\"ServiceDest\":null"), "{target}: {text}");
    }
    let invalid = site.reconfigure("serviceName=a").text();
    assert!(invalid.contains("\"ServicePath\":null"), "{invalid}");
    let valid = site.reconfigure("serviceName=a&servicePath=/&port=1").text();
    assert!(
        valid.contains("\"ServiceDomain\":[]") && valid.contains("\"ServiceHeader\":{}"),
        "{valid}"
    );
}

#[test]
fn a_wrong_value_is_named_and_never_stands_in_the_way_of_a_removal() {
    let site = Site::with(|settings| settings.service_name = "no-such-service.invalid".into());
    for query in [
        "srcPort=x",
        "port=x",
        "pathType=x",
        "srcPort=x&distribute=true",
        "port=x&distribute=true",
    ] {
        let reply = site.reconfigure(
            &format!("serviceName=a&servicePath=/&port=1&{query}").replace("port=1&port", "port"),
        );
        let name = query.split('=').next().unwrap();
        assert!(
            reply.status == 400 && reply.text().contains(&format!("{name}: ")),
            "{query}: {}",
            reply.text()
        );
    }
    assert_eq!(site.reconfigure("serviceName=a&servicePath=/&port=1").status, 200);
    let reply = site.reconfigure("serviceName=a&servicePath=/&port=1&srcPort=x&backendExtra=x&replicas=0");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(site.api("/v1/docker-flow-proxy/config?type=json").text(), "{}");
}

#[test]
fn services_of_another_instance_are_ignored_whatever_they_say() {
    let site = Site::with(|settings| settings.defaults.instance_filter = Some("Mine".into()));
    for (query, count) in [
        ("serviceName=a&servicePath=/a&port=1", 0),
        (
            "serviceName=b&servicePath=/b&port=1&proxyInstanceName=other&srcPort=x",
            0,
        ),
        ("serviceName=c&servicePath=/c&port=1&proxyInstanceName=mINE", 1),
    ] {
        assert_eq!(site.reconfigure(query).status, 200, "{query}");
        let config = site.api("/v1/docker-flow-proxy/config?type=json").text();
        assert_eq!(config.matches("\"ServiceName\"").count(), count, "{config}");
    }
}

#[test]
fn what_has_no_address_is_refused_where_that_is_wanted() {
    let site = Site::with(|settings| settings.validates_addresses = true);
    let query = "serviceName=no-such-service.invalid&servicePath=/&port=80";
    let reply = site.reconfigure(query);
    assert_eq!(reply.status, 500);
    assert!(
        reply
            .text()
            .contains("Could not reach the service no-such-service.invalid")
    );
    assert_eq!(site.get("/").status, 503);
    assert_eq!(site.refused("no_route"), 1);
    assert_eq!(
        site.reconfigure(&format!("{query}&outboundHostname=127.0.0.1"))
            .status,
        200
    );
    assert_eq!(site.reconfigure(&format!("{query}&replicas=0")).status, 200);
}

#[test]
fn tunnels_and_streams_outlive_every_change_of_their_service() {
    let site = Site::start();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    site.route_all(origin(move |_, mut wire| {
        let head = wire.head();
        if head.contains("/stream") {
            wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
            wait.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            return wire.send("4\r\nlast\r\n0\r\n\r\n");
        }
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        let mut line = wire.line();
        while !line.is_empty() {
            wire.send(&line.to_uppercase());
            line = wire.line();
        }
    }));
    let mut tunnel = site.connect();
    tunnel.send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(tunnel.head().starts_with("HTTP/1.1 101 "));
    let mut stream = site.connect();
    stream.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = stream.head();
    assert_eq!(
        (stream.line(), stream.line()),
        ("5\r\n".into(), "first\r\n".into())
    );
    let mut speaks = || {
        tunnel.send("hello\n");
        assert_eq!(tunnel.line(), "HELLO\n");
    };
    let other = echo_origin();
    for _ in 0..20 {
        site.route_all(other);
        speaks();
    }
    assert!(
        site.get("/chat").text().starts_with("GET /chat "),
        "new requests go elsewhere"
    );
    assert_eq!(
        site.api("/v1/docker-flow-proxy/remove?serviceName=all").status,
        200
    );
    assert_eq!(site.api("/v1/docker-flow-proxy/reload?recreate=true").status, 200);
    assert_eq!(site.get("/chat").status, 503);
    speaks();
    go.send(()).unwrap();
    assert_eq!(stream.rest(head, true).text(), "last");
}
