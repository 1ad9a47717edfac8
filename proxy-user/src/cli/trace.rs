// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico trace CLIENT -> ADDRESS:PORT`.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{
    Exit,
    ask::{Ask, cell},
    table,
};

/// Flags of `portico trace`.
#[derive(clap::Args)]
pub struct Args {
    /// CLIENT -> ADDRESS:PORT[/PROTOCOL], in quotes or without the arrow (to a shell it is a redirection). CLIENT is an address outside, with :PORT if a
    /// flow is meant that may be known; the name or an address of a task of this node; or `host`, a process of the
    /// node itself
    #[arg(required = true, num_args = 1..=2, value_name = "CLIENT -> ADDRESS:PORT")]
    what: Vec<String>,
    /// The arrow as a word of its own looks like a flag, and flags may follow the words.
    #[arg(short = '>', hide = true)]
    arrow: bool,
    #[command(flatten)]
    ask: Ask,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    let question = question(&args.what).map_err(Exit::Usage)?;
    let answer = args.ask.post("/v1/trace", &question)?;
    if args.ask.json {
        super::print(&format!("{answer:#}\n"))
    } else {
        super::print(&render(&answer))
    }
}

fn question(what: &[String]) -> Result<Value, String> {
    let words: Vec<&str> = what
        .iter()
        .flat_map(|text| text.split("->"))
        .flat_map(str::split_whitespace)
        .collect();
    let [client, to] = words[..] else {
        return Err("the form is CLIENT -> ADDRESS:PORT[/PROTOCOL] (portico trace --help)".into());
    };
    let (to, protocol) = to.split_once('/').unwrap_or((to, "tcp"));
    let to: SocketAddr = to
        .parse()
        .map_err(|_| format!("'{to}' is not ADDRESS:PORT (for example 192.0.2.1:80 or [fd00::1]:80)"))?;
    Ok(json!({ "client": client, "to": to.to_string(), "protocol": protocol }))
}

fn render(answer: &Value) -> String {
    let backend = &answer["backend"];
    let mut who = cell(&backend["address"]);
    if let Some(port) = backend["port"].as_u64() {
        who.push_str(&format!(":{port}"));
    }
    if let Some(task) = backend["task"].as_str() {
        who.push_str(&format!(" (task {task})"));
    }
    let counts = answer["would_count"].as_array().into_iter().flatten();
    let counts: Vec<&str> = counts.filter_map(Value::as_str).collect();
    let rows = [
        ("seen by", cell(&answer["hook"])),
        ("service", cell(&answer["service"])),
        ("backend", who),
        ("why", cell(&answer["why"])),
        ("result", cell(&answer["result"])),
        ("path", cell(&answer["path"])),
        ("client address", cell(&answer["client_address"])),
        ("would count", counts.join(", ")),
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    let heading = format!(
        "{} -> {}/{}",
        cell(&answer["client"]),
        cell(&answer["to"]),
        cell(&answer["protocol"])
    );
    format!("{heading}\n{}", table::render(&["", ""], &rows).trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_may_follow_and_the_arrow_is_none() {
        use clap::Parser;
        #[derive(Parser)]
        struct Verb {
            #[command(flatten)]
            args: Args,
        }
        for words in [
            "trace host -> 10.0.0.1:80 --json",
            "trace --json host -> 10.0.0.1:80",
            "trace host 10.0.0.1:80 --json",
        ] {
            let args = Verb::try_parse_from(words.split(' ')).unwrap().args;
            assert!(args.ask.json, "{words}");
            assert_eq!(args.what, ["host", "10.0.0.1:80"], "{words}");
        }
        let quoted = Verb::try_parse_from(["trace", "host -> 10.0.0.1:80", "--json"]).unwrap();
        assert_eq!(quoted.args.what, ["host -> 10.0.0.1:80"]);
    }

    #[test]
    fn the_arrow_may_be_left_out_or_stand_in_one_text() {
        let ask = |words: &[&str]| question(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let expected = json!({ "client": "host", "to": "10.0.0.1:80", "protocol": "tcp" });
        assert_eq!(ask(&["host", "->", "10.0.0.1:80"]), Ok(expected.clone()));
        assert_eq!(ask(&["host", "10.0.0.1:80/tcp"]), Ok(expected.clone()));
        for one in ["host -> 10.0.0.1:80", "host->10.0.0.1:80", "host 10.0.0.1:80/tcp"] {
            assert_eq!(ask(&[one]), Ok(expected.clone()), "{one}");
        }
        assert!(ask(&["host"]).is_err());
        assert!(
            ask(&["host", "->", "10.0.0.1"])
                .unwrap_err()
                .contains("is not ADDRESS:PORT")
        );
        assert!(ask(&["->", "10.0.0.1:80"]).unwrap_err().contains("the form is"));
    }
}
