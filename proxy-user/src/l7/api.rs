// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reconfigure API: docker-flow-proxy's paths, check order, status codes and JSON.
//!
//! It runs on a runtime of its own. A change is in force when it answers; that it is kept is waited for, but not for
//! long. Nothing here can make a worker wait.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::metrics::{self, Counters};
use super::params::{Params, read_service};
use super::resolver::Resolver;
use super::settings::Settings;
use super::spec::{self, ServiceSpec};
use super::state::Keeper;
use super::table::Table;
use super::{distribute, limits};

const PREFIX: &str = "/v1/docker-flow-proxy/";
/// Every path that is served, without the slash that is redirected away.
const ROUTES: [&str; 12] = [
    "/v1/docker-flow-proxy/reconfigure",
    "/v1/docker-flow-proxy/remove",
    "/v1/docker-flow-proxy/reload",
    "/v1/docker-flow-proxy/config",
    "/v1/docker-flow-proxy/ping",
    "/v1/docker-flow-proxy/successfulinitreload",
    "/v1/docker-flow-proxy/cert",
    "/v1/docker-flow-proxy/certs",
    "/v1/docker-flow-proxy/metrics",
    "/v1/test",
    "/v2/test",
    "/metrics",
];
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// What the API works on.
pub struct Api {
    /// The one writer is whoever holds the lock; nothing is awaited while it is held.
    pub table: Mutex<Table>,
    /// Where the table is kept.
    pub keeper: Keeper,
    /// For the fan-out.
    pub resolver: Resolver,
    /// Of all workers.
    pub counters: Vec<Arc<Counters>>,
    /// Fixed at start.
    pub settings: Settings,
    /// The port that it really has.
    pub port: u16,
}

type Answer = Response<Full<Bytes>>;

/// Accepts connections for as long as it is polled.
pub async fn serve(api: Arc<Api>, listener: TcpListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept on the API");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                continue;
            }
        };
        let api = api.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let api = api.clone();
                async move { Ok::<_, Infallible>(api.handle(request).await) }
            });
            let conn = http1::Builder::new()
                .timer(TokioTimer::new())
                .half_close(true)
                .max_buf_size(limits::API_BODY_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = conn.await {
                tracing::debug!(%error, "API connection");
            }
        });
    }
}

impl Api {
    async fn handle(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if let Some(path) = path.strip_suffix('/').filter(|path| ROUTES.contains(path)) {
            return moved(path, request.uri().query());
        }
        if !ROUTES.contains(&path) {
            return plain(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".into());
        }
        let params = Params::parse(request.uri().query().unwrap_or_default());
        let ok = ServiceSpec::default();
        match path.strip_prefix(PREFIX).unwrap_or(path) {
            "reconfigure" => {
                let (parts, body) = request.into_parts();
                match read_form(&parts, body).await {
                    Ok(form) => {
                        let params = params.with_form(&form);
                        self.reconfigure(params, &parts.method, parts.uri.path()).await
                    }
                    Err(message) => respond(StatusCode::BAD_REQUEST, message, &ok),
                }
            }
            "remove" => self.remove(&params, request.method(), path).await,
            "reload" => self.reload(&params),
            "config" => self.config(&params),
            "ping" => respond(StatusCode::OK, "", &ok),
            // 200 after the first fetch from a listener, and never without one. Listeners are not supported yet.
            "successfulinitreload" => plain(StatusCode::INTERNAL_SERVER_ERROR, TEXT, String::new()),
            "/v1/test" => respond(StatusCode::OK, "Test v1", &ok),
            "/v2/test" => respond(StatusCode::OK, "Test v2", &ok),
            "/metrics" => self.metrics(),
            "cert" if request.method() != Method::PUT => {
                plain(StatusCode::METHOD_NOT_ALLOWED, TEXT, String::new())
            }
            "cert" => certs(StatusCode::NOT_IMPLEMENTED, "Certificates are not supported yet"),
            "certs" => certs(StatusCode::OK, ""),
            "metrics" => plain(
                StatusCode::NOT_IMPLEMENTED,
                TEXT,
                "HAProxy's statistics are not supported; Prometheus text is at /metrics\n".into(),
            ),
            _ => plain(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".into()),
        }
    }

    async fn reconfigure(&self, params: Params, method: &Method, path: &str) -> Answer {
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
                Err(problem) => respond(StatusCode::BAD_REQUEST, &problem.to_string(), &spec),
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
            (false, None) => self.table().put(params, spec.clone()),
        };
        if let Err(problem) = outcome {
            return respond(StatusCode::BAD_REQUEST, &problem.to_string(), &spec);
        }
        self.keep().await;
        respond(StatusCode::OK, "", &spec)
    }

    async fn remove(&self, params: &Params, method: &Method, path: &str) -> Answer {
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
        if existed {
            self.keep().await;
        }
        respond(StatusCode::OK, "", &spec)
    }

    fn reload(&self, params: &Params) -> Answer {
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

    fn config(&self, params: &Params) -> Answer {
        let table = self.table();
        if params
            .first("type")
            .is_some_and(|kind| kind.eq_ignore_ascii_case("json"))
        {
            let services: std::collections::BTreeMap<&str, spec::Named<'_>> = table
                .specs()
                .map(|spec| (spec.service_name.as_str(), spec::Named::new(spec)))
                .collect();
            return json(StatusCode::OK, &services);
        }
        let mut text = format!(
            "# Routes in the order in which they are asked; the first that matches wins.\n# Services survive a restart: {}\n",
            if self.keeper.is_persistent() {
                "yes"
            } else {
                "no, the state directory cannot be used"
            },
        );
        for service in &table.snapshot().services {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\nservice {}", service.name);
            for redirect in &service.redirects {
                let _ = writeln!(text, "  redirect {} {:?}", redirect.status, redirect.when);
            }
            for rule in &service.rules {
                let default = if rule.is_default { " (default)" } else { "" };
                let (host, port) = (&rule.upstream.host, rule.upstream.port);
                let _ = writeln!(text, "  to {host}:{port}{default} when {:?}", rule.matcher);
            }
        }
        plain(StatusCode::OK, TEXT, text)
    }

    fn metrics(&self) -> Answer {
        let services = self.table().specs().count();
        let text = metrics::render(&self.counters, services, self.keeper.is_persistent());
        plain(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
    }

    async fn distribute(&self, params: &Params, method: &Method, path: &str, spec: &ServiceSpec) -> Answer {
        let target = format!("{path}?{}", params.for_sibling());
        let service = &self.settings.service_name;
        match distribute::fan_out(&self.resolver, service, self.port, method, &target).await {
            Ok(()) => respond(StatusCode::OK, "Distributed to all instances", spec),
            Err(message) => respond(StatusCode::INTERNAL_SERVER_ERROR, &message, spec),
        }
    }

    /// A panic while the lock was held cannot leave the table half changed: entries are inserted whole.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep(&self) {
        if !self.keeper.is_persistent() {
            return;
        }
        // Under the table's lock, so that an older state cannot be queued behind a newer one.
        let kept = {
            let table = self.table();
            self.keeper.keep(table.kept())
        };
        if tokio::time::timeout(limits::STATE_WAIT_MAX, kept).await.is_err() {
            tracing::warn!("the state file is slow; the routes are in force and will be kept later");
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
async fn read_form(parts: &Parts, body: Incoming) -> Result<Bytes, &'static str> {
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

fn respond(status: StatusCode, message: &str, spec: &ServiceSpec) -> Answer {
    let text = if status.is_success() { "OK" } else { "NOK" };
    json(
        status,
        &spec::Response {
            status: text,
            message,
            service_name: &spec.service_name,
            spec,
        },
    )
}

fn certs(status: StatusCode, message: &str) -> Answer {
    let text = if status.is_success() { "OK" } else { "NOK" };
    #[derive(serde::Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Certs<'a> {
        status: &'a str,
        message: &'a str,
        certs: Option<[(); 0]>,
    }
    json(
        status,
        &Certs {
            status: text,
            message,
            certs: status.is_success().then_some([]),
        },
    )
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(text) => plain(status, JSON, text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

fn plain(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn moved(path: &str, query: Option<&str>) -> Answer {
    let location = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut response = plain(StatusCode::MOVED_PERMANENTLY, TEXT, String::new());
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
