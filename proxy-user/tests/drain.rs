// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a drain with real packets: a client of a published port who only listens is told, by the task's own
//! kernel, through the programs that translate its replies.
#![allow(clippy::unwrap_used, reason = "tests")]

mod machine;

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use machine::{DEADLINE, agent, must, own_namespaces, portico};

/// How long a task of the test drains.
const DRAIN: Duration = Duration::from_secs(2);

/// A path that leads to the calling thread's network namespace from any process.
fn own_network() -> PathBuf {
    // SAFETY: no arguments, cannot fail.
    let thread = unsafe { libc::gettid() };
    format!("/proc/{}/task/{thread}/ns/net", std::process::id()).into()
}

/// Gives the calling thread a network namespace of its own, with `lo` up.
fn unshare_network() {
    // SAFETY: changes the calling thread only.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "unshare");
    must("ip link set lo up");
}

fn config(folder: &Path, task: &Path, draining: bool) {
    let text = format!(
        r#"
node = "a"
[[nodes]]
name = "a"
address = "192.0.2.1"
[[tasks]]
name = "web.1"
node = "a"
netns = "{}"
networks = {{ ingress = "10.0.0.5" }}
draining = {draining}
[[services]]
name = "web"
ports = [{{ published = 80, target = 8080 }}]
tasks = ["web.1"]
drain = "{}s"
"#,
        task.display(),
        DRAIN.as_secs()
    );
    fs::write(folder.join("next"), text).unwrap();
    fs::rename(folder.join("next"), folder.join("portico.toml")).unwrap();
}

/// Waits until every frontend is in the kernel and the agent has read the file as it is.
fn wait(folder: &Path, what: &str, done: impl Fn(&serde_json::Value) -> bool) {
    let began = Instant::now();
    loop {
        let output = portico(folder, "status", "--json").output().unwrap();
        let status = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if done(&status) {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{what}: {status:#}");
        thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn who_only_listens_is_told_when_the_drain_is_over() {
    const NAME: &str = "who_only_listens_is_told_when_the_drain_is_over";
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return println!("SKIPPED {NAME}: needs root");
    }
    let temporary = own_namespaces();
    let folder = temporary.path();
    let node = own_network();
    must("ip link set lo up");
    must("ip link add gw0 type bridge");
    must("ip addr add 172.18.0.1/16 dev gw0");
    must("ip link set gw0 up");
    must("sysctl -q net.ipv4.ip_forward=1");

    // The task: behind the gateway bridge, and its server echoes one line, then says nothing.
    let (tell, told) = mpsc::channel();
    let (go, going) = mpsc::channel::<()>();
    let server = {
        let node = node.clone();
        thread::spawn(move || {
            unshare_network();
            must(&format!(
                "ip link add eth0 type veth peer name task0 netns {}",
                node.display()
            ));
            must("ip addr add 172.18.0.5/16 dev eth0");
            must("ip link set eth0 up");
            must("ip route add default via 172.18.0.1");
            tell.send(own_network()).unwrap();
            let listener = TcpListener::bind("0.0.0.0:8080").unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = [0; 5];
            stream.read_exact(&mut line).unwrap();
            stream.write_all(&line).unwrap();
            // Holds its connection until the test is over.
            let _over = going.recv();
        })
    };
    let task = told.recv().unwrap();
    must("ip link set task0 master gw0 up");

    let (tell, told) = mpsc::channel();
    let (ask, asked) = mpsc::channel::<()>();
    let client = {
        let node = node.clone();
        thread::spawn(move || {
            unshare_network();
            must(&format!(
                "ip link add eth0 type veth peer name veth0 netns {}",
                node.display()
            ));
            must("ip addr add 192.0.2.10/24 dev eth0");
            must("ip link set eth0 up");
            tell.send(()).unwrap();
            asked.recv().unwrap();
            let mut stream = TcpStream::connect("192.0.2.1:80").unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut line = [0; 5];
            stream.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"hello");
            tell.send(()).unwrap();
            let began = Instant::now();
            let error = stream.read(&mut line).unwrap_err();
            (error.kind(), began.elapsed())
        })
    };
    told.recv().unwrap();
    must("ip addr add 192.0.2.1/24 dev veth0");
    must("ip link set veth0 up");

    config(folder, &task, false);
    let running = agent(folder);
    wait(folder, "programmed", |status| status["frontends"]["done"] == 1);
    ask.send(()).unwrap();
    told.recv().unwrap();
    config(folder, &task, true);
    let (kind, after) = client.join().unwrap();
    assert_eq!(kind, ErrorKind::ConnectionReset);
    // Measured from before the drain began; so never earlier than its time.
    assert!(after >= DRAIN, "after {after:?}");
    wait(folder, "counted", |status| {
        status["counters"]["sockets_reset"] == 1
    });
    go.send(()).unwrap();
    server.join().unwrap();
    drop(running);
}
