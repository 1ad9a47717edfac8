// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine of a test's own: namespaces of the calling thread, and real agents in them.
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

pub const DEADLINE: Duration = Duration::from_secs(30);

/// What the calling thread's namespaces are left with goes with the test.
pub fn said(line: &str) -> Output {
    let mut words = line.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().unwrap()
}

pub fn must(line: &str) {
    let output = said(line);
    assert!(output.status.success(), "{line}: {output:?}");
}

/// Gives the calling thread namespaces of its own, which end with it, and a folder with a BPF file system in `bpf`.
pub fn own_namespaces() -> tempfile::TempDir {
    // SAFETY: changes the calling thread only.
    let left = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
    assert_eq!(left, 0, "unshare");
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("bpf")).unwrap();
    must("mount --make-rprivate /");
    must(&format!(
        "mount -t bpf bpf {}",
        folder.path().join("bpf").display()
    ));
    folder
}

/// A verb, with everything below the folder; of this build, or of `PORTICO_BINARY` where that is to be measured.
pub fn portico(folder: &Path, verb: &str, flags: &str) -> Command {
    let built = env!("CARGO_BIN_EXE_portico").into();
    let mut command = Command::new(std::env::var_os("PORTICO_BINARY").unwrap_or(built));
    let names = [
        "PORTICO_BPFFS",
        "PORTICO_STATE",
        "PORTICO_SOCKET",
        "PORTICO_CONFIG",
    ];
    let paths = ["bpf/portico", "state", "node.sock", "portico.toml"];
    command.env_clear();
    for (name, path) in names.into_iter().zip(paths) {
        command.env(name, folder.join(path));
    }
    command.env("PORTICO_UPLINK", "veth0").env("PORTICO_FLOWS", "1");
    command
        .args(verb.split_whitespace())
        .args(flags.split_whitespace());
    command.stdin(Stdio::null());
    command
}

/// Gone with the test, also if that fails.
pub struct Agent(Child);

impl Agent {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // SIGKILL; one that has ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent that answers.
pub fn agent(folder: &Path) -> Agent {
    agent_with(folder, "")
}

/// The same with these flags.
pub fn agent_with(folder: &Path, flags: &str) -> Agent {
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut agent = Agent(portico(folder, "node", flags).stderr(log).spawn().unwrap());
    let began = Instant::now();
    while !portico(folder, "status", "").output().unwrap().status.success() {
        let log = || fs::read_to_string(folder.join("log")).unwrap();
        assert!(agent.0.try_wait().unwrap().is_none(), "{}", log());
        assert!(began.elapsed() < DEADLINE, "{}", log());
        std::thread::park_timeout(Duration::from_millis(50));
    }
    agent
}

/// A host of its own network namespace, joined to the one of the thread that made it by a veth.
pub struct Host {
    work: std::sync::mpsc::Sender<Work>,
}

type Work = Box<dyn FnOnce() + Send>;

impl Host {
    /// Its end is `eth0` with this address; the other end is `veth` here, up.
    pub fn new(veth: &str, address: &str) -> Host {
        // SAFETY: no arguments, cannot fail.
        let thread = unsafe { libc::gettid() };
        let here = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
        let lines = [
            "ip link set lo up".to_owned(),
            format!("ip link add eth0 type veth peer name {veth} netns {here}"),
            format!("ip addr add {address} dev eth0"),
            "ip link set eth0 up".to_owned(),
        ];
        let (work, works) = std::sync::mpsc::channel::<Work>();
        std::thread::spawn(move || {
            // SAFETY: changes the calling thread only.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "unshare");
            for work in works {
                work();
            }
        });
        let host = Host { work };
        host.on(move || lines.iter().for_each(|line| must(line)));
        must(&format!("ip link set {veth} up"));
        host
    }

    /// A path that leads there from any process.
    pub fn network(&self) -> String {
        self.on(|| {
            // SAFETY: no arguments, cannot fail.
            let thread = unsafe { libc::gettid() };
            format!("/proc/{}/task/{thread}/ns/net", std::process::id())
        })
    }

    /// Does something there and waits for it.
    pub fn on<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = std::sync::mpsc::channel();
        let work = move || tell.send(work()).unwrap();
        self.work.send(Box::new(work)).unwrap();
        told.recv().expect("it did not fail there")
    }
}
