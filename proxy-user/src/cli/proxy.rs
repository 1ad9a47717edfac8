// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico proxy`: flags, environment and secrets to settings; then the proxy until a signal ends it.

use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Exit;
use crate::l7::domain::DomainAlgo;
use crate::l7::limits;
use crate::l7::server::{Proxy, StartError};
use crate::l7::settings::{ServiceDefaults, Settings, Timeouts, parse_ports};

/// Where Docker puts secrets.
const SECRETS: &str = "/run/secrets";

/// Flags of `portico proxy`.
#[derive(clap::Args)]
pub struct Args {
    /// In a box because the other verbs have far fewer.
    #[command(flatten)]
    flags: Box<Flags>,
}

/// The variables without PORTICO_ are docker-flow-proxy's.
#[derive(clap::Args)]
struct Flags {
    /// Address of the API
    #[arg(long, env = "IP", default_value = "0.0.0.0")]
    ip: IpAddr,
    /// Port of the API
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
    /// Address of the ports for requests
    #[arg(long, env = "PORTICO_LISTEN", default_value = "0.0.0.0")]
    listen: IpAddr,
    /// Ports for requests; `:ssl` means plain HTTP while there is no certificate
    #[arg(long, env = "DEFAULT_PORTS", default_value = "80,443:ssl")]
    default_ports: String,
    /// More ports for requests
    #[arg(long, env = "BIND_PORTS", default_value = "")]
    bind_ports: String,
    /// Worker threads; 0 takes one for each processor
    #[arg(long, env = "PORTICO_WORKERS", default_value_t = 0)]
    workers: usize,
    /// Directory in which services are kept
    #[arg(long, env = "PORTICO_STATE", default_value = "/var/lib/portico")]
    state: PathBuf,
    /// How long requests may finish after SIGTERM
    #[arg(long, env = "PORTICO_DRAIN_SECONDS", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    drain_seconds: Duration,
    /// Client connections at a time; fewer if the limit of open files is lower
    #[arg(long, env = "PORTICO_CONNECTIONS_MAX", default_value_t = limits::CONNECTIONS_MAX)]
    connections_max: usize,
    /// Name of the proxy's own Swarm service, for `distribute`
    #[arg(long, env = "SERVICE_NAME", default_value = "proxy")]
    service_name: String,
    /// Between items of a list in a parameter
    #[arg(long, env = "SEPARATOR", default_value = ",")]
    separator: String,
    /// How domains match: hdr_beg(host), hdr(host), hdr_dom(host) or hdr_end(host)
    #[arg(long, env = "SERVICE_DOMAIN_ALGO", default_value = "hdr_beg(host)", value_parser = DomainAlgo::parse)]
    service_domain_algo: DomainAlgo,
    /// Redirect every service to https
    #[arg(long, env = "HTTPS_ONLY", num_args = 0..=1, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    https_only: bool,
    /// Take only services with our proxyInstanceName
    #[arg(long, env = "FILTER_PROXY_INSTANCE_NAME", num_args = 0..=1, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    filter_proxy_instance_name: bool,
    /// Our proxyInstanceName
    #[arg(long, env = "PROXY_INSTANCE_NAME", default_value = "docker-flow")]
    proxy_instance_name: String,
    /// Resolving and connecting to a service
    #[arg(long, env = "TIMEOUT_CONNECT", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout_connect: Duration,
    /// A client that sends nothing of a body, or takes nothing of an answer
    #[arg(long, env = "TIMEOUT_CLIENT", value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    timeout_client: Duration,
    /// A service that sends nothing
    #[arg(long, env = "TIMEOUT_SERVER", value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    timeout_server: Duration,
    /// An upgraded connection in which nothing moves
    #[arg(long, env = "TIMEOUT_TUNNEL", value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    timeout_tunnel: Duration,
    /// From the first byte of a request to the end of its head
    #[arg(long, env = "TIMEOUT_HTTP_REQUEST", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout_http_request: Duration,
    /// Between requests on a connection
    #[arg(long, env = "TIMEOUT_HTTP_KEEP_ALIVE", value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    timeout_http_keep_alive: Duration,
    /// One line per request on standard output
    #[arg(long, env = "DEBUG", num_args = 0..=1, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    debug: bool,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    log_to_stderr();
    refuse_unsupported(&|name| std::env::var(name).ok())?;
    let settings = settings(*args.flags, Path::new(SECRETS), limits::connections_possible())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Exit::Failed(format!("cannot make a runtime: {error}")))?;
    runtime.block_on(async {
        // Before the listeners exist, so that no signal finds the default action once somebody can connect.
        let signals = (
            signal(tokio::signal::unix::SignalKind::terminate())?,
            signal(tokio::signal::unix::SignalKind::interrupt())?,
        );
        let (mut terminate, mut interrupt) = signals;
        let proxy = Proxy::start(settings).map_err(explain)?;
        tracing::info!(data = ?proxy.data, api = %proxy.api, "ready");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("draining");
        proxy.stop();
        Ok(())
    })
}

fn signal(kind: tokio::signal::unix::SignalKind) -> Result<tokio::signal::unix::Signal, Exit> {
    tokio::signal::unix::signal(kind).map_err(|error| Exit::Failed(format!("cannot handle signals: {error}")))
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PORTICO_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new(
            "info,hickory_resolver=error,hickory_net=error,hickory_proto=error",
        )
    });
    // Somebody else's subscriber is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}

fn settings(args: Flags, secrets: &Path, connections_possible: usize) -> Result<Settings, Exit> {
    let secret = |name: &str| read_secret(secrets, name);
    let ports = |name: &str, text: &str| {
        let text = secret(name).unwrap_or_else(|| text.to_owned());
        parse_ports(&text).map_err(|error| Exit::Usage(format!("{name}: {error}")))
    };
    let timeout = |name: &str, value: Duration| match secret(name) {
        Some(text) => seconds(&text).map_err(|error| Exit::Usage(format!("secret {name}: {error}"))),
        None => Ok(value),
    };
    let mut all_ports = ports("DEFAULT_PORTS", &args.default_ports)?;
    for port in ports("BIND_PORTS", &args.bind_ports)? {
        if port == 0 || !all_ports.contains(&port) {
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
    Ok(Settings {
        listen: args.listen,
        ports: all_ports,
        api: SocketAddr::new(args.ip, args.port),
        workers,
        state_dir: args.state,
        drain: args.drain_seconds,
        access_log: args.debug,
        connections_max: args.connections_max.min(connections_possible),
        timeouts: Timeouts {
            connect: timeout("TIMEOUT_CONNECT", args.timeout_connect)?,
            client: timeout("TIMEOUT_CLIENT", args.timeout_client)?,
            server: timeout("TIMEOUT_SERVER", args.timeout_server)?,
            tunnel: timeout("TIMEOUT_TUNNEL", args.timeout_tunnel)?,
            http_request: timeout("TIMEOUT_HTTP_REQUEST", args.timeout_http_request)?,
            http_keep_alive: timeout("TIMEOUT_HTTP_KEEP_ALIVE", args.timeout_http_keep_alive)?,
        },
        defaults: ServiceDefaults {
            separator: args.separator,
            domain_algo: args.service_domain_algo,
            https_only: args.https_only,
            instance_filter: args
                .filter_proxy_instance_name
                .then_some(args.proxy_instance_name),
        },
        service_name: args.service_name,
    })
}

/// A secret wins over the variable, as in the original.
fn read_secret(dir: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(dir.join(format!("dfp_{}", name.to_ascii_lowercase()))).ok()?;
    Some(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Variables that protect something must not be ignored; those that only tune something are named in the log.
fn refuse_unsupported(get: &dyn Fn(&str) -> Option<String>) -> Result<(), Exit> {
    let is_set = |name: &&&str| get(name).is_some_and(|value| !value.is_empty());
    const REFUSED: [&str; 5] = [
        "USERS",
        "CA_FILE",
        "CRT_LIST_PATH",
        "EXTRA_FRONTEND",
        "EXTRA_GLOBAL",
    ];
    if let Some(name) = REFUSED.iter().find(is_set) {
        return Err(Exit::Usage(format!(
            "{name} is not supported yet, and the proxy would behave otherwise without it"
        )));
    }
    const BY_CALL: &str = "its services are not routed; configure them by calling reconfigure";
    const IGNORED: [(&str, &str); 4] = [
        (
            "LISTENER_ADDRESS",
            "the listener is not asked for its services, so those that it does not send by itself are not routed",
        ),
        (
            "COMPRESSION_ALGO",
            "answers are passed on as the services send them",
        ),
        ("DFP_SERVICE_SERVICE_NAME", BY_CALL),
        ("DFP_SERVICE_1_SERVICE_NAME", BY_CALL),
    ];
    for (name, effect) in IGNORED.iter().filter(|(name, _)| is_set(&name)) {
        tracing::error!("{name} is not supported yet: {effect}");
    }
    Ok(())
}

fn explain(error: StartError) -> Exit {
    let StartError::Bind { address, source } = &error else {
        return Exit::Failed(error.to_string());
    };
    let how = match source.kind() {
        io::ErrorKind::AddrInUse => format!(
            "stop what listens there (`ss -ltnp sport = :{}`), or choose other ports with DEFAULT_PORTS, BIND_PORTS or PORT",
            address.port()
        ),
        io::ErrorKind::PermissionDenied => {
            "grant CAP_NET_BIND_SERVICE, or choose ports from 1024 on with DEFAULT_PORTS, BIND_PORTS and PORT"
                .into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "choose an address of this machine with PORTICO_LISTEN or IP".into()
        }
        _ => "choose another address with PORTICO_LISTEN, IP, DEFAULT_PORTS or PORT".into(),
    };
    Exit::Lacks {
        what: error.to_string(),
        how,
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.trim().trim_end_matches('s').parse::<u64>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("`{text}` is not a number of seconds")),
    }
}

/// The original takes every text; only a form of true turns something on.
fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" | "yes" | "on" => Ok(true),
        "false" | "0" | "f" | "no" | "off" | "" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn read(line: &[&str], secrets: &Path) -> Result<Settings, Exit> {
        let args = Line::try_parse_from([&["proxy"], line].concat())
            .map_err(|e| Exit::Usage(e.to_string()))?
            .flags;
        settings(args, secrets, 100)
    }

    #[test]
    fn defaults_are_the_originals() {
        let settings = read(&[], Path::new("/nonexistent")).unwrap();
        assert_eq!(settings.ports, [80, 443]);
        assert_eq!(settings.api.to_string(), "0.0.0.0:8080");
        assert_eq!(settings.connections_max, 100);
        assert_eq!(settings.timeouts.server, Duration::from_secs(20));
    }

    #[test]
    fn a_secret_wins_over_the_variable() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("dfp_timeout_server"), "7\n").unwrap();
        std::fs::write(dir.path().join("dfp_bind_ports"), "81,443\n").unwrap();
        let settings = read(&["--timeout-server", "9"], dir.path()).unwrap();
        assert_eq!(settings.timeouts.server, Duration::from_secs(7));
        assert_eq!(settings.ports, [80, 443, 81]);
    }

    #[test]
    fn wrong_values_are_wrong_usage() {
        for line in [
            ["--default-ports", "http"],
            ["--timeout-client", "soon"],
            ["--service-domain-algo", "x"],
            ["--debug", "maybe"],
        ] {
            assert!(
                matches!(read(&line, Path::new("/nonexistent")), Err(Exit::Usage(_))),
                "{line:?}"
            );
        }
    }

    #[test]
    fn what_protects_is_not_ignored() {
        let error = refuse_unsupported(&|name| (name == "USERS").then(|| "a:b".into())).unwrap_err();
        assert!(error.to_string().contains("USERS") && !error.to_string().contains("a:b"));
        assert!(refuse_unsupported(&|_| None).is_ok());
    }

    #[test]
    fn an_address_in_use_is_what_the_machine_lacks() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let settings = read(
            &[
                "--listen",
                "127.0.0.1",
                "--ip",
                "127.0.0.1",
                "--port",
                "0",
                "--default-ports",
                &port,
                "--state",
                "/proc/no",
            ],
            Path::new("/nonexistent"),
        );
        let error = Proxy::start(settings.unwrap()).err().map(explain).unwrap();
        assert_eq!(error.code(), 3);
        assert!(error.to_string().contains(&port), "{error}");
    }
}
