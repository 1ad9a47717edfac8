// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a service asks of its clients, end to end.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::l7::auth::Credentials;
use crate::l7::prefixes::PrefixSet;
use crate::l7::spec::User;

impl Site {
    /// Status of a GET with a login, and what the origin saw.
    fn login(&self, path: &str, login: &str) -> Reply {
        let mut wire = self.connect();
        let login = STANDARD.encode(login);
        wire.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {login}\r\n\r\n"
        ));
        wire.reply()
    }
}

/// `+`, `&` and others as they stand in a URL.
fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[test]
fn a_service_with_users_is_closed_to_others() {
    let mut site = Site::start();
    let port = echo_origin().port();
    let hash = pwhash::sha512_crypt::hash("s3cret+&").unwrap();
    for (name, users) in [
        ("plain", "u:s3cret%2B%26".to_owned()),
        ("crypt", format!("u:{}&usersPassEncrypted=true", encoded(&hash))),
    ] {
        let query = format!(
            "serviceName={name}&servicePath=/{name}&outboundHostname=127.0.0.1&port={port}&users={users}"
        );
        let reply = site.reconfigure(&query);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(
            reply.text().contains(r#""Username":"u","Password":"(redacted)""#),
            "{}",
            reply.text()
        );
    }
    let check = |site: &Site| {
        for name in ["plain", "crypt"] {
            let path = format!("/{name}");
            let denied = site.get(&path);
            assert_eq!(denied.status, 401);
            assert_eq!(
                denied.field("www-authenticate"),
                Some(&*format!("Basic realm=\"{name}Realm\""))
            );
            assert_eq!(site.login(&path, "u:wrong").status, 401);
            let granted = site.login(&path, "u:s3cret+&");
            assert_eq!(granted.status, 200);
            assert_eq!(field(&granted.text(), "authorization"), None);
        }
    };
    check(&site);
    assert_eq!(site.refused("unauthorized"), 4);
    for target in [
        "/v1/docker-flow-proxy/config?type=json",
        "/v1/docker-flow-proxy/config",
        "/metrics",
    ] {
        let text = site.api(target).text();
        assert!(
            !text.contains("s3cret") && !text.contains(&hash),
            "{target}: {text}"
        );
    }
    // The state holds passwords, and only its owner may read it.
    use std::os::unix::fs::PermissionsExt;
    site.stop();
    for entry in std::fs::read_dir(site.state.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }
    site.proxy = Some(Proxy::start(settings(site.state.path())).unwrap());
    check(&site);
}

#[test]
fn users_of_the_proxy_and_of_the_service_both_count() {
    let users = vec![User::new("g", "global", false), User::new("both", "x", false)];
    let site = Site::with(|settings| {
        settings.credentials = Some(Arc::new(Credentials::new("defaultRealm", &users).unwrap()));
        settings.defaults.users = users;
    });
    let port = echo_origin().port();
    for (name, more) in [
        ("global", ""),
        ("own", "&users=own:x,both:x"),
        ("named", "&users=g"),
        ("open", "&users=own:x&ignoreAuthorization=true"),
        ("none", "&usersSecret=missing"),
    ] {
        let query =
            format!("serviceName={name}&servicePath=/{name}&outboundHostname=127.0.0.1&port={port}{more}");
        assert_eq!(site.reconfigure(&query).status, 200);
    }
    for (path, login, want) in [
        ("/global", "g:global", 200),
        ("/global", "own:x", 401),
        ("/own", "own:x", 401),
        ("/own", "g:global", 401),
        ("/own", "both:x", 200),
        ("/named", "g:global", 200),
        ("/named", "both:x", 401),
        ("/none", "g:global", 401),
    ] {
        assert_eq!(site.login(path, login).status, want, "{path} {login}");
    }
    assert_eq!(
        site.get("/global").field("www-authenticate"),
        Some("Basic realm=\"defaultRealm\"")
    );
    // Nobody asked, so the field is the service's own business.
    let open = site.login("/open", "any:thing");
    assert_eq!(
        (open.status, field(&open.text(), "authorization").is_some()),
        (200, true)
    );
}

#[test]
fn a_hash_that_cannot_be_used_leaves_the_last_good_version() {
    let site = Site::start();
    let port = echo_origin().port();
    let query = format!("serviceName=a&servicePath=/&outboundHostname=127.0.0.1&port={port}&users=u:p");
    assert_eq!(site.reconfigure(&query).status, 200);
    for (more, name) in [("Encrypted=true", "users"), ("&usersSecret=a/b", "usersSecret")] {
        let more = if name == "users" {
            format!("&usersPass{more}")
        } else {
            more.to_owned()
        };
        let reply = site.reconfigure(&format!("{query}{more}"));
        assert_eq!(reply.status, 400);
        assert!(
            reply.text().contains(&format!("\"Message\":\"{name}: ")),
            "{}",
            reply.text()
        );
    }
    assert_eq!(site.login("/", "u:p").status, 200);
}

#[test]
fn addresses_are_admitted_by_service_and_by_proxy() {
    let site = Site::start();
    let port = echo_origin().port();
    for (name, more) in [
        ("in", "&allowIp=10.0.0.0/8,127.0.0.0/8"),
        ("out", "&allowIp=10.0.0.0/8,::1"),
        ("denied", "&allowIp=127.0.0.0/8&denyIp=127.0.0.1"),
    ] {
        let query =
            format!("serviceName={name}&servicePath=/{name}&outboundHostname=127.0.0.1&port={port}{more}");
        assert_eq!(site.reconfigure(&query).status, 200);
    }
    // Each destination may have its own, and takes the un-indexed one otherwise.
    let query = format!(
        "serviceName=dest&servicePath.1=/one&servicePath.2=/two&port={port}&outboundHostname=127.0.0.1&denyIp=127.0.0.1&denyIp.2=::1"
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    for (path, want) in [
        ("/in", 200),
        ("/out", 403),
        ("/denied", 403),
        ("/one", 403),
        ("/two", 200),
    ] {
        assert_eq!(site.get(path).status, want, "{path}");
    }
    assert_eq!(site.refused("address_denied"), 3);

    let site = Site::with(|settings| settings.addresses.deny = PrefixSet::parse(["127.0.0.0/8"]).unwrap());
    assert_eq!(site.get("/").status, 403);
    assert_eq!(site.refused("address_denied_everywhere"), 1);
    assert_eq!(site.api("/v1/docker-flow-proxy/ping").status, 200);
}

#[test]
fn services_of_the_environment_are_there_from_the_start_and_are_not_kept() {
    let port = echo_origin().port().to_string();
    let change = |settings: &mut Settings| {
        let get = |name: &str| match name {
            "DFP_SERVICE_SERVICE_NAME" => Some("a".to_owned()),
            "DFP_SERVICE_SERVICE_PATH" => Some("/a".to_owned()),
            "DFP_SERVICE_OUTBOUND_HOSTNAME" => Some("127.0.0.1".to_owned()),
            "DFP_SERVICE_PORT" => Some(port.clone()),
            _ => None,
        };
        settings.services = crate::l7::environment::services(&get, &settings.defaults, "").unwrap();
    };
    let mut site = Site::with(change);
    assert_eq!(site.get("/a").status, 200);
    let reply = site.api("/v1/docker-flow-proxy/config?type=json");
    assert!(reply.text().contains("\"ServiceName\":\"a\""), "{}", reply.text());
    site.stop();
    site.proxy = Some(Proxy::start(settings(site.state.path())).unwrap());
    assert_eq!(site.get("/a").status, 503);
}

#[test]
fn header_rules_know_the_connection() {
    let site = Site::start();
    let query = format!(
        "serviceName=a&servicePath=/&outboundHostname=127.0.0.1&port={}&setReqHeader={}&addResHeader={}",
        echo_origin().port(),
        encoded("X-From %[src] if { src 127.0.0.0/8 },X-Plain yes unless { ssl_fc },X-Tls yes if { ssl_fc }"),
        encoded("X-Port %[dst_port],X-Length \"is %[res.hdr(Content-Length)]\"")
    );
    let reply = site.reconfigure(&query);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = site.get("/");
    let seen = reply.text();
    assert_eq!(
        (
            field(&seen, "x-from"),
            field(&seen, "x-plain"),
            field(&seen, "x-tls")
        ),
        (Some("127.0.0.1"), Some("yes"), None)
    );
    assert_eq!(reply.field("x-port"), Some(&*site.data().port().to_string()));
    assert_eq!(reply.field("x-length"), Some(&*format!("is {}", seen.len())));
}

#[test]
fn a_service_is_told_who_has_logged_in() {
    let site = Site::start();
    let query = format!(
        "serviceName=a&servicePath=/&outboundHostname=127.0.0.1&port={}&users=anna:secret&setReqHeader={}",
        echo_origin().port(),
        encoded("X-User %[http_auth_group(aUsers)],X-Mobile yes if { hdr_sub(User-Agent) -i mobile }")
    );
    let reply = site.reconfigure(&query);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(site.get("/").status, 401);
    let mut wire = site.connect();
    wire.send(
        "GET / HTTP/1.1\r\nHost: a\r\nX-User: root\r\nUser-Agent: x Mobile/1\r\n\
         Authorization: Basic YW5uYTpzZWNyZXQ=\r\n\r\n",
    );
    let seen = wire.reply().text();
    assert_eq!(
        (
            field(&seen, "x-user"),
            field(&seen, "x-mobile"),
            field(&seen, "authorization")
        ),
        (Some("anna"), Some("yes"), None)
    );
    // Nobody has to log in here, so nobody has.
    let open = site.reconfigure(&(query + "&ignoreAuthorization=true"));
    assert_eq!(open.status, 200);
    let mut wire = site.connect();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: root\r\n\r\n");
    assert_eq!(field(&wire.reply().text(), "x-user"), Some(""));
}
