// SPDX-License-Identifier: MIT OR Apache-2.0
//! The admin port, open and closed.

use super::*;
use crate::l7::prefixes::PrefixSet;
use crate::l7::settings::parse_tokens;

fn ask(site: &Site, target: &str, fields: &str) -> Reply {
    let mut wire = Wire::connect(site.proxy.as_ref().unwrap().api);
    wire.send(&format!(
        "GET {target} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n{fields}\r\n"
    ));
    wire.reply()
}

const BASE: &str = "/v1/docker-flow-proxy";

#[test]
fn an_open_port_says_that_it_is_open() {
    let site = Site::start();
    assert_eq!(site.metric("portico_proxy_admin_open"), 1);
    let config = site.api(&format!("{BASE}/config")).text();
    assert!(config.contains("Admin port: open to everyone"), "{config}");
}

#[test]
fn with_a_token_every_call_needs_it() {
    let site = Site::with(|settings| settings.admin.tokens = parse_tokens("old\nnew").unwrap());
    for target in [
        "/v1/docker-flow-proxy/reconfigure?serviceName=a&servicePath=/&port=1",
        "/v1/docker-flow-proxy/config?type=json",
        "/v1/docker-flow-proxy/certs",
        "/metrics",
        "/nothing",
        "/v1/docker-flow-proxy/config/",
    ] {
        let reply = ask(&site, target, "");
        assert_eq!(reply.status, 401, "{target}");
        assert!(
            reply
                .field("www-authenticate")
                .is_some_and(|value| value.starts_with("Bearer"))
        );
        assert_eq!(reply.field("content-type"), Some("application/json"));
        let text = reply.text();
        assert!(
            text.starts_with(r#"{"Status":"NOK","Message":"A bearer token"#),
            "{text}"
        );
        assert_eq!(ask(&site, target, "Authorization: Bearer wrong\r\n").status, 401);
    }
    for token in ["old", "new"] {
        let field = format!("Authorization: Bearer {token}\r\n");
        let reply = ask(&site, "/metrics", &field);
        assert_eq!(reply.status, 200);
        let text = reply.text();
        assert!(text.contains("portico_proxy_admin_open 0"), "{text}");
        assert!(
            text.contains("portico_proxy_admin_denied_total{reason=\"token\"} 12"),
            "{text}"
        );
    }
    // The container's own health check has no token.
    assert_eq!(ask(&site, &format!("{BASE}/ping"), "").status, 200);
}

#[test]
fn an_address_that_is_not_allowed_gets_403() {
    let site = Site::with(|settings| settings.admin.allow = PrefixSet::parse(["192.0.2.0/24"]).unwrap());
    let reply = ask(&site, &format!("{BASE}/config"), "");
    assert_eq!(reply.status, 403);
    assert!(reply.text().contains("PORTICO_ADMIN_ALLOW"), "{}", reply.text());
    let site = Site::with(|settings| settings.admin.allow = PrefixSet::parse(["127.0.0.1"]).unwrap());
    assert_eq!(ask(&site, &format!("{BASE}/config"), "").status, 200);
}

#[test]
fn the_fan_out_carries_the_token() {
    let site = Site::with(|settings| {
        settings.admin.tokens = parse_tokens("planted").unwrap();
        settings.siblings = vec![("127.0.0.1".into(), None)];
    });
    let target = format!("{BASE}/reconfigure?serviceName=a&servicePath=/&port=1&distribute=true");
    let reply = ask(&site, &target, "Authorization: Bearer planted\r\n");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.text().contains("Distributed to all instances"));
    let config = ask(
        &site,
        &format!("{BASE}/config?type=json"),
        "Authorization: Bearer planted\r\n",
    )
    .text();
    assert!(config.contains("\"ServiceName\":\"a\""), "{config}");
}
