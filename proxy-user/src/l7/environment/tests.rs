// SPDX-License-Identifier: MIT OR Apache-2.0
//! Variables, and the services that they mean.

use super::*;
use crate::l7::tests::settings;

fn read(protocol: &str, variables: &[(&str, &str)]) -> Result<Vec<Service>, String> {
    let defaults = settings(std::path::Path::new("/nonexistent")).defaults;
    let get = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    services(&get, &defaults, protocol)
}

/// Index, port, paths and host of each destination of the only service.
fn destinations(variables: &[(&str, &str)]) -> Vec<String> {
    let found = read("", variables).unwrap();
    assert_eq!(found.len(), 1);
    let all = found[0].spec.service_dest.iter();
    all.map(|dest| {
        let paths = dest.paths().join(" ");
        format!("{} {} {paths} {}", dest.index, dest.port, dest.outbound_hostname)
    })
    .collect()
}

const NAME: (&str, &str) = ("DFP_SERVICE_SERVICE_NAME", "a");

#[test]
fn numbered_destinations_stand_beside_the_one_without_a_number() {
    let path = ("DFP_SERVICE_SERVICE_PATH", "/a,/b");
    let port = ("DFP_SERVICE_PORT", "1");
    let host = ("DFP_SERVICE_OUTBOUND_HOSTNAME", "h");
    assert_eq!(destinations(&[NAME, path, port]), ["0 1 /a /b "]);
    let first = [("DFP_SERVICE_SERVICE_PATH_1", "/1"), ("DFP_SERVICE_PORT_1", "2")];
    let third = [("DFP_SERVICE_SERVICE_PATH_3", "/3"), ("DFP_SERVICE_PORT_3", "3")];
    let all = [&[NAME, path, port, host][..], &first, &third].concat();
    assert_eq!(destinations(&all), ["0 1 /a /b h", "1 2 /1 h"]);
    // The first numbered one is the only one; a port alone is none.
    let alone = [&[NAME][..], &first, &[("DFP_SERVICE_PORT_2", "9")]].concat();
    assert_eq!(destinations(&alone), ["1 2 /1 "]);
    // The same port twice is no collision, and a domain stands for every path.
    let domain = [
        ("DFP_SERVICE_SERVICE_DOMAIN_1", "acme.com"),
        ("DFP_SERVICE_PORT_1", "1"),
    ];
    assert_eq!(
        destinations(&[&[NAME, path, port][..], &domain].concat()),
        ["0 1 /a /b ", "1 1 / "]
    );
}

#[test]
fn services_are_numbered_without_a_gap() {
    let of = |prefix: &'static str| {
        ["SERVICE_NAME", "SERVICE_PATH", "PORT"].map(|name| (format!("{prefix}_{name}"), "7"))
    };
    let all: Vec<(String, &str)> = [
        of("DFP_SERVICE"),
        of("DFP_SERVICE_1"),
        of("DFP_SERVICE_2"),
        of("DFP_SERVICE_4"),
    ]
    .concat();
    let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let prefixes: Vec<String> = read("", &all)
        .unwrap()
        .into_iter()
        .map(|service| service.prefix)
        .collect();
    assert_eq!(prefixes, ["DFP_SERVICE", "DFP_SERVICE_1", "DFP_SERVICE_2"]);
    assert!(read("", &[("DFP_SERVICE_PORT", "1")]).unwrap().is_empty());
}

#[test]
fn every_parameter_has_its_variable() {
    let found = read(
        "",
        &[
            NAME,
            ("DFP_SERVICE_SERVICE_PATH", "/"),
            ("DFP_SERVICE_PORT", "1"),
            ("DFP_SERVICE_SET_REQ_HEADER", "X-A b,X-B c"),
            ("DFP_SERVICE_HTTPS_ONLY", "true"),
            ("DFP_SERVICE_ALLOW_IP", "10.0.0.0/8"),
            ("DFP_SERVICE_REPLICAS", "0"),
            ("DFP_SERVICE_DISTRIBUTE", "true"),
            ("DFP_SERVICE_ACL_NAME", "01-a"),
        ],
    );
    let spec = &found.unwrap()[0].spec;
    assert_eq!(spec.set_req_header, ["X-A b", "X-B c"]);
    assert!(spec.service_dest[0].https_only && spec.is_global && !spec.distribute);
    assert_eq!(
        (spec.sort_name(), &spec.service_dest[0].allow_ip[..]),
        ("01-a", &["10.0.0.0/8".to_owned()][..])
    );
    for (name, variable) in [
        ("servicePath", "SERVICE_PATH"),
        ("clitcpka", "CLITCPKA"),
        ("redirectUnlessHttpsProto", "REDIRECT_UNLESS_HTTPS_PROTO"),
    ] {
        assert_eq!(capitals(name), variable);
    }
}

#[test]
fn what_is_wrong_is_named_by_its_variable() {
    let path = ("DFP_SERVICE_SERVICE_PATH", "/");
    let port = ("DFP_SERVICE_PORT", "1");
    for (protocol, more, name) in [
        ("", &[port][..], "DFP_SERVICE_SERVICE_PATH is missing"),
        ("", &[], "DFP_SERVICE_SERVICE_PATH is missing"),
        ("", &[path], "DFP_SERVICE_PORT is missing"),
        (
            "",
            &[path, port, ("DFP_SERVICE_SRC_PORT", "x")],
            "DFP_SERVICE_SRC_PORT: `x`",
        ),
        (
            "",
            &[
                path,
                port,
                ("DFP_SERVICE_PORT_1", "1"),
                ("DFP_SERVICE_SERVICE_PATH_1", "/"),
                ("DFP_SERVICE_HTTPS_PORT_1", "y"),
            ],
            "DFP_SERVICE_HTTPS_PORT_1: `y`",
        ),
        ("tcp", &[path, port], "DFP_SERVICE_SRC_PORT is missing"),
    ] {
        let error = read(protocol, &[&[NAME], more].concat()).unwrap_err();
        assert!(error.starts_with(name), "{error}");
    }
}
