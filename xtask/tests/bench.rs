// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench` as a process that the user ends in the middle: nothing stays, and what was measured is written.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Of a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

fn wait(what: &str, mut look: impl FnMut() -> bool) {
    let start = Instant::now();
    while !look() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::park_timeout(POLL_INTERVAL);
    }
}

/// Names of namespaces that the bench makes, and of processes that run with files of its scratch folder.
fn left() -> Vec<String> {
    let named = |place: &str| {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    let namespaces = named("/run/netns").filter(|name| name.starts_with("pbench-"));
    let processes = named("/proc").filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("/run/pbench-scratch")
    });
    let scratch = Path::new("/run/pbench-scratch")
        .exists()
        .then(|| "scratch".to_owned());
    namespaces.chain(processes).chain(scratch).collect()
}

#[test]
fn ctrl_c_leaves_nothing_behind_and_still_writes_what_was_measured() {
    const NAME: &str = "ctrl_c_leaves_nothing_behind_and_still_writes_what_was_measured";
    let lacks = |program: &str| {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output();
        !found.unwrap().status.success()
    };
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || ["wrk", "nginx", "haproxy"].into_iter().any(lacks) {
        println!("SKIPPED {NAME}: needs root, wrk, nginx and haproxy");
        return;
    }
    let folder = std::env::temp_dir().join(format!("portico-bench-test-{}", std::process::id()));
    let mut bench = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args([
            "bench",
            "--where",
            "native",
            "--only",
            "haproxy-tcp",
            "--rounds",
            "100",
        ])
        .args(["--services", "1", "--out"])
        .arg(&folder)
        .env("PORTICO_XTASK_PREPARED", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait("a first sample", || {
        let samples = fs::read_to_string(folder.join("samples.jsonl")).unwrap_or_default();
        samples.lines().count() > 0 || bench.try_wait().unwrap().is_some()
    });
    assert!(!left().is_empty(), "it stands while it measures");
    // SAFETY: the child has not been waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(bench.id() as libc::pid_t, libc::SIGINT) }, 0);
    let mut status = None;
    wait("its end", || {
        status = bench.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(1), "ended early");
    assert_eq!(left(), Vec::<String>::new());
    let text = fs::read(folder.join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(results["complete"], false);
    assert!(!results["samples"].as_array().unwrap().is_empty());
    let report = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(
        report.contains("ended before it was complete"),
        "the report says so"
    );
    fs::remove_dir_all(&folder).unwrap();
}
