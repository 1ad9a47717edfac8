// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a service's flows are spread: the flags, and the words of `service ls`. What a flag may say is judged by the
//! agent, with the model's own rules.

use serde_json::Value;

use super::super::ask::cell;

/// Flags of `service add` and `service set`.
#[derive(clap::Args)]
pub(super) struct Flags {
    /// Who gets a new flow: rr, wrr, lc, wlc, sh, mh or random [default: rr]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<String>,
    /// How long a client keeps its backend after its last new flow: NUMBER[s|m|h|d][/PREFIX], up to 30 days, or none.
    /// The prefix is the length that makes a client of an address [default: none]
    #[arg(long, value_name = "TIME")]
    pub affinity: Option<String>,
    /// What tasks see as the client of a published port: preserve, dsr or masquerade [default: preserve]
    #[arg(long, value_name = "MODE")]
    pub client: Option<String>,
    /// Prefix that may open flows to published ports, and then nobody else may; repeat or separate by commas
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Prefix that may not open flows to published ports; repeat or separate by commas
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    pub deny: Vec<String>,
    /// How long flows of a draining backend or task live until they are reset: NUMBER[s|m|h|d], up to a day, or none
    /// [default: none, they live until it is removed]
    #[arg(long, value_name = "TIME")]
    pub drain: Option<String>,
}

/// `mh, affinity 600s/24, dsr, allow 10.0.0.0/8`: the scheduler, and the rest where it is not the default.
pub(super) fn words(service: &Value) -> String {
    let mut parts = vec![cell(&service["scheduler"])];
    if let Some(affinity) = service["affinity"].as_object() {
        let [seconds, prefix] = ["seconds", "prefix"].map(|field| cell(&affinity[field]));
        parts.push(format!("affinity {seconds}s/{prefix}"));
    }
    let client = cell(&service["client"]);
    if client != "preserve" {
        parts.push(client);
    }
    for field in ["allow", "deny"] {
        match service[field].as_array().map_or(&[][..], Vec::as_slice) {
            [] => {}
            [one] => parts.push(format!("{field} {}", cell(one))),
            more => parts.push(format!("{field} {} prefixes", more.len())),
        }
    }
    if let Some(seconds) = service["drain"].as_u64() {
        parts.push(format!("drain {seconds}s"));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_the_default_is_shown() {
        let service = |affinity: Value, client: &str, allow: Value, deny: Value| {
            words(
                &json!({ "scheduler": "mh", "affinity": affinity, "client": client, "allow": allow, "deny": deny }),
            )
        };
        assert_eq!(service(Value::Null, "preserve", json!([]), json!([])), "mh");
        assert_eq!(words(&json!({ "scheduler": "rr", "drain": 30 })), "rr, drain 30s");
        assert_eq!(
            service(
                json!({ "seconds": 600, "prefix": 24 }),
                "dsr",
                json!(["10.0.0.0/8"]),
                json!(["10.1.0.0/16", "10.2.0.0/16"])
            ),
            "mh, affinity 600s/24, dsr, allow 10.0.0.0/8, deny 2 prefixes"
        );
    }
}
