// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what a service's parameters say to rules that match and a policy that acts, or the reason why not.
//!
//! A service either compiles whole or not at all, and a failure never touches what is in force.

mod matcher;
mod policy;
mod redirects;
mod unsupported;
mod values;

pub(super) use matcher::words;
pub use policy::Policy;
pub(super) use values::seconds;

use std::sync::Arc;

use super::auth::Credentials;
use super::compress::Compression;
use super::domain::DomainAlgo;
use super::headers::HeaderEdits;
use super::params::Problem;
use super::router::{CompiledService, Matcher, RedirectWhen, Rule, SortKey};
use super::settings::{ConnectionMode, Settings};
use super::spec::{DestSpec, ServiceSpec};
use super::stats::Backends;
use super::stream;
use super::upstream::{Target, Upstream};

/// Hands out the upstream of a target.
pub trait Upstreams {
    /// The one that is in use, or a new one.
    fn intern(&mut self, target: Target) -> Arc<Upstream>;
}

/// What a service is compiled with, besides its parameters.
pub struct Context<'a> {
    /// The proxy's own.
    pub settings: &'a Settings,
    /// Of all services.
    pub upstreams: &'a mut dyn Upstreams,
    /// Of all services.
    pub backends: &'a mut Backends,
}

/// Compiles a service.
pub fn compile(spec: &ServiceSpec, context: &mut Context<'_>) -> Result<CompiledService, Problem> {
    unsupported::refuse(spec)?;
    let algo = match spec.service_dest.iter().any(DestSpec::is_http) {
        true => DomainAlgo::parse(&spec.service_domain_algo)
            .map_err(|text| Problem::new("serviceDomainAlgo", text))?,
        false => DomainAlgo::Equals,
    };
    let shared = Shared::new(spec, algo, context.settings)?;
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
        streams: Vec::new(),
    };
    for dest in &spec.service_dest {
        shared.destination(dest, context, &mut service)?;
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

/// What all destinations of a service have in common.
struct Shared<'a> {
    spec: &'a ServiceSpec,
    algo: DomainAlgo,
    request_headers: HeaderEdits,
    response_headers: HeaderEdits,
    keep_alive: bool,
    /// The service's users, then everybody's.
    auth: Vec<Arc<Credentials>>,
    compression: Option<Arc<Compression>>,
}

impl<'a> Shared<'a> {
    fn new(spec: &'a ServiceSpec, algo: DomainAlgo, settings: &Settings) -> Result<Self, Problem> {
        const REQUEST: [&str; 3] = ["addReqHeader", "setReqHeader", "delReqHeader"];
        const RESPONSE: [&str; 3] = ["addResHeader", "setResHeader", "delResHeader"];
        let request_headers =
            HeaderEdits::of_request(&spec.add_req_header, &spec.set_req_header, &spec.del_req_header)
                .map_err(|(which, text)| Problem::new(REQUEST[which], text))?;
        let response_headers =
            HeaderEdits::of_response(&spec.add_res_header, &spec.set_res_header, &spec.del_res_header)
                .map_err(|(which, text)| Problem::new(RESPONSE[which], text))?;
        let mode = match spec.connection_mode.as_str() {
            "" => settings.defaults.connection_mode,
            text => ConnectionMode::parse(text).map_err(|text| Problem::new("connectionMode", text))?,
        };
        let mut auth = Vec::new();
        if !spec.users.is_empty() {
            let realm = format!("{}Realm", spec.service_name);
            let users = Credentials::new(&realm, &spec.users).map_err(|text| Problem::new("users", text))?;
            auth.push(Arc::new(users));
        }
        auth.extend(settings.credentials.clone());
        let compression = match spec.compression_algo.as_str() {
            "" => settings.compression.clone(),
            algos => {
                let own = Compression::parse(algos, &spec.compression_type);
                Some(Arc::new(
                    own.map_err(|text| Problem::new("compressionAlgo", text))?,
                ))
            }
        };
        Ok(Shared {
            auth,
            compression,
            spec,
            algo,
            request_headers,
            response_headers,
            keep_alive: mode == ConnectionMode::Keep,
        })
    }

    fn destination(
        &self,
        dest: &DestSpec,
        context: &mut Context<'_>,
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
            return Err(Problem::new(
                name("outboundHostname"),
                format!("`{host}` is not a host name"),
            ));
        }
        if !dest.is_http() {
            let settings = context.settings;
            let stream = stream::compile::destination(self.spec, dest, &settings.timeouts, context.backends);
            let stream = stream.map_err(|p| Problem {
                name: name(&p.name),
                ..p
            })?;
            service.streams.push(Arc::new(stream));
            return Ok(());
        }
        self.front_redirects(dest, service).map_err(|p| Problem {
            name: name(&p.name),
            ..p
        })?;
        let target = |port: u16, context: &Context<'_>| {
            let target = Target::compile(host, port, self.spec, dest, context.settings);
            target.map_err(|p| Problem {
                name: name(&p.name),
                ..p
            })
        };
        let backend_name = |port: u16| format!("{}-be{port}_{}", self.spec.sort_name(), dest.index);
        if !dest.port.is_empty() {
            let port = dest.port.parse().ok().filter(|port| *port != 0);
            let port = port
                .ok_or_else(|| Problem::new(name("port"), format!("`{}` is not a port number", dest.port)))?;
            service.rules.push(Rule {
                matcher: self.matcher(dest, dest.src_port)?,
                policy: self.policy(dest, context, true)?,
                upstream: context.upstreams.intern(target(port, context)?),
                is_default: self.spec.is_default_backend,
                stats: context
                    .backends
                    .intern(backend_name(port), &self.spec.service_name),
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
                policy: self.policy(dest, context, false)?,
                upstream: context.upstreams.intern(target(dest.https_port, context)?),
                is_default: false,
                stats: context.backends.intern(
                    format!("https-{}", backend_name(dest.https_port)),
                    &self.spec.service_name,
                ),
            });
        }
        Ok(())
    }
}
