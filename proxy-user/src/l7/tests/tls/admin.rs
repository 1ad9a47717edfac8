// SPDX-License-Identifier: MIT OR Apache-2.0
//! The admin port over TLS, with and without client certificates, and replicas that call each other there.

use super::*;
use crate::l7::settings::parse_tokens;
use crate::l7::tls::AdminTls;

const BASE: &str = "/v1/docker-flow-proxy";

fn admin_tls(own: &str, authority: Option<&Authority>) -> Option<AdminTls> {
    let roots =
        authority.map(|authority| TlsSettings::parse_authorities(authority.pem().as_bytes()).unwrap());
    Some(AdminTls::new(own.as_bytes(), roots).unwrap())
}

/// Status and body of a call, or nothing when the handshake fails.
fn call(site: &Site, config: &Arc<ClientConfig>, target: &str) -> Option<(u16, String)> {
    let mut tls = connect(site.proxy.as_ref().unwrap().api, "proxy", config).ok()?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    tls.read_to_string(&mut text).ok()?;
    let status = text.get("HTTP/1.1 ".len()..)?.get(..3)?.parse().ok()?;
    Some((status, text))
}

#[test]
fn the_port_asks_for_a_client_certificate() {
    let authority = Authority::new("operators");
    let (certificate, key) = authority.issue(&["operator"]);
    let (stranger, stranger_key) = Authority::new("others").issue(&["operator"]);
    let site = Site::with(|settings| {
        settings.admin.tls = admin_tls(&self_signed(&["proxy"]), Some(&authority));
    });
    let with = client(Some((&certificate, &key)), &[]);
    let without = client(None, &[]);
    let wrong = client(Some((&stranger, &stranger_key)), &[]);
    let config = format!("{BASE}/config");
    let (status, text) = call(&site, &with, &config).unwrap();
    assert_eq!(status, 200);
    assert!(text.contains("closed without a client certificate"), "{text}");
    let (status, text) = call(&site, &without, &config).unwrap();
    assert_eq!(status, 403);
    assert!(text.contains("PORTICO_ADMIN_CA_FILE"), "{text}");
    assert_eq!(call(&site, &wrong, &config), None);
    // A health check inside the container has none.
    assert_eq!(call(&site, &without, &format!("{BASE}/ping")).unwrap().0, 200);
    let (_, metrics) = call(&site, &with, "/metrics").unwrap();
    assert!(metrics.contains("portico_proxy_admin_open 0"));
    assert!(metrics.contains("portico_proxy_admin_denied_total{reason=\"certificate\"} 1"));
    // Plain HTTP gets nothing.
    let mut wire = Wire::connect(site.proxy.as_ref().unwrap().api);
    wire.send(&format!("GET {config} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let mut rest = Vec::new();
    let _ = wire.stream.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP"));
}

#[test]
fn a_client_certificate_and_a_token_must_both_be_there() {
    let authority = Authority::new("operators");
    let (certificate, key) = authority.issue(&["operator"]);
    let site = Site::with(|settings| {
        settings.admin.tls = admin_tls(&self_signed(&["proxy"]), Some(&authority));
        settings.admin.tokens = parse_tokens("planted").unwrap();
    });
    let with = client(Some((&certificate, &key)), &[]);
    assert_eq!(call(&site, &with, "/metrics").unwrap().0, 401);
}

#[test]
fn replicas_call_each_other_over_tls() {
    let authority = Authority::new("operators");
    let own = || {
        let (certificate, key) = authority.issue(&["proxy"]);
        certificate + &key
    };
    let first = Site::with(|settings| {
        settings.admin.tls = admin_tls(&own(), Some(&authority));
        settings.siblings = vec![("127.0.0.1".into(), None)];
    });
    let port = first.proxy.as_ref().unwrap().api.port();
    let (certificate, key) = authority.issue(&["operator"]);
    let with = client(Some((&certificate, &key)), &[]);
    let target =
        format!("{BASE}/reconfigure?serviceName=a&servicePath=/&port=1&users=u:secret&distribute=true");
    let (status, text) = call(&first, &with, &target).unwrap();
    assert_eq!(status, 200, "{text}");
    let knows = |site: &Site| {
        let (_, config) = call(site, &with, &format!("{BASE}/config?type=json")).unwrap();
        config.contains("\"ServiceName\":\"a\"")
    };
    assert!(knows(&first));
    // One that starts gets what the first has, secrets included, because it proves who it is.
    let sibling = |tls| {
        Site::with(|settings| {
            settings.admin.tls = tls;
            settings.siblings = vec![("127.0.0.1".into(), Some(port))];
        })
    };
    assert!(knows(&sibling(admin_tls(&own(), Some(&authority)))));
    // One whose authority is another neither believes nor is believed.
    let others = Authority::new("others");
    let (stranger, stranger_key) = others.issue(&["proxy"]);
    let alone = sibling(admin_tls(&(stranger.clone() + &stranger_key), Some(&others)));
    let with = client(Some((&stranger, &stranger_key)), &[]);
    let (_, config) = call(&alone, &with, &format!("{BASE}/config?type=json")).unwrap();
    assert!(!config.contains("\"ServiceName\":\"a\""));
}
