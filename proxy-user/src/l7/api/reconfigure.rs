// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that change services: reconfigure, remove, reload.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, header};

use super::Api;
use super::answer::{Answer, respond};
use crate::l7::labels::write;
use crate::l7::params::{Params, Problem, read_service};
use crate::l7::source::Source;
use crate::l7::spec::ServiceSpec;
use crate::l7::table::Table;
use crate::l7::{distribute, limits, listener};

impl Api {
    pub(super) async fn reconfigure(&self, mut params: Params, method: &Method, path: &str) -> Answer {
        let (spec, problems) = read_service(&params, &self.settings.defaults);
        if let Err((status, message)) = check_mandatory(&spec) {
            return respond(status, message, &spec);
        }
        // A wrong value is named at once, not by a sibling whose answer is only a status; a removal needs no values.
        let wrong = problems.into_iter().next();
        if spec.distribute {
            let check = match wrong {
                _ if spec.is_removal() => Ok(()),
                Some(problem) => Err(problem),
                None => self.table().check(&spec),
            };
            if let Err(problem) = check {
                return respond(problem.status(), &problem.to_string(), &spec);
            }
            // Written once; the replicas are told that it is.
            return match self.persist(&mut params, &spec).await {
                Ok(_) => self.distribute(&params, method, path, &spec).await,
                Err((status, message)) => respond(status, &message, &spec),
            };
        }
        if let Err(message) = self.validate_address(&spec).await {
            return respond(StatusCode::INTERNAL_SERVER_ERROR, &message, &spec);
        }
        let source = match self.persist(&mut params, &spec).await {
            Ok(source) => source,
            Err((status, message)) => return respond(status, &message, &spec),
        };
        let outcome = {
            let mut table = self.table();
            let outcome = self.put_from(&mut table, source, params).1;
            if source == Source::Labels && outcome.is_ok() {
                // The labels are what counts from now on, and a call would hide what they say later.
                table.withdraw(Source::Call, &spec.service_name);
            }
            outcome
        };
        match outcome {
            Ok(false) => respond(StatusCode::OK, "", &spec),
            // A call that is withdrawn is nothing that a line of the journal could say.
            Ok(true) if source == Source::Labels => respond(StatusCode::OK, &self.keep().await, &spec),
            Ok(true) => {
                let kept = self.keep_change(&spec.service_name).await;
                respond(StatusCode::OK, &kept, &spec)
            }
            Err((status, problem)) => respond(status, &problem, &spec),
        }
    }

    pub(super) async fn remove(&self, params: &Params, method: &Method, path: &str) -> Answer {
        let spec = ServiceSpec {
            service_name: params.scalar("serviceName").unwrap_or_default().into(),
            acl_name: params.scalar("aclName").unwrap_or_default().into(),
            distribute: params.flag("distribute"),
            ..ServiceSpec::default()
        };
        if spec.service_name.is_empty() {
            return respond(
                StatusCode::BAD_REQUEST,
                "serviceName parameter is mandatory",
                &spec,
            );
        }
        let mut params = params.clone();
        if params.flag("persist") {
            params.unset("persist");
            if let Err((status, message)) = self.write_labels(&spec.service_name, None).await {
                return respond(status, &message, &spec);
            }
        }
        if spec.distribute {
            return self.distribute(&params, method, path, &spec).await;
        }
        let existed = self.table().remove(&spec.service_name);
        let kept = if existed {
            self.keep_change(&spec.service_name).await
        } else {
            String::new()
        };
        respond(StatusCode::OK, &kept, &spec)
    }

    pub(super) async fn reload(&self, params: &Params) -> Answer {
        let nothing = ServiceSpec::default();
        if params.flag("fromListener") {
            return match self.ask_again().await {
                Ok(()) => respond(StatusCode::OK, "", &nothing),
                Err(message) => respond(StatusCode::INTERNAL_SERVER_ERROR, &message, &nothing),
            };
        }
        if !params.flag("recreate") {
            return respond(StatusCode::OK, "", &nothing);
        }
        let outcome = self.table().recreate();
        match outcome {
            // Also what is kept is written anew.
            Ok(()) => respond(StatusCode::OK, &self.keep().await, &nothing),
            Err(problem) => respond(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string(), &nothing),
        }
    }

    /// Everything that others say counts again, also what calls have removed; and the listeners say it again.
    async fn ask_again(&self) -> Result<(), String> {
        for source in [Source::Labels, Source::Environment] {
            self.table().restate(source);
        }
        self.labels.wake.notify_one();
        self.keep().await;
        match &self.settings.listener {
            Some(listener) => listener::renotify(listener, self.peers.resolver()).await,
            None => Ok(()),
        }
    }

    /// With `persist`, writes the labels; what it returns is who says the rest from then on.
    async fn persist(&self, params: &mut Params, spec: &ServiceSpec) -> Result<Source, write::Refused> {
        const WRITTEN: &str = "written";
        if params.scalar("persist") == Some(WRITTEN) && self.settings.docker.is_some() {
            return Ok(Source::Labels);
        }
        if !params.flag("persist") || spec.is_removal() || !self.is_ours(spec) {
            return Ok(Source::Call);
        }
        write::check(params)?;
        let (_, problems) = read_service(params, &self.settings.defaults);
        let wrong = problems
            .into_iter()
            .next()
            .map_or_else(|| self.table().check(spec), Err);
        wrong.map_err(refused)?;
        self.write_labels(&spec.service_name, Some(params)).await?;
        params.unset("persist");
        params.0.push(("persist".into(), WRITTEN.into()));
        Ok(Source::Labels)
    }

    async fn write_labels(&self, name: &str, params: Option<&Params>) -> Result<(), write::Refused> {
        let Some(host) = &self.settings.docker else {
            let message = "persist: needs an engine to write to (PORTICO_DOCKER)".to_owned();
            return Err((StatusCode::BAD_REQUEST, message));
        };
        write::persist(host, self.peers.resolver(), name, params).await
    }

    /// SKIP_ADDRESS_VALIDATION=false: what has no address now is not taken.
    async fn validate_address(&self, spec: &ServiceSpec) -> Result<(), String> {
        if !self.settings.validates_addresses || spec.is_removal() || !self.is_ours(spec) {
            return Ok(());
        }
        let first = spec.service_dest.first();
        let host = first
            .map(|dest| dest.outbound_hostname.as_str())
            .filter(|host| !host.is_empty());
        let host = host.unwrap_or(&spec.service_name);
        match self.peers.resolver().lookup(host).await.is_empty() {
            true => Err(format!(
                "Could not reach the service {host}. Is the service running and connected to the same network as the proxy?"
            )),
            false => Ok(()),
        }
    }

    /// Whether it is for this proxy at all.
    fn is_ours(&self, spec: &ServiceSpec) -> bool {
        let wanted = self.settings.defaults.instance_filter.as_ref();
        wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(&spec.proxy_instance_name))
    }

    /// What a source says of a service: its name, and whether the table changed or why it did not.
    pub(in crate::l7) fn put_from(
        &self,
        table: &mut Table,
        source: Source,
        params: Params,
    ) -> (String, Result<bool, write::Refused>) {
        let (spec, problems) = read_service(&params, &self.settings.defaults);
        let name = spec.service_name.clone();
        let outcome = match check_mandatory(&spec) {
            _ if !self.is_ours(&spec) => Ok(source != Source::Call && table.withdraw(source, &name)),
            _ if spec.is_removal() => Ok(match source {
                Source::Call => table.remove(&name),
                _ => table.withdraw(source, &name),
            }),
            Err((status, message)) => Err((status, message.to_owned())),
            Ok(()) => match problems.into_iter().next() {
                Some(problem) => Err(refused(problem)),
                None => (table.put(source, params, spec)).map(|()| true).map_err(refused),
            },
        };
        if let Err((_, problem)) = &outcome {
            table.reject(source, &name, problem.clone());
        }
        (name, outcome)
    }

    async fn distribute(&self, params: &Params, method: &Method, path: &str, spec: &ServiceSpec) -> Answer {
        let target = format!("{path}?{}", params.for_sibling());
        match distribute::fan_out(&self.peers, method, &target, &Bytes::new()).await {
            Ok(()) => respond(StatusCode::OK, "Distributed to all instances", spec),
            Err(message) => respond(StatusCode::INTERNAL_SERVER_ERROR, &message, spec),
        }
    }
}

fn refused(problem: Problem) -> write::Refused {
    (problem.status(), problem.to_string())
}

/// The original's checks, in its order. Only the first destination is looked at.
fn check_mandatory(spec: &ServiceSpec) -> Result<(), (StatusCode, &'static str)> {
    if spec.service_name.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "serviceName parameter is mandatory"));
    }
    let Some(first) = spec.service_dest.first() else {
        return Ok(());
    };
    let is_http = first.req_mode == "http";
    if is_http && first.paths().is_empty() && first.domains().is_empty() {
        return Err((
            StatusCode::CONFLICT,
            "There must be at least one destination: servicePath or serviceDomain is mandatory",
        ));
    }
    if !is_http && (first.src_port == 0 || first.port.is_empty()) {
        return Err((
            StatusCode::BAD_REQUEST,
            "srcPort and port parameters are mandatory when reqMode is not http",
        ));
    }
    if first.port.is_empty() && first.https_port == 0 {
        return Err((StatusCode::BAD_REQUEST, "port parameter is mandatory"));
    }
    Ok(())
}

/// The body of a form-encoded POST; empty for every other request, whose body is not read.
pub(super) async fn read_form(parts: &Parts, body: Incoming) -> Result<Bytes, &'static str> {
    const FORM: &str = "application/x-www-form-urlencoded";
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let is_form = (content_type.and_then(|value| value.to_str().ok()))
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case(FORM));
    if !is_form || !matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
        return Ok(Bytes::new());
    }
    let limited = Limited::new(body, limits::API_BODY_BYTES_MAX).collect();
    match tokio::time::timeout(limits::API_BODY_TIME_MAX, limited).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err("the form is malformed or too large"),
        Err(_) => Err("the form did not arrive in time"),
    }
}
