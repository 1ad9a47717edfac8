// SPDX-License-Identifier: MIT OR Apache-2.0
//! Replicas that start, and what they get from the others.

use super::*;
use crate::l7::settings::parse_tokens;

/// A second proxy that knows the first.
fn sibling_of(site: &Site, change: impl FnOnce(&mut Settings)) -> Site {
    let api = site.proxy.as_ref().unwrap().api;
    Site::with(|settings| {
        settings.siblings = vec![(api.ip().to_string(), Some(api.port()))];
        change(settings);
    })
}

#[test]
fn a_replica_that_starts_elsewhere_has_the_routes_from_the_first_request_on() {
    let first = Site::start();
    first.route_all(echo_origin());
    assert_eq!(
        first.reconfigure("serviceName=b&servicePath=/b&port=1").status,
        200
    );
    assert_eq!(
        first.api("/v1/docker-flow-proxy/remove?serviceName=b").status,
        200
    );
    let second = sibling_of(&first, |_| {});
    assert_eq!(second.get("/").status, 200);
    let config = second.api("/v1/docker-flow-proxy/config?type=json").text();
    assert!(!config.contains("\"b\""), "{config}");
}

#[test]
fn of_two_versions_the_later_counts_also_against_what_was_kept_here() {
    let first = Site::start();
    let mut second = sibling_of(&first, |_| {});
    // The higher port first, and then the other: a tie of the clocks is decided by the words, not by the order.
    for (site, port) in [(&second, 3), (&first, 2)] {
        let query = format!("serviceName=a&servicePath=/a&port={port}");
        assert_eq!(site.reconfigure(&query).status, 200);
        let said = std::time::SystemTime::now();
        eventually("the clock goes on", || {
            said.elapsed().is_ok_and(|time| time.as_millis() > 0)
        });
    }
    assert_eq!(
        second
            .reconfigure("serviceName=mine&servicePath=/mine&port=1")
            .status,
        200
    );
    second.stop();
    let mut again = settings(second.state.path());
    let api = first.proxy.as_ref().unwrap().api;
    again.siblings = vec![(api.ip().to_string(), Some(api.port()))];
    second.proxy = Some(Proxy::start(again).unwrap());
    let config = second.api("/v1/docker-flow-proxy/config").text();
    assert!(
        config.contains("to a:2") && config.contains("service mine"),
        "{config}"
    );
}

#[test]
fn secrets_travel_only_to_a_replica_that_knows_the_token() {
    const USERS: &str = "serviceName=a&servicePath=/a&port=1&users=u:planted-password";
    let copy = |site: &Site| site.api(crate::l7::peers::COPY).text();
    let open = Site::start();
    assert_eq!(open.reconfigure(USERS).status, 200);
    let text = copy(&open);
    assert!(
        text.contains(r#""withheld":["a"]"#) && !text.contains("planted-password"),
        "{text}"
    );
    let sibling = sibling_of(&open, |_| {});
    assert_eq!(sibling.api("/v1/docker-flow-proxy/config?type=json").text(), "{}");

    let closed = Site::with(|settings| settings.admin.tokens = parse_tokens("token").unwrap());
    let mut wire = Wire::connect(closed.proxy.as_ref().unwrap().api);
    wire.send(&format!(
        "GET /v1/docker-flow-proxy/reconfigure?{USERS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer token\r\n\r\n"
    ));
    assert_eq!(wire.reply().status, 200);
    assert_eq!(closed.api(crate::l7::peers::COPY).status, 401);
    let sibling = sibling_of(&closed, |settings| {
        settings.admin.tokens = parse_tokens("token").unwrap()
    });
    let mut wire = sibling.connect();
    wire.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(wire.reply().status, 401, "the service came with its users");
}

#[test]
fn replicas_that_do_not_answer_cost_a_bounded_time() {
    // Accepts and says nothing.
    let silent = origin(|_, mut wire| {
        wire.is_closed();
    });
    let began = Instant::now();
    let site = Site::with(|settings| settings.siblings = vec![("127.0.0.1".into(), Some(silent.port()))]);
    assert!(
        began.elapsed() < crate::l7::limits::COPY_TIME_MAX * 3,
        "{:?}",
        began.elapsed()
    );
    assert_eq!(site.api("/v1/docker-flow-proxy/ping").status, 200);
}
