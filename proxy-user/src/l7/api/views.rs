// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that only look: config and metrics.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use hyper::{Method, StatusCode};

use super::Api;
use super::answer::{Answer, TEXT, json, plain};
use crate::l7::params::Params;
use crate::l7::source::Source;
use crate::l7::stats::{csv, prometheus};
use crate::l7::{limits, metrics, spec};
use crate::process;

impl Api {
    /// HAProxy's CSV; with `distribute` that of all replicas, one after the other.
    pub(super) async fn csv(&self, params: &Params, path: &str) -> Answer {
        if !params.flag("distribute") {
            return plain(StatusCode::OK, TEXT, csv::render(&self.view.rows()));
        }
        let failed = |message: String| plain(StatusCode::INTERNAL_SERVER_ERROR, TEXT, message + "\n");
        let addresses = self.peers.addresses().await;
        if addresses.is_empty() {
            return failed(format!("{} has no address", self.peers.describe()));
        }
        let mut all = String::new();
        for address in addresses {
            let limit = limits::DISTRIBUTE_TIMEOUT;
            match self
                .peers
                .call(address, &Method::GET, path, &Bytes::new(), limit)
                .await
            {
                Ok((StatusCode::OK, body)) => {
                    all.push_str(String::from_utf8_lossy(&body).trim_end_matches('\n'));
                    all.push('\n');
                }
                Ok((status, _)) => return failed(format!("{}: status {}", address.ip(), status.as_u16())),
                Err(error) => return failed(format!("{}: {error}", address.ip())),
            }
        }
        plain(StatusCode::OK, TEXT, all)
    }

    pub(super) fn config(&self, params: &Params) -> Answer {
        let table = self.table();
        if params
            .first("type")
            .is_some_and(|kind| kind.eq_ignore_ascii_case("json"))
        {
            let services: BTreeMap<&str, spec::Named<'_>> = table
                .specs()
                .map(|spec| (spec.service_name.as_str(), spec::Named::new(spec)))
                .collect();
            return json(StatusCode::OK, &services);
        }
        let mut text = format!(
            "# Routes in the order in which they are asked; the first that matches wins.\n\
             # Admin port: {}\n# Services survive a restart: {}\n",
            self.guard.describe(),
            if self.keeper.is_persistent() {
                "yes"
            } else {
                "no, the state directory cannot be used"
            },
        );
        if let Some(problem) = self.labels.problem() {
            let _ = writeln!(text, "# Labels cannot be read: {problem}");
        }
        for (name, source, problem) in table.problems() {
            let _ = writeln!(text, "# Not in force: {name} of {}: {problem}", source.name());
        }
        let sources: BTreeMap<&str, Source> = table.sources().collect();
        for service in table.snapshot().services.iter() {
            // Writing to a string cannot fail.
            let source = sources.get(&*service.name).map_or("", |source| source.name());
            let _ = writeln!(text, "\nservice {} # {source}", service.name);
            for redirect in &service.redirects {
                let _ = writeln!(text, "  redirect {} {:?}", redirect.status, redirect.when);
            }
            for dest in &service.streams {
                let _ = writeln!(text, "  from port {} to {}", dest.port, dest.describe());
            }
            for rule in &service.rules {
                let default = if rule.is_default { " (default)" } else { "" };
                let (host, port) = (&rule.upstream.target.host, rule.upstream.target.port);
                let _ = writeln!(text, "  to {host}:{port}{default} when {:?}", rule.matcher);
            }
        }
        plain(StatusCode::OK, TEXT, text)
    }

    pub(super) fn metrics(&self) -> Answer {
        let (services, ports_missing) = {
            let table = self.table();
            (table.specs().count(), table.ports_missing())
        };
        let mut text = metrics::render(&self.counters, services, self.keeper.is_persistent());
        let guard = &self.guard;
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "# HELP portico_proxy_ports_missing Ports of services that cannot be opened; they are tried again.\n\
             # TYPE portico_proxy_ports_missing gauge\n\
             portico_proxy_ports_missing {ports_missing}\n",
        );
        let _ = write!(
            text,
            "# HELP portico_proxy_admin_open 1 if everyone who can reach the admin port may use it.\n\
             # TYPE portico_proxy_admin_open gauge\n\
             portico_proxy_admin_open {}\n\
             # HELP portico_proxy_admin_denied_total Calls of the admin port that were denied.\n\
             # TYPE portico_proxy_admin_denied_total counter\n\
             portico_proxy_admin_denied_total{{reason=\"token\"}} {}\n\
             portico_proxy_admin_denied_total{{reason=\"address\"}} {}\n\
             portico_proxy_admin_denied_total{{reason=\"certificate\"}} {}\n",
            u8::from(guard.is_open()),
            guard.unauthorized.load(Relaxed),
            guard.forbidden.load(Relaxed),
            guard.uncertified.load(Relaxed),
        );
        let _ = write!(
            text,
            "# HELP portico_proxy_services_not_in_force Services whose last change could not be used.\n\
             # TYPE portico_proxy_services_not_in_force gauge\n\
             portico_proxy_services_not_in_force {}\n",
            self.table().problems().count(),
        );
        let watched = [
            self.settings
                .docker
                .as_ref()
                .map(|_| ("labels", self.labels.is_up())),
            (self.settings.listener.as_ref()).map(|_| ("listener", self.listener_answered.load(Relaxed))),
        ];
        if watched.iter().any(Option::is_some) {
            text.push_str(
                "# HELP portico_proxy_source_up 1 if the source of services could be read last.\n\
                 # TYPE portico_proxy_source_up gauge\n",
            );
        }
        for (name, is_up) in watched.into_iter().flatten() {
            let _ = writeln!(
                text,
                "portico_proxy_source_up{{source=\"{name}\"}} {}",
                u8::from(is_up)
            );
        }
        prometheus::render(&mut text, &self.view.rows());
        process::render(&mut text);
        plain(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
    }
}
