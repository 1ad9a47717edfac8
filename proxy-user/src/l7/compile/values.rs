// SPDX-License-Identifier: MIT OR Apache-2.0
//! Single values that several topics share.

use std::time::Duration;

use hyper::StatusCode;

use crate::l7::params::Problem;

/// A status of a redirect; 302 when empty.
pub fn redirect_status(text: &str) -> Result<u16, Problem> {
    match text {
        "" => Ok(StatusCode::FOUND.as_u16()),
        "301" | "302" | "303" | "307" | "308" => Ok(text.parse().unwrap_or(302)),
        other => Err(Problem::new(
            "httpsRedirectCode",
            format!("`{other}` is not one of 301, 302, 303, 307, 308"),
        )),
    }
}

/// A number of seconds; none when empty.
pub fn seconds(parameter: &str, text: &str) -> Result<Option<Duration>, Problem> {
    match text {
        "" => Ok(None),
        text => match text.trim_end_matches('s').parse() {
            Ok(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(Problem::new(
                parameter,
                format!("`{text}` is not a number of seconds"),
            )),
        },
    }
}
