// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico flows`.

use serde_json::{Map, Value, json};

use super::{
    Exit,
    ask::{Ask, cell},
    table,
};

/// Flags of `portico flows`.
#[derive(clap::Args)]
pub struct Args {
    /// Of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Of this client: ADDRESS or ADDRESS/BITS
    #[arg(long, value_name = "CLIENT", value_parser = prefix)]
    client: Option<String>,
    /// Of this backend: an address, or a task's name
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// In this state
    #[arg(long, value_name = "STATE", value_parser = ["syn", "answered", "established", "closing", "datagram", "stream"])]
    state: Option<String>,
    /// tcp or udp
    #[arg(long, value_name = "PROTOCOL", value_parser = ["tcp", "udp"])]
    protocol: Option<String>,
    /// Of this published port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Show at most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u16,
    /// Forget the flows instead of listing them: a client's next segment is answered with RST, so that it
    /// reconnects; its next datagram chooses again
    #[arg(long)]
    flush: bool,
    /// With --flush and no filter: yes, all of them
    #[arg(long, requires = "flush")]
    all: bool,
    #[command(flatten)]
    ask: Ask,
}

fn prefix(text: &str) -> Result<String, String> {
    let full = if text.contains('/') {
        text.to_owned()
    } else {
        format!("{text}/32")
    };
    match full.parse::<ipnet::Ipv4Net>() {
        Ok(net) => Ok(net.to_string()),
        Err(_) => Err("not an IPv4 address or prefix".into()),
    }
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    let mut filter = Map::new();
    for (field, value) in [
        ("service", &args.service),
        ("client", &args.client),
        ("backend", &args.backend),
        ("state", &args.state),
        ("protocol", &args.protocol),
    ] {
        if let Some(value) = value {
            filter.insert(field.into(), json!(value));
        }
    }
    if let Some(port) = args.port {
        filter.insert("port".into(), json!(port));
    }
    if args.flush {
        if filter.is_empty() && !args.all {
            return Err(Exit::Usage(
                "--flush without a filter forgets every flow of the node; name a filter, or add --all".into(),
            ));
        }
        let answer = args.ask.post("/v1/flows/flush", &Value::Object(filter))?;
        return if args.ask.json {
            super::print(&format!("{answer:#}\n"))
        } else {
            super::print(&format!("{} flows forgotten\n", answer["flushed"]))
        };
    }
    filter.insert("limit".into(), json!(args.limit));
    let answer = args.ask.post("/v1/flows", &Value::Object(filter))?;
    if args.ask.json {
        return super::print(&format!("{answer:#}\n"));
    }
    super::print(&render(&answer))
}

fn render(answer: &Value) -> String {
    let flows = answer["flows"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<Vec<String>> = flows
        .iter()
        .map(|flow| {
            let backend = &flow["backend"];
            let who = match backend["task"].as_str() {
                Some(task) => task.to_owned(),
                None => cell(&flow["task_address"]),
            };
            let place = match flow["side"].as_str() {
                Some("entry") => match backend["node"].as_str() {
                    Some(node) => format!("node {node}"),
                    None => cell(&backend["place"]),
                },
                _ => format!("entered at {}", cell(&flow["entry_node"])),
            };
            vec![
                cell(&flow["protocol"]),
                cell(&flow["client"]),
                cell(&flow["used"]),
                cell(&flow["service"]),
                who,
                place,
                cell(&flow["state"]),
                format!("{} s", cell(&flow["idle_s"])),
            ]
        })
        .collect();
    let headings = [
        "PROTO", "CLIENT", "ADDRESS", "SERVICE", "BACKEND", "PLACE", "STATE", "IDLE",
    ];
    let mut out = table::render(&headings, &rows);
    let matching = answer["matching"].as_u64().unwrap_or_default();
    if matching > rows.len() as u64 {
        out.push_str(&format!(
            "\n{matching} flows in all; {} shown (--limit)\n",
            rows.len()
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_or_a_prefix() {
        assert_eq!(prefix("10.0.0.1").as_deref(), Ok("10.0.0.1/32"));
        assert_eq!(prefix("10.0.0.0/8").as_deref(), Ok("10.0.0.0/8"));
        assert!(prefix("ten").is_err());
    }

    #[test]
    fn what_is_not_shown_is_said() {
        let flow = |side: &str, backend: Value| {
            json!({ "protocol": "tcp", "client": "10.0.0.1:5", "used": "10.0.0.2:80", "service": "web",
                "task_address": "172.18.0.3:8080", "backend": backend, "side": side, "entry_node": "10.0.0.9",
                "state": "syn", "idle_s": 3 })
        };
        let one = flow(
            "entry",
            json!({ "task": "web.1", "place": "local", "node": null }),
        );
        let other = flow("from tunnel", Value::Null);
        let out = render(&json!({ "flows": [one, other], "matching": 7 }));
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[1].contains("web.1") && lines[1].contains("local"), "{out}");
        assert!(lines[2].contains("172.18.0.3:8080  entered at 10.0.0.9"), "{out}");
        assert_eq!(lines[4], "7 flows in all; 2 shown (--limit)");
    }
}
