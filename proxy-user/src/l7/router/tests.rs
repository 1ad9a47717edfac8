// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index finds what asking every rule in turn finds, whatever the rules, the changes and the requests.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderValue};

use super::*;
use crate::l7::limits;
use crate::l7::params::{Params, read_service};
use crate::l7::source::Source;
use crate::l7::table::Table;
use crate::l7::tests::settings;

/// Asks every redirect and every rule in turn.
fn scan<'a>(snapshot: &'a Snapshot, subject: &Subject<'_>) -> Route<'a> {
    let redirects = snapshot.services.iter().flat_map(|service| &service.redirects);
    if let Some(redirect) = redirects
        .into_iter()
        .find(|redirect| redirect.when.matches(subject))
    {
        return Route::Redirect(redirect);
    }
    let rules = |service: &'a Arc<CompiledService>| service.rules.iter().map(move |rule| (service, rule));
    let mut all = snapshot.services.iter().flat_map(rules);
    if let Some((service, rule)) = all.find(|(_, rule)| rule.matcher.matches(subject)) {
        return Route::Forward(service, rule);
    }
    let mut all = snapshot.services.iter().flat_map(rules);
    match all.rfind(|(_, rule)| rule.is_default) {
        Some((service, rule)) => Route::Forward(service, rule),
        None => Route::None,
    }
}

/// Which one it is, by address.
fn identity(route: &Route<'_>) -> usize {
    match route {
        Route::Forward(_, rule) => std::ptr::from_ref(*rule).addr(),
        Route::Redirect(redirect) => std::ptr::from_ref(*redirect).addr(),
        Route::None => 0,
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    /// A few of these, with commas between them.
    fn some(&mut self, all: &[&str]) -> String {
        let picked: Vec<&str> = (0..=self.below(2)).map(|_| self.one_of(all)).collect();
        picked.join(",")
    }
}

const PATHS: [&str; 14] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/ab",
    "/a/b/c",
    "/b",
    "/b/a",
    "/.well-known/x",
    "/abc",
    "b",
    "/a/b/c/d",
    "/c.png",
    "/x",
];
const DOMAINS: [&str; 12] = [
    "acme.com",
    "www.acme.com",
    "*.acme.com",
    "*acme.com",
    "com",
    "acme",
    "a.b.c",
    "b.c",
    "*.c",
    "acme.com:80",
    "ACME.org",
    "*",
];
const HOSTS: [&str; 14] = [
    "",
    "acme.com",
    "acme.com:80",
    "WWW.Acme.Com",
    "www.acme.com:8080",
    "xacme.com",
    "acme.com.evil.org",
    "a.b.c",
    "x.a.b.c",
    "b.c",
    "c",
    "acme.org",
    "[::1]:80",
    "a..b.c",
];

fn service(random: &mut Random, name: usize) -> String {
    let algo = random.one_of(&["", "hdr(host)", "hdr_beg(host)", "hdr_dom(host)", "hdr_end(host)"]);
    let mut query = format!("serviceName=s{name}");
    if random.below(3) == 0 {
        query += &format!("&aclName=acl{}", random.below(5));
    }
    if random.below(8) == 0 {
        query += "&isDefaultBackend=true";
    }
    if !algo.is_empty() {
        query += &format!("&serviceDomainAlgo={algo}");
    }
    for index in 1..=1 + random.below(3) {
        query += &format!(
            "&port.{index}=80{index}&servicePath.{index}={}",
            random.some(&PATHS)
        );
        let kind = random.one_of(&[
            "", "", "path_beg", "path", "path_end", "path_sub", "path_dir", "path_reg",
        ]);
        if !kind.is_empty() {
            query += &format!("&pathType.{index}={kind}");
        }
        if random.below(2) == 0 {
            query += &format!("&serviceDomain.{index}={}", random.some(&DOMAINS));
        }
        if random.below(4) == 0 {
            query += &format!("&servicePathExclude.{index}={}", random.one_of(&PATHS));
        }
        if random.below(5) == 0 {
            query += &format!("&serviceHeader.{index}=X-A:{}", random.below(2));
        }
        if random.below(6) == 0 {
            query += &format!("&srcPort.{index}={}", random.one_of(&["80", "8080"]));
        }
        if random.below(8) == 0 {
            query += &format!("&redirectWhenHttpProto.{index}=true");
        }
        if random.below(8) == 0 {
            query += &format!("&redirectFromDomain.{index}={}", random.some(&DOMAINS));
        }
    }
    query
}

#[test]
fn the_index_finds_what_asking_every_rule_finds() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut accepted, mut found) = (0, [0; 3]);
    for _ in 0..30 {
        let mut table = Table::new(Arc::default(), settings(Path::new("/nonexistent")));
        for _ in 0..40 {
            let name = random.below(20);
            if random.below(5) == 0 {
                table.remove(&format!("s{name}"));
            } else {
                let params = Params::parse(&service(&mut random, name));
                let (spec, problems) = read_service(&params, table.defaults());
                accepted += usize::from(problems.is_empty() && table.put(Source::Call, params, spec).is_ok());
            }
            if random.below(12) == 0 {
                table.index_routes();
            }
            let changed = table.snapshot();
            let in_force: BTreeSet<&str> = table.specs().map(|spec| spec.service_name.as_str()).collect();
            let published: Vec<&str> = changed.services.iter().map(|service| &*service.name).collect();
            assert_eq!(published.len(), in_force.len());
            assert_eq!(published.into_iter().collect::<BTreeSet<_>>(), in_force);
            let whole = Snapshot::new(changed.services.iter().cloned().collect());
            for _ in 0..20 {
                let mut headers = HeaderMap::new();
                if random.below(2) == 0 {
                    headers.insert("x-a", HeaderValue::from_static("1"));
                }
                if random.below(3) == 0 {
                    headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
                }
                let path = format!(
                    "{}{}",
                    random.one_of(&PATHS),
                    random.one_of(&["", "/", "b", "/a/b", ".png"])
                );
                let subject = Subject {
                    path: &path,
                    host: random.one_of(&HOSTS),
                    headers: &headers,
                    port: [80, 8080][random.below(2)],
                    is_tls: random.below(2) == 0,
                };
                let want = scan(&changed, &subject);
                found[match want {
                    Route::Forward(..) => 0,
                    Route::Redirect(_) => 1,
                    Route::None => 2,
                }] += 1;
                let asked = format!("{:?} {path}", subject.host);
                assert_eq!(
                    identity(&changed.route(&subject)),
                    identity(&want),
                    "{asked}, after changes"
                );
                assert_eq!(identity(&whole.route(&subject)), identity(&want), "{asked}");
            }
        }
    }
    // Every kind of answer has been compared, many times.
    assert!(
        accepted > 500 && found.iter().all(|count| *count > 500),
        "{accepted} {found:?}"
    );
}

#[test]
fn more_changes_than_the_limit_make_a_new_index_and_so_does_rest() {
    let mut table = Table::new(Arc::default(), settings(Path::new("/nonexistent")));
    let put = |table: &mut Table, number: usize| {
        let params = Params::parse(&format!("serviceName=s{number}&servicePath=/s{number}&port=80"));
        let (spec, _) = read_service(&params, table.defaults());
        table.put(Source::Call, params, spec).unwrap();
    };
    for number in 0..=limits::ROUTES_CHANGED_MAX {
        put(&mut table, number);
    }
    assert!(table.snapshot().indexed().is_none());
    put(&mut table, 0);
    assert!(table.snapshot().indexed().is_some());
    table.index_routes();
    assert!(table.snapshot().indexed().is_none());
}
