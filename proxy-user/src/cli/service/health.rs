// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--health KIND[,KEY=VALUE]…`.

use serde_json::{Map, Value, json};

use crate::model::snapshot::HealthParams;

/// Help of the flag.
pub const HELP: &str = "Health check: tcp, http or grpc, then KEY=VALUE after commas: port, path, host, expect \
(status codes; several with +: 200-299+404), service (gRPC), interval and timeout (500ms, 2s), rise, fall. \
Example: http,path=/healthz,interval=5s";

/// Reads the flag into the fields of the API.
pub fn parse(text: &str) -> Result<HealthParams, String> {
    let mut parts = text.split(',');
    let mut fields = Map::from_iter([("kind".to_owned(), json!(parts.next().unwrap_or_default()))]);
    for part in parts {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("'{part}' is not KEY=VALUE"))?;
        let number = || {
            value
                .parse::<i64>()
                .map_err(|_| format!("{key}: '{value}' is not a number"))
        };
        let (field, value): (&str, Value) = match key {
            "port" | "rise" | "fall" => (key, json!(number()?)),
            "path" | "host" | "service" => (key, json!(value)),
            "expect" => (key, json!(value.replace('+', ","))),
            "interval" => ("interval_ms", json!(milliseconds(value)?)),
            "timeout" => ("timeout_ms", json!(milliseconds(value)?)),
            _ => {
                return Err(format!(
                    "'{key}' is none of port, path, host, expect, service, interval, timeout, rise, fall"
                ));
            }
        };
        fields.insert(field.into(), value);
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())
}

fn milliseconds(text: &str) -> Result<i64, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').unwrap_or_default(), 1_000),
    };
    let number: Option<i64> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("'{text}' is no duration (500ms, 2s)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_says_what_the_api_says() {
        assert_eq!(parse("tcp"), Ok(HealthParams::default()));
        let expected = HealthParams {
            kind: "http".into(),
            path: "/a?b=c".into(),
            expect: "200-299,404".into(),
            interval_ms: 5_000,
            timeout_ms: 500,
            fall: 1,
            ..HealthParams::default()
        };
        let text = "http,path=/a?b=c,expect=200-299+404,interval=5s,timeout=500ms,fall=1";
        assert_eq!(parse(text), Ok(expected));
        for (text, expected) in [
            ("http,path", "'path' is not KEY=VALUE"),
            ("http,pth=/", "'pth' is none of"),
            ("tcp,rise=x", "rise: 'x' is not a number"),
            ("tcp,interval=5", "'5' is no duration"),
        ] {
            assert!(parse(text).unwrap_err().contains(expected), "{text}");
        }
    }
}
