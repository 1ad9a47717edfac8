// SPDX-License-Identifier: MIT OR Apache-2.0
//! Long-lived processes of the lab: started, remembered by pid and start time, ended for certain.

use std::{
    fs::{self, OpenOptions},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// Environment variable that every process of a lab inherits, so that `lab down` finds it even when the run
/// that started it was killed before it could write its pid down.
pub const MARK: &str = "PORTICO_LAB_PROCESS";
/// Cgroup that the engines put their containers in: containers do not inherit an engine's environment.
pub const CONTAINER_CGROUP: &str = "portico-lab";

/// A process that the lab started. The start time guards against a pid that was given to another one since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    pub start: u64,
}

impl Process {
    /// Starts `command` in a process group of its own (a Ctrl-C in the terminal is not for it), output to `log`.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Process> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| log.display().to_string())?;
        let child = command
            .env(MARK, "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", crate::cmd::shown(command)))?;
        let pid = i32::try_from(child.id())?;
        let start =
            start_time(pid).with_context(|| format!("{} ended at once", crate::cmd::shown(command)))?;
        Ok(Process { pid, start })
    }

    /// Whether it still runs (a zombie does not).
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// Sends a signal; nothing happens when it is gone.
    pub fn signal(&self, signal: libc::c_int) {
        if self.is_alive() {
            send(self.pid, signal);
        }
    }

    /// Asks it to end, and ends it when it has not after `patience`.
    pub fn stop(&self, patience: Duration) -> Result<()> {
        self.signal(libc::SIGTERM);
        if !gone_within(patience, || !self.is_alive()) {
            self.kill()?;
        }
        Ok(())
    }

    /// Ends it and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        self.signal(libc::SIGKILL);
        if !gone_within(Duration::from_secs(10), || !self.is_alive()) {
            bail!("process {} does not end", self.pid);
        }
        // A process whose first thread has ended may still hold its sockets with another one: a child is gone when it
        // can be collected. If it is not this run's child, this is an error that means nothing.
        // SAFETY: a null status is allowed.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        Ok(())
    }
}

fn send(pid: i32, signal: libc::c_int) {
    // SAFETY: kill has no memory preconditions; a pid that is gone gives ESRCH, which is what we want anyway.
    unsafe { libc::kill(pid, signal) };
}

fn gone_within(patience: Duration, gone: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < patience {
        if gone() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    gone()
}

/// Start time in clock ticks since boot, field 22 of proc_pid_stat(5); `None` when it is gone or a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_start_time(&stat)
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The name (field 2) may contain blanks and parentheses: count from its closing one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Every process of any lab on this machine, by mark or by cgroup.
pub fn marked() -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mark = format!("{MARK}=1");
    let cgroup = format!(":/{CONTAINER_CGROUP}/");
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own && start_time(*pid).is_some())
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
                || fs::read_to_string(format!("/proc/{pid}/cgroup"))
                    .is_ok_and(|groups| groups.contains(&cgroup))
        })
        .collect()
}

/// Ends every process of any lab. Several rounds, because an engine may start something while it is looked for.
pub fn kill_marked() -> Result<()> {
    let start = Instant::now();
    loop {
        let left = marked();
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(30) {
            bail!("processes that do not end: {left:?}");
        }
        for pid in left {
            send(pid, libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_read_behind_a_hostile_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 10";
        assert_eq!(parse_start_time(stat), Some(98765));
        assert_eq!(parse_start_time(&stat.replace(" S ", " Z ")), None);
    }

    #[test]
    fn a_process_is_found_by_its_mark_and_ended() {
        let folder = std::env::temp_dir().join(format!("portico-lab-process-{}", std::process::id()));
        let process = Process::spawn(Command::new("sleep").arg("1000"), &folder).unwrap();
        assert!(process.is_alive());
        let other = Process {
            pid: process.pid,
            start: process.start + 1,
        };
        assert!(!other.is_alive(), "a reused pid is not the process");
        process.kill().unwrap();
        assert!(!process.is_alive());
        fs::remove_file(folder).unwrap();
    }
}
