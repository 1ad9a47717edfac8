// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the process costs, under the names that Prometheus' client libraries give it, for both halves' metrics.
//!
//! Read from /proc/self when somebody asks (proc_pid_stat(5), proc_pid_limits(5)). What cannot be read is left out.

use std::{fmt::Write as _, fs};

/// Appends the families.
pub fn render(out: &mut String) {
    let Some(found) = read() else { return };
    let mut family = |name: &str, kind: &str, help: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    family(
        "process_cpu_seconds_total",
        "counter",
        "Processor time of the process, its own and the kernel's for it, in seconds.",
        found.cpu_seconds.to_string(),
    );
    family(
        "process_resident_memory_bytes",
        "gauge",
        "Memory of the process that is in use.",
        found.resident_bytes.to_string(),
    );
    family(
        "process_virtual_memory_bytes",
        "gauge",
        "Address space of the process.",
        found.virtual_bytes.to_string(),
    );
    family(
        "process_threads",
        "gauge",
        "Threads of the process.",
        found.threads.to_string(),
    );
    if let Some(open) = found.open_fds {
        family(
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            open.to_string(),
        );
    }
    if let Some(max) = found.max_fds {
        family(
            "process_max_fds",
            "gauge",
            "File descriptors that may be open.",
            max.to_string(),
        );
    }
    if let Some(start) = found.start_seconds {
        family(
            "process_start_time_seconds",
            "gauge",
            "When the process began, in seconds since 1970.",
            start.to_string(),
        );
    }
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(
        out,
        "# HELP portico_build_info Always 1; the label says what runs.\n# TYPE portico_build_info gauge\n\
         portico_build_info{{version=\"{version}\"}} 1"
    );
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Process {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: u64,
    open_fds: Option<usize>,
    max_fds: Option<u64>,
    start_seconds: Option<f64>,
}

fn read() -> Option<Process> {
    // SAFETY: no pointers; both are always known on Linux.
    let (ticks, page) = unsafe {
        (
            libc::sysconf(libc::_SC_CLK_TCK),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    // One of them is the listing's own.
    let open = fs::read_dir("/proc/self/fd").map(|listing| listing.count().saturating_sub(1));
    Some(Process {
        open_fds: open.ok(),
        max_fds: max_fds(&limits),
        ..parse(&stat, &boot, ticks as f64, page as u64)?
    })
}

/// Fields are counted from 1 in proc_pid_stat(5); the second is a name that may hold anything but ends with the last
/// parenthesis.
fn parse(stat: &str, boot: &str, ticks: f64, page: u64) -> Option<Process> {
    let after_name = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let began = boot
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok());
    Some(Process {
        cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
        threads: field(20)?,
        start_seconds: began
            .zip(field(22))
            .map(|(boot, start)| boot + start as f64 / ticks),
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
        ..Process::default()
    })
}

fn max_fds(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_the_manual() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 4 18 1000 8192 3 21";
        let found = parse(stat, "cpu 1\nbtime 100\n", 100.0, 4096).unwrap();
        let expected = Process {
            cpu_seconds: 3.0,
            resident_bytes: 3 * 4096,
            virtual_bytes: 8192,
            threads: 4,
            start_seconds: Some(110.0),
            ..Process::default()
        };
        assert_eq!(found, expected);
        assert_eq!(parse("7 (a", "", 100.0, 4096), None);
        assert_eq!(
            max_fds("Max processes 1 2\nMax open files    1024   524288  files\n"),
            Some(1024)
        );
        assert_eq!(max_fds("Max open files unlimited unlimited files"), None);
    }

    #[test]
    fn this_process_has_all_of_them() {
        let mut text = String::new();
        render(&mut text);
        let value = |name: &str| -> f64 {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name}: {text}"))
                .parse()
                .unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1_000_000.0);
        assert!(value("process_open_fds") < value("process_max_fds"));
        assert!(value("process_threads") >= 1.0);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let age = now.as_secs_f64() - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
        assert!(text.contains("portico_build_info{version="));
    }
}
