// SPDX-License-Identifier: MIT OR Apache-2.0
//! The proxy's settings, resolved: what the command line, environment and secrets said, checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::domain::DomainAlgo;

/// Everything that is fixed at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the data listeners.
    pub listen: IpAddr,
    /// Ports of the data listeners (DEFAULT_PORTS, then BIND_PORTS); 0 takes a free one.
    pub ports: Vec<u16>,
    /// Address of the API.
    pub api: SocketAddr,
    /// Worker threads.
    pub workers: usize,
    /// Where the services are kept.
    pub state_dir: PathBuf,
    /// How long in-flight requests may take after SIGTERM.
    pub drain: Duration,
    /// One line per request on standard output.
    pub access_log: bool,
    /// Client connections of the whole process.
    pub connections_max: usize,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// What the parameters of a service are read with.
    pub defaults: ServiceDefaults,
    /// The proxy's own service name, for `tasks.<name>`.
    pub service_name: String,
}

/// How parameters are read.
#[derive(Clone, Debug)]
pub struct ServiceDefaults {
    /// Between items of a list.
    pub separator: String,
    /// The domain matcher of services that name none.
    pub domain_algo: DomainAlgo,
    /// Redirect every service to https.
    pub https_only: bool,
    /// With FILTER_PROXY_INSTANCE_NAME: the name that a service must carry.
    pub instance_filter: Option<String>,
}

/// Timeouts, named as in docker-flow-proxy.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TIMEOUT_CONNECT: name resolution and connect together.
    pub connect: Duration,
    /// TIMEOUT_CLIENT: a client that sends nothing in a body, or takes nothing.
    pub client: Duration,
    /// TIMEOUT_SERVER: an upstream that sends nothing.
    pub server: Duration,
    /// TIMEOUT_TUNNEL: an upgraded connection in which nothing moves.
    pub tunnel: Duration,
    /// TIMEOUT_HTTP_REQUEST: from the first byte of a head to its end.
    pub http_request: Duration,
    /// TIMEOUT_HTTP_KEEP_ALIVE: between requests.
    pub http_keep_alive: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(5),
            client: Duration::from_secs(20),
            server: Duration::from_secs(20),
            tunnel: Duration::from_secs(3600),
            http_request: Duration::from_secs(5),
            http_keep_alive: Duration::from_secs(15),
        }
    }
}

/// Reads a port list such as `80,443:ssl`.
///
/// `:ssl` is accepted and means plain HTTP while there is no certificate, as in the original. Bind options change
/// what the port speaks, so an unknown one is an error.
pub fn parse_ports(text: &str) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let plain = item.strip_suffix(":ssl").unwrap_or(item).trim();
        let mut words = plain.split_whitespace();
        let port = words.next().unwrap_or_default();
        let port = port
            .parse::<u16>()
            .map_err(|_| format!("`{item}`: `{port}` is not a port"))?;
        if let Some(option) = words.next() {
            return Err(format!(
                "`{item}`: the bind option `{option}` is not supported yet"
            ));
        }
        // Port 0 stands for any free port, so two of them are two ports.
        if port == 0 || !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_lists_are_read_as_the_original_reads_them() {
        assert_eq!(parse_ports("80,443:ssl"), Ok(vec![80, 443]));
        assert_eq!(parse_ports(" 80 , 80,8443:ssl"), Ok(vec![80, 8443]));
        assert_eq!(parse_ports(""), Ok(vec![]));
        assert!(parse_ports("http").is_err_and(|e| e.contains("http")));
        assert!(parse_ports("70000").is_err());
        assert!(parse_ports("80 accept-proxy").is_err_and(|e| e.contains("accept-proxy")));
    }
}
