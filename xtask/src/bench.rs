// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: what a request costs through IPVS, through eBPF and through userspace, in one run.
//!
//! Where this machine's kernel has IPVS, the run is here; otherwise in the emulated machine, whose clock counts
//! instructions. The side that measures is this same program (`inside`), as root, and writes samples into a folder
//! that both sides share; this side plans, shows progress, ends it in time, and writes the report.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::{
    build, cmd, paths,
    progress::step,
    setup, signals,
    vm::{self, Kernel, Lines, Machine, Step},
};

mod balancers;
mod compare;
mod inside;
mod links;
mod load;
mod markdown;
mod own_load;
mod page;
mod pass;
mod plan;
mod plots;
mod results;
mod site;
mod stats;
mod words;

use plan::{Contestant, NOT_COMPARED, Plan, Row, Workload};
use results::{Environment, LeftOut, Results, Sample};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// At most five minutes: fewer rounds, one service, no large answers
    #[arg(long)]
    quick: bool,
    /// Only these (and the direct way, which all are compared with)
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Contestant>,
    /// Only these workloads
    #[arg(long, value_enum, value_delimiter = ',')]
    workload: Vec<Workload>,
    /// Numbers of services to measure kernel contestants and HTTP proxies with
    #[arg(long, value_delimiter = ',')]
    services: Vec<u32>,
    /// Numbers of backends to measure kernel contestants with
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=i64::from(site::ORIGINS_MAX)))]
    backends: Vec<u32>,
    /// Numbers of other clients' flows to measure kernel contestants with
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    flows: Vec<u32>,
    /// Kernel contestants while a backend drains and comes back all the time
    #[arg(long)]
    churn: bool,
    /// Kernel contestants with tasks on another node than the one that the client asks
    #[arg(long)]
    far: bool,
    /// Rounds
    #[arg(long)]
    rounds: Option<u32>,
    /// No new sample after so many minutes [default: 60, with --quick 4.6]
    #[arg(long)]
    minutes: Option<u64>,
    /// Where to measure
    #[arg(long = "where", value_enum, default_value = "auto")]
    place: Place,
    /// Folder of the report [default: target/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// What has changed between two runs
    Compare { first: PathBuf, second: PathBuf },
    /// Write a run's report again
    Report { results: PathBuf },
    /// The side that measures
    #[command(hide = true)]
    Inside { folder: PathBuf },
    /// A load or an origin of the bench's own
    #[command(hide = true)]
    Own {
        #[command(subcommand)]
        own: own_load::Own,
    },
}

/// Where the packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Place {
    /// Here if this kernel has IPVS, otherwise in the virtual machine
    Auto,
    /// Here
    Native,
    /// In the virtual machine, by the count of instructions
    Vm,
}

/// wrk's shortest run. How much work it is in the counting machine follows from the shifts below.
const SECONDS: u32 = 1;
const CONNECTIONS: u32 = 8;
/// Nanoseconds per instruction, as a power of two. A second of 2^2 is 250 million instructions: 4 500 kept requests,
/// and 2 s of a quiet host; of 2^1 it is twice as many.
const QUICK_SHIFT: u32 = 2;
const FULL_SHIFT: u32 = 1;

/// No new sample after this; the last one and the report have the rest of five minutes.
const QUICK: Duration = Duration::from_secs(4 * 60 + 35);
const FULL: Duration = Duration::from_secs(60 * 60);
/// From the last sample's beginning to the end of everything.
const ENDING: Duration = Duration::from_secs(55);

/// Runs the verb.
pub fn run(args: &Args) -> Result<u8> {
    match &args.verb {
        Some(Verb::Inside { folder }) => inside::run(folder),
        Some(Verb::Own { own }) => own_load::run(own),
        Some(Verb::Compare { first, second }) => {
            let (first, second) = (Results::load(first)?, Results::load(second)?);
            print!("{}", compare::table(&first, &second));
            Ok(0)
        }
        Some(Verb::Report { results }) => {
            let folder = results.parent().unwrap_or(Path::new(".")).to_path_buf();
            report(&Results::load(results)?, &folder)
        }
        None => bench(args),
    }
}

fn bench(args: &Args) -> Result<u8> {
    let start = Instant::now();
    signals::install();
    if std::env::var_os(crate::lab::PREPARED).is_none() {
        // What could not be installed is a row that is left out.
        if let Err(error) = setup::run(setup::For::Bench, false) {
            println!("setup: {error:#}");
        }
        build::binaries()?;
    }
    let folder = args.out.clone().unwrap_or_else(|| paths::target().join("bench"));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    for file in [
        inside::STOP,
        inside::MEASURE,
        inside::SAMPLES,
        inside::LEFT_OUT,
        inside::ENVIRONMENT,
    ] {
        let _ = fs::remove_file(folder.join(file));
    }
    let native = match args.place {
        Place::Auto => has_ipvs() || no_machine(),
        Place::Native => true,
        Place::Vm => false,
    };
    let shift = if args.quick { QUICK_SHIFT } else { FULL_SHIFT };
    let plan = plan_of(args, (!native).then_some(shift));
    fs::write(folder.join(inside::PLAN), serde_json::to_vec_pretty(&plan)?).context(inside::PLAN)?;
    let usual = if args.quick { QUICK } else { FULL };
    let budget = args
        .minutes
        .map_or(usual, |minutes| Duration::from_secs(60 * minutes));
    let measured = if native {
        natively(&folder, budget)
    } else {
        emulated(&folder, budget, shift)
    };
    let ended = match measured {
        Ok(()) => true,
        Err(error) if error.is::<vm::Lacks>() => return vm::lacking(Err(error)),
        Err(error) => {
            step(format!("ended early: {error:#}"));
            false
        }
    };
    let results = collect(&folder, plan, native, ended)?;
    ensure!(!results.samples.is_empty(), "nothing was measured");
    let path = folder.join("results.json");
    fs::write(&path, serde_json::to_vec_pretty(&results)?).with_context(|| path.display().to_string())?;
    let code = report(&results, &folder)?;
    step(format!("done after {:.0} s", start.elapsed().as_secs_f64()));
    // Out of time is no failure: the report says how much there is.
    let failed = !ended || signals::check().is_err();
    Ok(if failed { 1 } else { code })
}

fn plan_of(args: &Args, counted: Option<u32>) -> Plan {
    let chosen = |contestant: &Contestant| {
        *contestant == Contestant::Direct || args.only.is_empty() || args.only.contains(contestant)
    };
    let mut rows: Vec<Row> = Contestant::ALL.into_iter().filter(chosen).map(Row::of).collect();
    // What is behind another node needs its own comparison, and the usual way to get there beside it.
    let asked = |contestant: &Contestant| {
        let named = args.only.contains(contestant);
        named && args.far || args.only.is_empty() && *contestant == Contestant::PorticoTc
    };
    let far = Contestant::ALL.into_iter().filter(asked).map(|contestant| Row {
        far: true,
        ..Row::of(contestant)
    });
    let able = far.filter(|row| row.contestant.is_tc() && !row.is_plain());
    rows.extend(able.collect::<Vec<_>>());
    if let Some(row) = rows.iter().find(|row| row.far) {
        let direct = row.direct();
        rows.insert(1, direct);
    }
    let numbers = match (args.services.is_empty(), args.quick) {
        (false, _) => args.services.clone(),
        (true, true) => Vec::new(),
        (true, false) => vec![10, 1000, 10_000],
    };
    for services in numbers.into_iter().filter(|number| *number > 1) {
        let able = Contestant::ALL.into_iter().filter(chosen);
        let able = able.filter(|contestant| services <= contestant.services_max());
        rows.extend(able.map(|contestant| Row {
            services,
            ..Row::of(contestant)
        }));
    }
    rows.extend(
        special_rows(args)
            .into_iter()
            .filter(|row| chosen(&row.contestant)),
    );
    let workloads = match (args.workload.is_empty(), args.quick) {
        (false, _) => args.workload.clone(),
        (true, true) => vec![Workload::KeepAlive, Workload::Connections],
        (true, false) => Workload::ALL.to_vec(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Plan {
        rows,
        workloads,
        rounds: args.rounds.unwrap_or(if args.quick { 3 } else { 5 }),
        seconds: SECONDS,
        connections: CONNECTIONS,
        counted,
        seed: now.as_secs(),
    }
}

/// Contestants whose agent can make many backends, flows and changes; one way of each kind.
const SPECIAL: [Contestant; 3] = [
    Contestant::IpvsNat,
    Contestant::PorticoSocket,
    Contestant::PorticoTc,
];

/// Rows with other numbers of backends, with flows, and with changes; a full run has all, others what they were asked for.
fn special_rows(args: &Args) -> Vec<Row> {
    let asked =
        !(args.backends.is_empty() && args.flows.is_empty() && !args.churn && args.services.is_empty());
    let full = !args.quick && !asked;
    let or = |given: &[u32], usual: &[u32]| if full { usual.to_vec() } else { given.to_vec() };
    let mut rows = Vec::new();
    for backends in or(&args.backends, &[1, 10, 100]) {
        rows.extend(SPECIAL.map(|contestant| Row {
            backends,
            ..Row::of(contestant)
        }));
    }
    for flows in or(&args.flows, &[10_000, 100_000, 1_000_000]) {
        // Socket hooks keep no flow: there is nothing to be many of.
        let keeping = SPECIAL
            .into_iter()
            .filter(|contestant| *contestant != Contestant::PorticoSocket);
        rows.extend(keeping.map(|contestant| Row {
            flows,
            ..Row::of(contestant)
        }));
    }
    if args.churn || full {
        rows.extend(SPECIAL.map(|contestant| Row {
            churn: true,
            ..Row::of(contestant)
        }));
    }
    rows.retain(|row| !row.is_plain());
    rows
}

/// Whether there is no virtual machine to measure in; then this kernel is better than nothing.
fn no_machine() -> bool {
    match vm::ready(KERNEL) {
        Ok(()) => false,
        Err(lack) => {
            step(format!("no virtual machine, so IPVS is left out: {lack}"));
            true
        }
    }
}

/// Has IPVS and tcx, so that all contestants can run in one boot.
const KERNEL: Kernel = Kernel::V6_12;

/// Whether this kernel has IPVS, built in or as a module that root could load.
fn has_ipvs() -> bool {
    let module = || {
        let mut modprobe = cmd::host_admin("modprobe");
        cmd::output(modprobe.args(["--dry-run", "--quiet", "ip_vs"]))
            .is_ok_and(|output| output.status.success())
    };
    Path::new("/proc/net/ip_vs").exists() || module()
}

/// Tells the measuring side to begin when half of the time is up, and to stop when all of it is.
fn stop_after(folder: &Path, budget: Duration) {
    let files = [inside::MEASURE, inside::STOP].map(|name| folder.join(name));
    std::thread::spawn(move || {
        for file in files {
            std::thread::sleep(budget / 2);
            // If it cannot be written, the deadline of the run is the next bound.
            let _ = fs::write(file, "");
        }
    });
}

fn natively(folder: &Path, budget: Duration) -> Result<()> {
    step("measuring on this machine's own kernel");
    stop_after(folder, budget);
    let mut command = cmd::as_root(&paths::this()?.to_string_lossy());
    command.args(["bench", "inside"]).arg(folder);
    let mut child = command.spawn().with_context(|| cmd::shown(&command))?;
    let mut end = Instant::now() + budget + ENDING;
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "the measuring side ended with {status}");
            return signals::check();
        }
        // The other side removes its namespaces itself; it is only told to.
        if !told && signals::check().is_err() {
            told = true;
            end = end.min(Instant::now() + ENDING);
            fs::write(folder.join(inside::STOP), "").context(inside::STOP)?;
        }
        if Instant::now() > end {
            // Kills it with what it started.
            return cmd::wait_within(&mut child, Duration::ZERO).map(|_| ());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// MiB of the virtual machine, which has only what it touches: three rows with a hundred backends take 2 GiB (a
/// namespace and a server for each), tables for 2 000 000 flows 0.2 GiB twice, and what is written lies there too.
const MEMORY: u32 = 6144;

fn emulated(folder: &Path, budget: Duration, shift: u32) -> Result<()> {
    let machine = Machine {
        counted: Some(shift),
        share: Some(folder.to_path_buf()),
        memory: MEMORY,
        ..Machine::new(KERNEL)
    };
    stop_after(folder, budget);
    let this = paths::this()?.display().to_string();
    // The shell tells where the guest has the folder.
    let script = format!("exec {} bench inside \"$PORTICO_VM_SHARE\"", cmd::quoted(&this));
    let steps = [Step::new("bench", &["sh".to_owned(), "-c".to_owned(), script])];
    let mut eta = Eta::new();
    let mut lines = [Lines::default(), Lines::default()];
    let ended = machine.run(&steps, budget + ENDING, &mut |_, stream, bytes| {
        for line in lines[stream as usize].take(bytes) {
            eta.show(&line);
        }
    })?;
    let code = ended.code(0)?;
    ensure!(code == 0, "the measuring side ended with {code}");
    Ok(())
}

/// Adds the time left, which the guest cannot know: its clock is not ours.
struct Eta {
    first: Option<(Instant, u32)>,
}

impl Eta {
    fn new() -> Eta {
        Eta { first: None }
    }

    fn show(&mut self, line: &str) {
        let mut left = String::new();
        if let Some((done, all)) = progress(line) {
            let (start, before) = *self.first.get_or_insert((Instant::now(), done));
            if done > before {
                let each = start.elapsed() / (done - before);
                left = format!(" ({} s left)", (each * (all - done)).as_secs());
            }
        }
        eprintln!("  {line}{left}");
    }
}

/// From `… sample 3/40: …`.
fn progress(line: &str) -> Option<(u32, u32)> {
    let (done, rest) = line.split_once("sample ")?.1.split_once('/')?;
    Some((done.parse().ok()?, rest.split(':').next()?.parse().ok()?))
}

fn collect(folder: &Path, plan: Plan, native: bool, ended: bool) -> Result<Results> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    // The last line of a run that was cut short may be half a line.
    let samples: Vec<Sample> = read(inside::SAMPLES)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let mut left_out: Vec<LeftOut> = serde_json::from_str(&read(inside::LEFT_OUT)).unwrap_or_default();
    for row in &plan.rows {
        let why = plan.workloads.iter().filter_map(|workload| {
            let why = row.contestant.lacks(*workload)?;
            row.is_plain().then(|| LeftOut {
                title: format!("{}, {}", row.title(), workload.title()),
                why: why.to_owned(),
            })
        });
        left_out.extend(why);
    }
    left_out.extend(NOT_COMPARED.map(|(title, why)| LeftOut {
        title: title.to_owned(),
        why: why.to_owned(),
    }));
    let inner: Environment = serde_json::from_str(&read(inside::ENVIRONMENT)).unwrap_or_default();
    let date = cmd::text(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?;
    let place = if native {
        "natively, on this machine's own kernel"
    } else {
        "in an emulated machine whose clock counts executed instructions: figures are instructions, and they repeat"
    };
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut results = Results {
        complete: false,
        plan,
        environment: Environment {
            place: place.to_owned(),
            date: date.trim().to_owned(),
            command: format!("cargo xtask {}", words.join(" ")),
            ..inner
        },
        left_out,
        samples,
    };
    results.complete = ended && results.samples.len() == results.expected();
    Ok(results)
}

fn report(results: &Results, folder: &Path) -> Result<u8> {
    let plots = plots::all(results)?;
    let converter = cmd::exists("rsvg-convert");
    for plot in &plots {
        let path = folder.join(format!("{}.svg", plot.name));
        fs::write(&path, &plot.svg).with_context(|| path.display().to_string())?;
        if converter {
            let mut command = cmd::host("rsvg-convert");
            command.arg(&path).arg("--output").arg(path.with_extension("png"));
            cmd::text(&mut command)?;
        }
    }
    if !converter {
        step("pictures are SVG only: rsvg-convert is not installed (apt-get install librsvg2-bin)");
    }
    let text = markdown::report(results);
    fs::write(folder.join("report.md"), &text).context("report.md")?;
    fs::write(folder.join("report.html"), page::report(results, &plots)).context("report.html")?;
    println!("{text}");
    step(format!("report: {}", folder.join("report.html").display()));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_a_line() {
        assert_eq!(
            progress("[  12.0s] sample 3/40: direct, x: 5 per request"),
            Some((3, 40))
        );
        assert_eq!(progress("[  12.0s] site of direct"), None);
    }
}
