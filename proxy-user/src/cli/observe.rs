// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico observe`.

use std::{future::pending, net::IpAddr, os::fd::AsFd};

use bytes::Bytes;
use http_body_util::BodyExt;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Exit,
    ask::{self, Ask, cell},
};
use crate::unix_http;

/// Bytes of one line: an event is some hundred.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// What `--help` says before the flags.
pub const LONG: &str = "\
Flows that open, close or are reset, and whatever is dropped or refused, on this node, as it happens, until Ctrl-C.

Each line says when (UTC), what, who with whom, whose address it was, and who serves it by which way:

  22:14:05.678 opened tcp 192.0.2.9:40312 -> 192.0.2.1:80  web -> web.1 (local)
  22:14:05.702 closed tcp 192.0.2.9:40312 -> 192.0.2.1:80  web -> web.1 (local), by the client
  22:14:06.113 DROP source_denied tcp 203.0.113.4:1029 -> 192.0.2.1:80  web

Reasons are the names that `portico stats` counts under. A connection to a VIP is told when it opens; then the kernel \
has it, and its end is told nowhere. A flow that times out ends in silence.";

/// And what it says after them.
const AFTER: &str = "\
Each CPU of the node tells 8192 events in a second at most. What was not told, because of that or because whoever reads \
is too slow, is said: \"7 events lost\". A busy node is better watched by a sample: of one flow in N, beginning and end \
are told. Drops are always told all.

Up to 8 may observe at a time. When nobody does, the programs tell nothing, and after an agent was killed they stop by \
themselves after five seconds.

  portico observe --drops                       what is refused, and why
  portico observe --service web --sample 100    one in a hundred of a service's flows
  portico observe --client 192.0.2.0/24 --json  for programs, one object a line";

/// Flags of `portico observe`.
#[derive(clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    /// Of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Of this client: ADDRESS or ADDRESS/BITS. Connections to VIPs have no address yet when they are told
    #[arg(long, value_name = "CLIENT", value_parser = prefix)]
    client: Option<String>,
    /// Only what is dropped or refused
    #[arg(long)]
    drops: bool,
    /// One in N flows, from its beginning to its end
    #[arg(long, value_name = "N", value_parser = sample, conflicts_with = "drops")]
    sample: Option<u32>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    ask: Ask,
}

/// An address or a prefix, as a prefix.
fn prefix(text: &str) -> Result<String, String> {
    let address = |_| text.parse().map(|ip: IpAddr| IpNet::from(ip));
    let net: Result<IpNet, _> = text.parse().or_else(address);
    net.map(|net| net.to_string())
        .map_err(|_| "not an address or prefix".into())
}

fn sample(text: &str) -> Result<u32, String> {
    let number: Option<u32> = text.strip_prefix("1/").unwrap_or(text).parse().ok();
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| "not a number from 1".into())
}

impl Args {
    fn question(&self) -> Value {
        let mut question = Map::new();
        for (field, value) in [("service", &self.service), ("client", &self.client)] {
            if let Some(value) = value {
                question.insert(field.into(), json!(value));
            }
        }
        if self.drops {
            question.insert("drops".into(), json!(true));
        }
        if let Some(sample) = self.sample {
            question.insert("sample".into(), json!(sample));
        }
        Value::Object(question)
    }
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::Failed(format!("runtime: {error}")))?;
    let mut tally = Tally::default();
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = follow(&args, &mut tally) => ended,
            () = stdout_closed() => Ok(()),
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.map_err(|error| Exit::Failed(format!("signals: {error}")))
            }
        }
    });
    // Not waiting for a line that nobody reads.
    runtime.shutdown_background();
    if !args.ask.json && tally.lost > 0 {
        eprintln!("{} shown, {} lost", tally.shown, tally.lost);
    }
    ended
}

/// What became of the events.
#[derive(Default)]
struct Tally {
    shown: u64,
    lost: u64,
}

/// Until nobody reads any more, also while there is nothing to write. What is no pipe, socket or terminal stays open.
async fn stdout_closed() {
    let Ok(out) = std::io::stdout().as_fd().try_clone_to_owned() else {
        return pending().await;
    };
    // SAFETY: an OwnedFd keeps its number until it is dropped, and that is after the registration.
    let registered = unsafe { AsyncFd::register_with_interest(out, Interest::ERROR) };
    match registered {
        Ok(out) if out.ready(Interest::ERROR).await.is_ok() => {}
        _ => pending().await,
    }
}

async fn follow(args: &Args, tally: &mut Tally) -> Result<(), Exit> {
    const PATH: &str = "/v1/observe";
    let body = Bytes::from(args.question().to_string());
    let mut stream = unix_http::stream(args.ask.socket(), PATH, body)
        .await
        .map_err(ask::exit)?;
    let mut lines = Lines::default();
    while let Some(frame) = stream.frame().await {
        let frame = frame.map_err(|error| Exit::Failed(format!("the agent ended: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let mut text = String::new();
        let mut ended = None;
        for line in lines.add(&data)? {
            let event: Value =
                serde_json::from_slice(&line).map_err(|error| Exit::Failed(format!("{PATH}: {error}")))?;
            match event["event"].as_str() {
                Some("problem") => {
                    let problem = cell(&event["problem"]);
                    ended = Some(Err(Exit::Failed(format!("events of the kernel: {problem}"))));
                    break;
                }
                Some("lost") => tally.lost += event["events"].as_u64().unwrap_or_default(),
                Some("observing") => {}
                _ => tally.shown += 1,
            }
            if args.ask.json {
                text.push_str(&format!("{event}\n"));
            } else if let Some(line) = render(&event) {
                text.push_str(&format!("{line}\n"));
            }
            if args.limit == Some(tally.shown) {
                ended = Some(Ok(()));
                break;
            }
        }
        // A reader that is slow shall not keep Ctrl-C waiting.
        let written = tokio::task::spawn_blocking(move || super::print_more(&text)).await;
        let more = written.map_err(|error| Exit::Failed(error.to_string()))??;
        match ended {
            Some(ended) => return ended,
            None if !more => return Ok(()),
            None => {}
        }
    }
    Err(Exit::Failed("the agent ended".into()))
}

/// Lines out of pieces.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn add(&mut self, data: &[u8]) -> Result<Vec<Vec<u8>>, Exit> {
        self.rest.extend_from_slice(data);
        let mut whole = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let rest = self.rest.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.rest, rest);
            line.pop();
            whole.push(line);
        }
        if self.rest.len() > LINE_BYTES_MAX {
            return Err(Exit::Failed("the agent sends no lines".into()));
        }
        Ok(whole)
    }
}

/// One line for people; nothing for what only programs want to know.
fn render(event: &Value) -> Option<String> {
    let word = |field: &str| match &event[field] {
        Value::Null => "-".into(),
        value => cell(value),
    };
    let kind = match event["event"].as_str()? {
        "lost" => {
            return Some(format!(
                "             {} events lost ({})",
                word("events"),
                word("where")
            ));
        }
        "drop" => format!("DROP {}", word("reason")),
        kind @ ("opened" | "closed" | "reset") => kind.to_owned(),
        _ => return None,
    };
    let at = clock(event["at_ms"].as_u64().unwrap_or_default());
    let [protocol, from, to, service] = ["protocol", "from", "to", "service"].map(word);
    let mut text = format!("{at} {kind} {protocol} {from} -> {to}  {service}");
    if event["event"] != "drop" {
        text.push_str(&format!(" -> {} ({})", backend(event), way(event)));
    }
    if let Some(by) = event["by"].as_str() {
        text.push_str(&format!(", by the {by}"));
    }
    Some(text)
}

fn backend(event: &Value) -> String {
    match event["backend"]["task"].as_str() {
        Some(task) => task.to_owned(),
        None => cell(&event["task_address"]),
    }
}

fn way(event: &Value) -> String {
    let path = cell(&event["path"]);
    match event["node"].as_str() {
        Some(node) => format!("{path}, node {node}"),
        None => path,
    }
}

/// Time of day, UTC.
fn clock(at_ms: u64) -> String {
    let (seconds, ms) = (at_ms / 1000 % 86_400, at_ms % 1000);
    format!(
        "{:02}:{:02}:{:02}.{ms:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        let words = std::iter::once("observe").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn flags_become_the_question() {
        let question = |line: &str| parse(line).unwrap().question();
        assert_eq!(question(""), json!({}));
        assert_eq!(
            question("--service web --client 10.0.0.1 --sample 1/100"),
            json!({ "service": "web", "client": "10.0.0.1/32", "sample": 100 })
        );
        assert_eq!(question("--sample 7"), json!({ "sample": 7 }));
        assert_eq!(question("--client fd00::1")["client"], "fd00::1/128");
        assert_eq!(question("--client fd00::/64")["client"], "fd00::/64");
        assert_eq!(question("--drops"), json!({ "drops": true }));
        for wrong in [
            "--sample 0",
            "--sample 1/0",
            "--sample 2/3",
            "--drops --sample 1/2",
            "--limit 0",
            "--client ten",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pieces_become_lines() {
        let mut lines = Lines::default();
        assert!(lines.add(b"{\"a\"").unwrap().is_empty());
        assert_eq!(
            lines.add(b":1}\n{}\n{").unwrap(),
            [b"{\"a\":1}".to_vec(), b"{}".to_vec()]
        );
        assert_eq!(lines.add(b"}\n").unwrap(), [b"{}".to_vec()]);
        assert!(lines.add(&[b'x'; LINE_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn a_line_for_people() {
        let flow = json!({ "at_ms": 1_700_000_045_678_u64, "event": "opened", "reason": "flow_remote", "protocol": "tcp",
            "from": "10.0.0.1:4000", "to": "192.168.0.1:80", "service": "web", "path": "tunnel", "node": "192.168.0.2",
            "backend": { "task": "web.1" }, "task_address": "10.0.9.5:8080" });
        assert_eq!(
            render(&flow).unwrap(),
            "22:14:05.678 opened tcp 10.0.0.1:4000 -> 192.168.0.1:80  web -> web.1 (tunnel, node 192.168.0.2)"
        );
        let mut end = flow;
        end["event"] = "reset".into();
        end["by"] = "task".into();
        assert_eq!(
            render(&end).unwrap(),
            "22:14:05.678 reset tcp 10.0.0.1:4000 -> 192.168.0.1:80  web -> web.1 (tunnel, node 192.168.0.2), by the task"
        );
        let drop = json!({ "at_ms": 0, "event": "drop", "reason": "source_denied", "protocol": "udp",
            "from": "10.0.0.1:5", "to": "192.168.0.1:53", "service": null });
        assert_eq!(
            render(&drop).unwrap(),
            "00:00:00.000 DROP source_denied udp 10.0.0.1:5 -> 192.168.0.1:53  -"
        );
        let lost = json!({ "event": "lost", "events": 7, "where": "kernel" });
        assert_eq!(render(&lost).unwrap().trim(), "7 events lost (kernel)");
        assert_eq!(render(&json!({ "event": "observing" })), None);
    }
}
