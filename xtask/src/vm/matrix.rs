// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm test`: what was tested on this machine's kernel, on each of Debian's.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Kernel, LACKS, Lines, Machine, Step, machine};
use crate::{
    build, cmd, paths,
    progress::step,
    test::{Report, Tally},
};

/// Six times what the slower kernel needs, emulated, on a quiet machine with two processors.
const DEADLINE: Duration = Duration::from_secs(12 * 60);

const KERNEL_TESTS: usize = 0;
const DOCTOR: usize = 1;
const TOUR: usize = 2;

/// Runs the verb.
pub fn run(kernels: &[Kernel], machine: impl Fn(Kernel) -> Machine) -> Result<u8> {
    machine::require_qemu()?;
    if std::env::var_os(crate::lab::PREPARED).is_none() {
        build::binaries()?;
    }
    let mut tally = Tally::default();
    for kernel in kernels {
        test(*kernel, &machine(*kernel), &mut tally);
    }
    println!("{}", tally.summary());
    // Nothing but what could not be tested is no success.
    Ok(if tally.is_empty() {
        LACKS
    } else {
        u8::from(tally.has_failed())
    })
}

/// Tests one kernel; named as skipped where it cannot be had.
pub fn test(kernel: Kernel, machine: &Machine, tally: &mut Tally) {
    let name = format!("vm::{}", kernel.name());
    if let Err(lack) = super::ready(kernel) {
        return tally.skip(&name, &lack.to_string());
    }
    let mut inner = Tally::default();
    let result = guest(machine, &mut inner);
    if let Err(error) = result {
        inner.case("runs_to_its_end", Err(error));
    }
    tally.absorb(&name, inner);
}

fn guest(machine: &Machine, tally: &mut Tally) -> Result<()> {
    let tests = kernel_tests()?;
    let this = paths::this()?;
    let steps = [
        together("kernel tests", &tests, &["--show-output"]),
        together("doctor", &paths::binary("portico"), &["doctor", "--json"]),
        together("tour", &this, &["demo", "--engine", "embedded"]),
    ];
    let mut seen = vec![Lines::default(); steps.len()];
    let mut report = Report::default();
    let ended = machine.run(&steps, DEADLINE, &mut |number, _, bytes| {
        for line in seen[number].take(bytes) {
            let shown = match number {
                KERNEL_TESTS => report.read(&line, tally),
                DOCTOR => None,
                _ => Some(line.as_str()),
            };
            if let Some(line) = shown {
                println!("  {line}");
            }
        }
    })?;
    let passed = |number: usize| {
        let code = ended.code(number)?;
        ensure!(code == 0, "{} ended with {code}", steps[number].name);
        Ok(())
    };
    // Its failures are counted one by one; this is for a crash before or between them.
    if report.failed() == 0 {
        tally.case("kernel_tests_run", passed(KERNEL_TESTS));
    }
    let doctor = ended
        .code(DOCTOR)
        .and_then(|_| seen[DOCTOR].all.parse().context("doctor --json"));
    tally.case(
        fallback_name(machine.kernel),
        doctor.and_then(|found: serde_json::Value| check_doctor(machine.kernel, &found)),
    );
    tally.case("the_tour_holds", passed(TOUR));
    Ok(())
}

/// A step whose two streams are one, in the order in which they were written.
fn together(name: &str, program: &Path, args: &[&str]) -> Step {
    let mut words = ["sh", "-c", "exec \"$@\" 2>&1", "sh"].map(str::to_owned).to_vec();
    words.push(program.display().to_string());
    words.extend(args.iter().map(|&arg| arg.to_owned()));
    Step::new(name, &words)
}

fn fallback_name(kernel: Kernel) -> &'static str {
    match kernel {
        Kernel::V6_1 => "doctor_says_that_clsact_stands_in_for_tcx",
        Kernel::V6_12 => "doctor_says_that_tcx_is_used",
    }
}

/// Nothing required is missing, and tc programs attach the way that this kernel has.
fn check_doctor(kernel: Kernel, found: &serde_json::Value) -> Result<()> {
    ensure!(found["ok"] == true, "something required is missing: {found:#}");
    let checks = found["checks"].as_array().context("checks")?;
    let tcx = checks
        .iter()
        .find(|check| check["name"] == "tcx")
        .context("no check named tcx")?;
    let (ok, word) = match kernel {
        Kernel::V6_1 => (false, "clsact"),
        Kernel::V6_12 => (true, "links of their own"),
    };
    let follows = tcx["follows"].as_str().unwrap_or_default();
    if tcx["ok"] != ok || !follows.contains(word) {
        bail!("not ok={ok} with \"{word}\": {tcx:#}");
    }
    Ok(())
}

/// Builds the kernel tests; the path of the program.
fn kernel_tests() -> Result<PathBuf> {
    step("the data plane's kernel tests");
    let mut command = build::cargo();
    command.args(["test", "--quiet", "--locked", "--package", "portico-tests"]);
    command.args(["--test", "kernel", "--no-run", "--message-format", "json"]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| cmd::shown(&command))?;
    let mut program = None;
    for line in BufReader::new(child.stdout.take().context("stdout")?).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?).unwrap_or_default();
        if message["target"]["name"] == "kernel" {
            program = message["executable"].as_str().map(PathBuf::from).or(program);
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "{} failed ({status})", cmd::shown(&command));
    program.context("cargo named no program of the kernel tests")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kernel_that_attaches_the_other_way_is_a_failure() {
        let doctor = |ok: bool, follows: &str| json!({"ok": true, "checks": [{"name": "tcx", "ok": ok, "follows": follows}]});
        let old = doctor(false, "tc programs attach as filters of the clsact qdisc");
        let new = doctor(true, "tc programs attach through links of their own");
        assert!(check_doctor(Kernel::V6_1, &old).is_ok());
        assert!(check_doctor(Kernel::V6_12, &new).is_ok());
        assert!(check_doctor(Kernel::V6_1, &new).is_err());
        assert!(check_doctor(Kernel::V6_12, &old).is_err());
    }
}
