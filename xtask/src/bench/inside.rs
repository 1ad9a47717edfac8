// SPDX-License-Identifier: MIT OR Apache-2.0
//! The side that measures: root, on the kernel in question. Samples are written one by one, so that a run that is
//! ended in the middle has what it had.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::{
    balancers,
    load::{self, Load},
    plan::{Contestant, Plan, Row, Workload},
    results::{Environment, LeftOut, Sample},
    site::{self, Passed, Site},
};
use crate::{cmd, paths, progress::step, signals};

/// Files of the folder that both sides share.
pub const PLAN: &str = "plan.json";
pub const SAMPLES: &str = "samples.jsonl";
pub const LEFT_OUT: &str = "left-out.json";
pub const ENVIRONMENT: &str = "environment.json";
/// Its presence means: no further sample.
pub const STOP: &str = "stop";
/// Its presence means: no further site; the rest of the time is for samples.
pub const MEASURE: &str = "measure";

/// A share of the run in which processors may idle; above it, the clock is no count of instructions.
const IDLE_MAX: f64 = 0.05;
/// How far an origin's share may be from its fair one, as a part of that; and in answers, where those are few.
const SHARE_TOLERANCE: f64 = 0.2;
const ANSWERS_TOLERANCE: f64 = 5.0;
/// While a backend comes and goes, the agent's file changes so often.
const CHURN_INTERVAL: Duration = Duration::from_millis(100);
/// Fewer answers say nothing.
const REQUESTS_MIN: u64 = 20;

/// Runs the plan of a folder.
pub fn run(folder: &Path) -> Result<u8> {
    ensure!(cmd::is_root(), "namespaces need root");
    signals::install();
    let text = fs::read(folder.join(PLAN)).context(PLAN)?;
    let plan: Plan = serde_json::from_slice(&text).context(PLAN)?;
    write_json(&folder.join(ENVIRONMENT), &environment())?;
    // Not below the shared folder: sockets and mounts do not belong there.
    let scratch = PathBuf::from(format!("/run/{}scratch", site::PREFIX));
    site::sweep(&scratch);
    let measured = measure(&plan, folder, &scratch);
    site::sweep(&scratch);
    measured.map(|()| 0)
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    fs::write(path, serde_json::to_vec_pretty(value)?).with_context(|| path.display().to_string())
}

fn measure(plan: &Plan, folder: &Path, scratch: &Path) -> Result<()> {
    let mut left_out = Vec::new();
    let mut sites: BTreeMap<Row, Site> = BTreeMap::new();
    for (number, row) in plan.rows.iter().enumerate() {
        signals::check()?;
        step(format!("site of {}", row.title()));
        let datagrams = plan.workloads.contains(&Workload::Udp) && row.does(Workload::Udp);
        let stood = if folder.join(MEASURE).exists() {
            Err(anyhow!(
                "setting up the others took half of the time (--minutes gives more)"
            ))
        } else {
            stand(number, *row, scratch, datagrams)
        };
        match stood {
            Ok(site) => {
                sites.insert(*row, site);
            }
            Err(error) => {
                let why = format!("{error:#}");
                step(format!("  left out: {why}"));
                left_out.push(LeftOut {
                    title: row.title(),
                    why,
                });
            }
        }
        write_json(&folder.join(LEFT_OUT), &left_out)?;
    }
    for site in sites.values() {
        site.agents(false);
    }
    let mut samples = fs::File::create(folder.join(SAMPLES)).context(SAMPLES)?;
    let schedule = plan.schedule();
    let schedule: Vec<_> = schedule
        .into_iter()
        .filter(|(_, row, _)| sites.contains_key(row))
        .collect();
    for (number, (round, row, workload)) in schedule.iter().enumerate() {
        if folder.join(STOP).exists() || signals::check().is_err() {
            step("told to stop");
            break;
        }
        let site = sites.get_mut(row).context("a site for every row")?;
        site.agents(true);
        site.settle();
        let sample = sample(plan, site, *workload, *round)?;
        site.agents(false);
        let mut line = serde_json::to_vec(&sample)?;
        line.push(b'\n');
        samples.write_all(&line)?;
        step(format!(
            "sample {}/{}: {}, {}: {:.0} per {}{}",
            number + 1,
            schedule.len(),
            row.title(),
            workload.title(),
            sample.cost,
            workload.unit(),
            sample
                .void
                .map(|why| format!(" (void: {why})"))
                .unwrap_or_default()
        ));
    }
    Ok(())
}

/// A site with its contestant in it, which has balanced once.
fn stand(number: usize, row: Row, scratch: &Path, datagrams: bool) -> Result<Site> {
    // Client and origins are these for every row.
    for (program, package) in [("wrk", "wrk"), ("nginx", "nginx-light")]
        .iter()
        .chain(row.contestant.needs())
    {
        let there = cmd::exists(program) || Path::new(program).is_absolute() && Path::new(program).exists();
        ensure!(there, "{program} is not installed (apt-get install {package})");
    }
    let mut site = Site::new(number, row, scratch)?;
    balancers::install(&mut site)?;
    ensure!(
        site.has_balancer_process() == row.contestant.is_userspace(),
        "it does not work where it claims to"
    );
    if datagrams || row.flows > 0 {
        site.echoes()?;
    }
    if row.flows > 0 {
        fill(&site)?;
    }
    Ok(site)
}

/// Opens the flows that a row has besides those of the load.
fn fill(site: &Site) -> Result<()> {
    let mut command = client(site)?;
    let [target, _] = site.targets();
    let flows = site.row.flows;
    command
        .arg(paths::this()?)
        .args(["bench", "own", "fill", &format!("{target}:{}", site::PORT)])
        .args([
            "--flows",
            &flows.to_string(),
            "--from",
            &Site::clients().join(","),
        ]);
    cmd::text(&mut command)?;
    let known = balancers::flows_known(site)?;
    ensure!(
        known as f64 >= f64::from(flows) * FILLED,
        "only {known} of {flows} flows are remembered"
    );
    Ok(())
}

/// The share of the flows that must be remembered; a table that hashes loses a few long before it is full.
const FILLED: f64 = 0.99;

/// A program where the client is, and in the group whose hooks it is to pass.
fn client(site: &Site) -> Result<Command> {
    let mut command = match &site.client_group {
        None => site.inside("client", "env"),
        Some(group) => {
            let mut command = site.inside("client", "sh");
            command
                .args(["-c", "echo $$ > $1/cgroup.procs; shift; exec \"$@\"", "sh"])
                .arg(group);
            command
        }
    };
    // The balancer has the first processor; load and origins share the last. Where there is one, they share that.
    let processors = thread::available_parallelism().map_or(1, usize::from);
    if processors > 1 && cmd::exists("taskset") {
        command.args(["taskset", "--cpu-list", &(processors - 1).to_string()]);
    }
    Ok(command)
}

/// One run of the load generator with everything that is looked at before and after.
fn sample(plan: &Plan, site: &mut Site, workload: Workload, round: u32) -> Result<Sample> {
    let mut command = client(site)?;
    load::command(&mut command, plan, workload, site)?;
    let (served, cpu) = (site.served()?, site.balancer_cpu());
    let (worked, processes) = (site.kernel_work()?, site.process_cpu());
    let way = site.row.far.then(|| Way::now(site)).transpose()?;
    let churn = site.row.churn.then(|| Churn::start(&site.folder));
    let watch = Watch::start();
    let (whole, output) = (Times::now()?, cmd::output(&mut command)?);
    let (whole, cpu) = (Times::now()?.since(&whole), site.balancer_cpu() - cpu);
    let times = watch.middle(Duration::from_secs(u64::from(plan.seconds_of(workload))))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(churn) = churn {
        churn.end()?;
    }
    let loaded =
        load::of(&text, workload).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned());
    // A generator that says nothing makes this sample void, and no other.
    let (loaded, echoed, silent) = match loaded {
        Ok((loaded, echoed)) => (loaded, echoed, None),
        Err(error) => (Load::nothing(plan.seconds_of(workload)), None, Some(error)),
    };
    let after = site.served()?;
    let moved = match (worked, site.kernel_work()?) {
        (Some(before), Some(now)) => now > before,
        _ => true,
    };
    let mut used = site.process_cpu();
    for (name, seconds) in &mut used {
        *seconds -= processes.get(name).copied().unwrap_or(0.0);
    }
    // The look before and the one after are themselves requests; the first of them is counted in its own answer.
    let asked = |name: &String| after[name].saturating_sub(served[name]).saturating_sub(1);
    let of_requests = || after.keys().map(|name| (name.clone(), asked(name))).collect();
    // Datagrams say themselves who echoed them; a backend that none reached still has a share.
    let shares: BTreeMap<String, u64> = match echoed {
        Some(echoed) => {
            let none = after.keys().map(|name| (name.clone(), 0));
            none.chain(echoed).collect()
        }
        None => of_requests(),
    };
    let per_second = 1e9 / f64::from(1u32 << plan.counted.unwrap_or(0));
    let busy = match plan.counted {
        Some(_) => loaded.seconds * per_second,
        None => whole.busy() * per_second,
    };
    let mut sample = Sample {
        row: site.row,
        workload,
        round,
        requests: loaded.requests,
        seconds: loaded.seconds,
        cost: busy / loaded.requests.max(1) as f64,
        idle: times.idle / times.all(),
        balancer_cpu: cpu,
        softirq: times.softirq / times.busy(),
        latency: loaded
            .latency
            .iter()
            .map(|time| time * per_second / 1e9)
            .collect(),
        shares,
        processes: used,
        void: None,
    };
    let counts = silent
        .map_or(Ok(()), Err)
        .and_then(|()| void(plan, &sample, loaded.errors));
    let counts = counts.and_then(|()| {
        ensure!(
            moved,
            "its counters in the kernel stood still: the traffic took another way"
        );
        Ok(())
    });
    let counts = match (counts, way) {
        (Ok(()), Some(before)) => before.check(&Way::now(site)?, sample.row.contestant),
        (counts, _) => counts,
    };
    sample.void = counts.err().map(|why| format!("{why:#}"));
    Ok(sample)
}

/// Which way packets went that are for another node.
struct Way {
    passed: Passed,
    by_xdp: u64,
}

impl Way {
    fn now(site: &Site) -> Result<Way> {
        let ours = site.row.contestant.is_tc();
        Ok(Way {
            passed: site.packets()?,
            by_xdp: if ours { site.counter(BY_XDP)? } else { 0 },
        })
    }

    /// Answers that do not pass the node that was asked, and packets that XDP sends on, are claims of a contestant.
    fn check(&self, now: &Way, contestant: Contestant) -> Result<()> {
        let sent = (now.passed.sent - self.passed.sent) as f64;
        let entered = (now.passed.entered - self.passed.entered) as f64;
        let by_xdp = (now.by_xdp - self.by_xdp) as f64;
        let answers = entered > sent * BOTH_WAYS;
        let direct_return = contestant == Contestant::PorticoDsr;
        ensure!(
            answers != direct_return,
            "the node that was asked received {entered} packets for {sent} of the client"
        );
        let xdp = contestant == Contestant::PorticoXdp;
        ensure!(
            (by_xdp > sent * MOST) == xdp,
            "XDP sent {by_xdp} of {sent} packets itself"
        );
        Ok(())
    }
}

/// The counter of what XDP has sent.
const BY_XDP: &str = "xdp_sent";
/// A node that sees both ways receives about twice what the client sends; of large answers fewer packets.
const BOTH_WAYS: f64 = 1.2;
/// A packet now and then waits for its neighbour to be known, or is a first one.
const MOST: f64 = 0.9;

/// Whether a sample counts.
fn void(plan: &Plan, sample: &Sample, errors: u64) -> Result<()> {
    ensure!(errors == 0, "{errors} errors");
    ensure!(
        sample.requests >= REQUESTS_MIN,
        "only {} answers",
        sample.requests
    );
    ensure!(
        plan.counted.is_none() || sample.idle < IDLE_MAX,
        "idle for {:.0} % of the time",
        sample.idle * 100.0
    );
    let userspace = sample.row.contestant.is_userspace();
    if userspace && sample.balancer_cpu == 0.0 {
        bail!("its process did nothing: the traffic took another way");
    }
    let all: u64 = sample.shares.values().sum();
    // Connections that are kept do not move when a backend comes back, and those that it missed are not made up for.
    if sample.row.churn {
        let first = sample.shares.values().max().copied().unwrap_or(0);
        ensure!(first < all, "one origin had everything");
        return Ok(());
    }
    let fair = all as f64 / sample.shares.len() as f64;
    let tolerance = (fair * SHARE_TOLERANCE).max(ANSWERS_TOLERANCE);
    for (origin, count) in &sample.shares {
        ensure!(
            (*count as f64 - fair).abs() <= tolerance,
            "{origin} had {count} of {all} answers"
        );
    }
    Ok(())
}

/// Changes the agent's file while a program runs: all backends but the first drain, and come back.
struct Churn {
    ended: mpsc::Sender<()>,
    thread: thread::JoinHandle<Result<()>>,
}

impl Churn {
    fn start(folder: &Path) -> Churn {
        let (ended, ending) = mpsc::channel::<()>();
        let folder = folder.to_path_buf();
        let thread = thread::spawn(move || {
            let (config, next) = (folder.join(balancers::CONFIG), folder.join("next.toml"));
            let usual = fs::read(&config).context(balancers::CONFIG)?;
            let churned = fs::read(folder.join(balancers::CHURNED)).context(balancers::CHURNED)?;
            let put = |text: &[u8]| fs::write(&next, text).and_then(|()| fs::rename(&next, &config));
            for turn in 1.. {
                let over = ending.recv_timeout(CHURN_INTERVAL) != Err(mpsc::RecvTimeoutError::Timeout);
                let drains = turn % 2 == 1 && !over;
                put(if drains { &churned } else { &usual }).context("the agent's file")?;
                if over {
                    break;
                }
            }
            Ok(())
        });
        Churn { ended, thread }
    }

    /// Leaves the file as it was.
    fn end(self) -> Result<()> {
        drop(self.ended);
        self.thread.join().map_err(|_| anyhow!("the churn panicked"))?
    }
}

/// Looks at the processors while a program runs, to know afterwards what they did in its last seconds: how long it
/// took to start, and what the processors waited for meanwhile, is no part of a run.
struct Watch {
    ended: mpsc::Sender<()>,
    thread: thread::JoinHandle<Result<Vec<(Instant, Times)>>>,
}

/// A tenth of the shortest run.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

impl Watch {
    fn start() -> Watch {
        let (ended, ending) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let mut seen = vec![(Instant::now(), Times::now()?)];
            while ending.recv_timeout(LOOK_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                seen.push((Instant::now(), Times::now()?));
            }
            Ok(seen)
        });
        Watch { ended, thread }
    }

    /// From the first fifth to the last fifth of a run that ends now.
    fn middle(self, run: Duration) -> Result<Times> {
        let end = Instant::now();
        drop(self.ended);
        let seen = self.thread.join().map_err(|_| anyhow!("the watch panicked"))??;
        let last_before = |before: Duration| {
            let found = seen.iter().rev().find(|(at, _)| *at + before <= end);
            found
                .or(seen.first())
                .map(|(_, times)| times)
                .context("no look at the processors")
        };
        Ok(last_before(run / 5)?.since(last_before(run * 4 / 5)?))
    }
}

/// The processors' time in seconds, from /proc/stat.
struct Times {
    idle: f64,
    softirq: f64,
    other: f64,
}

impl Times {
    fn now() -> Result<Times> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        Times::read(&text).context("/proc/stat has no line of all processors")
    }

    /// user nice system idle iowait irq softirq steal, in hundredths of a second (proc(5)).
    fn read(text: &str) -> Option<Times> {
        let words: Vec<f64> = text
            .lines()
            .next()?
            .split_whitespace()
            .skip(1)
            .map(|w| w.parse().ok())
            .collect::<Option<_>>()?;
        let [user, nice, system, idle, iowait, irq, softirq, ..] = words[..] else {
            return None;
        };
        Some(Times {
            idle: (idle + iowait) / 100.0,
            softirq: softirq / 100.0,
            other: (user + nice + system + irq) / 100.0,
        })
    }

    fn since(&self, before: &Times) -> Times {
        Times {
            idle: self.idle - before.idle,
            softirq: self.softirq - before.softirq,
            other: self.other - before.other,
        }
    }

    /// Never zero: what it divides happened in some time.
    fn busy(&self) -> f64 {
        (self.softirq + self.other).max(0.01)
    }

    fn all(&self) -> f64 {
        self.busy() + self.idle
    }
}

fn environment() -> Environment {
    let line = |text: std::io::Result<String>, key: &str| {
        let text = text.unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default();
        line.split_once(':')
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let mut versions = BTreeMap::new();
    let portico = paths::binary("portico").display().to_string();
    for (name, program, argument) in [
        ("portico", portico.as_str(), "--version"),
        ("HAProxy", "haproxy", "-v"),
        ("nginx", "nginx", "-v"),
        ("wrk", "wrk", "-v"),
        ("ipvsadm", "ipvsadm", "--version"),
    ] {
        let Ok(output) =
            cmd::output(Command::new(cmd::find(program).unwrap_or_else(|| program.into())).arg(argument))
        else {
            continue;
        };
        let text = [output.stdout, output.stderr].concat();
        let first = String::from_utf8_lossy(&text)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        versions.insert(name.to_owned(), first);
    }
    if let Ok(bits) = fs::read_to_string("/sys/module/ip_vs/parameters/conn_tab_bits") {
        let buckets = format!("conn_tab_bits {}, where a kernel's default is 12", bits.trim());
        versions.insert("IPVS".to_owned(), buckets);
    }
    Environment {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        processor: line(fs::read_to_string("/proc/cpuinfo"), "model name"),
        processors: thread::available_parallelism().map_or(1, usize::from),
        versions,
        ..Environment::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            rows: Vec::new(),
            workloads: Vec::new(),
            rounds: 1,
            seconds: 1,
            connections: 8,
            counted: Some(0),
            seed: 1,
        }
    }

    fn sample(contestant: Contestant, shares: [u64; 2]) -> Sample {
        Sample {
            row: Row::of(contestant),
            workload: Workload::KeepAlive,
            round: 0,
            requests: 100,
            seconds: 1.0,
            cost: 1e7,
            idle: 0.0,
            balancer_cpu: 0.5,
            softirq: 0.1,
            latency: vec![1.0; 4],
            shares: BTreeMap::from([("a".to_owned(), shares[0]), ("b".to_owned(), shares[1])]),
            processes: BTreeMap::new(),
            void: None,
        }
    }

    #[test]
    fn a_sample_counts_only_when_it_shows_what_it_claims() {
        let good = sample(Contestant::HaproxyHttp, [50, 50]);
        assert!(void(&plan(), &good, 0).is_ok());
        assert!(void(&plan(), &good, 1).is_err(), "errors");
        assert!(
            void(&plan(), &sample(Contestant::IpvsNat, [90, 10]), 0).is_err(),
            "not balanced"
        );
        let elsewhere = Sample {
            balancer_cpu: 0.0,
            ..good.clone()
        };
        assert!(
            void(&plan(), &elsewhere, 0).is_err(),
            "the proxy was not on the way"
        );
        let idle = Sample {
            idle: 0.5,
            ..good.clone()
        };
        assert!(
            void(&plan(), &idle, 0).is_err(),
            "the clock ran while nothing was executed"
        );
        let native = Plan {
            counted: None,
            ..plan()
        };
        assert!(void(&native, &idle, 0).is_ok());
    }

    #[test]
    fn processor_times_are_read() {
        let times = Times::read("cpu  100 0 50 800 20 5 25 0 0 0\ncpu0 1\n").unwrap();
        assert!((times.idle - 8.2).abs() < 1e-9 && (times.busy() - 1.8).abs() < 1e-9);
        assert!(Times::read("nothing").is_none());
    }
}
