// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shapes of a line: HAProxy's httplog or a log-format of its own, combined, JSON.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Record;
use super::date::Date;
use crate::l7::body::Side;
use crate::l7::refusal::Refusal;
use crate::l7::stats::rows::FRONTEND;

/// HAProxy's `option httplog`.
const HTTPLOG: &str = "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %hr %hs %{+Q}r";

/// The shape of a line.
#[derive(Debug)]
pub enum Format {
    /// With the prefix that the original's process puts before each line.
    HaProxy(Vec<Item>),
    /// Apache's and nginx's.
    Combined,
    /// One object for each line.
    Json,
}

/// A part of a line.
#[derive(Debug)]
pub enum Item {
    /// As it is.
    Text(String),
    /// A variable, in quotation marks or not.
    Variable(&'static str, bool),
}

/// The variables that are known. Others end the start: a line without what somebody asked for is a wrong line.
const VARIABLES: &[&str] = &[
    "B", "CC", "CS", "HM", "HP", "HQ", "HU", "HV", "ID", "ST", "T", "TR", "Ta", "Tc", "Th", "Ti", "Tl", "Tq",
    "Tr", "Tt", "Ts", "Tw", "U", "ac", "b", "bc", "bi", "bp", "bq", "ci", "cp", "f", "fc", "fi", "fp", "ft",
    "hr", "hs", "ms", "pid", "r", "rc", "rt", "s", "sc", "si", "sp", "sq", "t", "tr", "ts", "tsc",
];

impl Format {
    /// `option httplog`.
    pub fn httplog() -> Self {
        Format::parse(HTTPLOG).unwrap_or(Format::Combined)
    }

    /// Reads a log-format. A backslash keeps the next character, as in the line of HAProxy's configuration.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut items: Vec<Item> = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            rest = &rest[next.len_utf8()..];
            match next {
                '\\' => {
                    let kept = rest.chars().next().unwrap_or('\\');
                    rest = rest.get(kept.len_utf8()..).unwrap_or_default();
                    plain.push(kept);
                }
                '%' if rest.starts_with('%') => {
                    rest = &rest[1..];
                    plain.push('%');
                }
                '%' => {
                    let (item, behind) = variable(rest)?;
                    if !plain.is_empty() {
                        items.push(Item::Text(std::mem::take(&mut plain)));
                    }
                    items.extend(item);
                    rest = behind;
                }
                other => plain.push(other),
            }
        }
        if !plain.is_empty() {
            items.push(Item::Text(plain));
        }
        Ok(Format::HaProxy(items))
    }

    /// Appends the line of a request.
    pub fn line(&self, record: &Record, out: &mut Vec<u8>) {
        match self {
            Format::HaProxy(items) => {
                out.extend_from_slice(b"HAPRoxy: ");
                for item in items {
                    match item {
                        Item::Text(text) => out.extend_from_slice(text.as_bytes()),
                        Item::Variable(name, quoted) => {
                            let quote: &[u8] = if *quoted { b"\"" } else { b"" };
                            out.extend_from_slice(quote);
                            escape(&value(record, name), out);
                            out.extend_from_slice(quote);
                        }
                    }
                }
                out.push(b'\n');
            }
            Format::Combined => combined(record, out),
            Format::Json => json(record, out),
        }
    }
}

/// The variable at the beginning of a text, and what stands behind it. `%o` turns something on for the rest of the
/// line, which no line here needs.
fn variable(text: &str) -> Result<(Option<Item>, &str), String> {
    let (flags, rest) = match text.strip_prefix('{') {
        Some(inner) => inner.split_once('}').ok_or("`{` without `}`")?,
        None => ("", text),
    };
    let mut quoted = false;
    for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
        match flag {
            "+Q" => quoted = true,
            "-Q" => quoted = false,
            "+E" | "-E" | "-X" => {}
            other => return Err(format!("the flag `{other}` is not supported")),
        }
    }
    if rest.starts_with('[') {
        return Err("`%[…]` is not supported; PORTICO_ACCESS_LOG=json has everything that is known".into());
    }
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(rest.len());
    let (name, behind) = rest.split_at(end);
    if name == "o" {
        return Ok((None, behind));
    }
    match VARIABLES.iter().find(|known| **known == name) {
        Some(known) => Ok((Some(Item::Variable(known, quoted)), behind)),
        None => Err(format!("the variable `%{name}` is not supported")),
    }
}

fn value(record: &Record, name: &str) -> String {
    let date = || Date::new(record.at);
    let (backend, server) = match &record.backend {
        Some((backend, server)) => (backend.as_str(), server.as_str()),
        None => (FRONTEND, "<NOSRV>"),
    };
    let total = || record.began.elapsed().as_millis().to_string();
    let (path, query) = record.target.split_once('?').unwrap_or((&record.target, ""));
    let counters = &record.worker.counters;
    match name {
        "ci" => record.client.ip().to_canonical().to_string(),
        "cp" => record.client.port().to_string(),
        "fi" => record.worker.shared.settings.listen.to_string(),
        "fp" => record.port.to_string(),
        "f" | "ft" => FRONTEND.into(),
        "b" => backend.into(),
        "s" => server.into(),
        "t" | "tr" => format!("{}.{:03}", date().clf(), date().millis),
        "T" | "Tl" => format!("{} +0000", date().clf()),
        "Ts" => date().epoch.to_string(),
        "ms" => format!("{:03}", date().millis),
        // The proxy does not know these apart: the head has arrived when a request begins, and nothing has waited.
        "TR" | "Tw" | "Tc" | "Th" | "Ti" | "Tq" => "0".into(),
        "Tr" => record.head_ms.map_or("-1".into(), |ms| ms.to_string()),
        "Ta" | "Tt" => total(),
        "ST" => match record.status {
            0 => "-1".into(),
            status => status.to_string(),
        },
        "B" => record.bytes.to_string(),
        "U" => "0".into(),
        "CC" | "CS" => "-".into(),
        "ts" => termination(record).chars().take(2).collect(),
        "tsc" => termination(record).into(),
        "ac" | "fc" => counters.connections_open.get().to_string(),
        "bc" | "sc" => u8::from(record.backend.is_some()).to_string(),
        "rc" | "sq" | "bq" => "0".into(),
        "hr" => match record.captured.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", record.captured.join("|")),
        },
        "hs" => String::new(),
        "r" => format!("{} {} {:?}", record.method, record.target, record.version),
        "HM" => record.method.clone(),
        "HP" => path.into(),
        "HQ" if query.is_empty() => String::new(),
        "HQ" => format!("?{query}"),
        "HU" => record.target.clone(),
        "HV" => format!("{:?}", record.version),
        "ID" => record.request_id.clone(),
        "rt" => {
            static LINES: AtomicU64 = AtomicU64::new(0);
            LINES.fetch_add(1, Relaxed).to_string()
        }
        "pid" => std::process::id().to_string(),
        // bi, bp, si, sp: addresses of upstream connections, which belong to several requests.
        _ => "-".into(),
    }
}

/// HAProxy's four letters: who ended it, in which phase, and what happened to a cookie.
fn termination(record: &Record) -> &'static str {
    match record.refusal {
        None => match (record.cut_by, record.status, &record.backend) {
            (None, ..) => "----",
            (Some(_), 0, None) => "CR--",
            (Some(_), 0, Some(_)) => "CH--",
            (Some(Side::Client), ..) => "CD--",
            (Some(Side::Service), ..) => "SD--",
        },
        Some(Refusal::UpstreamTimeout) => "sH--",
        Some(Refusal::UpstreamInvalid) => "SH--",
        Some(Refusal::UpstreamConnectTimeout) => "sC--",
        Some(Refusal::HeadTimeout) => "cR--",
        Some(Refusal::BodyTimeout) => "cD--",
        Some(Refusal::BodyInvalid) => "CD--",
        Some(refusal) if refusal.status().as_u16() == 503 => "SC--",
        Some(_) => "PR--",
    }
}

/// What would end a line or a quotation must not come from outside.
pub(super) fn escape(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                // Writing to a vector cannot fail.
                let _ = write!(out, "\\x{byte:02X}");
            }
            byte => out.push(byte),
        }
    }
}

fn combined(record: &Record, out: &mut Vec<u8>) {
    let dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    let (ip, date) = (record.client.ip().to_canonical(), Date::new(record.at).clf());
    let _ = write!(out, "{ip} - - [{date} +0000] \"");
    escape(&value(record, "r"), out);
    let _ = write!(out, "\" {} {} \"", record.status, record.bytes);
    escape(&dash(&record.referer), out);
    out.extend_from_slice(b"\" \"");
    escape(&dash(&record.user_agent), out);
    out.extend_from_slice(b"\"\n");
}

fn json(record: &Record, out: &mut Vec<u8>) {
    let (backend, server) = record
        .backend
        .as_ref()
        .map_or(("", ""), |(b, s)| (b.as_str(), s.as_str()));
    let line = serde_json::json!({
        "time": Date::new(record.at).iso(),
        "client": record.client.ip().to_canonical().to_string(),
        "port": record.port,
        "method": record.method,
        "host": record.host,
        "target": record.target,
        "protocol": format!("{:?}", record.version),
        "status": record.status,
        "bytes": record.bytes,
        "backend": backend,
        "server": server,
        "refusal": record.refusal.map_or("", Refusal::name),
        "cut_by": record.cut_by.map_or("", Side::name),
        "head_ms": record.head_ms.map(|ms| ms as u64),
        "total_ms": record.began.elapsed().as_millis() as u64,
        "user_agent": record.user_agent,
        "referer": record.referer,
        "traceparent": record.traceparent,
        "request_id": record.request_id,
    });
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_read_or_what_is_wrong_is_named() {
        let Ok(Format::HaProxy(items)) = Format::parse(r"%ci:%cp\ [%t] 100%% %{+Q}r %{+Q,+E}HM") else {
            panic!("it is a format");
        };
        let read: Vec<String> = (items.iter())
            .map(|item| match item {
                Item::Text(text) => text.clone(),
                Item::Variable(name, quoted) => format!("<{name}{}>", if *quoted { "!" } else { "" }),
            })
            .collect();
        assert_eq!(read.concat(), "<ci>:<cp> [<t>] 100% <r!> <HM!>");
        for (wrong, part) in [
            ("%zz", "`%zz`"),
            ("%[src]", "PORTICO_ACCESS_LOG"),
            ("%{+Z}r", "`+Z`"),
            ("%{+Q", "`{`"),
        ] {
            assert!(
                Format::parse(wrong).is_err_and(|error| error.contains(part)),
                "{wrong}"
            );
        }
        assert!(matches!(Format::httplog(), Format::HaProxy(items) if items.len() > 30));
    }

    #[test]
    fn nothing_from_outside_ends_a_line_or_a_quotation() {
        let mut out = Vec::new();
        escape("a\"b\\c\r\nd\u{e9}\u{7f}", &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r"a\x22b\x5Cc\x0D\x0Ad\xC3\xA9\x7F"
        );
    }
}
