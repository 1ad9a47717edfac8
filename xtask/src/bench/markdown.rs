// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report as Markdown, for docs/performance.md and the terminal.

use std::fmt::Write as _;

use super::{
    plan::{Contestant, Workload},
    results::{Results, Sample},
    stats::{self, Estimate},
    words,
};

/// The whole report.
pub fn report(results: &Results) -> String {
    let mut text = format!(
        "# What balancing costs\n\nMeasured {}.\n\n",
        results.environment.place
    );
    if !results.complete {
        let _ = writeln!(
            text,
            "**This run was ended before it was complete: it has {} of {} samples.**\n",
            results.samples.len(),
            results.expected()
        );
    }
    for sentence in words::findings(results) {
        let _ = writeln!(text, "- {sentence}");
    }
    for workload in &results.plan.workloads {
        let _ = writeln!(
            text,
            "\n## {}\n\n{}",
            capitalized(workload.title()),
            table(results, *workload)
        );
    }
    let targets = words::targets(results);
    if !targets.is_empty() {
        text += "\n## Targets\n\nWhat may be added to the direct way, which passes the balancer's own stack: what goes past that \
                 stack can be below zero.\n\n| | unit | target | measured | |\n| --- | --- | --- | --- | --- |\n";
        for (title, change, verdict) in words::flat_targets(results) {
            let _ = writeln!(
                text,
                "| {title} | kept request, from 10 services to the most | ± 5 % | {:+.1} % | {verdict} |",
                change * 100.0
            );
        }
        for (unit, before, measured, verdict) in words::known(results) {
            let _ = writeln!(
                text,
                "| {} | {unit} | about {}, known before | {} | {verdict} |",
                Contestant::IpvsNat.title(),
                grouped(before),
                interval(measured)
            );
        }
        for target in targets {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                target.title,
                target.unit,
                grouped(target.limit),
                interval(target.measured),
                target.verdict()
            );
        }
    }
    if !results.left_out.is_empty() {
        text += "\n## Left out\n\n";
        for row in &results.left_out {
            let _ = writeln!(text, "- {}: {}", row.title, row.why.replace('\n', " "));
        }
    }
    text + &machine(results)
}

fn table(results: &Results, workload: Workload) -> String {
    let unit = workload.unit();
    let mut text = format!(
        "| | {} per {unit} (95 % interval) | added to direct | times direct | p50 / p99 {} | shares | CPU: balancer's own / softirq |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        results.unit(),
        results.latency_unit(1000.0)
    );
    for row in &results.plan.rows {
        let Some(cost) = results.cost(*row, workload) else {
            let void = results
                .samples
                .iter()
                .filter(|s| s.row == *row && s.workload == workload);
            let why: Vec<&str> = void.filter_map(|sample| sample.void.as_deref()).collect();
            if let Some(why) = why.first() {
                let _ = writeln!(text, "| {} | void: {why} | | | | | |", row.title());
            }
            continue;
        };
        let samples: Vec<&Sample> = results.counting(*row, workload).collect();
        let (added, ratio) = if *row == row.direct() {
            (String::new(), String::new())
        } else {
            (
                results.added(*row, workload).map(interval).unwrap_or_default(),
                results.ratio(*row, workload).map(factor).unwrap_or_default(),
            )
        };
        let _ = writeln!(
            text,
            "| {} | {} | {added} | {ratio} | {} | {} | {:.0} % / {:.0} % |",
            row.title(),
            interval(cost),
            latency(&samples),
            shares(&samples),
            balancer_share(&samples),
            softirq_share(&samples)
        );
    }
    text
}

fn factor(ratio: Estimate) -> String {
    let noise = if ratio.contains(1.0) { " noise" } else { "" };
    format!("{:.3}{noise}", ratio.value)
}

/// `7 500 (7 400 to 7 600)`.
pub fn interval(estimate: Estimate) -> String {
    format!(
        "{} ({} to {})",
        grouped(estimate.value),
        grouped(estimate.low),
        grouped(estimate.high)
    )
}

fn latency(samples: &[&Sample]) -> String {
    let at = |index: usize| {
        let values: Vec<f64> = samples
            .iter()
            .filter_map(|s| s.latency.get(index).copied())
            .collect();
        stats::median(&values).unwrap_or(0.0) / 1e3
    };
    format!("{:.2} / {:.2}", at(0), at(3))
}

fn shares(samples: &[&Sample]) -> String {
    let mut sums = std::collections::BTreeMap::new();
    for sample in samples {
        for (name, count) in &sample.shares {
            *sums.entry(name).or_insert(0) += count;
        }
    }
    let all: u64 = sums.values().sum();
    let percent = |count: &u64| *count as f64 * 100.0 / all.max(1) as f64;
    let shares: Vec<f64> = sums.values().map(percent).collect();
    let (least, most) = (
        shares.iter().copied().fold(100.0, f64::min),
        shares.iter().copied().fold(0.0, f64::max),
    );
    match shares.len() {
        0 => String::new(),
        few if few <= SHARES_SHOWN => {
            let each: Vec<String> = shares.iter().map(|share| format!("{share:.0} %")).collect();
            each.join(", ")
        }
        many => format!("{many}: {least:.1} to {most:.1} %"),
    }
}

/// More than these are shown as a range.
const SHARES_SHOWN: usize = 4;

/// Of the processors' busy time, what was spent in softirq outside of any process.
fn softirq_share(samples: &[&Sample]) -> f64 {
    let shares: Vec<f64> = samples.iter().map(|s| s.softirq * 100.0).collect();
    stats::median(&shares).unwrap_or(0.0)
}

/// Of the time of a run, what the balancer's own processes used: 0 where the kernel does the work.
fn balancer_share(samples: &[&Sample]) -> f64 {
    let shares: Vec<f64> = samples
        .iter()
        .map(|s| s.balancer_cpu * 100.0 / s.seconds)
        .collect();
    stats::median(&shares).unwrap_or(0.0)
}

/// `12 345`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    if number < 0.0 && digits != "0" {
        format!("-{text}")
    } else {
        text
    }
}

/// With a capital letter.
pub fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

fn machine(results: &Results) -> String {
    let environment = &results.environment;
    let plan = &results.plan;
    let mut text = format!(
        "\n## The machine and the method\n\n- {}\n- Linux {}, {} × {}\n- {} interleaved rounds of {} s ({} s for answers of 1 MiB), in another \
         order each; {} connections of wrk; medians, bootstrap intervals of 95 %\n- client, balancer and two origins \
         (nginx) in network namespaces joined by veth; each row has its own, and the agents of other rows are stopped while one is measured\n- a sample counts only if it had no \
         error, if each origin had its share, and if the balancer's processes, or its \
         counters in the kernel, show that it worked where it claims to\n",
        environment.date,
        environment.kernel,
        environment.processors,
        environment.processor,
        plan.rounds,
        plan.seconds,
        plan.seconds_of(Workload::Bulk),
        plan.connections,
    );
    if plan.counted.is_none() {
        text += "- processor time is that of the whole machine: whatever else ran is in it; load and origins are pinned to \
                 the last processor, the balancer to the first, where there are two\n";
    }
    for (name, version) in &environment.versions {
        let _ = writeln!(text, "- {name}: {version}");
    }
    let _ = writeln!(text, "- this run: `{}`", environment.command);
    let place = if plan.counted.is_some() { "vm" } else { "native" };
    text += "\n## One row again\n\nEach measures the direct way as well. With `--workload` and one of ";
    let names: Vec<String> = plan
        .workloads
        .iter()
        .map(|workload| format!("`{}`", workload.name()))
        .collect();
    let _ = writeln!(text, "{} it measures only that.\n", names.join(", "));
    for row in plan
        .rows
        .iter()
        .filter(|row| row.contestant != Contestant::Direct)
    {
        let _ = writeln!(
            text,
            "- {}: `cargo xtask bench --where {place} --rounds {} {}`",
            row.title(),
            plan.rounds,
            row.arguments()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(1_234_567.4), "1 234 567");
        assert_eq!(grouped(-999.0), "-999");
        assert_eq!(grouped(-0.2), "0");
    }
}
