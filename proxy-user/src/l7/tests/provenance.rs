// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a request comes from: the PROXY protocol in both directions, X-Forwarded-* and Forwarded.

use super::streams::{free_port, route_stream};
use super::*;
use crate::l7::forwarded::Fields;
use crate::l7::prefixes::PrefixSet;
use crate::l7::proxy_protocol::{Peers, Version, write};

fn prefixes(text: &str) -> PrefixSet {
    PrefixSet::parse([text]).unwrap()
}

fn peers(client: &str, local: &str) -> Peers {
    Peers {
        client: client.parse().unwrap(),
        local: local.parse().unwrap(),
    }
}

/// A request behind this header: what the origin saw, or nothing if the connection was closed.
fn behind(site: &Site, header: &[u8], fields: &str) -> String {
    let mut wire = site.connect();
    // In two parts, so that neither arrives whole.
    let (one, two) = header.split_at(header.len() / 2);
    wire.stream.get_mut().write_all(one).unwrap();
    let _ = wire.stream.get_mut().write_all(two);
    let request = format!("GET / HTTP/1.1\r\nHost: acme.com\r\n{fields}\r\n");
    let _ = wire.stream.get_mut().write_all(request.as_bytes());
    let mut reply = String::new();
    let status = wire.stream.read_line(&mut reply);
    if status.is_err() || reply.is_empty() {
        return String::new();
    }
    let head = format!("{reply}{}", wire.head());
    let reply = wire.rest(head, true);
    match reply.status {
        200 => reply.text(),
        status => status.to_string(),
    }
}

fn accepting(from: &str) -> Site {
    let site = Site::with(|settings| {
        settings.ports[0].accept_proxy = true;
        settings.timeouts.http_request = Duration::from_millis(500);
        if !from.is_empty() {
            settings.proxy_protocol.from = prefixes(from);
        }
    });
    site.route_all(echo_origin());
    site
}

#[test]
fn the_client_is_whom_the_proxy_header_names() {
    let site = accepting("");
    for version in [Version::V1, Version::V2] {
        for client in ["192.0.2.9:1234", "[2001:db8::9]:1234"] {
            let one = peers(client, "198.51.100.1:81");
            let seen = behind(&site, &write(version, &one), "");
            let ip = one.client.ip().to_string();
            assert_eq!(
                field(&seen, "x-forwarded-for"),
                Some(ip.as_str()),
                "{version:?} {seen}"
            );
        }
    }
    // LOCAL and UNKNOWN: a health check of the proxy before us speaks for itself.
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"] {
        let seen = behind(&site, header, "");
        assert_eq!(field(&seen, "x-forwarded-for"), Some("127.0.0.1"), "{seen}");
    }
}

#[test]
fn a_connection_without_the_header_is_closed_and_counted() {
    let site = accepting("");
    assert_eq!(behind(&site, b"", ""), "");
    assert_eq!(behind(&site, b"PROXY TCP4 1.2.3.4\r\n", ""), "");
    assert_eq!(site.refused("proxy_header_invalid"), 2);
    assert!(site.connect().is_closed());
    assert_eq!(site.refused("proxy_header_timeout"), 1);
    drop(site.connect());
    streams::wait_until(|| site.refused("proxy_header_missing") == 1);
}

#[test]
fn only_named_senders_are_asked_for_a_header() {
    let site = accepting("10.0.0.0/8");
    let seen = behind(&site, b"", "");
    assert_eq!(field(&seen, "x-forwarded-for"), Some("127.0.0.1"), "{seen}");
    let forged = write(Version::V1, &peers("192.0.2.9:1", "192.0.2.1:2"));
    assert_eq!(behind(&site, &forged, ""), "400");
}

#[test]
fn the_port_of_the_header_is_the_port_that_rules_ask_for() {
    let site = accepting("");
    let query = "serviceName=own&servicePath=/&srcPort=81&outboundHostname=127.0.0.1&aclName=0";
    let origin = origin(|_, mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine");
    });
    assert_eq!(
        site.reconfigure(&format!("{query}&port={}", origin.port()))
            .status,
        200
    );
    let header = |port| write(Version::V2, &peers("192.0.2.9:1", &format!("192.0.2.1:{port}")));
    assert_eq!(behind(&site, &header(81), ""), "mine");
    assert_ne!(behind(&site, &header(82), ""), "mine");
}

#[test]
fn a_denied_client_stays_denied_behind_a_trusted_proxy() {
    let site = Site::with(|settings| {
        settings.forwarding.trusted = Some(prefixes("127.0.0.0/8"));
        settings.addresses.deny = prefixes("192.0.2.0/24");
    });
    site.route_all(echo_origin());
    assert_eq!(behind(&site, b"", "X-Forwarded-For: 192.0.2.1\r\n"), "403");
    let seen = behind(&site, b"", "X-Forwarded-For: 192.0.2.1, 198.51.100.1\r\n");
    assert_eq!(
        field(&seen, "x-forwarded-for"),
        Some("192.0.2.1, 198.51.100.1, 127.0.0.1")
    );
}

#[test]
fn a_stranger_cannot_say_where_it_comes_from() {
    let site = Site::with(|settings| {
        settings.forwarding.trusted = Some(prefixes("10.0.0.0/8"));
        settings.forwarding.fields = Fields::parse("for,proto,host,port,forwarded").unwrap();
    });
    site.route_all(echo_origin());
    let seen = behind(
        &site,
        b"",
        "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=10.0.0.1\r\n",
    );
    let port = site.data().port().to_string();
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "acme.com"),
        ("x-forwarded-port", port.as_str()),
        ("forwarded", "for=127.0.0.1;proto=http;host=\"acme.com\""),
    ] {
        assert_eq!(field(&seen, name), Some(value), "{seen}");
    }
}

#[test]
fn a_service_is_told_who_its_client_is() {
    let site = Site::with(|settings| settings.proxy_protocol.all = true);
    let one = peers("192.0.2.9:1234", "198.51.100.1:5432");
    for (value, version) in [
        ("v1", Version::V1),
        ("v2", Version::V2),
        ("send-proxy-v2", Version::V2),
    ] {
        let port = free_port();
        let origin = origin(|_, mut wire| {
            let mut got = Vec::new();
            let _ = wire.stream.read_to_end(&mut got);
            let _ = wire.stream.get_mut().write_all(&got);
        });
        route_stream(
            &site,
            value,
            "tcp",
            port,
            origin,
            &format!("&proxyProtocol={value}"),
        );
        let mut wire = Wire::connect((LOCAL, port).into());
        let header = write(Version::V2, &one);
        wire.stream
            .get_mut()
            .write_all(&[&header[..], b"data"].concat())
            .unwrap();
        wire.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        wire.stream.read_to_end(&mut got).unwrap();
        assert_eq!(got, [&write(version, &one)[..], b"data"].concat());
    }
    let reply = site.reconfigure("serviceName=a&reqMode=tcp&srcPort=1&port=1&proxyProtocol=v3");
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("proxyProtocol: "), "{}", reply.text());
}

#[test]
fn a_connection_to_an_http_service_belongs_to_the_client_that_it_names() {
    let site = Site::with(|settings| settings.workers = 1);
    let origin = origin(|_, mut wire| {
        let mut named = wire.line();
        named.truncate(named.trim_end().len());
        loop {
            let head = wire.head();
            if head.is_empty() {
                return;
            }
            let length = named.len();
            wire.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{named}"
            ));
        }
    });
    let port = origin.port();
    let query =
        format!("serviceName=a&servicePath=/&outboundHostname=127.0.0.1&port={port}&proxyProtocol=v1");
    assert_eq!(site.reconfigure(&query).status, 200);
    let mut wires: Vec<Wire> = (0..4).map(|_| site.connect()).collect();
    for _ in 0..20 {
        for wire in &mut wires {
            wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let own = wire.stream.get_ref().local_addr().unwrap().port();
            let wanted = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {own} {}", site.data().port());
            assert_eq!(wire.reply().text(), wanted);
        }
    }
    assert_eq!(site.reconfigure(&query.replace("=v1", "=v9")).status, 400);
}
