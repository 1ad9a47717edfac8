// SPDX-License-Identifier: MIT OR Apache-2.0
//! Order, precedence and what a bad update leaves alone, through the table as the API uses it.

use std::path::Path;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::l7::router::{Route, Subject};
use crate::l7::tests::settings;

pub(super) fn table() -> Table {
    Table::new(Arc::default(), settings(Path::new("/nonexistent")))
}

fn put(table: &mut Table, query: &str) -> Result<(), Problem> {
    put_as(table, Source::Call, query)
}

pub(super) fn put_as(table: &mut Table, source: Source, query: &str) -> Result<(), Problem> {
    let params = Params::parse(query);
    let (spec, problems) = read_service(&params, table.defaults());
    match problems.into_iter().next() {
        Some(problem) => Err(problem),
        None => table.put(source, params, spec),
    }
}

/// Where `host/path` goes: `service:port`, `→ status`, or `none`.
fn route(
    table: &Table,
    host: &str,
    path: &str,
    headers: &[(&'static str, &'static str)],
    port: u16,
) -> String {
    let headers: HeaderMap = headers
        .iter()
        .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
        .collect();
    let snapshot = table.snapshot();
    match snapshot.route(&Subject {
        is_tls: false,
        path,
        host,
        headers: &headers,
        port,
    }) {
        Route::Forward(service, rule) => format!("{}:{}", service.name, rule.upstream.target.port),
        Route::Redirect(redirect) => format!("→ {}", redirect.status),
        Route::None => "none".into(),
    }
}

fn check(queries: &[&str], cases: &[(&str, &str, &str)]) {
    let mut forward = table();
    let mut backward = table();
    for query in queries {
        put(&mut forward, query).expect(query);
    }
    for query in queries.iter().rev() {
        put(&mut backward, query).expect(query);
    }
    for (host, path, want) in cases {
        assert_eq!(route(&forward, host, path, &[], 80), *want, "{host}{path}");
        assert_eq!(
            route(&backward, host, path, &[], 80),
            *want,
            "{host}{path}, configured in the other order"
        );
    }
}

#[test]
fn services_are_ordered_by_class_and_then_by_acl_name() {
    check(
        &[
            "serviceName=root&servicePath=/&port=1",
            "serviceName=zz-acme&servicePath=/.WELL-known/acme-challenge&port=2",
            "serviceName=b&servicePath=/api&port=3",
            "serviceName=a&servicePath=/api/v2&port=4&aclName=c",
            "serviceName=x&servicePath=/api&port=5&aclName=01-x",
        ],
        &[
            ("h", "/.WELL-known/acme-challenge/t", "zz-acme:2"),
            ("h", "/api/v2/x", "x:5"),
            ("h", "/other", "root:1"),
        ],
    );
    // Length plays no part, so the name decides; and a prefix is of bytes, not of segments.
    check(
        &[
            "serviceName=a&servicePath=/digital&port=1",
            "serviceName=b&servicePath=/digitalproduct&port=2",
        ],
        &[("h", "/digitalproduct", "a:1")],
    );
    // Bytewise: upper case before lower case.
    check(
        &[
            "serviceName=a&servicePath=/x&port=1",
            "serviceName=B&servicePath=/x&port=2",
        ],
        &[("h", "/x", "B:2")],
    );
    // A path beats a domain alone, whose path is `/`.
    check(
        &[
            "serviceName=a&serviceDomain=acme.com&port=1",
            "serviceName=z&servicePath=/x&port=2",
        ],
        &[
            ("acme.com", "/x", "z:2"),
            ("acme.com", "/y", "a:1"),
            ("other", "/y", "none"),
        ],
    );
}

#[test]
fn path_types_match_as_haproxy_does() {
    type Case = (&'static str, &'static str, &'static [(&'static str, bool)]);
    let cases: [Case; 10] = [
        ("path", "/a", &[("/a", true), ("/a/", false), ("/A", false)]),
        (
            "path_beg",
            "/demo",
            &[("/demo", true), ("/demonstration", true), ("/x/demo", false)],
        ),
        ("path_end", ".png", &[("/a.png", true), ("/a.pngx", false)]),
        ("path_sub", "mid", &[("/amidb", true), ("/mi/d", false)]),
        (
            "path_dir",
            "img",
            &[("/a/img/b", true), ("/img", true), ("/a/imgs", false)],
        ),
        ("path_reg", "v[0-9]%2B$", &[("/api/v12", true), ("/api/v", false)]),
        (
            "path_beg -i",
            "/De.mo",
            &[("/dE.mox", true), ("/deXmo", false), ("/x/de.mo", false)],
        ),
        ("path -m end -i", ".PNG", &[("/a.png", true), ("/a.pngx", false)]),
        (
            "path_dir -i",
            "/img/",
            &[("/a/IMG/b", true), ("/IMG", true), ("/a/imgs", false)],
        ),
        ("path_reg -i", "V[0-9]$", &[("/v1", true), ("/v", false)]),
    ];
    for (kind, pattern, paths) in cases {
        let mut table = table();
        put(
            &mut table,
            &format!("serviceName=s&port=1&pathType={kind}&servicePath={pattern}").replace(' ', "+"),
        )
        .unwrap();
        for (path, want) in paths {
            assert_eq!(
                route(&table, "h", path, &[], 80) == "s:1",
                *want,
                "{kind} {pattern} {path}"
            );
        }
    }
}

#[test]
fn all_conditions_of_a_rule_must_hold() {
    let mut table = table();
    let query = "serviceName=s&port=1&servicePath=/a&servicePathExclude=/a/no&serviceDomain=acme.com,*.acme.com\
                 &serviceHeader=X-V:2,X-W:b&userAgent=Chrome,Firefox&srcPort=8443";
    put(&mut table, query).unwrap();
    let all = [("x-v", "2"), ("x-w", "b"), ("user-agent", "Mozilla firefox/1")];
    assert_eq!(route(&table, "acme.com", "/a", &all, 8443), "s:1");
    assert_eq!(route(&table, "www.acme.com", "/a", &all, 8443), "s:1");
    assert_eq!(route(&table, "acme.com", "/a/no", &all, 8443), "none");
    assert_eq!(route(&table, "other.com", "/a", &all, 8443), "none");
    assert_eq!(route(&table, "acme.com", "/a", &all[1..], 8443), "none");
    assert_eq!(route(&table, "acme.com", "/a", &all[..2], 8443), "none");
    assert_eq!(route(&table, "acme.com", "/a", &all, 80), "none");
}

#[test]
fn wildcards_concern_their_domain_only_and_survive_other_services() {
    let mut table = table();
    put(
        &mut table,
        "serviceName=s&port=1&serviceDomain=foo.com,*.a.com,*.b.com",
    )
    .unwrap();
    put(&mut table, "serviceName=t&port=1&servicePath=/t").unwrap();
    for (host, want) in [
        ("x.a.com", "s:1"),
        ("x.b.com", "s:1"),
        ("foo.com", "s:1"),
        ("xfoo.com", "none"),
    ] {
        assert_eq!(route(&table, host, "/", &[], 80), want, "{host}");
    }
}

#[test]
fn blanks_separate_patterns_and_empty_items_are_none() {
    check(
        &[
            "serviceName=a&servicePath=/a,%20/b,&port=1",
            "serviceName=b&servicePath=/c%20/d&servicePathExclude=/c/no,&port=2",
            "serviceName=c&serviceDomain=x.com,%20y.com,&port=3",
        ],
        &[
            ("h", "/b", "a:1"),
            ("h", "/d", "b:2"),
            ("h", "/c", "b:2"),
            ("h", "/c/no", "none"),
            ("y.com", "/", "c:3"),
            ("z.com", "/", "none"),
        ],
    );
    // No domain at all must not mean every domain.
    let mut table = table();
    for query in ["serviceDomain=,", "serviceDomain=a.com&redirectFromDomain=,"] {
        assert!(
            put(&mut table, &format!("serviceName=s&port=1&{query}")).is_err(),
            "{query}"
        );
    }
}

#[test]
fn one_value_of_a_list_field_is_enough() {
    let mut table = table();
    put(
        &mut table,
        "serviceName=h&servicePath=/h&port=1&serviceHeader=X-V:2",
    )
    .unwrap();
    put(
        &mut table,
        "serviceName=p&servicePath=/p&port=2&redirectUnlessHttpsProto=true",
    )
    .unwrap();
    for (value, want) in [("2", "h:1"), ("1, 2", "h:1"), ("22", "none"), ("", "none")] {
        assert_eq!(route(&table, "h", "/h", &[("x-v", value)], 80), want, "{value}");
    }
    for (value, want) in [
        ("https", "p:2"),
        ("https, http", "p:2"),
        ("http", "→ 302"),
        ("HTTPS", "→ 302"),
    ] {
        assert_eq!(
            route(&table, "h", "/p", &[("x-forwarded-proto", value)], 80),
            want,
            "{value}"
        );
    }
    assert_eq!(route(&table, "h", "/p", &[], 80), "→ 302");
}

#[test]
fn the_last_default_backend_takes_the_rest() {
    check(
        &[
            "serviceName=a&servicePath=/a&port=1&isDefaultBackend=true",
            "serviceName=b&servicePath.1=/b&port.1=2&servicePath.2=/c&port.2=3&isDefaultBackend=true",
        ],
        &[("h", "/x", "b:3"), ("h", "/b", "b:2"), ("h", "/a", "a:1")],
    );
}

#[test]
fn redirects_come_before_every_rule() {
    let mut table = table();
    put(&mut table, "serviceName=a&servicePath=/&port=1").unwrap();
    put(
        &mut table,
        "serviceName=z&serviceDomain=new.com&redirectFromDomain=old.com&port=2",
    )
    .unwrap();
    put(
        &mut table,
        "serviceName=y&servicePath=/y&port=3&redirectWhenHttpProto=true&httpsRedirectCode=308",
    )
    .unwrap();
    assert_eq!(route(&table, "old.com", "/a", &[], 80), "→ 301");
    assert_eq!(
        route(&table, "h", "/y", &[("x-forwarded-proto", "http")], 80),
        "→ 308"
    );
    assert_eq!(
        route(&table, "h", "/y", &[("x-forwarded-proto", "https")], 80),
        "y:3"
    );
    assert_eq!(route(&table, "h", "/y", &[], 80), "y:3");
}

#[test]
fn a_wrong_update_names_its_parameter_and_leaves_the_last_good_version() {
    let mut table = table();
    put(&mut table, "serviceName=s&servicePath=/a&port=1").unwrap();
    for (query, name) in [
        ("port=x", "port"),
        ("port=0", "port"),
        ("port=70000", "port"),
        ("port=1&pathType=hdr", "pathType"),
        ("port=1&pathType=path_reg&servicePath=(", "servicePath"),
        ("port=1&serviceDomainAlgo=nonsense", "serviceDomainAlgo"),
        ("port=1&httpsRedirectCode=200&httpsOnly=true", "httpsRedirectCode"),
        ("port=1&timeoutServer=soon", "timeoutServer"),
        ("port=1&redirectFromDomain=old.com", "redirectFromDomain"),
        ("port=1&reqPathSearchReplace=one", "reqPathSearchReplace"),
        ("port=1&addReqHeader=Broken", "addReqHeader"),
        ("port=1&setResHeader=X-A%20%25[date]", "setResHeader"),
        ("port=1&srcPort=x", "srcPort"),
        ("port=1&outboundHostname=a/b", "outboundHostname"),
        ("port=1&reqMode=udp&srcPort=1", "reqMode"),
        ("port=1&reqMode=mqtt&srcPort=1", "reqMode"),
        ("port=1&allowIp=10.0.0.0/33", "allowIp"),
        ("port=1&denyIp=,", "denyIp"),
        ("port=1&backendExtra=x", "backendExtra"),
        ("port=1&users=a:b&usersPassEncrypted=on", "users"),
        ("port=1&usersSecret=a%2Fb", "usersSecret"),
        (
            "port=1&sessionType=sticky-server&discoveryType=vip",
            "discoveryType",
        ),
        (
            "port=1&sessionType=sticky-server&sessionCookie=a%20b",
            "sessionCookie",
        ),
        ("port=1&sessionCookie=a", "sessionCookie"),
        ("port=1&templateFePath=/x", "templateFePath"),
        ("port=1&upstreamTls=true&upstreamCa=none", "upstreamCa"),
        ("port=1&upstreamTls=true&upstreamCa=..", "upstreamCa"),
        ("port=1&upstreamSni=a", "upstreamSni"),
        ("port=1&sslVerifyNone=true&upstreamSni=a%20b", "upstreamSni"),
        ("port=1&upstreamProtocol=h2", "upstreamProtocol"),
        (
            "port=1&sslVerifyNone=true&upstreamProtocol=h2c",
            "upstreamProtocol",
        ),
        ("port=1&discoveryType=magic", "discoveryType"),
        ("port=1&balance=p2c", "balance"),
        ("port=1&discoveryType=tasks&balance=best", "balance"),
        ("port=1&discoveryType=tasks&balanceHeader=X-A", "balanceHeader"),
        (
            "port=1&discoveryType=tasks&balance=hash&balanceHeader=a:b",
            "balanceHeader",
        ),
        ("port=1&healthPath=health", "healthPath"),
        ("port=1&healthRise=2", "healthRise"),
        ("port=1&checkTcp=true&healthInterval=1ms", "healthInterval"),
        ("port=1&checkTcp=true&healthFall=0", "healthFall"),
        ("port=1&slowStart=soon", "slowStart"),
        ("port=1&retries=100", "retries"),
        ("port=1&retryPercent=101", "retryPercent"),
        ("port=1&maxRequests=0", "maxRequests"),
        ("port=1&timeoutConnect=2d", "timeoutConnect"),
        ("port=1&upstreamProtocol=h3", "upstreamProtocol"),
        ("port.1=1&servicePath=/b&retries.1=x", "retries.1"),
        ("port=1&connectionMode=http-tunnel", "connectionMode"),
    ] {
        let query = match query.contains("servicePath") {
            true => format!("serviceName=s&{query}"),
            false => format!("serviceName=s&servicePath=/b&{query}"),
        };
        let problem = put(&mut table, &query).expect_err(&query);
        assert_eq!(problem.name, name, "{query}");
        assert_eq!(route(&table, "h", "/a", &[], 80), "s:1", "{query}");
    }
}

#[test]
fn upstream_slots_are_used_again_only_when_nobody_refers_to_them() {
    let mut table = table();
    put(&mut table, "serviceName=a&servicePath=/a&port=1").unwrap();
    let old = table.snapshot();
    put(&mut table, "serviceName=a&servicePath=/a&port=2").unwrap();
    let slots = |snapshot: &Snapshot| {
        let upstream = &snapshot.services.iter().next().unwrap().rules[0].upstream;
        (upstream.slot, upstream.generation)
    };
    assert_eq!((slots(&old), slots(&table.snapshot())), ((0, 1), (1, 2)));
    drop(old);
    put(&mut table, "serviceName=a&servicePath=/a&port=3").unwrap();
    assert_eq!(slots(&table.snapshot()), (0, 3));
}
