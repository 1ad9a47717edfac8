// SPDX-License-Identifier: MIT OR Apache-2.0
//! From flags, environment and secrets to settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::environment::Sources;
use super::flags::Flags;
use super::values::seconds;
use crate::cli::Exit;
use crate::l7::access_log::{self, AccessLog, Format};
use crate::l7::auth::{Credentials, users};
use crate::l7::compress::Compression;
use crate::l7::environment;
use crate::l7::error_pages::ErrorPages;
use crate::l7::forwarded::{Fields, Forwarding};
use crate::l7::prefixes::{AddressPolicy, PrefixSet};
use crate::l7::proxy_protocol::Acceptance;
use crate::l7::settings::{
    Admin, ConnectionMode, Listener, ServiceDefaults, Settings, Timeouts, parse_hosts, parse_ports,
    parse_tokens,
};
use crate::l7::spec::User;
use crate::l7::tls::{AdminTls, TlsSettings};
use crate::l7::upstream::sticky::StickyKey;

/// Checks everything once, and reads secrets.
pub(super) fn settings(
    args: Flags,
    sources: &Sources<'_>,
    connections_possible: usize,
) -> Result<Settings, Exit> {
    let ports = |name: &str, text: &str| {
        let text = sources.secret(name)?.unwrap_or_else(|| text.to_owned());
        parse_ports(&text).map_err(|error| Exit::Usage(format!("{name}: {error}")))
    };
    let timeout = |name: &str, value: Duration| match sources.secret(name)? {
        Some(text) => seconds(&text).map_err(|error| Exit::Usage(format!("secret {name}: {error}"))),
        None => Ok(value),
    };
    let mut all_ports = ports("DEFAULT_PORTS", &args.default_ports)?;
    for port in ports("BIND_PORTS", &args.bind_ports)? {
        if port.number == 0 || all_ports.iter().all(|other| other.number != port.number) {
            all_ports.push(port);
        }
    }
    let workers = match args.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    if args.connections_max > connections_possible {
        tracing::info!(
            connections_max = connections_possible,
            "connections limited by the number of open files"
        );
    }
    let users = global_users(sources)?;
    let admin = admin(&args, sources)?;
    let listener = listener(&args)?;
    let access_log = access_log(&args, sources)?;
    let proxy_protocol = acceptance(&args, sources)?;
    let forwarding = forwarding(&args, sources)?;
    let defaults = ServiceDefaults {
        separator: args.separator,
        domain_algo: args.service_domain_algo,
        https_only: args.https_only,
        instance_filter: args
            .filter_proxy_instance_name
            .then_some(args.proxy_instance_name),
        connection_mode: connection_mode(sources)?,
        secrets: sources.secrets.to_owned(),
        users: users.clone(),
    };
    main_mode(sources)?;
    let protocol = sources.text("DEFAULT_PROTOCOL")?.unwrap_or_default();
    let services = environment::services(sources.variable, &defaults, &protocol.to_ascii_lowercase())
        .map_err(Exit::Usage)?;
    let stats = super::statistics::settings(sources, &mut all_ports)?;
    let tls = super::tls::settings(sources, &args.certs, args.ticket_key_file.as_deref())?;
    Ok(Settings {
        services,
        tls,
        nameservers: nameservers(sources)?,
        defaults,
        admin,
        listen: args.listen,
        ports: all_ports,
        api: SocketAddr::new(args.ip, args.port),
        workers,
        state_dir: args.state,
        drain: args.drain_seconds,
        access_log,
        request_id: args.request_id,
        connections_max: args.connections_max.min(connections_possible),
        timeouts: Timeouts {
            connect: timeout("TIMEOUT_CONNECT", args.timeout_connect)?,
            client: timeout("TIMEOUT_CLIENT", args.timeout_client)?,
            server: timeout("TIMEOUT_SERVER", args.timeout_server)?,
            queue: timeout("TIMEOUT_QUEUE", args.timeout_queue)?,
            tunnel: timeout("TIMEOUT_TUNNEL", args.timeout_tunnel)?,
            http_request: timeout("TIMEOUT_HTTP_REQUEST", args.timeout_http_request)?,
            http_keep_alive: timeout("TIMEOUT_HTTP_KEEP_ALIVE", args.timeout_http_keep_alive)?,
        },
        addresses: AddressPolicy {
            allow: prefixes(sources, "PORTICO_ALLOW_IP", &args.allow_ip)?,
            deny: prefixes(sources, "PORTICO_DENY_IP", &args.deny_ip)?,
        },
        proxy_protocol,
        forwarding,
        compression: compression(sources)?,
        error_pages: Arc::new(ErrorPages::read(&args.errorfiles)),
        stats,
        validates_addresses: sources.text("SKIP_ADDRESS_VALIDATION")?.as_deref() == Some("false"),
        credentials: credentials(&users)?,
        service_name: args.service_name,
        listener,
        docker: args.docker,
        siblings: parse_hosts(&args.siblings)
            .map_err(|error| Exit::Usage(format!("PORTICO_SIBLINGS: {error}")))?,
        sticky_key: sticky_key(sources)?,
    })
}

/// USERS: who may use every service that does not say ignoreAuthorization.
fn global_users(sources: &Sources<'_>) -> Result<Vec<User>, Exit> {
    let encrypted = sources.flag("USERS_PASS_ENCRYPTED")?;
    let Some(text) = sources.text("USERS")? else {
        return Ok(Vec::new());
    };
    match users::complete(&text, encrypted) {
        users if users.is_empty() => Err(Exit::Usage("USERS: has no `name:password` in it".into())),
        users => Ok(users),
    }
}

fn credentials(users: &[User]) -> Result<Option<Arc<Credentials>>, Exit> {
    match users {
        [] => Ok(None),
        users => Credentials::new("defaultRealm", users)
            .map(|list| Some(Arc::new(list)))
            .map_err(|error| Exit::Usage(format!("USERS: {error}"))),
    }
}

fn compression(sources: &Sources<'_>) -> Result<Option<Arc<Compression>>, Exit> {
    let types = sources.text("COMPRESSION_TYPE")?.unwrap_or_default();
    match sources.text("COMPRESSION_ALGO")? {
        None => Ok(None),
        Some(algos) => Compression::parse(&algos, &types)
            .map(|compression| Some(Arc::new(compression)))
            .map_err(|error| Exit::Usage(format!("COMPRESSION_ALGO: {error}"))),
    }
}

fn connection_mode(sources: &Sources<'_>) -> Result<ConnectionMode, Exit> {
    let text = sources.text("CONNECTION_MODE")?.unwrap_or_default();
    ConnectionMode::parse(&text).map_err(|error| Exit::Usage(format!("CONNECTION_MODE: {error}")))
}

/// DEFAULT_REQ_MODE is the mode of the main ports, and those speak HTTP.
fn main_mode(sources: &Sources<'_>) -> Result<(), Exit> {
    match sources.text("DEFAULT_REQ_MODE")? {
        Some(mode) if !mode.eq_ignore_ascii_case("http") => Err(Exit::Usage(
            "DEFAULT_REQ_MODE: the main ports speak http only; give a service reqMode=tcp or reqMode=sni and a srcPort".into(),
        )),
        _ => Ok(()),
    }
}

/// RESOLVERS: HAProxy's lines, of which `nameserver NAME ADDRESS:PORT` count.
fn nameservers(sources: &Sources<'_>) -> Result<Vec<SocketAddr>, Exit> {
    const DNS_PORT: u16 = 53;
    let text = sources.text("RESOLVERS")?.unwrap_or_default();
    let mut found = Vec::new();
    for line in text
        .split([',', '\n'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let wrong = |why: &str| Exit::Usage(format!("RESOLVERS: `{line}` {why}"));
        match words[..] {
            ["nameserver", _, address] => {
                let with_port = address.parse::<SocketAddr>();
                let alone = || address.parse().map(|ip| SocketAddr::new(ip, DNS_PORT));
                found.push(
                    with_port
                        .or_else(|_| alone())
                        .map_err(|_| wrong("has no address"))?,
                );
            }
            // Times and sizes of HAProxy's own resolver.
            [
                "hold" | "timeout" | "resolve_retries" | "accepted_payload_size",
                ..,
            ] => {}
            ["parse-resolv-conf"] => {}
            _ => return Err(wrong("is not `nameserver NAME ADDRESS:PORT`")),
        }
    }
    Ok(found)
}

fn prefixes(sources: &Sources<'_>, name: &str, text: &str) -> Result<PrefixSet, Exit> {
    let text = sources.secret(name)?.unwrap_or_else(|| text.to_owned());
    let items = text.split(|char: char| char == ',' || char.is_whitespace());
    let set = PrefixSet::parse(items.filter(|item| !item.is_empty()));
    match set {
        // What was meant as a limit and is none would admit everybody.
        Ok(set) if set.is_empty() && !text.is_empty() => {
            Err(Exit::Usage(format!("{name}: has no address in it")))
        }
        Ok(set) => Ok(set),
        Err(error) => Err(Exit::Usage(format!("{name}: {error}"))),
    }
}

/// The access log: DEBUG's, or one of ours.
fn access_log(args: &Flags, sources: &Sources<'_>) -> Result<access_log::Shared, Exit> {
    let custom = sources.text("DEBUG_HTTP_FORMAT")?;
    let named = args
        .access_log
        .as_deref()
        .unwrap_or(if args.debug { "httplog" } else { "off" });
    let format = match (named, custom) {
        ("httplog", Some(text)) => {
            Format::parse(&text).map_err(|error| Exit::Usage(format!("DEBUG_HTTP_FORMAT: {error}")))?
        }
        ("httplog", None) => Format::httplog(),
        ("combined", _) => Format::Combined,
        ("json", _) => Format::Json,
        _ => return Ok(None),
    };
    let stream_format = match (&format, sources.text("DEBUG_TCP_FORMAT")?) {
        (Format::HaProxy(_), Some(text)) => {
            Some(Format::parse(&text).map_err(|error| Exit::Usage(format!("DEBUG_TCP_FORMAT: {error}")))?)
        }
        (Format::HaProxy(_), None) => Some(Format::tcplog()),
        (Format::Json, _) => Some(Format::Json),
        (Format::Combined, _) => None,
    };
    let captures = sources.text("CAPTURE_REQUEST_HEADER")?.unwrap_or_default();
    let captures = access_log::parse_captures(&captures);
    Ok(Some(Arc::new(AccessLog {
        format,
        stream_format,
        errors_only: sources.flag("DEBUG_ERRORS_ONLY")?,
        captures: captures.map_err(|error| Exit::Usage(format!("CAPTURE_REQUEST_HEADER: {error}")))?,
    })))
}

fn listener(args: &Flags) -> Result<Option<Listener>, Exit> {
    let text = args.listener_address.replace("http://", "");
    let hosts = parse_hosts(&text).map_err(|error| Exit::Usage(format!("LISTENER_ADDRESS: {error}")))?;
    Ok((!hosts.is_empty()).then(|| Listener {
        hosts,
        // Without a pause it would ask in a circle.
        interval: Duration::from_millis(args.reload_interval.max(100)),
        repeat: args.repeat_reload,
        attempts: args.reload_attempts,
    }))
}

/// Which connections begin with a PROXY header.
fn acceptance(args: &Flags, sources: &Sources<'_>) -> Result<Acceptance, Exit> {
    let all = args.accept_proxy.trim() == "all";
    let words = args
        .accept_proxy
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty() && !all);
    let ports = words
        .map(|word| {
            word.parse().map_err(|_| {
                Exit::Usage(format!(
                    "PORTICO_ACCEPT_PROXY: `{word}` is neither a port nor `all`"
                ))
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Acceptance {
        ports,
        all,
        from: prefixes(sources, "PORTICO_ACCEPT_PROXY_FROM", &args.accept_proxy_from)?,
    })
}

fn forwarding(args: &Flags, sources: &Sources<'_>) -> Result<Forwarding, Exit> {
    let trusted = match args.trusted_proxies.trim() {
        "none" => Some(PrefixSet::default()),
        text => Some(prefixes(sources, "PORTICO_TRUSTED_PROXIES", text)?).filter(|set| !set.is_empty()),
    };
    let fields = Fields::parse(&args.forwarded);
    let fields = fields.map_err(|error| Exit::Usage(format!("PORTICO_FORWARDED: {error}")))?;
    Ok(Forwarding { trusted, fields })
}

/// What closes the admin port. A file that was named and cannot be read must not leave it open.
fn admin(args: &Flags, sources: &Sources<'_>) -> Result<Admin, Exit> {
    let wrong = |variable: &str, error: String| Exit::Usage(format!("{variable}: {error}"));
    let text = |name: &str, file: &Option<PathBuf>| {
        let variable = format!("PORTICO_{name}_FILE");
        match (sources.secret(name)?, file) {
            (Some(text), _) => Ok(Some(text)),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file);
                let named = |error| wrong(&variable, format!("{}: {error}", file.display()));
                text.map(Some).map_err(named)
            }
            (None, None) => Ok(None),
        }
    };
    let tokens = text("ADMIN_TOKEN", &args.admin_token_file)?
        .map(|text| parse_tokens(&text).map_err(|error| wrong("PORTICO_ADMIN_TOKEN_FILE", error)))
        .transpose()?;
    let authorities = text("ADMIN_CA", &args.admin_ca_file)?
        .map(|pem| {
            let roots = TlsSettings::parse_authorities(pem.as_bytes());
            roots.map_err(|error| wrong("PORTICO_ADMIN_CA_FILE", error))
        })
        .transpose()?;
    let tls = match (text("ADMIN_CERT", &args.admin_cert_file)?, authorities) {
        (None, None) => None,
        (None, Some(_)) => {
            let error = "client certificates need TLS: set PORTICO_ADMIN_CERT_FILE too";
            return Err(wrong("PORTICO_ADMIN_CA_FILE", error.into()));
        }
        (Some(pem), authorities) => {
            let tls = AdminTls::new(pem.as_bytes(), authorities);
            Some(tls.map_err(|error| wrong("PORTICO_ADMIN_CERT_FILE", error))?)
        }
    };
    Ok(Admin {
        tokens: tokens.unwrap_or_default(),
        allow: prefixes(sources, "PORTICO_ADMIN_ALLOW", &args.admin_allow)?,
        tls,
    })
}

/// The secret or variable PORTICO_STICKY_KEY. Without it cookies work all the same, in every replica, but a client that
/// knows this source could find out which private address its task has.
fn sticky_key(sources: &Sources<'_>) -> Result<StickyKey, Exit> {
    let key = sources.text("PORTICO_STICKY_KEY")?;
    Ok(StickyKey::new(key.unwrap_or_default().as_bytes()))
}

/// DNS_LOOKUP_PAUSE_MS: how long the start waits before it looks for the other replicas.
pub(super) fn pause(sources: &Sources<'_>) -> Result<Duration, Exit> {
    match sources.text("DNS_LOOKUP_PAUSE_MS")? {
        None => Ok(Duration::ZERO),
        Some(text) => (text.trim().parse()).map(Duration::from_millis).map_err(|_| {
            Exit::Usage(format!(
                "DNS_LOOKUP_PAUSE_MS: `{text}` is not a number of milliseconds"
            ))
        }),
    }
}
