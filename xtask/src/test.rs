// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything that this machine can test, and the names of what it cannot.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    build, cases, cmd,
    lab::{self, Engine, PREPARED},
    licences, paths,
    progress::step,
    setup, signals, toolchain,
    vm::{Kernel, Machine, matrix},
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
    /// rustfmt, clippy, licences, cargo deny
    Lint,
    /// cargo test, as this user and as root
    Cargo,
    /// Shell scripts and the Vagrantfile
    Scripts,
    /// The Vagrantfile's provisioning, on three copies of this machine
    Vagrant,
    /// End to end, processes in namespaces
    Embedded,
    /// End to end, three Docker engines
    Docker,
    /// Kernel tests and the embedded tour on Debian's kernels, in virtual machines
    Vm,
}

impl Part {
    /// In the order in which they run: what is quick first.
    const ALL: [Part; 7] = [
        Part::Lint,
        Part::Scripts,
        Part::Cargo,
        Part::Vagrant,
        Part::Embedded,
        Part::Docker,
        Part::Vm,
    ];

    fn name(self) -> &'static str {
        match self {
            Part::Lint => "lint",
            Part::Cargo => "cargo",
            Part::Scripts => "scripts",
            Part::Vagrant => "vagrant",
            Part::Embedded => "embedded",
            Part::Docker => "docker",
            Part::Vm => "vm",
        }
    }

    /// Several times what it needs; after that it hangs.
    fn limit(self) -> Duration {
        Duration::from_secs(match self {
            // These two compile, perhaps on a slow machine and from nothing.
            Part::Lint => 20 * 60,
            Part::Cargo => 40 * 60,
            Part::Scripts => 2 * 60,
            Part::Vagrant => 5 * 60,
            Part::Embedded => 10 * 60,
            Part::Docker => 15 * 60,
            Part::Vm => 15 * 60,
        })
    }

    fn run(self, tally: &mut Tally) {
        match self {
            Part::Lint => lint(tally),
            Part::Cargo => cargo(tally),
            Part::Scripts => scripts(tally),
            Part::Vagrant => vagrant(tally),
            Part::Embedded => lab_part(Engine::Embedded, tally),
            Part::Docker => lab_part(Engine::Docker, tally),
            Part::Vm => kernels(tally),
        }
    }
}

/// Installing and building everything from nothing.
const PREPARATION: Duration = Duration::from_secs(60 * 60);

/// What ran.
#[derive(Default)]
pub struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
    times: Vec<(&'static str, Duration)>,
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

    /// Whether nothing ran, or was skipped for good.
    pub fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed.is_empty()
    }

    /// Whether something failed.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Adds the results of a part that names its cases without saying where they ran.
    pub fn absorb(&mut self, place: &str, inner: Tally) {
        let named = |names: Vec<String>| names.into_iter().map(|name| format!("{place}::{name}"));
        self.passed += inner.passed;
        self.failed.extend(named(inner.failed));
        self.skipped.extend(named(inner.skipped));
    }

    /// The text that ends a run.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        if !self.times.is_empty() {
            text += "\ntimes:\n";
            let total: Duration = self.times.iter().map(|(_, time)| *time).sum();
            for (name, time) in self.times.iter().chain([&("in all", total)]) {
                text += &format!("  {name:<12}{:7.1} s\n", time.as_secs_f64());
            }
        }
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
    let wanted = |part: &Part| args.only.is_empty() || args.only.contains(part);
    let mut tally = Tally::default();
    if std::env::var_os(PREPARED).is_none() {
        timed("preparation", PREPARATION, &mut tally, |tally| {
            // What could not be installed is named by the part that misses it.
            if let Err(error) = setup::run(setup::For::Everything, false) {
                println!("setup: {error:#}");
            }
            tally.case("build", build::binaries().map(|_| ()));
        });
    }
    for part in Part::ALL.into_iter().filter(wanted) {
        timed(part.name(), part.limit(), &mut tally, |tally| part.run(tally));
    }
    println!("{}", tally.summary());
    Ok(u8::from(!tally.failed.is_empty()))
}

/// Runs a part with a deadline and remembers how long it took.
fn timed(name: &'static str, limit: Duration, tally: &mut Tally, part: impl FnOnce(&mut Tally)) {
    step(name);
    let start = Instant::now();
    let deadline = signals::Deadline::start(limit);
    part(tally);
    if let Err(error) = deadline.end() {
        tally.case(&format!("{name}::ends_in_time"), Err(error));
    }
    tally.times.push((name, start.elapsed()));
}

fn lint(tally: &mut Tally) {
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
    tally.case("lint::licences_and_sources_are_allowed_ones", licences::check());
    if cmd::output(cmd::host("cargo-deny").arg("--version")).is_ok_and(|output| output.status.success()) {
        let deny = ["deny", "--locked", "check", "licenses", "bans", "sources"];
        tally.case("lint::cargo_deny", cmd::run(build::cargo().args(deny)));
        advisories(tally);
    } else {
        let why = "cargo-deny is not installed (cargo install cargo-deny)";
        tally.skip("lint::cargo_deny_bans", why);
        tally.skip(ADVISORIES, why);
    }
}

const ADVISORIES: &str = "lint::cargo_deny_advisories";

/// Needs a database from the network.
fn advisories(tally: &mut Tally) {
    let result = cmd::text(build::cargo().args(["deny", "--locked", "check", "advisories"]));
    match result {
        Err(error) if error.to_string().contains("failed to fetch advisory database") => {
            tally.skip(ADVISORIES, "the advisory database cannot be fetched");
        }
        result => tally.case(ADVISORIES, result.map(|_| ())),
    }
}

fn scripts(tally: &mut Tally) {
    let root = paths::root();
    for script in [".ci/run", "vagrant/provision.sh", "vagrant/rehearse.sh"] {
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
    let name = "scripts::vagrant_validates_the_vagrantfile";
    if cmd::exists("vagrant") {
        tally.case(name, validate());
    } else {
        tally.skip(name, "vagrant is not installed and could not be");
    }
}

/// `vagrant validate`; without the check of a provider (VirtualBox), which need not be there to look at the rest.
fn validate() -> Result<()> {
    let state = paths::target().join("vagrant");
    let mut command = cmd::host("vagrant");
    command
        .args(["validate", "--ignore-provider"])
        .current_dir(paths::root().join("vagrant"));
    // Nothing is written to the user's own folders, nor into the source tree.
    command
        .env("VAGRANT_HOME", state.join("home"))
        .env("VAGRANT_DOTFILE_PATH", state.join("machines"))
        .env("VAGRANT_CHECKPOINT_DISABLE", "1");
    cmd::text(&mut command).map(|_| ())
}

// --- the Vagrantfile's machines --------------------------------------------------------------------------------

/// Runs provision.sh on three copies of this machine, see vagrant/rehearse.sh.
fn vagrant(tally: &mut Tally) {
    let result = rehearse(tally);
    note(tally, "vagrant::rehearsal", result);
}

fn rehearse(tally: &mut Tally) -> Result<()> {
    let mut command = cmd::as_root("env");
    // The copies use this user's toolchain, which sudo would not tell them.
    for variable in ["HOME", "PATH"] {
        let value = std::env::var(variable).with_context(|| format!("{variable} is not set"))?;
        command.arg(format!("{variable}={value}"));
    }
    // Only what is killed from here can be killed in time: root's processes cannot be by a user.
    let limit = Part::Vagrant.limit().as_secs() - 60;
    command.args(["timeout", "--foreground", "--kill-after=30", &limit.to_string()]);
    command.arg(paths::root().join("vagrant/rehearse.sh"));
    command.arg(paths::root()).arg(paths::target());
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| cmd::shown(&command))?;
    let output = child.stdout.take().context("stdout")?;
    let mut said = Vec::new();
    let mut failed = false;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if let Some(case) = line.strip_prefix("ok ") {
            tally.case(&format!("vagrant::{case}"), Ok(()));
        } else if let Some((case, why)) = line
            .strip_prefix("not ok ")
            .and_then(|rest| rest.split_once(": "))
        {
            failed = true;
            // A case is one line; what was printed had more.
            let why = why.replace('\r', "\n");
            tally.case(&format!("vagrant::{case}"), Err(anyhow::anyhow!(why)));
        } else {
            said.push(line);
        }
    }
    let status = child.wait()?;
    match status.code() {
        Some(0) => Ok(()),
        Some(3) => {
            tally.skip("vagrant::rehearsal", &said.join("; "));
            Ok(())
        }
        _ if failed => Ok(()),
        _ => bail!("{status}: {}", said.join("\n")),
    }
}

// --- cargo test ----------------------------------------------------------------------------------------------

fn cargo(tally: &mut Tally) {
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
        // This user cannot kill what runs as root, root's own timeout can.
        let sudo = "sudo --preserve-env timeout --kill-after=10 900";
        command
            .env(runner, sudo)
            .args(CARGO_TEST)
            .args(["-p", "proxy-user", "-p", "portico-tests"]);
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
pub struct Report {
    failed: usize,
    /// Tests of the current binary that passed by doing nothing.
    skipped: usize,
    /// Between `successes:` and what follows it: the output of tests that passed.
    in_successes: bool,
    test: String,
}

impl Report {
    /// How many tests have failed.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// The line, unless it is noise.
    pub fn read<'a>(&mut self, line: &'a str, tally: &mut Tally) -> Option<&'a str> {
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

/// Debian's kernels, see `cargo xtask vm test`.
fn kernels(tally: &mut Tally) {
    for kernel in Kernel::ALL {
        matrix::test(kernel, &Machine::new(kernel), tally);
    }
}

// --- labs ----------------------------------------------------------------------------------------------------

fn lab_part(engine: Engine, tally: &mut Tally) {
    let name = format!("lab::{}", engine.name());
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

    #[test]
    fn a_part_that_hangs_is_ended_and_counted_as_a_failure() {
        let mut tally = Tally::default();
        let start = Instant::now();
        // The deadline kills every child of this process: in a test it is one of its own.
        if std::env::var_os(HANGS).is_none() {
            let mut again = Command::new(std::env::current_exe().unwrap());
            again.arg("a_part_that_hangs").env(HANGS, "1");
            return cmd::text(&mut again).map(|_| ()).unwrap();
        }
        timed("hangs", Duration::from_millis(300), &mut tally, |tally| {
            tally.case("sleeps", cmd::run(Command::new("sleep").arg("1000")));
        });
        assert!(start.elapsed() < Duration::from_secs(60));
        assert_eq!(tally.failed, ["sleeps", "hangs::ends_in_time"]);
        assert!(tally.summary().contains("times:\n  hangs"));
        assert!(signals::check().is_ok(), "the next part runs");
    }

    const HANGS: &str = "PORTICO_XTASK_TEST_HANGS";
}
