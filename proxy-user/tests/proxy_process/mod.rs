// SPDX-License-Identifier: MIT OR Apache-2.0
//! A proxy as its own process, with many clients: what it takes to start one, to ask it, and to see what it costs.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const DEADLINE: Duration = Duration::from_secs(60);

/// The proxy keeps one for a connection to a service.
const FILES_PER_CLIENT: usize = 2;

/// A proxy with two workers; it ends with the test, however that ends.
pub struct Proxy {
    process: Child,
    /// Port of the API.
    pub api: u16,
    /// Port for requests.
    pub data: u16,
    _state: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Proxy {
    /// Starts it and waits until it listens.
    pub fn start(variables: &[(&str, String)]) -> Proxy {
        let dir = tempfile::tempdir().unwrap();
        let (api, data) = (free_port(), free_port());
        let errors = File::create(dir.path().join("stderr")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portico"));
        command
            .args(["proxy", "--listen", "127.0.0.1", "--ip", "127.0.0.1"])
            .args(["--port", &api.to_string(), "--default-ports", &data.to_string()])
            .arg("--state")
            .arg(dir.path().join("state"))
            .env_clear()
            .env("PORTICO_WORKERS", "2")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        let proxy = Proxy {
            process: command.spawn().unwrap(),
            api,
            data,
            _state: dir,
        };
        eventually("it listens", || TcpStream::connect(("127.0.0.1", api)).is_ok());
        proxy
    }

    /// A sample of its metrics.
    pub fn metric(&self, name: &str) -> usize {
        let text = ask(self.api, "/metrics");
        let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
        text.lines().find_map(value).unwrap_or_else(|| panic!("{name}"))
    }

    /// Bytes that only this process has in memory.
    pub fn private_bytes(&self) -> usize {
        let path = format!("/proc/{}/smaps_rollup", self.process.id());
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("Private_"));
        let kibibytes = |line: &str| line.split_whitespace().nth(1)?.parse::<usize>().ok();
        lines.filter_map(kibibytes).sum::<usize>() * 1024
    }
}

/// Raises the limit of open files, which children inherit, as far as it goes; how many of the clients fit, beside as
/// many files of other kinds.
pub fn clients_that_fit(wanted: usize, files_aside: usize) -> usize {
    let files = (FILES_PER_CLIENT * wanted + files_aside) as u64;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the calls read and write the struct that they are given, and it outlives them.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        let raised = libc::rlimit {
            rlim_cur: files.max(limit.rlim_max),
            rlim_max: files.max(limit.rlim_max),
        };
        // Beyond the hard limit it needs a privilege.
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) != 0 {
            limit.rlim_cur = limit.rlim_max;
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        }
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
    }
    let files = usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX);
    let fit = wanted.min(files.saturating_sub(files_aside) / FILES_PER_CLIENT);
    if fit < wanted {
        println!("only {fit} clients instead of {wanted}: the limit of open files is lower");
    }
    assert!(fit > 100, "too few files");
    fit
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// One request on a connection of its own; the whole answer.
pub fn ask(port: u16, target: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Waits for something that others do.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
