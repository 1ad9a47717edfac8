// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything that this machine can test, and the names of what it cannot.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    build, cases, cmd,
    lab::{self, Engine, PREPARED},
    paths,
    progress::step,
    setup, signals, toolchain,
};

#[derive(clap::Args)]
pub struct Args {
    /// Only these parts (all by default)
    #[arg(long, value_enum)]
    only: Vec<Part>,
}

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// rustfmt, clippy, cargo deny
    Lint,
    /// cargo test, as this user and as root
    Cargo,
    /// Shell scripts and the Vagrantfile
    Scripts,
    /// End to end, processes in namespaces
    Embedded,
    /// End to end, three Docker engines
    Docker,
}

/// What ran.
#[derive(Default)]
pub struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    /// Counts a case and prints it.
    pub fn case(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                println!("test {name} ... ok");
                self.passed += 1;
            }
            Err(error) => {
                println!(
                    "test {name} ... FAILED\n    {}",
                    format!("{error:#}").replace('\n', "\n    ")
                );
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Counts something that this machine cannot test.
    pub fn skip(&mut self, name: &str, why: &str) {
        println!("test {name} ... skipped: {why}");
        self.skipped.push(format!("{name}: {why}"));
    }

    /// Failures whose name begins with `prefix`.
    pub fn failed_with(&self, prefix: &str) -> usize {
        self.failed.iter().filter(|name| name.starts_with(prefix)).count()
    }

    fn summary(&self) -> String {
        let mut text = String::new();
        for (title, names) in [("skipped", &self.skipped), ("failed", &self.failed)] {
            if !names.is_empty() {
                text += &format!("\n{title}:\n  {}\n", names.join("\n  "));
            }
        }
        text += &format!("\n{} passed, {} failed", self.passed, self.failed.len());
        if !self.skipped.is_empty() {
            text += &format!(", {} skipped", self.skipped.len());
        }
        text
    }
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<u8> {
    let wanted = |part: Part| args.only.is_empty() || args.only.contains(&part);
    let mut tally = Tally::default();
    if std::env::var_os(PREPARED).is_none() {
        // What could not be installed is named by the part that misses it.
        if let Err(error) = setup::run(setup::For::Everything, false) {
            println!("setup: {error:#}");
        }
        tally.case("build", build::binaries().map(|_| ()));
    }
    if wanted(Part::Lint) {
        lint(&mut tally);
    }
    if wanted(Part::Scripts) {
        scripts(&mut tally);
    }
    if wanted(Part::Cargo) {
        cargo(&mut tally);
    }
    for (part, engine) in [(Part::Embedded, Engine::Embedded), (Part::Docker, Engine::Docker)] {
        if wanted(part) {
            lab_part(engine, &mut tally);
        }
    }
    println!("{}", tally.summary());
    Ok(u8::from(!tally.failed.is_empty()))
}

fn lint(tally: &mut Tally) {
    step("lint");
    tally.case(
        "lint::rustfmt",
        cmd::run(build::cargo().args(["fmt", "--all", "--check"])),
    );
    let clippy = [
        "clippy",
        "--quiet",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    tally.case("lint::clippy", cmd::run(build::cargo().args(clippy)));
    if cmd::output(cmd::host("cargo-deny").arg("--version")).is_ok_and(|output| output.status.success()) {
        tally.case(
            "lint::cargo_deny",
            cmd::run(build::cargo().args(["deny", "--locked", "check"])),
        );
    } else {
        tally.skip(
            "lint::cargo_deny",
            "cargo-deny is not installed (cargo install cargo-deny)",
        );
    }
}

fn scripts(tally: &mut Tally) {
    step("scripts");
    let root = paths::root();
    for script in [".ci/run", "vagrant/provision.sh"] {
        tally.case(
            &format!("scripts::bash_reads_{script}"),
            cmd::run(cmd::host("bash").arg("-n").arg(root.join(script))),
        );
        if cmd::exists("shellcheck") {
            tally.case(
                &format!("scripts::shellcheck_{script}"),
                cmd::run(cmd::host("shellcheck").arg(root.join(script))),
            );
        } else {
            tally.skip(
                &format!("scripts::shellcheck_{script}"),
                "shellcheck is not installed",
            );
        }
    }
    let vagrantfile = root.join("vagrant/Vagrantfile");
    if cmd::exists("ruby") {
        tally.case(
            "scripts::ruby_reads_the_vagrantfile",
            cmd::text(cmd::host("ruby").arg("-c").arg(vagrantfile)).map(|_| ()),
        );
    } else {
        tally.skip("scripts::ruby_reads_the_vagrantfile", "ruby is not installed");
    }
    if cmd::exists("vagrant") {
        let mut validate = cmd::host("vagrant");
        validate.arg("validate").current_dir(root.join("vagrant"));
        tally.case("scripts::vagrant_validates", cmd::run(&mut validate));
    } else {
        tally.skip("scripts::vagrant_validates", "vagrant is not installed");
    }
}

// --- cargo test ----------------------------------------------------------------------------------------------

fn cargo(tally: &mut Tally) {
    step("cargo test");
    let result = cargo_test(
        build::cargo().args(CARGO_TEST).arg("--workspace").args(SHOW),
        tally,
    );
    note(tally, "cargo test", result);
    if cmd::is_root() {
        return;
    }
    step("cargo test, as root");
    let runner = toolchain::host_triple().map(|triple| {
        let triple = triple.to_uppercase().replace('-', "_");
        format!("CARGO_TARGET_{triple}_RUNNER")
    });
    let result = runner.and_then(|runner| {
        let mut command = build::cargo();
        command.env(runner, "sudo --preserve-env").args(CARGO_TEST).args([
            "-p",
            "proxy-user",
            "-p",
            "portico-tests",
        ]);
        cargo_test(command.args(SHOW), tally)
    });
    note(tally, "cargo test as root", result);
}

const CARGO_TEST: [&str; 3] = ["test", "--locked", "--no-fail-fast"];
/// Also what passing tests print: a test that skips says so there.
const SHOW: [&str; 2] = ["--", "--show-output"];

fn note(tally: &mut Tally, name: &str, result: Result<()>) {
    if let Err(error) = result {
        tally.case(name, Err(error));
    }
}

/// Runs cargo test, adds its results to the tally.
fn cargo_test(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| cmd::shown(command))?;
    let output = child.stdout.take().context("stdout")?;
    let mut report = Report::default();
    for line in BufReader::new(output).lines() {
        if let Some(line) = report.read(&line?, tally) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    if !status.success() && report.failed == 0 {
        bail!("{} failed ({status}) before its tests ran", cmd::shown(command));
    }
    Ok(())
}

/// Reads libtest's output as it comes.
#[derive(Default)]
struct Report {
    failed: usize,
    /// Tests of the current binary that passed by doing nothing.
    skipped: usize,
    /// Between `successes:` and what follows it: the output of tests that passed.
    in_successes: bool,
    test: String,
}

impl Report {
    /// The line, unless it is noise.
    fn read<'a>(&mut self, line: &'a str, tally: &mut Tally) -> Option<&'a str> {
        if line == "successes:" {
            self.in_successes = true;
        } else if line == "failures:" || line.starts_with("test result:") {
            self.in_successes = false;
        }
        if self.in_successes {
            if let Some(test) = line.strip_prefix("---- ") {
                self.test = test.trim_end_matches(" stdout ----").to_owned();
            }
            let skip = ["SKIP", "skip"]
                .iter()
                .any(|word| line.trim_start().starts_with(word));
            if skip && !self.test.is_empty() {
                self.skipped += 1;
                tally
                    .skipped
                    .push(format!("{}: {}", std::mem::take(&mut self.test), line.trim()));
            }
            return None;
        }
        if let Some(words) = line.strip_prefix("test result: ") {
            tally.passed += count(words, "passed").saturating_sub(self.skipped);
            self.skipped = 0;
        }
        if let Some(name) = line.strip_prefix("test ") {
            if let Some(name) = name.strip_suffix(" ... FAILED") {
                self.failed += 1;
                tally.failed.push(name.to_owned());
            } else if let Some((name, why)) = name.split_once(" ... ignored") {
                tally
                    .skipped
                    .push(format!("{name}: {}", why.trim_start_matches([',', ' '])));
            }
        }
        Some(line)
    }
}

fn count(words: &str, of: &str) -> usize {
    let words: Vec<&str> = words
        .split([' ', ';', '.'])
        .filter(|word| !word.is_empty())
        .collect();
    words
        .windows(2)
        .find(|pair| pair[1] == of)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

// --- labs ----------------------------------------------------------------------------------------------------

fn lab_part(engine: Engine, tally: &mut Tally) {
    let name = format!("lab::{}", engine.name());
    step(&name);
    if !cmd::is_root() {
        // The part that needs root runs as root and is counted as one; its own lines are above.
        let part = engine.name();
        let code = cmd::again_as_root(&["test", "--only", part]);
        let result = code.and_then(|code| if code == 0 { Ok(()) } else { bail!("see above") });
        return tally.case(&name, result);
    }
    if engine == Engine::Docker && !cmd::exists("dockerd") {
        return tally.skip(&name, "dockerd is not installed and could not be");
    }
    if let Err(error) = signals::check().and_then(|()| lab::refuse_second()) {
        return tally.case(&name, Err(error));
    }
    signals::install();
    cases::run(engine, tally);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Tally, Vec<&str>) {
        let (mut tally, mut report) = (Tally::default(), Report::default());
        let shown = text
            .lines()
            .filter_map(|line| report.read(line, &mut tally))
            .collect();
        (tally, shown)
    }

    #[test]
    fn results_of_several_binaries_are_added() {
        let text = "test a ... ok\ntest b ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored;\n\
                    test c ... ignored, needs KVM\ntest result: ok. 3 passed; 0 failed; 1 ignored;";
        let (tally, _) = read(text);
        assert_eq!(
            (tally.passed, tally.failed.as_slice()),
            (4, ["b".to_owned()].as_slice())
        );
        assert_eq!(tally.skipped, ["c: needs KVM"]);
        assert!(tally.summary().ends_with("\n4 passed, 1 failed, 1 skipped"));
    }

    #[test]
    fn a_test_that_says_it_skips_is_no_pass() {
        let text = "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nskipped: not root\n\nsuccesses:\n    a\n\n\
                    test result: ok. 1 passed; 0 failed; 0 ignored;";
        let (tally, shown) = read(text);
        assert_eq!(tally.passed, 0);
        assert_eq!(tally.skipped, ["a: skipped: not root"]);
        assert!(!shown.contains(&"skipped: not root"));
    }

    #[test]
    fn nothing_skipped_is_not_mentioned() {
        let mut tally = Tally::default();
        tally.case("x", Ok(()));
        assert_eq!(tally.summary(), "\n1 passed, 0 failed");
    }
}
