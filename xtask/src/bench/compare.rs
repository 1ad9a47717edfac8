// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench compare A B`: what has changed between two runs.

use std::fmt::Write as _;

use super::{markdown::grouped, results::Results, stats};

/// Every row that both runs have, with the ratio of their costs.
pub fn table(first: &Results, second: &Results) -> String {
    let mut text = String::new();
    if first.plan.counted.is_some() != second.plan.counted.is_some() {
        text += "One run counts instructions and the other nanoseconds: only ratios inside each mean anything.\n\n";
    }
    let _ = writeln!(
        text,
        "A: {} ({})\nB: {} ({})\n\n| | per | A | B | B / A (95 % interval) | |\n| --- | --- | --- | --- | --- | --- |",
        first.environment.date, first.environment.kernel, second.environment.date, second.environment.kernel
    );
    for workload in &first.plan.workloads {
        for row in &first.plan.rows {
            let (a, b) = (first.costs(*row, *workload), second.costs(*row, *workload));
            let (Some(ratio), Some(old), Some(new)) = (
                stats::of_two(&b, &a, |b, a| b / a),
                stats::median(&a),
                stats::median(&b),
            ) else {
                continue;
            };
            let verdict = match (ratio.contains(1.0), ratio.value < 1.0) {
                // One sample has no spread.
                _ if a.len().min(b.len()) < 2 => "too few samples",
                (true, _) => "noise",
                (false, true) => "cheaper",
                (false, false) => "dearer",
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {:.3} ({:.3} to {:.3}) | {verdict} |",
                row.title(),
                workload.unit(),
                grouped(old),
                grouped(new),
                ratio.value,
                ratio.low,
                ratio.high
            );
        }
    }
    text
}
