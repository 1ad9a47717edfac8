// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flags and environment of `portico proxy`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::values::{boolean, seconds};
use crate::l7::domain::DomainAlgo;
use crate::l7::limits;
use crate::l7::settings::EngineHost;

/// The variables without PORTICO_ are docker-flow-proxy's.
#[derive(clap::Args)]
pub(super) struct Flags {
    /// Address of the API
    #[arg(long, env = "IP", default_value = "0.0.0.0")]
    pub(super) ip: IpAddr,
    /// Port of the API
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub(super) port: u16,
    /// File with the bearer tokens of the admin port, one on each line; or the secret dfp_admin_token
    #[arg(long, env = "PORTICO_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub(super) admin_token_file: Option<PathBuf>,
    /// PEM file with the certificate of the admin port and its key, which speaks TLS then; or the secret dfp_admin_cert
    #[arg(long, env = "PORTICO_ADMIN_CERT_FILE", value_name = "FILE")]
    pub(super) admin_cert_file: Option<PathBuf>,
    /// PEM file with the authorities whose client certificates the admin port asks for; or the secret dfp_admin_ca
    #[arg(long, env = "PORTICO_ADMIN_CA_FILE", value_name = "FILE")]
    pub(super) admin_ca_file: Option<PathBuf>,
    /// Who may use the admin port: addresses and prefixes, separated by commas; or the secret dfp_portico_admin_allow
    #[arg(
        long,
        env = "PORTICO_ADMIN_ALLOW",
        value_name = "PREFIXES",
        default_value = ""
    )]
    pub(super) admin_allow: String,
    /// Address of the ports for requests
    #[arg(long, env = "PORTICO_LISTEN", default_value = "0.0.0.0")]
    pub(super) listen: IpAddr,
    /// Ports for requests; `:ssl` means plain HTTP while there is no certificate
    #[arg(long, env = "DEFAULT_PORTS", default_value = "80,443:ssl")]
    pub(super) default_ports: String,
    /// More ports for requests
    #[arg(long, env = "BIND_PORTS", default_value = "")]
    pub(super) bind_ports: String,
    /// Addresses and prefixes of clients that are served, separated by commas; none serves everybody
    #[arg(long, env = "PORTICO_ALLOW_IP", value_name = "PREFIXES", default_value = "")]
    pub(super) allow_ip: String,
    /// Addresses and prefixes of clients that are not served, even if they are allowed
    #[arg(long, env = "PORTICO_DENY_IP", value_name = "PREFIXES", default_value = "")]
    pub(super) deny_ip: String,
    /// Worker threads; 0 takes one for each processor
    #[arg(long, env = "PORTICO_WORKERS", default_value_t = 0)]
    pub(super) workers: usize,
    /// Directory in which services are kept
    #[arg(long, env = "PORTICO_STATE", default_value = "/var/lib/portico")]
    pub(super) state: PathBuf,
    /// Directory with error pages such as 503.http
    #[arg(
        long,
        env = "PORTICO_ERRORFILES",
        value_name = "DIR",
        default_value = "/errorfiles"
    )]
    pub(super) errorfiles: PathBuf,
    /// Ports on which connections begin with a PROXY header, separated by commas, or `all`; beside those with the bind
    /// option accept-proxy
    #[arg(long, env = "PORTICO_ACCEPT_PROXY", value_name = "PORTS", default_value = "")]
    pub(super) accept_proxy: String,
    /// Who sends a PROXY header on these ports: addresses and prefixes; everybody if empty. Others send none
    #[arg(
        long,
        env = "PORTICO_ACCEPT_PROXY_FROM",
        value_name = "PREFIXES",
        default_value = ""
    )]
    pub(super) accept_proxy_from: String,
    /// Proxies whose X-Forwarded-* and Forwarded are believed: addresses and prefixes, or `none`. What others send is
    /// removed then. Empty: nobody is believed and nothing is removed, as in the original
    #[arg(
        long,
        env = "PORTICO_TRUSTED_PROXIES",
        value_name = "PREFIXES",
        default_value = ""
    )]
    pub(super) trusted_proxies: String,
    /// What services are told: for, proto, host, port (X-Forwarded-…), forwarded (RFC 7239), or none
    #[arg(long, env = "PORTICO_FORWARDED", value_name = "FIELDS", default_value = "for")]
    pub(super) forwarded: String,
    /// Directory of certificates; `cert` writes into it
    #[arg(long, env = "PORTICO_CERTS", value_name = "DIR", default_value = "/certs")]
    pub(super) certs: PathBuf,
    /// File with the secret that replicas derive the keys of session tickets from; or the secret dfp_ticket_key
    #[arg(long, env = "PORTICO_TICKET_KEY_FILE", value_name = "FILE")]
    pub(super) ticket_key_file: Option<PathBuf>,
    /// How long requests may finish after SIGTERM
    #[arg(long, env = "PORTICO_DRAIN_SECONDS", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(super) drain_seconds: Duration,
    /// Client connections at a time; fewer if the limit of open files is lower
    #[arg(long, env = "PORTICO_CONNECTIONS_MAX", default_value_t = limits::CONNECTIONS_MAX)]
    pub(super) connections_max: usize,
    /// Name of the proxy's own Swarm service, for `distribute`
    #[arg(long, env = "SERVICE_NAME", default_value = "proxy")]
    pub(super) service_name: String,
    /// The proxy's replicas where they are not the tasks of that service: host or host:port, separated by commas
    #[arg(long, env = "PORTICO_SIBLINGS", value_name = "HOSTS", default_value = "")]
    pub(super) siblings: String,
    /// Swarm manager's engine whose `com.df.*` labels are read: unix:///path or tcp://host:port
    #[arg(long, env = "PORTICO_DOCKER", value_name = "ENGINE", value_parser = EngineHost::parse)]
    pub(super) docker: Option<EngineHost>,
    /// docker-flow-swarm-listeners, separated by commas
    #[arg(long, env = "LISTENER_ADDRESS", value_name = "HOSTS", default_value = "")]
    pub(super) listener_address: String,
    /// Between two attempts to fetch from a listener
    #[arg(
        long,
        env = "RELOAD_INTERVAL",
        value_name = "MILLISECONDS",
        default_value_t = 5000
    )]
    pub(super) reload_interval: u64,
    /// Never stop fetching from a single listener
    #[arg(long, env = "REPEAT_RELOAD", num_args = 0..=1, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    pub(super) repeat_reload: bool,
    /// How often each of several listeners is asked
    #[arg(long, env = "RELOAD_ATTEMPTS", default_value_t = 5)]
    pub(super) reload_attempts: u32,
    /// Between items of a list in a parameter
    #[arg(long, env = "SEPARATOR", default_value = ",")]
    pub(super) separator: String,
    /// How domains match: hdr_beg(host), hdr(host), hdr_dom(host) or hdr_end(host)
    #[arg(long, env = "SERVICE_DOMAIN_ALGO", default_value = "hdr_beg(host)", value_parser = DomainAlgo::parse)]
    pub(super) service_domain_algo: DomainAlgo,
    /// Redirect every service to https
    #[arg(long, env = "HTTPS_ONLY", num_args = 0..=1, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    pub(super) https_only: bool,
    /// Take only services with our proxyInstanceName
    #[arg(long, env = "FILTER_PROXY_INSTANCE_NAME", num_args = 0..=1, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    pub(super) filter_proxy_instance_name: bool,
    /// Our proxyInstanceName
    #[arg(long, env = "PROXY_INSTANCE_NAME", default_value = "docker-flow")]
    pub(super) proxy_instance_name: String,
    /// Resolving and connecting to a service
    #[arg(long, env = "TIMEOUT_CONNECT", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(super) timeout_connect: Duration,
    /// A client that sends nothing of a body, or takes nothing of an answer
    #[arg(long, env = "TIMEOUT_CLIENT", value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub(super) timeout_client: Duration,
    /// A service that sends nothing
    #[arg(long, env = "TIMEOUT_SERVER", value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub(super) timeout_server: Duration,
    /// A request that waits for its turn at a service with a limit
    #[arg(long, env = "TIMEOUT_QUEUE", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(super) timeout_queue: Duration,
    /// An upgraded connection in which nothing moves
    #[arg(long, env = "TIMEOUT_TUNNEL", value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    pub(super) timeout_tunnel: Duration,
    /// From the first byte of a request to the end of its head
    #[arg(long, env = "TIMEOUT_HTTP_REQUEST", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(super) timeout_http_request: Duration,
    /// Between requests on a connection
    #[arg(long, env = "TIMEOUT_HTTP_KEEP_ALIVE", value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub(super) timeout_http_keep_alive: Duration,
    /// Access log: off, httplog, combined or json; httplog with DEBUG, else off
    #[arg(long, env = "PORTICO_ACCESS_LOG", value_name = "FORMAT", value_parser = ["off", "httplog", "combined", "json"])]
    pub(super) access_log: Option<String>,
    /// Field with the request's id for services, such as X-Request-ID; a client's own is passed on
    #[arg(long, env = "PORTICO_REQUEST_ID", value_name = "FIELD")]
    pub(super) request_id: Option<hyper::header::HeaderName>,
    /// One line per request on standard output
    #[arg(long, env = "DEBUG", num_args = 0..=1, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    pub(super) debug: bool,
}
