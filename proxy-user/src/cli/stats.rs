// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico stats`.

use std::{
    io::{IsTerminal, stdout},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Exit,
    ask::{Ask, cell},
    table,
};

mod rates;

/// Shortest time between two looks: one costs the agent some system calls for each backend.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Longest.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Flags of `portico stats`.
#[derive(clap::Args)]
pub struct Args {
    /// Of this service only
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Per second, measured over an interval (500ms, 2s, or seconds), again and again until interrupted
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "1s", value_parser = interval)]
    rates: Option<Duration>,
    /// With --rates: so many times
    #[arg(long, value_name = "N", requires = "rates", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    #[command(flatten)]
    ask: Ask,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = match text.strip_suffix("ms") {
        Some(number) => number.parse::<f64>().map(|number| number / 1000.0),
        None => text.strip_suffix('s').unwrap_or(text).parse(),
    };
    let found = seconds
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    found
        .filter(|found| (INTERVAL_MIN..=INTERVAL_MAX).contains(found))
        .ok_or_else(|| "no time from 100ms to 3600s".into())
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    let look = || -> Result<(Instant, Value), Exit> {
        let answer = args.ask.post("/v1/stats", &json!({ "service": args.service }))?;
        Ok((Instant::now(), answer))
    };
    let mut last = look()?;
    let Some(interval) = args.rates else {
        return if args.ask.json {
            super::print(&format!("{:#}\n", last.1))
        } else {
            super::print(&render(&last.1, false))
        };
    };
    let screen = stdout().is_terminal();
    let mut left = args.count;
    while left != Some(0) {
        thread::sleep(interval);
        let next = look()?;
        let shown = rates::of(&last.1, &next.1, next.0 - last.0);
        let more = if args.ask.json {
            super::print_more(&format!("{shown}\n"))?
        } else {
            // A terminal shows one picture, a file keeps all.
            let before = if screen { "\x1b[H\x1b[2J" } else { "" };
            let after = if screen { "" } else { "\n" };
            super::print_more(&format!("{before}{}{after}", render(&shown, true)))?
        };
        if !more {
            return Ok(());
        }
        last = next;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn render(stats: &Value, rates: bool) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let field = if rates { "opened_per_s" } else { "opened" };
    let row = |service: &Value, frontend: &Value, who: String, of: &Value| {
        vec![
            cell(service),
            cell(frontend),
            who,
            number(&of[field]),
            cell(&of["open"]),
        ]
    };
    let mut rows = Vec::new();
    for service in list(&stats["services"]) {
        for frontend in list(&service["frontends"]) {
            let (name, address) = (&service["name"], &frontend["frontend"]);
            rows.push(row(name, address, "(all)".into(), &frontend));
            for backend in list(&frontend["backends"]) {
                rows.push(row(name, address, backend_name(&backend), &backend));
            }
        }
    }
    let per_second = |word: &str| {
        if rates {
            format!("{word}/s")
        } else {
            word.to_owned()
        }
    };
    let opened = per_second("OPENED");
    let mut out = table::render(&["SERVICE", "FRONTEND", "BACKEND", &opened, "OPEN"], &rows);
    for (field, heading) in [("drops", "DROPPED OR REFUSED"), ("events", "COUNTED")] {
        let counted = stats[field].as_object().into_iter().flatten();
        let rows: Vec<Vec<String>> = counted
            .filter(|(_, value)| value.as_f64() != Some(0.0))
            .map(|(name, value)| vec![name.clone(), number(value)])
            .collect();
        if !rows.is_empty() {
            out.push('\n');
            out.push_str(&table::render(&[heading, &per_second("TIMES")], &rows));
        }
    }
    out
}

fn backend_name(backend: &Value) -> String {
    let name = match (backend["task"].as_str(), backend["port"].as_u64()) {
        (Some(task), _) => task.to_owned(),
        (None, Some(port)) => format!("{}:{port}", cell(&backend["address"])),
        (None, None) => cell(&backend["address"]),
    };
    if backend["draining"] == true {
        format!("{name} (draining)")
    } else {
        name
    }
}

/// Rates with one digit after the point, counts as they are.
fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(rate) if value.is_f64() => format!("{rate:.1}"),
        _ => cell(value),
    }
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
        let words = std::iter::once("stats").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn an_interval_may_be_left_out_or_given() {
        let rates = |line: &str| parse(line).unwrap().rates;
        assert_eq!(rates(""), None);
        assert_eq!(rates("--rates"), Some(Duration::from_secs(1)));
        assert_eq!(rates("--rates 2"), Some(Duration::from_secs(2)));
        assert_eq!(rates("--rates 250ms --json"), Some(Duration::from_millis(250)));
        assert_eq!(rates("--rates --service web"), Some(Duration::from_secs(1)));
        assert_eq!(parse("--rates 2s --count 3").unwrap().count, Some(3));
        for wrong in [
            "--rates 1ms",
            "--rates 2h",
            "--rates -1",
            "--rates NaN",
            "--count 3",
            "--rates --count 0",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_table_of_frontends_and_backends_then_what_was_counted() {
        let stats = json!({
            "services": [{ "name": "web", "frontends": [
                { "frontend": "*:80/tcp", "opened": 7, "open": 6, "backends": [
                    { "task": "web.1", "address": "172.18.0.3", "port": null, "opened": 5, "open": 4 },
                    { "task": null, "address": "10.0.0.7", "port": 80, "opened": 2, "open": null, "draining": true } ] } ] }],
            "events": { "flow_local": 7, "sock_connect": 0 }, "drops": { "source_denied": 1 },
        });
        let expected = "\
SERVICE  FRONTEND  BACKEND                 OPENED  OPEN
web      *:80/tcp  (all)                   7       6
web      *:80/tcp  web.1                   5       4
web      *:80/tcp  10.0.0.7:80 (draining)  2

DROPPED OR REFUSED  TIMES
source_denied       1

COUNTED     TIMES
flow_local  7
";
        assert_eq!(render(&stats, false), expected);
    }
}
