// SPDX-License-Identifier: MIT OR Apache-2.0
//! The statistics page at STATS_URI, for people; with `;csv` behind it, for programs.
//!
//! As in the original it takes its address on every port and host before any rule is asked, or has a port of its own.

use std::fmt::Write;
use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderValue};

use super::csv;
use super::rows::Row;
use crate::l7::auth::Credentials;

/// How often a browser asks again.
const REFRESH_SECONDS: u32 = 30;

/// STATS_*.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What targets begin with that are the page's.
    pub uri: String,
    /// The only port that shows it.
    pub port: Option<u16>,
    /// Nothing else is served on that port.
    pub port_is_own: bool,
    /// Who may see it; none is everybody.
    pub credentials: Option<Arc<Credentials>>,
}

/// What a request on a port is to the page.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The page.
    Page,
    /// The page as CSV.
    Csv,
    /// Nothing, and nobody else may have it.
    Nothing,
    /// It is for others.
    Other,
}

impl Settings {
    /// What a request wants.
    pub fn wanted(&self, port: u16, target: &str) -> Wanted {
        let is_here = self.port.is_none_or(|own| own == port);
        match target.strip_prefix(self.uri.as_str()).filter(|_| is_here) {
            Some(rest) if rest.split(';').any(|word| word == "csv") => Wanted::Csv,
            Some(_) => Wanted::Page,
            None if self.port_is_own && self.port == Some(port) => Wanted::Nothing,
            None => Wanted::Other,
        }
    }
}

/// Fields and body.
pub fn render(wanted: &Wanted, rows: &[Row]) -> (HeaderMap, String) {
    let (kind, body) = match wanted {
        Wanted::Csv => ("text/plain", csv::render(rows)),
        _ => ("text/html", html(rows)),
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    (headers, body)
}

type Column = (&'static str, fn(&Row) -> String);

const COLUMNS: &[Column] = &[
    ("Sessions", |row| row.sessions.to_string()),
    ("Most", |row| row.sessions_max.to_string()),
    ("Limit", |row| {
        row.sessions_limit.map_or("-".into(), |limit| limit.to_string())
    }),
    ("Total", |row| row.total.to_string()),
    ("Per second", |row| row.rate.now.to_string()),
    ("Most per second", |row| row.rate.max.to_string()),
    ("Bytes in", |row| row.bytes_in.to_string()),
    ("Bytes out", |row| row.bytes_out.to_string()),
    ("Denied", |row| row.denied.to_string()),
    ("Errors", |row| {
        (row.errors + row.connection_errors + row.response_errors).to_string()
    }),
    ("1xx", |row| row.responses[1].to_string()),
    ("2xx", |row| row.responses[2].to_string()),
    ("3xx", |row| row.responses[3].to_string()),
    ("4xx", |row| row.responses[4].to_string()),
    ("5xx", |row| row.responses[5].to_string()),
    ("Other", |row| row.responses[0].to_string()),
    ("Status", |row| row.status().into()),
];

fn html(rows: &[Row]) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"refresh\" content=\"{REFRESH_SECONDS}\"><title>Statistics Report for Portico</title>\n\
         <style>body{{font-family:sans-serif}}table{{border-collapse:collapse}}\
         td,th{{border:1px solid #ccc;padding:2px 6px;text-align:right}}td:first-child,td:nth-child(2){{text-align:left}}\
         </style></head>\n<body><h1>Statistics Report</h1>\n<table>\n<tr><th>Proxy</th><th>Name</th>"
    );
    for (name, _) in COLUMNS {
        // Writing to a string cannot fail.
        let _ = write!(out, "<th>{name}</th>");
    }
    out.push_str("</tr>\n");
    for row in rows {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td>",
            escaped(&row.proxy),
            escaped(&row.server)
        );
        for (_, value) in COLUMNS {
            let _ = write!(out, "<td>{}</td>", value(row));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n</body></html>\n");
    out
}

/// Names of services come from whoever may call the API.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_its_address_on_every_port_or_on_its_own() {
        let mut page = Settings {
            uri: "/admin?stats".into(),
            port: None,
            port_is_own: false,
            credentials: None,
        };
        for (target, want) in [
            ("/admin?stats", Wanted::Page),
            ("/admin?stats;norefresh", Wanted::Page),
            ("/admin?stats;csv", Wanted::Csv),
            ("/admin?stats;csv;norefresh", Wanted::Csv),
            ("/admin", Wanted::Other),
            ("/", Wanted::Other),
        ] {
            assert_eq!(page.wanted(80, target), want, "{target}");
        }
        page.port = Some(81);
        assert_eq!(page.wanted(80, "/admin?stats"), Wanted::Other);
        assert_eq!(page.wanted(81, "/admin?stats"), Wanted::Page);
        assert_eq!(page.wanted(81, "/"), Wanted::Other);
        page.port_is_own = true;
        assert_eq!(page.wanted(81, "/"), Wanted::Nothing);
        assert_eq!(page.wanted(80, "/"), Wanted::Other);
    }
}
