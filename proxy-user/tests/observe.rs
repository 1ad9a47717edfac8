// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico observe` beside a real agent, with packets of a client, a node and a task in namespaces of their own.
#![allow(clippy::unwrap_used, reason = "tests")]

mod machine;

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use machine::{Agent, DEADLINE, agent, must, own_namespaces, portico};
use proxy_ebpf::abi::Watch;
use serde_json::Value;

/// Nobody, on every system that has one.
const NOBODY: u32 = 65_534;

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "{what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A thread in a network namespace of its own, which does what it is told.
struct Space {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    path: String,
}

impl Space {
    fn new() -> Space {
        let (jobs, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (ready, told) = mpsc::channel();
        std::thread::spawn(move || {
            // SAFETY: changes the calling thread only.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            // SAFETY: no arguments, cannot fail.
            ready.send(unsafe { libc::gettid() }).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        let path = format!(
            "/proc/{}/task/{}/ns/net",
            std::process::id(),
            told.recv().unwrap()
        );
        let space = Space { jobs, path };
        space.does(|| must("ip link set lo up"));
        space
    }

    fn does<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || done.send(job()).unwrap();
        self.jobs.send(Box::new(job)).unwrap();
        result.recv().unwrap()
    }

    /// Moves an interface of the calling thread's namespace there.
    fn takes(&self, interface: &str, address: &str) {
        let number = self.path.split('/').nth(4).unwrap();
        must(&format!("ip link set {interface} netns {number}"));
        let lines = [
            format!("ip addr add {address} dev {interface}"),
            format!("ip link set {interface} up"),
        ];
        self.does(move || lines.iter().for_each(|line| must(line)));
    }
}

/// Gone with the test, also if that fails.
struct Process(Child);

impl Process {
    fn kill(&mut self, signal: i32) {
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.0.id().cast_signed(), signal) }, 0);
    }

    fn code(&mut self) -> Option<i32> {
        let mut ended = None;
        until("it ends", || {
            ended = self.0.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL; one that has ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node with an agent: a published port with one task, and one without.
struct Node {
    folder: tempfile::TempDir,
    client: Space,
    task: Space,
    /// Gone with a SIGKILL.
    agent: Option<Agent>,
}

impl Node {
    fn new() -> Node {
        let folder = own_namespaces();
        must("ip link set lo up");
        must("ip link add veth0 type veth peer name client0");
        must("ip addr add 192.0.2.101/24 dev veth0");
        must("ip link set veth0 up");
        must("ip link add gateway type veth peer name task0");
        must("ip addr add 172.18.0.1/16 dev gateway");
        must("ip link set gateway up");
        let (client, task) = (Space::new(), Space::new());
        client.takes("client0", "192.0.2.10/24");
        task.takes("task0", "172.18.0.5/16");
        task.does(|| must("ip route add default via 172.18.0.1"));
        let config = format!(
            r#"
            node = "a"
            nodes = [{{ name = "a", address = "192.0.2.101" }}]
            tasks = [{{ name = "web.1", node = "a", netns = "{}", networks = {{ ingress = "10.0.0.5" }} }}]
            [[networks]]
            name = "ingress"
            [[services]]
            name = "web"
            ports = [{{ published = 80, target = 8080 }}]
            tasks = ["web.1"]
            [[services]]
            name = "empty"
            ports = [{{ published = 81, target = 8080 }}]
            "#,
            task.path
        );
        fs::write(folder.path().join("portico.toml"), config).unwrap();
        let agent = Some(serving(folder.path()));
        Node {
            folder,
            client,
            task,
            agent,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What the programs are told to tell.
    fn watch(&self) -> Watch {
        let pins = fs::read_dir(self.path().join("bpf/portico")).unwrap();
        let paths = pins.map(|entry| entry.unwrap().path().join("maps/WATCH"));
        let path: PathBuf = paths.into_iter().find(|path| path.exists()).unwrap();
        let map = Map::Array(MapData::from_pin(path).unwrap());
        Array::<_, Watch>::try_from(map).unwrap().get(&0, 0).unwrap()
    }

    fn until_nobody_watches(&self) {
        until("nobody watches", || self.watch() == Watch::default());
    }

    /// A connection from client to task; `reset`: the client ends it with RST.
    fn connect(&self, reset: bool) -> u16 {
        let (ready, listening) = mpsc::channel();
        let (taken, over) = mpsc::channel();
        let serve = move || {
            let listener = TcpListener::bind("0.0.0.0:8080").unwrap();
            ready.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let end = stream.read_to_end(&mut Vec::new());
            taken.send(end.err().map(|error| error.kind())).unwrap();
        };
        self.task.jobs.send(Box::new(serve)).unwrap();
        listening.recv().unwrap();
        let port = self.client.does(move || {
            let stream = TcpStream::connect("192.0.2.101:80").unwrap();
            if reset {
                let linger = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                let size = size_of_val(&linger) as libc::socklen_t;
                let value = (&raw const linger).cast();
                let fd = std::os::fd::AsRawFd::as_raw_fd(&stream);
                // SAFETY: the value is valid for the call.
                let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, value, size) };
                assert_eq!(set, 0);
            }
            stream.local_addr().unwrap().port()
        });
        let expected = reset.then_some(ErrorKind::ConnectionReset);
        assert_eq!(over.recv_timeout(DEADLINE).unwrap(), expected);
        port
    }

    /// A connection to the port that nobody serves.
    fn refused(&self) {
        let error = self.client.does(|| TcpStream::connect("192.0.2.101:81"));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

/// An agent, and what its file says is in force.
fn serving(folder: &Path) -> Agent {
    let agent = agent(folder);
    until("the task is served", || {
        let traced = portico(folder, "trace", "--json 192.0.2.10 192.0.2.101:80").output();
        String::from_utf8(traced.unwrap().stdout)
            .unwrap()
            .contains("web.1")
    });
    agent
}

struct Observer {
    process: Process,
    lines: BufReader<ChildStdout>,
}

impl Observer {
    fn start(node: &Node, flags: &str) -> Observer {
        let mut command = portico(node.path(), "observe", flags);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Observer {
            process: Process(child),
            lines,
        }
    }

    /// The kernel has been told, too.
    fn json(node: &Node, flags: &str) -> Observer {
        let mut observer = Observer::start(node, &format!("--json {flags}"));
        assert_eq!(observer.next()["event"], "observing");
        observer
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn next(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Some fields of the next event.
    fn fields<const N: usize>(&mut self, fields: [&str; N]) -> [String; N] {
        let event = self.next();
        fields.map(|field| match event.pointer(field) {
            Some(Value::String(text)) => text.clone(),
            other => format!("{other:?}"),
        })
    }
}

#[test]
fn observers_see_what_happens_and_leave_nothing_behind() {
    const NAME: &str = "observers_see_what_happens_and_leave_nothing_behind";
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return println!("SKIPPED {NAME}: needs root");
    }
    let mut node = Node::new();
    assert_eq!(node.watch(), Watch::default());
    let mut all = Observer::json(&node, "");
    let mut drops = Observer::json(&node, "--drops");
    let mut others = Observer::json(&node, "--service web --client 192.0.2.99");
    let mut people = Observer::start(&node, "--service web --limit 2");
    // Four of them, one watch.
    until("the fourth has joined", || {
        let told = portico(node.path(), "status", "--json").output().unwrap().stdout;
        let status: Value = serde_json::from_slice(&told).unwrap();
        status["observers"] == 4
    });

    let port = node.connect(false);
    let from = format!("192.0.2.10:{port}");
    let what = [
        "/event",
        "/reason",
        "/service",
        "/from",
        "/to",
        "/backend/task",
        "/task_address",
        "/path",
    ];
    let opened = ["opened", "flow_local", "web", &from, "192.0.2.101:80"];
    let serves = ["web.1", "172.18.0.5:8080", "local"];
    let mut expected = [opened.as_slice(), &serves].concat();
    assert_eq!(all.fields(what).as_slice(), expected);
    (expected[0], expected[1]) = ("closed", "flow_closed");
    assert_eq!(all.fields(what).as_slice(), expected);
    let line = people.line();
    let told = format!(" opened tcp {from} -> 192.0.2.101:80  web -> web.1 (local)\n");
    assert!(line.ends_with(&told), "{line}");
    let line = people.line();
    assert!(line.contains(" closed tcp "), "{line}");
    assert!(line.ends_with(", by the client\n"), "{line}");
    assert_eq!(people.process.code(), Some(0), "the limit");

    node.connect(true);
    assert_eq!(all.next()["event"], "opened");
    let ended = all.fields(["/event", "/reason", "/by", "/tcp_flags"]);
    assert_eq!(ended[..3], ["reset", "flow_reset", "client"]);
    assert!(ended[3].contains('R'), "{ended:?}");
    node.refused();
    let refusal = ["drop", "published_no_backend", "empty", "192.0.2.101:81", "S"];
    for observer in [&mut drops, &mut all] {
        let told = observer.fields(["/event", "/reason", "/service", "/to", "/tcp_flags"]);
        assert_eq!(told, refusal);
    }

    // Ctrl-C, a reader that goes, and SIGKILL, while nothing happens.
    others.process.kill(libc::SIGINT);
    assert_eq!(others.process.code(), Some(0));
    let mut nothing = String::new();
    others.lines.read_to_string(&mut nothing).unwrap();
    assert_eq!(nothing, "", "neither its client nor its service");
    drop(drops.lines);
    assert_eq!(drops.process.code(), Some(0));
    assert_ne!(node.watch(), Watch::default(), "one is left");
    all.process.kill(libc::SIGKILL);
    node.until_nobody_watches();

    let mut left = Observer::json(&node, "--sample 1000");
    assert_eq!((node.watch().flows, node.watch().drops), (1000, 1));
    node.agent = None;
    assert_eq!(left.process.code(), Some(1), "the agent ended");
    assert_ne!(node.watch(), Watch::default(), "nobody could take it back");
    let now = proxy_user::kernel::mirror::Mirror::now();
    assert!(
        node.watch().until.wrapping_sub(now) <= Watch::TICKS,
        "it runs out"
    );

    let output = portico(node.path(), "observe", "").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.contains("no agent answers"), "{why}");

    node.agent = Some(serving(node.path()));
    assert_eq!(node.watch(), Watch::default(), "the next agent takes it back");
    let mut command = portico(node.path(), "observe", "");
    match command.uid(NOBODY).gid(NOBODY).stderr(Stdio::piped()).spawn() {
        Ok(mut child) => {
            let mut stderr = child.stderr.take().unwrap();
            assert_eq!(Process(child).code(), Some(3));
            let mut why = String::new();
            stderr.read_to_string(&mut why).unwrap();
            assert!(why.contains("an account that may open it"), "{why}");
        }
        Err(error) => println!("SKIPPED an account that may not: it may not run this binary ({error})"),
    }
    node.agent = None;
    must(&format!("umount {}", node.path().join("bpf").display()));
}
