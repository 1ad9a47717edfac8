// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queries as people send them, and the service that they mean.

use std::path::Path;

use super::*;
use crate::l7::settings::ServiceDefaults;
use crate::l7::spec::ServiceSpec;
use crate::l7::tests::settings;

fn defaults() -> ServiceDefaults {
    settings(Path::new("/nonexistent")).defaults
}

fn read(query: &str) -> ServiceSpec {
    let (spec, problems) = read_service(&Params::parse(query), &defaults());
    assert_eq!(problems, []);
    spec
}

/// Index, port and paths of each destination.
fn check(query: &str, want: &[(u32, &str, &[&str])]) {
    let spec = read(query);
    let got: Vec<(u32, &str, Vec<&str>)> = spec
        .service_dest
        .iter()
        .map(|d| {
            (
                d.index,
                d.port.as_str(),
                d.service_path.iter().flatten().map(String::as_str).collect(),
            )
        })
        .collect();
    let want: Vec<(u32, &str, Vec<&str>)> = want.iter().map(|(i, p, s)| (*i, *p, s.to_vec())).collect();
    assert_eq!(got, want, "{query}");
}

#[test]
fn destinations_follow_the_indexing_rules() {
    check("servicePath=/a&port=1", &[(0, "1", &["/a"])]);
    check("servicePath=/a,/b&port=1", &[(0, "1", &["/a", "/b"])]);
    check("servicePath=/a,%20/b&port=1", &[(0, "1", &["/a", " /b"])]);
    // Un-indexed values are defaults, not a destination.
    check(
        "servicePath.1=/a&servicePath.2=/b&port=8",
        &[(1, "8", &["/a"]), (2, "8", &["/b"])],
    );
    check(
        "port.1=1&port.2=2&servicePath=/x",
        &[(1, "1", &["/x"]), (2, "2", &["/x"])],
    );
    // A gap ends the list; so does the tenth.
    check("port.1=1&port.3=3", &[(1, "1", &[])]);
    check("port.2=2&servicePath=/x", &[(0, "", &["/x"])]);
    let many: String = (1..=12).map(|i| format!("port.{i}={i}&")).collect();
    assert_eq!(read(&many).service_dest.len(), 10);
    // A domain alone means every path.
    check("serviceDomain=acme.com&port=1", &[(0, "1", &["/"])]);
    // Empty is absent; the first of a repeated parameter wins.
    check("servicePath=&port=1", &[(0, "1", &[])]);
    check("servicePath=/a&servicePath=/b&port=1", &[(0, "1", &["/a"])]);
    // Per-destination names are case-sensitive.
    check("SERVICEPATH=/a&port=1", &[(0, "1", &[])]);
    check("", &[(0, "", &[])]);
}

#[test]
fn scalars_match_in_any_case_and_the_last_wins() {
    let spec = read("SERVICENAME=a&serviceName=b&aclname=x&isDefaultBackend=on&port=1");
    assert_eq!((spec.service_name.as_str(), spec.acl_name.as_str()), ("b", "x"));
    assert!(spec.is_default_backend);
}

#[test]
fn booleans_are_gos() {
    for (text, want) in [
        ("1", true),
        ("t", true),
        ("TRUE", true),
        ("True", true),
        ("0", false),
    ] {
        assert_eq!(
            read(&format!("port=1&httpsOnly={text}")).service_dest[0].https_only,
            want,
            "{text}"
        );
    }
    for text in ["yes", "tRue", "on", "2"] {
        assert!(
            !read(&format!("port=1&httpsOnly={text}")).service_dest[0].https_only,
            "{text}"
        );
    }
    // The un-indexed value cannot be undone.
    assert!(read("port.1=1&httpsOnly=true&httpsOnly.1=false").service_dest[0].https_only);
}

#[test]
fn replicas_distinguish_absent_zero_and_nonsense() {
    for (query, want) in [
        ("", (true, 0)),
        ("replicas=3", (false, 3)),
        ("replicas=0", (false, 0)),
        ("replicas=x", (false, 0)),
    ] {
        let spec = read(query);
        assert_eq!((spec.is_global, spec.replicas), want, "{query}");
    }
}

#[test]
fn header_pairs_need_exactly_one_colon() {
    let spec = read("port=1&serviceHeader=X-A:1,broken,X-B:2:3,X-C:4");
    let headers = spec.service_dest[0].service_header.clone().unwrap();
    assert_eq!(
        headers.into_iter().collect::<Vec<_>>(),
        [("X-A".into(), "1".into()), ("X-C".into(), "4".into())]
    );
}

#[test]
fn an_empty_separator_separates_nothing() {
    let defaults = ServiceDefaults {
        separator: String::new(),
        ..defaults()
    };
    let (spec, _) = read_service(&Params::parse("servicePath=/a,/b&port=1"), &defaults);
    assert_eq!(spec.service_dest[0].service_path, Some(vec!["/a,/b".into()]));
}

#[test]
fn numbers_that_are_none_are_problems_with_their_name() {
    let (_, problems) = read_service(&Params::parse("port.1=1&srcPort.1=http"), &defaults());
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].name, "srcPort.1");
}

#[test]
fn a_form_sets_scalars_that_the_query_does_not() {
    let params = Params::parse("servicePath=/a&port=1&aclName=query")
        .with_form(b"serviceName=form&ACLNAME=form&port=2&servicePath=/b&addReqHeader=X-A%20b");
    let (spec, _) = read_service(&params, &defaults());
    assert_eq!(
        (spec.service_name.as_str(), spec.acl_name.as_str()),
        ("form", "query")
    );
    assert_eq!(
        (spec.service_dest[0].port.as_str(), spec.service_dest[0].paths()),
        ("1", &["/a".to_owned()][..])
    );
    assert!(spec.add_req_header.is_empty());
    let (spec, _) = read_service(
        &Params::parse("serviceName=a").with_form(b"servicePath=/&port=1"),
        &defaults(),
    );
    assert!(spec.service_dest[0].paths().is_empty());
}

#[test]
fn users_that_cannot_be_used_still_close_the_door() {
    for (text, count) in [("a:b", 1), ("a:b,c", 1), ("c", 1), (":b", 1), (",", 1), ("", 0)] {
        assert_eq!(read(&format!("port=1&users={text}")).users.len(), count, "{text}");
    }
}

#[test]
fn the_query_for_a_sibling_does_not_distribute() {
    let params = Params::parse("serviceName=a&distribute=true&aclName=b%20c");
    assert_eq!(params.for_sibling(), "aclName=b+c&distribute=false&serviceName=a");
}
