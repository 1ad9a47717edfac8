// SPDX-License-Identifier: MIT OR Apache-2.0
//! The line of a connection that was passed on whole: HAProxy's tcplog, a log-format of its own, or JSON.

use std::io::Write;
use std::rc::Rc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::Format;
use super::date::Date;
use super::format::{Item, escape};
use crate::l7::proxy_protocol::Peers;
use crate::l7::refusal::Refusal;
use crate::l7::stream::StreamEnd;
use crate::l7::stream::copy::End;
use crate::l7::worker::Worker;

/// HAProxy's `option tcplog`.
const TCPLOG: &str = "%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq";

/// What is known when a connection has ended.
pub struct StreamLine<'a> {
    /// When it came, by the wall.
    pub at: SystemTime,
    /// The same for durations.
    pub began: Instant,
    /// Who served it.
    pub worker: &'a Rc<Worker>,
    /// Both ends.
    pub peers: &'a Peers,
    /// The port that it came to.
    pub port: u16,
    /// What became of it, if a rule took it.
    pub end: Option<&'a StreamEnd>,
    /// Why it did not come to anything.
    pub refusal: Option<Refusal>,
}

impl Format {
    /// `option tcplog`.
    pub fn tcplog() -> Self {
        Format::parse(TCPLOG).unwrap_or(Format::Json)
    }
}

impl StreamLine<'_> {
    /// Hands the line over, if it is wanted.
    pub fn write(&self) {
        let Some(log) = &self.worker.shared.settings.access_log else {
            return;
        };
        let went_wrong = self.refusal.is_some() || self.ended() == Some(End::Broken);
        if let (Some(format), Some(sink)) = (&log.stream_format, &self.worker.log)
            && (!log.errors_only || went_wrong)
        {
            sink.push(|out| self.line(format, out));
        }
    }

    fn line(&self, format: &Format, out: &mut Vec<u8>) {
        // Writing to a vector cannot fail.
        match format {
            Format::HaProxy(items) => {
                out.extend_from_slice(b"HAPRoxy: ");
                for item in items {
                    match item {
                        Item::Text(text) => out.extend_from_slice(text.as_bytes()),
                        Item::Variable(name, true) => {
                            out.push(b'"');
                            escape(&self.value(name), out);
                            out.push(b'"');
                        }
                        Item::Variable(name, false) => escape(&self.value(name), out),
                    }
                }
                out.push(b'\n');
            }
            Format::Json => {
                let (backend, server) = self.names().unwrap_or_default();
                let (bytes_in, bytes_out) = self.end.map_or((0, 0), |end| end.bytes);
                let line = serde_json::json!({
                    "time": Date::new(self.at).iso(),
                    "client": self.peers.client.ip().to_canonical().to_string(),
                    "port": self.port,
                    "protocol": "tcp",
                    "bytes_in": bytes_in,
                    "bytes": bytes_out,
                    "backend": backend,
                    "server": server,
                    "refusal": self.refusal.map_or("", Refusal::name),
                    "total_ms": self.began.elapsed().as_millis() as u64,
                });
                let _ = writeln!(out, "{line}");
            }
            Format::Combined => {}
        }
    }

    fn ended(&self) -> Option<End> {
        self.end.and_then(|end| end.ended)
    }

    fn names(&self) -> Option<(&str, &str)> {
        let stats = &self.end?.rule.first().stats;
        Some((&stats.name, &stats.server))
    }

    fn frontend(&self) -> String {
        match self.end {
            Some(end) => end.rule.first().frontend.to_string(),
            None => {
                let rules = self.worker.rules();
                let port = rules.streams.get(self.port);
                let rule = port.and_then(|port| port.rules().first());
                rule.map_or_else(
                    || format!("tcpFE_{}", self.port),
                    |rule| rule.first().frontend.to_string(),
                )
            }
        }
    }

    fn value(&self, name: &str) -> String {
        let counters = &self.worker.counters;
        let (backend, server) = self.names().unwrap_or(("", "<NOSRV>"));
        let connected = self.end.and_then(|end| end.connected);
        let (bytes_in, bytes_out) = self.end.map_or((0, 0), |end| end.bytes);
        match name {
            "ci" => self.peers.client.ip().to_canonical().to_string(),
            "cp" => self.peers.client.port().to_string(),
            "fi" => self.peers.local.ip().to_canonical().to_string(),
            "fp" => self.port.to_string(),
            "f" | "ft" => self.frontend(),
            "b" if backend.is_empty() => self.frontend(),
            "b" => backend.into(),
            "s" => server.into(),
            "t" | "tr" => {
                let date = Date::new(self.at);
                format!("{}.{:03}", date.clf(), date.millis)
            }
            "T" | "Tl" => format!("{} +0000", Date::new(self.at).clf()),
            "Ts" => Date::new(self.at).epoch.to_string(),
            "ms" => format!("{:03}", Date::new(self.at).millis),
            "Tw" | "Th" | "rc" | "sq" | "bq" => "0".into(),
            "Tc" => connected.map_or("-1".into(), |connected| {
                connected.duration_since(self.began).as_millis().to_string()
            }),
            "Tt" | "Ta" => self.began.elapsed().as_millis().to_string(),
            "B" => bytes_out.to_string(),
            "U" => bytes_in.to_string(),
            "ts" => self.termination().into(),
            "tsc" => format!("{}--", self.termination()),
            "ac" | "fc" => counters.connections_open.get().to_string(),
            "bc" | "sc" => u8::from(self.end.is_some()).to_string(),
            "pid" => std::process::id().to_string(),
            // What only requests have.
            _ => "-".into(),
        }
    }

    /// HAProxy's two letters: who ended it, and in which phase.
    fn termination(&self) -> &'static str {
        match (self.refusal, self.ended()) {
            (None, Some(End::Idle)) => "cD",
            (None, Some(End::Broken)) => "SD",
            (None, _) => "--",
            (Some(Refusal::UpstreamConnectTimeout), _) => "sC",
            (Some(Refusal::HelloTimeout | Refusal::NoStreamRoute), _) => "PR",
            (Some(_), _) => "SC",
        }
    }
}
