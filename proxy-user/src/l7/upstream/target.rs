// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a service's parameters say about the way to its tasks.
//!
//! Two destinations that say the same share connections and what is known of their tasks; so a `reconfigure` that
//! changes only routes or policies changes nothing here.

use std::time::Duration;

use super::balance::{Balance, HashKey};
use super::health::{Check, CheckKind};
use super::outlier::Ejection;
use super::sticky::Sticky;
use super::tls::{Tls, Wish};
use crate::l7::limits;
use crate::l7::params::Problem;
use crate::l7::proxy_protocol::Version;
use crate::l7::settings::Settings;
use crate::l7::spec::{DestSpec, ServiceSpec};

/// Where requests go, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Name or address.
    pub host: Box<str>,
    /// Port.
    pub port: u16,
    /// What the name is asked for.
    pub discovery: Discovery,
    /// How requests are shared among tasks.
    pub balance: Balance,
    /// Whether a client stays with its task.
    pub sticky: Option<Sticky>,
    /// How long a new task takes to its whole share.
    pub slow_start: Duration,
    /// What is asked of tasks besides requests.
    pub check: Option<Check>,
    /// When a task rests.
    pub ejection: Ejection,
    /// How often a request may be sent again.
    pub retries: u32,
    /// How many requests of a hundred.
    pub retry_percent: u32,
    /// Requests at a time, of all workers; none is no limit.
    pub requests_max: Option<u32>,
    /// Requests that wait for their turn, of all workers.
    pub queue_max: u32,
    /// How long one waits for its turn.
    pub timeout_queue: Duration,
    /// How long a connection may take, its name included.
    pub timeout_connect: Duration,
    /// How long the head of an answer may take, if not as long as any silence.
    pub timeout_response: Option<Duration>,
    /// How long a connection is kept that nobody uses.
    pub timeout_idle: Duration,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether and how it is spoken in secret.
    pub tls: Option<Tls>,
    /// Each connection begins with who the client is, and serves nobody else.
    pub proxy_protocol: Option<Version>,
}

/// What a name is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Discovery {
    /// An address behind which the kernel balances connections.
    #[default]
    Vip,
    /// The addresses of the tasks; the proxy balances requests.
    Tasks,
}

/// What is spoken to tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 in the clear, with prior knowledge.
    H2c,
    /// What TLS negotiates: HTTP/2, or HTTP/1.1 where the task has no other.
    H2,
}

/// The native parameters of a destination, as they were given.
pub type Given = Vec<(&'static str, String)>;

/// Their names, which stand in `params/known.rs` as well.
pub const PARAMETERS: [&str; 25] = [
    "balance",
    "balanceHeader",
    "healthInterval",
    "healthPath",
    "healthTimeout",
    "healthRise",
    "healthFall",
    "maxQueue",
    "maxRequests",
    "outlierErrors",
    "outlierPercentMax",
    "outlierTime",
    "retries",
    "retryPercent",
    "sessionCookie",
    "sessionMaxAge",
    "slowStart",
    "timeoutConnect",
    "timeoutIdle",
    "timeoutQueue",
    "timeoutResponse",
    "upstreamCa",
    "upstreamProtocol",
    "upstreamSni",
    "upstreamTls",
];

impl Target {
    /// A target with the defaults of every setting.
    pub fn new(host: &str, port: u16, settings: &Settings) -> Self {
        Target {
            host: host.into(),
            port,
            discovery: Discovery::Vip,
            balance: Balance::RoundRobin,
            sticky: None,
            slow_start: Duration::ZERO,
            check: None,
            ejection: Ejection::default(),
            retries: limits::RETRIES_DEFAULT,
            retry_percent: limits::RETRY_PERCENT_DEFAULT,
            requests_max: None,
            queue_max: limits::QUEUE_DEFAULT,
            timeout_queue: settings.timeouts.queue,
            timeout_connect: settings.timeouts.connect,
            timeout_response: None,
            timeout_idle: limits::UPSTREAM_IDLE_MAX,
            protocol: Protocol::Http1,
            tls: None,
            proxy_protocol: None,
        }
    }

    /// The scheme of its URIs.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The target of a destination. Names in problems are without index.
    pub fn compile(
        host: &str,
        port: u16,
        spec: &ServiceSpec,
        dest: &DestSpec,
        settings: &Settings,
    ) -> Result<Self, Problem> {
        let given = Values(&dest.native);
        let mut target = Target::new(host, port, settings);
        target.sticky = sticky(spec, given)?;
        target.discovery = discovery(spec, target.sticky.is_some())?;
        if target.discovery == Discovery::Tasks {
            target.timeout_idle = limits::TASK_IDLE_MAX;
        }
        target.balance = balance(given, target.discovery)?;
        target.check = check(dest, given)?;
        let version = Version::parse(&dest.proxy_protocol);
        target.proxy_protocol = version.map_err(|text| Problem::new("proxyProtocol", text))?;
        target.protocol = match given.text("upstreamProtocol") {
            None | Some("http1") => Protocol::Http1,
            Some("h2c") => Protocol::H2c,
            Some("h2") => Protocol::H2,
            Some(other) => return Err(unknown("upstreamProtocol", other, "http1, h2, h2c")),
        };
        target.tls = tls(host, dest, given, target.protocol, settings)?;
        if target.protocol != Protocol::Http1
            && matches!(&target.check, Some(check) if check.kind != CheckKind::Tcp)
        {
            return Err(Problem::new(
                "healthPath",
                "is asked in HTTP/1.1: use checkTcp with upstreamProtocol",
            ));
        }
        set(&mut target.slow_start, given.time("slowStart")?);
        set(
            &mut target.ejection.errors,
            given.number("outlierErrors", 0..=1_000_000)?,
        );
        set(&mut target.ejection.time, given.time("outlierTime")?);
        set(
            &mut target.ejection.percent_max,
            given.number("outlierPercentMax", 0..=100)?,
        );
        set(
            &mut target.retries,
            given.number("retries", 0..=limits::RETRIES_MAX)?,
        );
        set(&mut target.retry_percent, given.number("retryPercent", 0..=100)?);
        target.requests_max = given.number("maxRequests", 1..=1_000_000)?;
        set(
            &mut target.queue_max,
            given.number("maxQueue", 0..=limits::QUEUE_MAX)?,
        );
        set(&mut target.timeout_queue, given.time("timeoutQueue")?);
        set(&mut target.timeout_connect, given.time("timeoutConnect")?);
        target.timeout_response = given.time("timeoutResponse")?;
        set(&mut target.timeout_idle, given.time("timeoutIdle")?);
        Ok(target)
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn sticky(spec: &ServiceSpec, given: Values<'_>) -> Result<Option<Sticky>, Problem> {
    match spec.session_type.as_str() {
        "sticky-server" => {}
        _ => {
            return match ["sessionCookie", "sessionMaxAge"]
                .iter()
                .find(|name| given.text(name).is_some())
            {
                Some(name) => Err(Problem::new(*name, "needs sessionType=sticky-server")),
                None => Ok(None),
            };
        }
    }
    let cookie = given.text("sessionCookie").unwrap_or(&spec.service_name);
    let sticky = Sticky::new(cookie, given.number("sessionMaxAge", 1..=u32::MAX)?);
    sticky
        .map(Some)
        .ok_or_else(|| Problem::new("sessionCookie", format!("`{cookie}` is not the name of a cookie")))
}

fn discovery(spec: &ServiceSpec, is_sticky: bool) -> Result<Discovery, Problem> {
    let asked = spec.discovery_type.to_ascii_lowercase();
    match asked.as_str() {
        // Any sessionType lists tasks, as in the original.
        "" if is_sticky || !spec.session_type.is_empty() => Ok(Discovery::Tasks),
        "dns" | "tasks" => Ok(Discovery::Tasks),
        "vip" | "overlay" if !spec.session_type.is_empty() => Err(Problem::new(
            "discoveryType",
            "cannot be vip with sessionType: a session belongs to a task",
        )),
        "" | "vip" | "overlay" => Ok(Discovery::Vip),
        _ => Err(unknown(
            "discoveryType",
            &spec.discovery_type,
            "tasks, DNS, vip, Overlay",
        )),
    }
}

fn tls(
    host: &str,
    dest: &DestSpec,
    given: Values<'_>,
    protocol: Protocol,
    settings: &Settings,
) -> Result<Option<Tls>, Problem> {
    let wants = given.text("upstreamTls").is_some_and(crate::l7::params::go_bool);
    if !wants && !dest.ssl_verify_none {
        if let Some(name) = ["upstreamCa", "upstreamSni"]
            .iter()
            .find(|name| given.text(name).is_some())
        {
            return Err(Problem::new(*name, "needs upstreamTls=true"));
        }
        return match protocol {
            Protocol::H2 => Err(Problem::new(
                "upstreamProtocol",
                "h2 needs upstreamTls=true; HTTP/2 in the clear is h2c",
            )),
            _ => Ok(None),
        };
    }
    if protocol == Protocol::H2c {
        return Err(Problem::new(
            "upstreamProtocol",
            "h2c is in the clear; with TLS it is h2",
        ));
    }
    let ca = given.text("upstreamCa").map(|name| {
        let is_file_name = !name.starts_with('.') && !name.contains(['/', '\0']);
        let path = settings.defaults.secrets.join(name);
        let pem = std::fs::read(path).ok().filter(|_| is_file_name);
        pem.map(Box::from)
            .ok_or_else(|| Problem::new("upstreamCa", format!("there is no secret `{name}`")))
    });
    let wish = Wish {
        verifies: !dest.ssl_verify_none,
        name: given.text("upstreamSni").unwrap_or(host).into(),
        ca: ca.transpose()?,
        offers_h2: protocol == Protocol::H2,
    };
    let parameter = match (&wish.ca, given.text("upstreamSni")) {
        (Some(_), _) => "upstreamCa",
        (None, Some(_)) => "upstreamSni",
        (None, None) => "upstreamTls",
    };
    Tls::new(wish)
        .map(Some)
        .map_err(|text| Problem::new(parameter, text))
}

fn balance(given: Values<'_>, discovery: Discovery) -> Result<Balance, Problem> {
    let asked = given.text("balance");
    let header = given.text("balanceHeader");
    if asked.is_some() && discovery == Discovery::Vip {
        return Err(Problem::new(
            "balance",
            "needs discoveryType=tasks: behind a virtual IP the kernel balances",
        ));
    }
    if header.is_some() && asked != Some("hash") {
        return Err(Problem::new("balanceHeader", "needs balance=hash"));
    }
    match asked {
        None | Some("roundrobin") => Ok(Balance::RoundRobin),
        Some("leastrequests") => Ok(Balance::LeastRequests),
        Some("p2c") => Ok(Balance::TwoChoices),
        Some("hash") => match header.map(|name| name.parse()).transpose() {
            Ok(None) => Ok(Balance::Hash(HashKey::Client)),
            Ok(Some(name)) => Ok(Balance::Hash(HashKey::Header(name))),
            Err(_) => Err(Problem::new(
                "balanceHeader",
                format!("`{}` is not a field name", header.unwrap_or_default()),
            )),
        },
        Some(other) => Err(unknown("balance", other, "roundrobin, leastrequests, p2c, hash")),
    }
}

fn check(dest: &DestSpec, given: Values<'_>) -> Result<Option<Check>, Problem> {
    let path = given.text("healthPath");
    let kind = match path {
        Some(path) if path.starts_with('/') && path.bytes().all(|byte| byte > b' ' && byte < 0x7F) => {
            CheckKind::Http(path.into())
        }
        Some(path) => return Err(Problem::new("healthPath", format!("`{path}` is not a path"))),
        None if dest.check_tcp => CheckKind::Tcp,
        None => {
            let names = ["healthInterval", "healthTimeout", "healthRise", "healthFall"];
            return match names.iter().find(|name| given.text(name).is_some()) {
                Some(name) => Err(Problem::new(*name, "needs healthPath or checkTcp")),
                None => Ok(None),
            };
        }
    };
    let mut check = Check::new(kind);
    set(&mut check.interval, given.time("healthInterval")?);
    set(&mut check.timeout, given.time("healthTimeout")?);
    set(&mut check.rise, given.number("healthRise", 1..=100)?);
    set(&mut check.fall, given.number("healthFall", 1..=100)?);
    if check.interval < limits::HEALTH_INTERVAL_MIN {
        return Err(Problem::new(
            "healthInterval",
            format!("is less than {} ms", limits::HEALTH_INTERVAL_MIN.as_millis()),
        ));
    }
    Ok(Some(check))
}

fn unknown(name: &str, value: &str, known: &str) -> Problem {
    Problem::new(name, format!("`{value}` is not one of {known}"))
}

/// Reads what was given.
#[derive(Clone, Copy)]
struct Values<'a>(&'a Given);

impl<'a> Values<'a> {
    fn text(self, name: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.as_str())
    }

    fn number(self, name: &str, range: std::ops::RangeInclusive<u32>) -> Result<Option<u32>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(Problem::new(
                name,
                format!(
                    "`{text}` is not a number from {} to {}",
                    range.start(),
                    range.end()
                ),
            )),
        }
    }

    /// Seconds, or with a unit: `250ms`, `5s`, `2m`.
    fn time(self, name: &str) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
        let millis: Option<u64> = match &text[digits.len()..] {
            "ms" => Some(1),
            "" | "s" => Some(1000),
            "m" => Some(60_000),
            _ => None,
        };
        let number = digits.parse::<u64>().ok().filter(|number| *number > 0);
        match millis
            .zip(number)
            .and_then(|(unit, number)| unit.checked_mul(number))
        {
            Some(millis) if millis <= limits::TIMEOUT_MAX.as_millis() as u64 => {
                Ok(Some(Duration::from_millis(millis)))
            }
            _ => Err(Problem::new(
                name,
                format!("`{text}` is not a time such as 5, 5s, 250ms or 2m"),
            )),
        }
    }
}
