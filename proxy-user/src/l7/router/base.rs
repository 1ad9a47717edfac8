// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index of a snapshot, and what has changed since it was made.
//!
//! An index of 10 000 rules takes milliseconds, and there may be a thousand changes a second: so a snapshot may keep the
//! index of the one before it, with a list of the services that are gone from it and of those that came.

use std::cmp::Ordering;
use std::sync::Arc;

use super::index::{Asked, Index, Place};
use super::{CompiledService, FrontRedirect, RedirectWhen, Rule, Subject};
use crate::l7::limits;

/// Services and their index.
#[derive(Debug)]
pub struct Base {
    /// In the order of precedence.
    services: Vec<Arc<CompiledService>>,
    rules: Index,
    redirects: Index,
}

impl Default for Base {
    fn default() -> Self {
        Base::new(Vec::new())
    }
}

/// How services differ from those of a [`Base`].
#[derive(Clone, Debug, Default)]
pub struct Since {
    /// By number in the base; empty if none is.
    gone: Vec<bool>,
    /// How many are.
    gone_count: usize,
    /// In the order of precedence, each with the number of the base's service that comes after it.
    came: Vec<(u32, Arc<CompiledService>)>,
}

impl Since {
    /// The difference, unless it is so large that a new index is better. Both are in the order of precedence.
    pub fn compare<'a>(
        base: &Base,
        services: impl Iterator<Item = &'a Arc<CompiledService>>,
    ) -> Option<Self> {
        let mut since = Since::default();
        let (mut old, mut new) = (base.services.iter().enumerate().peekable(), services.peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((_, old)), Some(new)) if Arc::ptr_eq(old, new) => Ordering::Equal,
                (Some((_, old)), Some(new)) => match old.order(new) {
                    // The same service, changed: what is old goes first.
                    Ordering::Equal => Ordering::Greater,
                    order => order,
                },
            };
            match order {
                Ordering::Equal => {
                    old.next();
                    new.next();
                }
                Ordering::Less => {
                    if let Some((at, _)) = old.next() {
                        since.take_away(base, at);
                    }
                }
                Ordering::Greater => {
                    let before = old.peek().map_or(base.services.len(), |(at, _)| *at);
                    since
                        .came
                        .extend(new.next().map(|service| (before as u32, service.clone())));
                }
            }
            if since.is_large() {
                return None;
            }
        }
        Some(since)
    }

    /// The difference after one more change: of a service that was in force, if any, and of what is now.
    pub fn add(
        &mut self,
        base: &Base,
        gone: Option<&Arc<CompiledService>>,
        came: Option<&Arc<CompiledService>>,
    ) {
        if let Some(gone) = gone {
            match base.place(gone) {
                (at, true) => self.take_away(base, at),
                _ => self.came.retain(|(_, service)| !Arc::ptr_eq(service, gone)),
            }
        }
        if let Some(came) = came {
            match base.place(came) {
                // It has come back.
                (at, true) if self.gone.get(at) == Some(&true) => {
                    self.gone[at] = false;
                    self.gone_count -= 1;
                }
                (_, true) => {}
                (before, false) => {
                    let at = (self.came).partition_point(|(_, other)| other.order(came) == Ordering::Less);
                    self.came.insert(at, (before as u32, came.clone()));
                }
            }
        }
    }

    /// Whether a new index is better.
    pub fn is_large(&self) -> bool {
        self.gone_count.max(self.came.len()) > limits::ROUTES_CHANGED_MAX
    }

    fn take_away(&mut self, base: &Base, at: usize) {
        self.gone.resize(base.services.len(), false);
        self.gone_count += usize::from(!self.gone[at]);
        self.gone[at] = true;
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.gone_count == 0 && self.came.is_empty()
    }

    fn is_gone(&self, service: u32) -> bool {
        self.gone.get(service as usize).is_some_and(|gone| *gone)
    }
}

impl Base {
    /// Makes the index of services in the order of precedence.
    pub fn new(services: Vec<Arc<CompiledService>>) -> Self {
        let rules = services.iter().zip(0..).flat_map(|(service, at)| {
            service.rules.iter().zip(0..).map(move |(rule, number)| Asked {
                place: (at, number),
                domains: &rule.matcher.domains,
                paths: Some(&rule.matcher.paths),
            })
        });
        let redirects = services.iter().zip(0..).flat_map(|(service, at)| {
            service.redirects.iter().zip(0..).map(move |(redirect, number)| {
                let (domains, paths) = match &redirect.when {
                    RedirectWhen::Domain { from, .. } => (from, None),
                    RedirectWhen::ForwardedProto { matcher, .. } => {
                        (&matcher.domains, Some(&matcher.paths[..]))
                    }
                };
                Asked {
                    place: (at, number),
                    domains,
                    paths,
                }
            })
        });
        Base {
            rules: Index::new(rules),
            redirects: Index::new(redirects),
            services,
        }
    }

    /// The number of the first service that does not come before this one, and whether it is this one.
    fn place(&self, service: &Arc<CompiledService>) -> (usize, bool) {
        let at = (self.services).partition_point(|other| other.order(service) == Ordering::Less);
        let is_it = (self.services.get(at)).is_some_and(|other| Arc::ptr_eq(other, service));
        (at, is_it)
    }

    /// The first rule that matches.
    pub fn rule<'a>(
        &'a self,
        since: Option<&'a Since>,
        subject: &Subject<'_>,
    ) -> Option<(&'a CompiledService, &'a Rule)> {
        let find =
            |service: &'a CompiledService| service.rules.iter().find(|rule| rule.matcher.matches(subject));
        let accepts = |(service, rule): Place| {
            self.services[service as usize].rules[rule as usize]
                .matcher
                .matches(subject)
        };
        let get = |(service, rule): Place| &self.services[service as usize].rules[rule as usize];
        self.first(&self.rules, since, subject, accepts, get, find)
    }

    /// The first redirect that comes before every rule.
    pub fn redirect<'a>(
        &'a self,
        since: Option<&'a Since>,
        subject: &Subject<'_>,
    ) -> Option<&'a FrontRedirect> {
        let find = |service: &'a CompiledService| {
            service
                .redirects
                .iter()
                .find(|redirect| redirect.when.matches(subject))
        };
        let get = |(service, redirect): Place| &self.services[service as usize].redirects[redirect as usize];
        let accepts = |place: Place| get(place).when.matches(subject);
        let found = self.first(&self.redirects, since, subject, accepts, get, find);
        found.map(|(_, redirect)| redirect)
    }

    fn first<'a, T>(
        &'a self,
        index: &'a Index,
        since: Option<&'a Since>,
        subject: &Subject<'_>,
        accepts: impl Fn(Place) -> bool,
        get: impl Fn(Place) -> &'a T,
        find: impl Fn(&'a CompiledService) -> Option<&'a T>,
    ) -> Option<(&'a CompiledService, &'a T)> {
        let is_gone = |service| since.is_some_and(|since| since.is_gone(service));
        let found = index.first(subject.host, subject.path, |place| {
            !is_gone(place.0) && accepts(place)
        });
        for (before, service) in since.iter().flat_map(|since| &since.came) {
            if found.is_some_and(|(service, _)| service < *before) {
                break;
            }
            if let Some(item) = find(service) {
                return Some((service, item));
            }
        }
        found.map(|place| (&*self.services[place.0 as usize], get(place)))
    }
}
