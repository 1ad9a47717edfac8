// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what a service's parameters say to rules that match and a policy that acts, or the reason why not.
//!
//! A service either compiles whole or not at all, and a failure never touches what is in force.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderName;

use super::domain::{DomainAlgo, DomainPattern};
use super::headers::HeaderEdits;
use super::params::Problem;
use super::rewrite::{Rewrite, regex};
use super::router::{CompiledService, FrontRedirect, Matcher, PathPattern, RedirectWhen, Rule, SortKey};
use super::settings::Timeouts;
use super::spec::{DestSpec, ServiceSpec};

/// A name and port that requests are sent to. *Who writes it*: [`super::table`]. Workers find their pool for it by
/// `slot`; a slot is given to another upstream only when nothing refers to the old one any more.
#[derive(Debug)]
pub struct Upstream {
    /// Index of the workers' pools.
    pub slot: usize,
    /// Distinguishes the upstreams that had this slot.
    pub generation: u64,
    /// Name or address.
    pub host: Box<str>,
    /// Port.
    pub port: u16,
}

/// What is done with a request that a rule took.
#[derive(Debug, Default)]
pub struct Policy {
    /// Redirect to https with this status.
    pub https_redirect: Option<u16>,
    /// 403 when it came without TLS.
    pub deny_http: bool,
    /// 403 for every other method.
    pub allowed_methods: Vec<Box<str>>,
    /// 403 for these methods.
    pub denied_methods: Vec<Box<str>>,
    /// In order.
    pub rewrites: Vec<Rewrite>,
    /// Edits of the request.
    pub request_headers: HeaderEdits,
    /// Edits of the response.
    pub response_headers: HeaderEdits,
    /// How long the upstream may be silent.
    pub timeout_server: Duration,
    /// How long an upgraded connection may be.
    pub timeout_tunnel: Duration,
    /// Whether upstream connections are used for another request.
    pub keep_alive: bool,
}

/// Hands out the upstream of a host and port.
pub trait Upstreams {
    /// The one that is in use, or a new one.
    fn intern(&mut self, host: &str, port: u16) -> std::sync::Arc<Upstream>;
}

/// Compiles a service.
pub fn compile(
    spec: &ServiceSpec,
    timeouts: &Timeouts,
    upstreams: &mut dyn Upstreams,
) -> Result<CompiledService, Problem> {
    refuse_unsupported(spec)?;
    let algo =
        DomainAlgo::parse(&spec.service_domain_algo).map_err(|text| problem("serviceDomainAlgo", text))?;
    let shared = Shared::new(spec, algo)?;
    let mut service = CompiledService {
        name: spec.service_name.as_str().into(),
        sort: SortKey::new(
            spec.sort_name(),
            spec.service_dest
                .iter()
                .flat_map(|dest| dest.paths())
                .map(String::as_str),
        ),
        rules: Vec::new(),
        redirects: Vec::new(),
    };
    for dest in &spec.service_dest {
        shared.destination(dest, timeouts, upstreams, &mut service)?;
    }
    // All redirects by domain come before all by X-Forwarded-Proto.
    service.redirects.sort_by_key(|redirect| match redirect.when {
        RedirectWhen::Domain { .. } => 0,
        RedirectWhen::ForwardedProto {
            unless_https: false, ..
        } => 1,
        RedirectWhen::ForwardedProto {
            unless_https: true, ..
        } => 2,
    });
    Ok(service)
}

/// What would change behaviour and is not built yet is refused by name instead of ignored.
fn refuse_unsupported(spec: &ServiceSpec) -> Result<(), Problem> {
    let given = [
        ("backendExtra", !spec.backend_extra.is_empty()),
        ("compressionAlgo", !spec.compression_algo.is_empty()),
        ("discoveryType", spec.discovery_type == "DNS"),
        ("serviceCert", !spec.service_cert.is_empty()),
        ("sessionType", !spec.session_type.is_empty()),
        ("templateBePath", !spec.template_be_path.is_empty()),
        ("templateFePath", !spec.template_fe_path.is_empty()),
        ("users", !spec.users.is_empty()),
    ];
    let of_destinations = spec.service_dest.iter().flat_map(|dest| {
        [
            ("reqMode", dest.req_mode != "http"),
            ("sslVerifyNone", dest.ssl_verify_none),
            ("verifyClientSsl", dest.verify_client_ssl),
        ]
    });
    match given
        .into_iter()
        .chain(of_destinations)
        .find(|(_, is_given)| *is_given)
    {
        Some((name, _)) => Err(problem(name, "is not supported yet")),
        None => Ok(()),
    }
}

fn problem(name: &str, text: impl Into<String>) -> Problem {
    Problem {
        name: name.into(),
        text: text.into(),
    }
}

/// What all destinations of a service have in common.
struct Shared<'a> {
    spec: &'a ServiceSpec,
    algo: DomainAlgo,
    request_headers: HeaderEdits,
    response_headers: HeaderEdits,
    keep_alive: bool,
}

impl<'a> Shared<'a> {
    fn new(spec: &'a ServiceSpec, algo: DomainAlgo) -> Result<Self, Problem> {
        const REQUEST: [&str; 3] = ["addReqHeader", "setReqHeader", "delReqHeader"];
        const RESPONSE: [&str; 3] = ["addResHeader", "setResHeader", "delResHeader"];
        let request_headers =
            HeaderEdits::parse(&spec.add_req_header, &spec.set_req_header, &spec.del_req_header)
                .map_err(|(which, text)| problem(REQUEST[which], text))?;
        let response_headers =
            HeaderEdits::parse(&spec.add_res_header, &spec.set_res_header, &spec.del_res_header)
                .map_err(|(which, text)| problem(RESPONSE[which], text))?;
        let keep_alive = match spec.connection_mode.as_str() {
            "" | "http-keep-alive" => true,
            "http-server-close" => false,
            other => {
                return Err(problem(
                    "connectionMode",
                    format!("`{other}` is not supported yet"),
                ));
            }
        };
        Ok(Shared {
            spec,
            algo,
            request_headers,
            response_headers,
            keep_alive,
        })
    }

    fn destination(
        &self,
        dest: &DestSpec,
        timeouts: &Timeouts,
        upstreams: &mut dyn Upstreams,
        service: &mut CompiledService,
    ) -> Result<(), Problem> {
        let name = |name: &str| {
            if dest.index == 0 {
                name.to_owned()
            } else {
                format!("{name}.{}", dest.index)
            }
        };
        let host = match dest.outbound_hostname.as_str() {
            "" => &self.spec.service_name,
            host => host,
        };
        if host.contains(|char: char| char.is_whitespace() || matches!(char, '/' | '@')) {
            return Err(problem(
                &name("outboundHostname"),
                format!("`{host}` is not a host name"),
            ));
        }
        self.front_redirects(dest, service).map_err(|p| Problem {
            name: name(&p.name),
            ..p
        })?;
        if !dest.port.is_empty() {
            let port = dest.port.parse().ok().filter(|port| *port != 0);
            let port =
                port.ok_or_else(|| problem(&name("port"), format!("`{}` is not a port number", dest.port)))?;
            service.rules.push(Rule {
                matcher: self.matcher(dest, dest.src_port)?,
                policy: self.policy(dest, timeouts, true)?,
                upstream: upstreams.intern(host, port),
                is_default: self.spec.is_default_backend,
            });
        }
        if dest.https_port != 0 {
            let entry = if dest.src_https_port == 0 {
                443
            } else {
                dest.src_https_port
            };
            let matcher = Matcher {
                headers: Vec::new(),
                ..self.matcher(dest, entry)?
            };
            service.rules.push(Rule {
                matcher,
                policy: self.policy(dest, timeouts, false)?,
                upstream: upstreams.intern(host, dest.https_port),
                is_default: false,
            });
        }
        Ok(())
    }

    fn matcher(&self, dest: &DestSpec, port: u16) -> Result<Matcher, Problem> {
        let user_agents = dest.user_agent.value.as_deref().unwrap_or_default();
        Ok(Matcher {
            paths: paths("servicePath", dest.paths(), &dest.path_type)?,
            excludes: paths(
                "servicePathExclude",
                dest.service_path_exclude.as_deref().unwrap_or_default(),
                &dest.path_type,
            )?,
            domains: domains("serviceDomain", dest.domains(), self.algo)?,
            headers: (dest.service_header.iter().flatten())
                .map(|(name, value)| match HeaderName::from_bytes(name.as_bytes()) {
                    Ok(name) => Ok((name, value.as_bytes().into())),
                    Err(_) => Err(problem("serviceHeader", format!("`{name}` is not a field name"))),
                })
                .collect::<Result<_, _>>()?,
            user_agents: user_agents.iter().map(|agent| agent.as_bytes().into()).collect(),
            port: (port != 0).then_some(port),
        })
    }

    fn policy(&self, dest: &DestSpec, timeouts: &Timeouts, is_plain: bool) -> Result<Policy, Problem> {
        let methods = |list: &Option<Vec<String>>| list.iter().flatten().map(|m| m.as_str().into()).collect();
        let mut rewrites = Vec::new();
        if !self.spec.req_path_search.is_empty() {
            let rule = Rewrite::new(&self.spec.req_path_search, &self.spec.req_path_replace, false);
            rewrites.push(rule.map_err(|text| problem("reqPathSearch", text))?);
        }
        if !dest.req_path_search_replace.is_empty() {
            let rules = Rewrite::parse_all(&dest.req_path_search_replace);
            rewrites.extend(rules.map_err(|text| problem("reqPathSearchReplace", text))?);
        }
        let redirect_status = redirect_status(&dest.https_redirect_code)?;
        Ok(Policy {
            https_redirect: (dest.https_only && is_plain).then_some(redirect_status),
            deny_http: dest.deny_http && is_plain,
            allowed_methods: methods(&dest.allowed_methods),
            denied_methods: methods(&dest.denied_methods),
            rewrites,
            request_headers: self.request_headers.clone(),
            response_headers: self.response_headers.clone(),
            timeout_server: seconds("timeoutServer", &dest.timeout_server)?.unwrap_or(timeouts.server),
            timeout_tunnel: seconds("timeoutTunnel", &dest.timeout_tunnel)?.unwrap_or(timeouts.tunnel),
            keep_alive: self.keep_alive,
        })
    }

    fn front_redirects(&self, dest: &DestSpec, service: &mut CompiledService) -> Result<(), Problem> {
        let from = dest.redirect_from_domain.as_deref().unwrap_or_default();
        if !from.is_empty() {
            // Without a target the original redirects everything it serves.
            let to = words(dest.domains())
                .next()
                .ok_or_else(|| problem("redirectFromDomain", "needs serviceDomain"))?;
            let when = RedirectWhen::Domain {
                from: domains("redirectFromDomain", from, DomainAlgo::Begins)?,
                to: to.trim_start_matches('*').trim_start_matches('.').into(),
            };
            service.redirects.push(FrontRedirect { when, status: 301 });
        }
        let protos = [
            (self.spec.redirect_when_http_proto, false),
            (self.spec.redirect_unless_https_proto, true),
        ];
        for (_, unless_https) in protos
            .into_iter()
            .filter(|(wanted, _)| *wanted && !dest.port.is_empty())
        {
            let whole = self.matcher(dest, dest.src_port)?;
            let matcher = Matcher {
                paths: whole.paths,
                domains: whole.domains,
                port: whole.port,
                ..Matcher::default()
            };
            let when = RedirectWhen::ForwardedProto {
                matcher,
                unless_https,
            };
            service.redirects.push(FrontRedirect {
                when,
                status: redirect_status(&dest.https_redirect_code)?,
            });
        }
        Ok(())
    }
}

/// The patterns in a list. Blanks separate them as commas do, because the original writes them into a line of
/// HAProxy's; so an empty item is none, and cannot match everything.
fn words(values: &[String]) -> impl Iterator<Item = &str> {
    values.iter().flat_map(|value| value.split_whitespace())
}

fn domains(parameter: &str, values: &[String], algo: DomainAlgo) -> Result<Vec<DomainPattern>, Problem> {
    let patterns: Vec<_> = words(values)
        .map(|domain| DomainPattern::new(domain, algo))
        .collect();
    // No pattern would mean every host.
    match patterns.is_empty() && !values.is_empty() {
        true => Err(problem(parameter, "has no domain in it")),
        false => Ok(patterns),
    }
}

fn paths(parameter: &str, values: &[String], path_type: &str) -> Result<Vec<PathPattern>, Problem> {
    let one = |value: &str| {
        let text: Box<str> = value.into();
        Ok(match path_type {
            "" | "path_beg" => PathPattern::Begins(text),
            "path" => PathPattern::Equals(text),
            "path_end" => PathPattern::Ends(text),
            "path_sub" => PathPattern::Contains(text),
            "path_dir" => PathPattern::Segments(text),
            "path_reg" => PathPattern::Regex(regex(value).map_err(|text| problem(parameter, text))?),
            other => {
                let known = "path, path_beg, path_end, path_sub, path_dir, path_reg";
                return Err(problem("pathType", format!("`{other}` is not one of {known}")));
            }
        })
    };
    words(values).map(one).collect()
}

fn redirect_status(text: &str) -> Result<u16, Problem> {
    match text {
        "" => Ok(StatusCode::FOUND.as_u16()),
        "301" | "302" | "303" | "307" | "308" => Ok(text.parse().unwrap_or(302)),
        other => Err(problem(
            "httpsRedirectCode",
            format!("`{other}` is not one of 301, 302, 303, 307, 308"),
        )),
    }
}

fn seconds(parameter: &str, text: &str) -> Result<Option<Duration>, Problem> {
    match text {
        "" => Ok(None),
        text => match text.trim_end_matches('s').parse() {
            Ok(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(problem(parameter, format!("`{text}` is not a number of seconds"))),
        },
    }
}
