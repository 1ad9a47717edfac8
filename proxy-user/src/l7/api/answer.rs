// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shapes of answers.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use crate::l7::spec::{self, ServiceSpec};

/// Content type of every JSON answer.
pub const JSON: &str = "application/json";
/// Content type of text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// What every handler returns.
pub type Answer = Response<Full<Bytes>>;

/// The common answer.
pub fn respond(status: StatusCode, message: &str, spec: &ServiceSpec) -> Answer {
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

/// A value as JSON.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(text) => plain(status, JSON, text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

/// Text.
pub fn plain(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// 301 to the path without its slash.
pub fn moved(path: &str, query: Option<&str>) -> Answer {
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
