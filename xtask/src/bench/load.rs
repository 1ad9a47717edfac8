// SPDX-License-Identifier: MIT OR Apache-2.0
//! The load: wrk, and what it says.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{
    own_load::Said,
    plan::{Plan, Workload},
    site::{PORT, Site},
};

/// What wrk reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    pub requests: u64,
    pub seconds: f64,
    /// Microseconds at 50, 75, 90 and 99 %.
    pub latency: Vec<f64>,
    /// Connections and answers that went wrong.
    pub errors: u64,
}

/// A thread for each origin, so that the direct way can ask both, as the others do: half as many connections to
/// one origin mean more wake-ups for the same requests.
const THREADS: usize = 2;

/// A script that gives each of wrk's threads an address of its own.
fn script(addresses: [&str; THREADS]) -> String {
    let [first, second] = addresses;
    format!(
        "local addresses = {{ \"{first}\", \"{second}\" }}\nlocal next = 0\nfunction setup(thread)\n  next = next + 1\n  \
         thread.addr = wrk.lookup(addresses[next], \"{PORT}\")[1]\nend\n"
    )
}

impl Load {
    /// Of a generator that said nothing.
    pub fn nothing(seconds: u32) -> Load {
        Load {
            requests: 0,
            seconds: f64::from(seconds),
            latency: vec![0.0; 4],
            errors: 1,
        }
    }
}

/// Adds the generator of a workload to a command that runs where the client is.
pub fn command(command: &mut Command, plan: &Plan, workload: Workload, site: &Site) -> Result<()> {
    let [first, second] = site.targets();
    let own = match workload {
        Workload::Udp => "udp",
        Workload::Connect => "connect",
        _ => {
            let file = site.folder.join("wrk.lua");
            fs::write(&file, script([&first, &second])).context("wrk.lua")?;
            wrk(command, plan, workload, &file, &first);
            return Ok(());
        }
    };
    command.arg(crate::paths::this()?).args(["bench", "own", own]);
    command.args([format!("{first}:{PORT}"), format!("{second}:{PORT}")]);
    command.args(["--seconds", &plan.seconds_of(workload).to_string()]);
    if workload == Workload::Udp {
        command.args(["--sockets", &plan.connections.to_string()]);
    }
    Ok(())
}

/// Reads what the generator of a workload said; and who answered, where it knows.
pub fn of(text: &str, workload: Workload) -> Result<(Load, Option<BTreeMap<String, u64>>)> {
    match workload {
        Workload::Udp | Workload::Connect => {
            let said: Said = serde_json::from_str(text).with_context(|| format!("the load said: {text}"))?;
            let shares = (workload == Workload::Udp).then(|| said.shares.clone());
            Ok((said.load(), shares))
        }
        _ => read(text).map(|load| (load, None)),
    }
}

/// wrk's arguments for a workload.
fn wrk(command: &mut Command, plan: &Plan, workload: Workload, script: &Path, address: &str) {
    command
        .args(["wrk", "--latency", "--timeout", "10s", "--script"])
        .arg(script);
    command.args(["--threads", &THREADS.to_string()]);
    command.args(["--connections", &plan.connections.to_string()]);
    command.args(["--duration", &format!("{}s", plan.seconds_of(workload))]);
    let path = match workload {
        Workload::KeepAlive => "/",
        Workload::Connections => {
            command.args(["--header", "Connection: close"]);
            "/"
        }
        Workload::Bulk => "/bulk",
        Workload::Udp | Workload::Connect => unreachable!("their load is our own"),
    };
    command.arg(format!("http://{address}{path}"));
}

/// Reads wrk's report.
fn read(text: &str) -> Result<Load> {
    let summary = text.lines().find(|line| line.contains(" requests in "));
    let summary = summary.with_context(|| format!("wrk said: {text}"))?;
    let mut words = summary.split_whitespace();
    let requests = words
        .next()
        .and_then(|word| word.parse().ok())
        .context("wrk's requests")?;
    let seconds = words
        .nth(2)
        .and_then(|word| microseconds(word.trim_end_matches(',')))
        .context("wrk's duration")?;
    let percentiles = ["50%", "75%", "90%", "99%"].map(|percent| {
        let line = text.lines().find(|line| line.trim_start().starts_with(percent))?;
        microseconds(line.split_whitespace().nth(1)?)
    });
    let latency: Option<Vec<f64>> = percentiles.into_iter().collect();
    let numbers = |mark: &str| -> u64 {
        let line = text.lines().find(|line| line.contains(mark)).unwrap_or_default();
        let words = line.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok());
        words.sum()
    };
    ensure!(seconds > 0.0, "wrk ran for no time: {text}");
    Ok(Load {
        requests,
        seconds: seconds / 1e6,
        latency: latency.context("wrk's latencies")?,
        errors: numbers("Socket errors:") + numbers("Non-2xx"),
    })
}

/// wrk writes 12.00us, 1.20ms, 2.00s, 1.50m.
fn microseconds(word: &str) -> Option<f64> {
    let unit = word.find(|c: char| c.is_alphabetic())?;
    let number: f64 = word[..unit].parse().ok()?;
    let factor = match &word[unit..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        "h" => 3600e6,
        _ => return None,
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 1s test @ http://10.1.0.1/\n  1 threads and 8 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   432.04us   41.27us   1.92ms   91.95%\n    \
        Req/Sec    18.56k   171.93    18.70k    81.82%\n  Latency Distribution\n     50%  428.00us\n     \
        75%  442.00us\n     90%  1.46ms\n     99%  601.00us\n  20309 requests in 1.10s, 2.92MB read\n  \
        Socket errors: connect 0, read 3, write 1, timeout 0\n  Non-2xx or 3xx responses: 5\n\
        Requests/sec:  18463.09\nTransfer/sec:      2.66MB\n";

    #[test]
    fn a_report_is_read() {
        let load = read(REPORT).unwrap();
        assert_eq!(load.requests, 20309);
        assert!((load.seconds - 1.1).abs() < 1e-9);
        assert_eq!(load.latency, [428.0, 442.0, 1460.0, 601.0]);
        assert_eq!(load.errors, 9);
    }

    #[test]
    fn no_report_is_an_error_that_shows_what_was_said() {
        let error = read("unable to connect to 10.1.0.1:http Connection refused").unwrap_err();
        assert!(error.to_string().contains("refused"));
    }
}
