// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that change services: reconfigure, remove, reload.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, header};

use super::Api;
use super::answer::{Answer, respond};
use crate::l7::params::{Params, read_service};
use crate::l7::source::Source;
use crate::l7::spec::ServiceSpec;
use crate::l7::{distribute, limits};

impl Api {
    pub(super) async fn reconfigure(&self, params: Params, method: &Method, path: &str) -> Answer {
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
            return match check {
                Ok(()) => self.distribute(&params, method, path, &spec).await,
                Err(problem) => respond(problem.status(), &problem.to_string(), &spec),
            };
        }
        if let Some(wanted) = &self.settings.defaults.instance_filter
            && !wanted.eq_ignore_ascii_case(&spec.proxy_instance_name)
        {
            return respond(StatusCode::OK, "", &spec);
        }
        let outcome = match (spec.is_removal(), wrong) {
            (true, _) => {
                self.table().remove(&spec.service_name);
                Ok(())
            }
            (false, Some(problem)) => Err(problem),
            (false, None) => self.table().put(Source::Call, params, spec.clone()),
        };
        if let Err(problem) = outcome {
            return respond(problem.status(), &problem.to_string(), &spec);
        }
        let kept = self.keep().await;
        respond(StatusCode::OK, &kept, &spec)
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
        if spec.distribute {
            return self.distribute(params, method, path, &spec).await;
        }
        let existed = self.table().remove(&spec.service_name);
        let kept = if existed { self.keep().await } else { String::new() };
        respond(StatusCode::OK, &kept, &spec)
    }

    pub(super) fn reload(&self, params: &Params) -> Answer {
        let nothing = ServiceSpec::default();
        // Without a listener the original does nothing, and this one has none yet.
        if params.flag("fromListener") || !params.flag("recreate") {
            return respond(StatusCode::OK, "", &nothing);
        }
        let outcome = self.table().recreate();
        match outcome {
            Ok(()) => respond(StatusCode::OK, "", &nothing),
            Err(problem) => respond(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string(), &nothing),
        }
    }

    async fn distribute(&self, params: &Params, method: &Method, path: &str, spec: &ServiceSpec) -> Answer {
        let target = format!("{path}?{}", params.for_sibling());
        match distribute::fan_out(&self.peers, method, &target, &Bytes::new()).await {
            Ok(()) => respond(StatusCode::OK, "Distributed to all instances", spec),
            Err(message) => respond(StatusCode::INTERNAL_SERVER_ERROR, &message, spec),
        }
    }
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
