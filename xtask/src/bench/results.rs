// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was measured: every sample as it came, and what is needed to read it a year later.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    plan::{Plan, Row, Workload},
    stats::{self, Estimate},
};

/// One run of the load generator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub row: Row,
    pub workload: Workload,
    pub round: u32,
    /// Answers that the client got.
    pub requests: u64,
    pub seconds: f64,
    /// Nanoseconds of processor time per unit of the workload; instructions, where the clock counts those.
    pub cost: f64,
    /// Processors' idle time, as a share of the middle of the run.
    pub idle: f64,
    /// Processor time of the balancer's own processes, in seconds.
    pub balancer_cpu: f64,
    /// In softirq, as a share of the processors' busy time, in the middle of the run.
    pub softirq: f64,
    /// Microseconds at 50, 75, 90 and 99 %; thousands of instructions, where the clock counts those.
    pub latency: Vec<f64>,
    /// Answers of each origin during the run.
    pub shares: BTreeMap<String, u64>,
    /// Processor time of each process that the bench has started, in seconds.
    #[serde(default)]
    pub processes: BTreeMap<String, f64>,
    /// Why the sample does not count.
    pub void: Option<String>,
}

/// A row that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub title: String,
    pub why: String,
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub plan: Plan,
    pub environment: Environment,
    pub left_out: Vec<LeftOut>,
    pub samples: Vec<Sample>,
    /// Whether it ended by itself.
    pub complete: bool,
}

/// The machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Environment {
    /// "emulated" or "native"; first line of the report.
    pub place: String,
    pub kernel: String,
    pub processor: String,
    pub processors: usize,
    pub date: String,
    pub command: String,
    /// Program and version.
    pub versions: BTreeMap<String, String>,
}

impl Results {
    /// Reads a run.
    pub fn load(path: &Path) -> Result<Results> {
        let text = fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no bench result", path.display()))
    }

    /// Samples of a whole run, without those of rows that could not be measured.
    pub fn expected(&self) -> usize {
        let left_out = |row: &&Row| !self.left_out.iter().any(|left| left.title == row.title());
        let rows = self.plan.rows.iter().filter(left_out);
        let each = rows.map(|row| {
            let does = |workload: &&Workload| row.does(**workload);
            self.plan.workloads.iter().filter(does).count()
        });
        each.sum::<usize>() * self.plan.rounds as usize
    }

    /// Costs that count.
    pub fn costs(&self, row: Row, workload: Workload) -> Vec<f64> {
        self.counting(row, workload).map(|sample| sample.cost).collect()
    }

    /// Samples that count.
    pub fn counting(&self, row: Row, workload: Workload) -> impl Iterator<Item = &Sample> {
        let of_row = move |sample: &&Sample| sample.row == row && sample.workload == workload;
        self.samples
            .iter()
            .filter(of_row)
            .filter(|sample| sample.void.is_none())
    }

    /// Median cost with its interval.
    pub fn cost(&self, row: Row, workload: Workload) -> Option<Estimate> {
        stats::estimate(&self.costs(row, workload))
    }

    /// What a row adds to the direct way over the same nodes.
    pub fn added(&self, row: Row, workload: Workload) -> Option<Estimate> {
        let direct = self.costs(row.direct(), workload);
        stats::of_two(&self.costs(row, workload), &direct, |cost, direct| cost - direct)
    }

    /// Cost as a multiple of the direct way's.
    pub fn ratio(&self, row: Row, workload: Workload) -> Option<Estimate> {
        let direct = self.costs(row.direct(), workload);
        stats::of_two(&self.costs(row, workload), &direct, |cost, direct| cost / direct)
    }

    /// What a latency of so many microseconds is counted in.
    pub fn latency_unit(&self, microseconds: f64) -> &'static str {
        match (self.plan.counted.is_some(), microseconds >= 1000.0) {
            (true, true) => "million instructions",
            (true, false) => "thousand instructions",
            (false, true) => "ms",
            (false, false) => "µs",
        }
    }

    /// What the cost is counted in.
    pub fn unit(&self) -> &'static str {
        if self.plan.counted.is_some() {
            "instructions"
        } else {
            "ns of processor time"
        }
    }
}
