// SPDX-License-Identifier: MIT OR Apache-2.0
//! The proxy's settings, resolved: what the command line, environment and secrets said, checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderName;

use super::access_log;
use super::auth::Credentials;
use super::compress::Compression;
use super::domain::DomainAlgo;
use super::environment;
use super::error_pages::ErrorPages;
use super::forwarded::Forwarding;
use super::prefixes::AddressPolicy;
use super::proxy_protocol::Acceptance;
use super::spec::User;
use super::stats;
use super::tls::TlsSettings;
use super::upstream::sticky::StickyKey;

mod admin;
mod connection;
mod ports;
mod sources;
mod timeouts;

pub use admin::{Admin, Token, parse_tokens};
pub use connection::ConnectionMode;
pub use ports::{Port, parse_hosts, parse_ports};
pub use sources::{EngineHost, Listener};
pub use timeouts::Timeouts;

/// Everything that is fixed at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the data listeners.
    pub listen: IpAddr,
    /// Ports of the data listeners: DEFAULT_PORTS, then BIND_PORTS.
    pub ports: Vec<Port>,
    /// Address of the API.
    pub api: SocketAddr,
    /// Who may use it.
    pub admin: Admin,
    /// Worker threads.
    pub workers: usize,
    /// Where the services are kept.
    pub state_dir: PathBuf,
    /// How long in-flight requests may take after SIGTERM.
    pub drain: Duration,
    /// One line per request on standard output.
    pub access_log: access_log::Shared,
    /// The field in which services get the request's id.
    pub request_id: Option<HeaderName>,
    /// Client connections of the whole process.
    pub connections_max: usize,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// What the parameters of a service are read with.
    pub defaults: ServiceDefaults,
    /// Addresses of clients that are served at all.
    pub addresses: AddressPolicy,
    /// Connections that begin with a PROXY header.
    pub proxy_protocol: Acceptance,
    /// What is believed and said of the way that a request took.
    pub forwarding: Forwarding,
    /// COMPRESSION_ALGO: for services that name no compressionAlgo.
    pub compression: Option<Arc<Compression>>,
    /// TLS towards clients.
    pub tls: TlsSettings,
    /// Answers of the proxy itself.
    pub error_pages: Arc<ErrorPages>,
    /// RESOLVERS; none asks those of the system.
    pub nameservers: Vec<SocketAddr>,
    /// DFP_SERVICE_*.
    pub services: Vec<environment::Service>,
    /// STATS_*: the statistics page, if it is on.
    pub stats: Option<stats::page::Settings>,
    /// SKIP_ADDRESS_VALIDATION=false: a service that has no address is refused.
    pub validates_addresses: bool,
    /// USERS, ready to compare with.
    pub credentials: Option<Arc<Credentials>>,
    /// The proxy's own service name, for `tasks.<name>`.
    pub service_name: String,
    /// The other replicas where they are not the tasks of that service: names, and ports if they differ.
    pub siblings: Vec<(String, Option<u16>)>,
    /// What sticky cookies are made with.
    pub sticky_key: StickyKey,
    /// Whose list of services is asked for at the start.
    pub listener: Option<Listener>,
    /// Whose labels are read.
    pub docker: Option<EngineHost>,
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
    /// For services that name no connectionMode.
    pub connection_mode: ConnectionMode,
    /// Where Docker puts secrets.
    pub secrets: PathBuf,
    /// USERS: who may use every service.
    pub users: Vec<User>,
}
