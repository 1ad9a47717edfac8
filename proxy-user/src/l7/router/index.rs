// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds the few rules that may match among thousands.
//!
//! Rules are filed under their domains, and within a domain under their paths. What is found is a superset of what
//! matches: whoever asks looks at each, and the first in the order of precedence wins, so the index cannot change a
//! decision. Rules whose paths cannot be filed (parts, ends, regular expressions) are found by every path.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::PathPattern;
use super::prefix::PrefixMap;
use crate::l7::domain::{DomainAlgo, DomainPattern, Filing, is_delimiter, without_port};

/// An item: which service, and which of its rules or redirects.
pub type Place = (u32, u32);

/// Items by what they ask of host and path.
#[derive(Debug)]
pub struct Index {
    /// In the order of precedence.
    places: Vec<Place>,
    /// Those that ask for no host.
    anywhere: Paths,
    /// The rest.
    hosts: Option<Box<Hosts>>,
}

/// What an item asks for.
pub struct Asked<'a> {
    /// Which it is.
    pub place: Place,
    /// One of these domains, or any.
    pub domains: &'a [DomainPattern],
    /// One of these paths; none asks nothing.
    pub paths: Option<&'a [PathPattern]>,
}

impl Index {
    /// An index of these, in the order of precedence.
    pub fn new<'a>(items: impl Iterator<Item = Asked<'a>>) -> Self {
        let (mut places, mut anywhere, mut hosts) =
            (Vec::new(), PathsBuilder::default(), HostsBuilder::default());
        for item in items {
            let number = places.len() as u32;
            places.push(item.place);
            match item.domains {
                [] => anywhere.add(number, item.paths),
                domains => domains
                    .iter()
                    .for_each(|domain| hosts.of(domain).add(number, item.paths)),
            }
        }
        Index {
            places,
            anywhere: anywhere.into(),
            hosts: (!hosts.is_empty()).then(|| Box::new(hosts.build())),
        }
    }

    /// The first item that `accepts` among those that may match.
    pub fn first(&self, host: &str, path: &str, mut accepts: impl FnMut(Place) -> bool) -> Option<Place> {
        let mut best = u32::MAX;
        let mut look = |numbers: &[u32]| {
            for &number in numbers.iter().take_while(|number| **number < best) {
                if accepts(self.places[number as usize]) {
                    best = number;
                    break;
                }
            }
        };
        self.anywhere.visit(path.as_bytes(), &mut look);
        if let Some(hosts) = &self.hosts {
            hosts.visit(host, |paths| paths.visit(path.as_bytes(), &mut look));
        }
        self.places.get(best as usize).copied()
    }
}

/// Numbers of items by path, each list in ascending order.
#[derive(Debug)]
struct Paths {
    always: Vec<u32>,
    by_path: PrefixMap<AtPath>,
}

#[derive(Debug, Default)]
struct AtPath {
    begins: Vec<u32>,
    equals: Vec<u32>,
}

#[derive(Default)]
struct PathsBuilder {
    always: Vec<u32>,
    by_path: BTreeMap<Vec<u8>, AtPath>,
}

impl PathsBuilder {
    fn add(&mut self, number: u32, paths: Option<&[PathPattern]>) {
        let Some(paths) = paths else {
            return push(&mut self.always, number);
        };
        for path in paths {
            match path {
                PathPattern::Begins(text) => push(&mut self.at(text).begins, number),
                PathPattern::Equals(text) => push(&mut self.at(text).equals, number),
                _ => push(&mut self.always, number),
            }
        }
    }

    fn at(&mut self, text: &str) -> &mut AtPath {
        self.by_path.entry(text.as_bytes().to_vec()).or_default()
    }
}

/// Numbers come in ascending order, and once for each pattern.
fn push(numbers: &mut Vec<u32>, number: u32) {
    if numbers.last() != Some(&number) {
        numbers.push(number);
    }
}

impl From<PathsBuilder> for Paths {
    fn from(builder: PathsBuilder) -> Self {
        Paths {
            always: builder.always,
            by_path: PrefixMap::new(builder.by_path),
        }
    }
}

impl Paths {
    fn visit(&self, path: &[u8], look: &mut impl FnMut(&[u32])) {
        self.by_path.visit(path, |at, is_all| {
            look(&at.begins);
            if is_all {
                look(&at.equals);
            }
        });
        look(&self.always);
    }
}

/// Items by host. Patterns are in lower case.
#[derive(Debug)]
struct Hosts {
    begins: PrefixMap<AtHost>,
    /// Backwards, like the next.
    ends: PrefixMap<Paths>,
    /// Of the host without its port.
    wildcards: PrefixMap<Paths>,
    labels: HashMap<Box<[u8]>, Paths>,
    /// How many delimiters one of them has at most.
    delimiters_max: usize,
}

#[derive(Debug)]
struct AtHost {
    begins: Paths,
    equals: Paths,
}

#[derive(Default)]
struct HostsBuilder {
    begins: BTreeMap<Vec<u8>, AtHostBuilder>,
    ends: BTreeMap<Vec<u8>, PathsBuilder>,
    wildcards: BTreeMap<Vec<u8>, PathsBuilder>,
    labels: BTreeMap<Vec<u8>, PathsBuilder>,
}

#[derive(Default)]
struct AtHostBuilder {
    begins: PathsBuilder,
    equals: PathsBuilder,
}

impl From<AtHostBuilder> for AtHost {
    fn from(builder: AtHostBuilder) -> Self {
        AtHost {
            begins: builder.begins.into(),
            equals: builder.equals.into(),
        }
    }
}

impl HostsBuilder {
    fn is_empty(&self) -> bool {
        self.begins.is_empty() && self.ends.is_empty() && self.wildcards.is_empty() && self.labels.is_empty()
    }

    fn of(&mut self, domain: &DomainPattern) -> &mut PathsBuilder {
        let (filing, text) = domain.filing();
        let backwards = || text.iter().rev().copied().collect::<Vec<u8>>();
        match filing {
            Filing::Plain(DomainAlgo::Begins) => &mut self.begins.entry(text.to_vec()).or_default().begins,
            Filing::Plain(DomainAlgo::Equals) => &mut self.begins.entry(text.to_vec()).or_default().equals,
            Filing::Plain(DomainAlgo::Ends) => self.ends.entry(backwards()).or_default(),
            Filing::Plain(DomainAlgo::Labels) => self.labels.entry(text.to_vec()).or_default(),
            Filing::Wildcard => self.wildcards.entry(backwards()).or_default(),
        }
    }

    fn build(self) -> Hosts {
        let delimiters = |key: &Vec<u8>| key.iter().filter(|&&byte| is_delimiter(byte)).count();
        Hosts {
            delimiters_max: self.labels.keys().map(delimiters).max().unwrap_or_default(),
            begins: PrefixMap::new(self.begins),
            ends: PrefixMap::new(self.ends),
            wildcards: PrefixMap::new(self.wildcards),
            labels: (self.labels.into_iter())
                .map(|(key, paths)| (key.into_boxed_slice(), paths.into()))
                .collect(),
        }
    }
}

impl Hosts {
    fn visit(&self, host: &str, mut found: impl FnMut(&Paths)) {
        let host: Cow<'_, [u8]> = match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase().into_bytes()),
            false => Cow::Borrowed(host.as_bytes()),
        };
        self.begins.visit(&host, |at, is_all| {
            found(&at.begins);
            if is_all {
                found(&at.equals);
            }
        });
        let backwards = |text: &[u8]| text.iter().rev().copied().collect::<Vec<u8>>();
        if !self.ends.is_empty() {
            self.ends.visit(&backwards(&host), |paths, _| found(paths));
        }
        if !self.wildcards.is_empty() {
            self.wildcards
                .visit(&backwards(without_port(&host)), |paths, _| found(paths));
        }
        if !self.labels.is_empty() {
            self.visit_labels(&host, found);
        }
    }

    /// Every part of the host from one delimiter to another, as long as a pattern can be.
    fn visit_labels(&self, host: &[u8], mut found: impl FnMut(&Paths)) {
        let is_start = |at: usize| at == 0 || is_delimiter(host[at - 1]);
        for from in (0..host.len()).filter(|&at| is_start(at)) {
            let ends = (from..=host.len()).filter(|&at| at == host.len() || is_delimiter(host[at]));
            for to in ends.take(self.delimiters_max + 1) {
                if let Some(paths) = self.labels.get(&host[from..to]) {
                    found(paths);
                }
            }
        }
    }
}
