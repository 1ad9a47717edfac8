// SPDX-License-Identifier: MIT OR Apache-2.0
//! The route snapshot: rules in the order of precedence, and which of them a request takes.
//!
//! *Who writes it*: [`super::table`], a new one for every change. *Lifetime*: until no request uses it.
//! Order between services is the original's, because people rely on aclName to decide: services that have a path
//! under `/.well-known` first, services that have the path `/` last, and bytewise by aclName within. Neither the
//! length of a path nor a domain plays a part. The first rule that matches wins.
//!
//! With thousands of rules nobody can ask each, so the services are indexed ([`base`]). The index is made anew when more
//! than a few services have changed since, or when nothing changes any more; until then those few are asked one by one.

mod base;
mod index;
mod prefix;
mod services;

use std::cmp::Ordering;
use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderName, USER_AGENT};
use regex::Regex;

use self::base::{Base, Since};
pub use self::services::Services;
use super::compile::Policy;
use super::domain::DomainPattern;
use super::secret;
use super::stats::Backend;
use super::stream::table::{StreamDest, StreamTable};
use super::upstream::Upstream;

/// All rules in force.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// In the order in which they are asked.
    pub services: Services,
    base: Arc<Base>,
    /// What has changed since the index was made.
    since: Option<Box<Since>>,
    /// Connections that are passed on whole.
    pub streams: StreamTable,
    /// The last rule that wants what no other takes.
    default: Option<(Arc<CompiledService>, usize)>,
}

/// One service, ready to match.
#[derive(Debug)]
pub struct CompiledService {
    /// Name of the service.
    pub name: Box<str>,
    /// Key of the order.
    pub sort: SortKey,
    /// In the order of the destinations.
    pub rules: Vec<Rule>,
    /// Redirects that come before every rule of every service.
    pub redirects: Vec<FrontRedirect>,
    /// Destinations in modes tcp and sni.
    pub streams: Vec<Arc<StreamDest>>,
}

/// Class (0 well-known, 1 others, 2 root), then name bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortKey(pub u8, pub Box<str>);

impl SortKey {
    /// The key of a service with these paths.
    pub fn new<'a>(name: &str, mut paths: impl Iterator<Item = &'a str> + Clone) -> Self {
        const WELL_KNOWN: &str = "/.well-known";
        let is_well_known = |path: &str| {
            path.get(..WELL_KNOWN.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(WELL_KNOWN))
        };
        let class = if paths.clone().any(is_well_known) {
            0
        } else if paths.any(|path| path == "/") {
            2
        } else {
            1
        };
        SortKey(class, name.into())
    }
}

/// One destination of a service.
#[derive(Debug)]
pub struct Rule {
    /// What must hold.
    pub matcher: Matcher,
    /// What is done with the request.
    pub policy: Policy,
    /// Where it goes.
    pub upstream: Arc<Upstream>,
    /// Takes what no rule takes.
    pub is_default: bool,
    /// What is counted of it.
    pub stats: Arc<Backend>,
}

/// A redirect of the frontend.
#[derive(Debug)]
pub struct FrontRedirect {
    /// What must hold.
    pub when: RedirectWhen,
    /// 301, 302, …
    pub status: u16,
}

/// The three redirects that come before routing, in their order.
#[derive(Debug)]
pub enum RedirectWhen {
    /// redirectFromDomain: these Hosts go to `http://<to>`.
    Domain {
        /// Host prefixes.
        from: Vec<DomainPattern>,
        /// Host of the target.
        to: Box<str>,
    },
    /// redirectWhenHttpProto and redirectUnlessHttpsProto.
    ForwardedProto {
        /// Path, domain and port of the destination.
        matcher: Matcher,
        /// True: unless it is `https`. False: when it is `http`.
        unless_https: bool,
    },
}

/// What a rule asks of a request. An empty list asks nothing, but a rule without a path matches none.
#[derive(Default)]
pub struct Matcher {
    /// One of them must match.
    pub paths: Vec<PathPattern>,
    /// None of them may.
    pub excludes: Vec<PathPattern>,
    /// One of them must.
    pub domains: Vec<DomainPattern>,
    /// All of them, by exact value.
    pub headers: Vec<(HeaderName, Box<[u8]>)>,
    /// One of them as a part, in any case.
    pub user_agents: Vec<Box<[u8]>>,
    /// The listener's port.
    pub port: Option<u16>,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| match secret::is_in(name.as_str()) {
                true => (name.as_str(), secret::REDACTED.to_owned()),
                false => (name.as_str(), text(value)),
            });
        f.debug_struct("Matcher")
            .field("paths", &self.paths)
            .field("excludes", &self.excludes)
            .field("domains", &self.domains)
            .field("headers", &headers.collect::<Vec<_>>())
            .field(
                "user_agents",
                &self
                    .user_agents
                    .iter()
                    .map(|agent| text(agent))
                    .collect::<Vec<_>>(),
            )
            .field("port", &self.port)
            .finish()
    }
}

/// One path pattern.
#[derive(Clone, Debug)]
pub enum PathPattern {
    /// `path`.
    Equals(Box<str>),
    /// `path_beg`: bytes, not segments, as in the original.
    Begins(Box<str>),
    /// `path_end`.
    Ends(Box<str>),
    /// `path_sub`.
    Contains(Box<str>),
    /// `path_dir`: whole segments.
    Segments(Box<str>),
    /// `path_reg`, not anchored.
    Regex(Regex),
}

/// What the router looks at.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Path without query.
    pub path: &'a str,
    /// Host as the client sent it; empty when there is none.
    pub host: &'a str,
    /// All fields.
    pub headers: &'a HeaderMap,
    /// The listener's port.
    pub port: u16,
    /// Over TLS.
    pub is_tls: bool,
}

/// What the router decided.
#[derive(Debug)]
pub enum Route<'a> {
    /// Send it there.
    Forward(&'a CompiledService, &'a Rule),
    /// Answer with a redirect.
    Redirect(&'a FrontRedirect),
    /// Nobody wants it.
    None,
}

impl Snapshot {
    /// A snapshot of these services, in any order.
    pub fn new(services: Vec<Arc<CompiledService>>) -> Self {
        Snapshot::of(Services::new(services))
    }

    /// The snapshot of these services, in any order, that comes after another. If not much is different it keeps the
    /// other's index.
    pub fn after(before: &Snapshot, services: Vec<Arc<CompiledService>>) -> Self {
        let services = Services::new(services);
        match Since::compare(&before.base, services.iter()) {
            Some(since) => {
                let streams = StreamTable::new(services.with_streams());
                Snapshot::with(before.base.clone(), since, services, streams)
            }
            None => Snapshot::of(services),
        }
    }

    /// The same after a change of one service: what was in force of it, and what is now. Costs the same however many
    /// others there are, but for the index that every [`limits::ROUTES_CHANGED_MAX`]th makes.
    #[must_use]
    pub fn changed(&self, gone: Option<&Arc<CompiledService>>, came: Option<&Arc<CompiledService>>) -> Self {
        let services = self.services.changed(gone, came);
        let mut since = self.since.as_deref().cloned().unwrap_or_default();
        since.add(&self.base, gone, came);
        if since.is_large() {
            return Snapshot::of(services);
        }
        let concerns_streams = gone.into_iter().chain(came).any(|one| !one.streams.is_empty());
        let streams = match concerns_streams {
            true => StreamTable::new(services.with_streams()),
            false => self.streams.clone(),
        };
        Snapshot::with(self.base.clone(), since, services, streams)
    }

    /// The same with an index of its own; none if it has that.
    pub fn indexed(&self) -> Option<Self> {
        self.since.as_ref()?;
        Some(Snapshot::of(self.services.clone()))
    }

    fn of(services: Services) -> Self {
        let base = Arc::new(Base::new(services.iter().cloned().collect()));
        let streams = StreamTable::new(services.with_streams());
        Snapshot::with(base, Since::default(), services, streams)
    }

    fn with(base: Arc<Base>, since: Since, services: Services, streams: StreamTable) -> Self {
        Snapshot {
            default: services.default_rule(),
            streams,
            services,
            base,
            since: (!since.is_empty()).then(|| Box::new(since)),
        }
    }

    /// The route of a request.
    pub fn route(&self, subject: &Subject<'_>) -> Route<'_> {
        let since = self.since.as_deref();
        if let Some(redirect) = self.base.redirect(since, subject) {
            return Route::Redirect(redirect);
        }
        if let Some((service, rule)) = self.base.rule(since, subject) {
            return Route::Forward(service, rule);
        }
        match &self.default {
            Some((service, rule)) => Route::Forward(service, &service.rules[*rule]),
            None => Route::None,
        }
    }
}

impl CompiledService {
    /// Which of two is asked first.
    fn order(&self, other: &Self) -> Ordering {
        self.sort
            .cmp(&other.sort)
            .then_with(|| self.name.cmp(&other.name))
    }
}

impl RedirectWhen {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            RedirectWhen::Domain { from, .. } => from.iter().any(|domain| domain.matches(subject.host)),
            RedirectWhen::ForwardedProto {
                matcher,
                unless_https,
            } => {
                let proto = HeaderName::from_static("x-forwarded-proto");
                let asks = match unless_https {
                    // The original redirects what came over its own TLS for ever.
                    true => !subject.is_tls && !has_value(subject.headers, &proto, b"https"),
                    false => has_value(subject.headers, &proto, b"http"),
                };
                asks && matcher.matches(subject)
            }
        }
    }
}

/// Whether a field has a value, or a comma-separated part of one, as HAProxy's `hdr` compares it.
fn has_value(headers: &HeaderMap, name: &HeaderName, want: &[u8]) -> bool {
    headers.get_all(name).iter().any(|value| {
        let value = value.as_bytes();
        value == want
            || value
                .split(|&byte| byte == b',')
                .any(|part| part.trim_ascii() == want)
    })
}

impl Matcher {
    /// Whether all conditions hold.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        self.port.is_none_or(|port| port == subject.port)
            && self.paths.iter().any(|path| path.matches(subject.path))
            && (self.domains.is_empty() || self.domains.iter().any(|domain| domain.matches(subject.host)))
            && !self.excludes.iter().any(|path| path.matches(subject.path))
            && (self.headers.iter()).all(|(name, want)| has_value(subject.headers, name, want))
            && (self.user_agents.is_empty() || self.user_agent_matches(subject.headers))
    }

    fn user_agent_matches(&self, headers: &HeaderMap) -> bool {
        let Some(agent) = headers.get(USER_AGENT) else {
            return false;
        };
        self.user_agents.iter().any(|want| {
            agent
                .as_bytes()
                .windows(want.len().max(1))
                .any(|part| part.eq_ignore_ascii_case(want))
        })
    }
}

impl PathPattern {
    /// Whether a path matches. Case matters; the query is not part of the path.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathPattern::Equals(want) => path == &**want,
            PathPattern::Begins(want) => path.starts_with(&**want),
            PathPattern::Ends(want) => path.ends_with(&**want),
            PathPattern::Contains(want) => path.contains(&**want),
            PathPattern::Segments(want) => has_segments(path, want),
            PathPattern::Regex(regex) => regex.is_match(path),
        }
    }
}

fn has_segments(path: &str, want: &str) -> bool {
    let want = want.trim_matches('/');
    !want.is_empty()
        && path.match_indices(want).any(|(from, _)| {
            let to = from + want.len();
            (from == 0 || path.as_bytes()[from - 1] == b'/')
                && (to == path.len() || path.as_bytes()[to] == b'/')
        })
}

#[cfg(test)]
mod tests;
