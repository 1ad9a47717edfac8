// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the parameters of a destination in mode `tcp` or `sni` to what the port does, or the reason why not.

use arc_swap::ArcSwap;

use super::table::{Balance, NamePattern, StreamDest, StreamSettings, Target};
use crate::l7::compile::{seconds, words};
use crate::l7::domain::{DomainAlgo, DomainPattern};
use crate::l7::params::Problem;
use crate::l7::proxy_protocol::Version;
use crate::l7::rewrite::regex;
use crate::l7::settings::Timeouts;
use crate::l7::spec::{DestSpec, ServiceSpec};
use crate::l7::stats::Backends;

/// Compiles a destination. Problems have the names of the parameters without an index.
pub fn destination(
    spec: &ServiceSpec,
    dest: &DestSpec,
    timeouts: &Timeouts,
    backends: &mut Backends,
) -> Result<StreamDest, Problem> {
    if dest.src_port == 0 {
        let text = format!("is mandatory in mode {}", dest.req_mode);
        return Err(Problem::new("srcPort", text));
    }
    let port = dest.port.parse().ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| Problem::new("port", format!("`{}` is not a port number", dest.port)))?;
    let names = match dest.req_mode.as_str() {
        "sni" => sni_names(dest)?,
        _ => tcp_names(spec, dest)?,
    };
    let own: Box<str> = spec.service_name.as_str().into();
    let hosts = match (dest.outbound_hostname.as_str(), dest.service_group.as_str()) {
        ("", "") => vec![own.clone()],
        ("", _) => vec![format!("tasks.{own}").into(), own.clone()],
        (host, _) => vec![host.into()],
    };
    let is_default = names.is_empty() || dest.req_mode == "sni" && spec.is_default_backend;
    let (entry, group) = (dest.src_port, &dest.service_group);
    let (frontend, backend) = match (dest.req_mode.as_str(), group.as_str()) {
        ("sni", _) => (format!("service_{entry}"), None),
        (_, "") => (format!("tcpFE_{entry}"), None),
        (_, group) => {
            let listen = format!("tcpListen_{group}_{entry}");
            (listen.clone(), Some(listen))
        }
    };
    let backend = backend.unwrap_or_else(|| format!("{}-be{port}_{}", spec.sort_name(), dest.index));
    // Checked because somebody counts on it; what it would mean is superseded by the tunnel's timeout.
    seconds("timeoutServer", &dest.timeout_server)?;
    Ok(StreamDest {
        service: own,
        port: dest.src_port,
        names,
        is_default,
        group: dest.service_group.as_str().into(),
        target: Target {
            hosts,
            port,
            last: ArcSwap::default(),
        },
        settings: StreamSettings {
            balance: balance(&dest.balance_group)?,
            timeout_client: seconds("timeoutClient", &dest.timeout_client)?.unwrap_or(timeouts.client),
            timeout_tunnel: seconds("timeoutTunnel", &dest.timeout_tunnel)?.unwrap_or(timeouts.tunnel),
            keepalive: dest.clitcpka,
            proxy_protocol: Version::parse(&dest.proxy_protocol)
                .map_err(|text| Problem::new("proxyProtocol", text))?,
        },
        frontend: frontend.into(),
        stats: backends.intern(backend, &spec.service_name),
    })
}

/// The algorithms of HAProxy's `balance` that mean something for connections of which nothing is known.
fn balance(text: &str) -> Result<Balance, Problem> {
    match text {
        "" | "roundrobin" | "static-rr" | "random" => Ok(Balance::RoundRobin),
        "leastconn" => Ok(Balance::LeastConnections),
        "source" => Ok(Balance::Source),
        "first" => Ok(Balance::First),
        other => Err(Problem::new(
            "balanceGroup",
            format!("`{other}` is not one of roundrobin, static-rr, random, leastconn, source, first"),
        )),
    }
}

/// serviceDomain in mode `tcp`: none takes everything.
fn tcp_names(spec: &ServiceSpec, dest: &DestSpec) -> Result<Vec<NamePattern>, Problem> {
    let kind = match spec.service_domain_algo.as_str() {
        // There is no Host in a connection, so the original's algorithms for it mean the name that there is.
        algo if algo.starts_with("hdr") => {
            Kind::Domain(DomainAlgo::parse(algo).map_err(|text| Problem::new("serviceDomainAlgo", text))?)
        }
        algo => Kind::parse(algo).map_err(|text| Problem::new("serviceDomainAlgo", text))?,
    };
    let names = kind.patterns("serviceDomain", dest.domains())?;
    match names.is_empty() && !dest.domains().is_empty() {
        true => Err(Problem::new("serviceDomain", "has no domain in it")),
        false => Ok(names),
    }
}

/// servicePath in mode `sni`, or serviceDomain instead of it.
fn sni_names(dest: &DestSpec) -> Result<Vec<NamePattern>, Problem> {
    let is_implied = dest.paths() == ["/"] && !dest.domains().is_empty();
    let (parameter, values) = match dest.paths() {
        [] => ("servicePath", dest.domains()),
        _ if is_implied => ("serviceDomain", dest.domains()),
        paths => ("servicePath", paths),
    };
    let kind = match dest.path_type.as_str() {
        "" | "path" => Kind::Domain(DomainAlgo::Equals),
        "path_beg" => Kind::Domain(DomainAlgo::Begins),
        "path_end" => Kind::Domain(DomainAlgo::Ends),
        "path_sub" => Kind::Contains,
        "path_reg" => Kind::Regex,
        other => Kind::parse(other).map_err(|text| Problem::new("pathType", text))?,
    };
    let names = kind.patterns(parameter, values)?;
    match names.is_empty() {
        true => Err(Problem::new(
            "servicePath",
            "is mandatory in mode sni: the server names",
        )),
        false => Ok(names),
    }
}

/// How a name is compared.
#[derive(Clone, Copy)]
enum Kind {
    Domain(DomainAlgo),
    Contains,
    Regex,
}

impl Kind {
    /// Reads HAProxy's criterion with its flags: `req_ssl_sni -i -m beg`.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not req_ssl_sni or req.ssl_sni with the flags -i and -m beg, end, sub, dom, reg or str"
            )
        };
        let mut words = text.split_whitespace();
        if !matches!(words.next(), Some("req_ssl_sni" | "req.ssl_sni")) {
            return Err(wrong());
        }
        let mut kind = Kind::Domain(DomainAlgo::Equals);
        while let Some(flag) = words.next() {
            match flag {
                // Names are compared without regard to case in any case.
                "-i" | "--" => {}
                "-m" => {
                    kind = match words.next() {
                        Some("beg") => Kind::Domain(DomainAlgo::Begins),
                        Some("end") => Kind::Domain(DomainAlgo::Ends),
                        Some("dom") => Kind::Domain(DomainAlgo::Labels),
                        Some("str") => Kind::Domain(DomainAlgo::Equals),
                        Some("sub") => Kind::Contains,
                        Some("reg") => Kind::Regex,
                        _ => return Err(wrong()),
                    }
                }
                _ => return Err(wrong()),
            }
        }
        Ok(kind)
    }

    fn patterns(self, parameter: &str, values: &[String]) -> Result<Vec<NamePattern>, Problem> {
        let one = |value: &str| {
            Ok(match self {
                // hdr_beg is there to let a port follow, which a server name has not.
                Kind::Domain(DomainAlgo::Begins) if parameter == "serviceDomain" => {
                    NamePattern::Domain(DomainPattern::new(value, DomainAlgo::Equals))
                }
                Kind::Domain(algo) => NamePattern::Domain(DomainPattern::new(value, algo)),
                Kind::Contains => NamePattern::Contains(value.to_ascii_lowercase().into()),
                Kind::Regex => NamePattern::Regex(
                    regex(&format!("(?i:{value})")).map_err(|text| Problem::new(parameter, text))?,
                ),
            })
        };
        words(values).map(one).collect()
    }
}
