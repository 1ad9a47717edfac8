// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--dataplane ipvs` against the kernel's own table, as `ipvsadm -Ln` shows it, with a client that is balanced.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    sync::Arc,
    thread,
};

use proxy_user::{
    cli::Exit,
    kernel::{
        ipvs::{Options, start},
        uninstall::{Places, Thing, find, remove},
    },
    model::{
        Backend, Frontend, FrontendAddr, NetworkId, Protocol, Reach, ServiceName, Tables, TaskAddr, VipAddr,
        VipPort,
    },
    reconcile::{
        Follow as _,
        ipvs::{self, Keeper, Scheduler, table::Affinity},
    },
};

use crate::support::*;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

fn options(state: &tempfile::TempDir, defaults: ipvs::Options) -> Options {
    Options {
        uplinks: vec!["veth0".into()],
        state: state.path().into(),
        defaults,
    }
}

/// Namespaces forward as the one that made them does, or not.
fn machine() -> tempfile::TempDir {
    ip("link set lo up");
    ip("link add veth0 type veth peer name veth1");
    ip("addr add 192.0.2.101/24 dev veth0");
    ip("link set veth0 up");
    ip("link set veth1 up");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    tempfile::tempdir().unwrap()
}

/// The keeper of a new agent; none where the kernel has no IPVS.
fn agent(state: &tempfile::TempDir, defaults: ipvs::Options) -> Option<Keeper> {
    match start(&options(state, defaults)) {
        Ok(parts) => {
            let (kernel, options) = parts.datapath;
            Some(Keeper::restore(kernel, options).unwrap())
        }
        Err(Exit::Lacks { what, how }) if what == "this kernel has no IPVS" => {
            assert!(how.contains("modprobe ip_vs"), "{how}");
            None
        }
        Err(exit) => panic!("{exit}"),
    }
}

fn tables(frontends: Vec<(FrontendAddr, Vec<Backend>)>) -> Tables {
    let frontend = |backends| Frontend {
        service: ServiceName::new("s"),
        target_port: 0,
        policy: Arc::default(),
        backends,
    };
    Tables {
        frontends: frontends
            .into_iter()
            .map(|(address, backends)| (address, Arc::new(frontend(backends))))
            .collect(),
        local_addrs: [NODE].into(),
        prune: true,
        ..Tables::default()
    }
}

fn vip(port: u16, protocol: Protocol) -> FrontendAddr {
    FrontendAddr::Vip {
        network: NetworkId::of("proxy"),
        address: VipAddr(VIP.into()),
        port: Some(VipPort { port, protocol }),
    }
}

fn backend(host: u8, port: u16, draining: bool) -> Backend {
    Backend {
        address: TaskAddr([127, 0, 1, host].into()),
        port,
        reach: Reach::Direct,
        weight: 1,
        draining,
    }
}

/// What the well-known tool says: a service with its destinations per line, sorted, without the columns of counters.
fn ipvsadm() -> Vec<String> {
    let output = Command::new("ipvsadm").args(["-L", "-n"]).output();
    let output = output.expect("ipvsadm, which `cargo xtask setup` installs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut services: Vec<String> = Vec::new();
    for line in text.lines().skip(3) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words[0], services.last_mut()) {
            ("->", Some(service)) => *service += &format!(" {}", words[..4].join(" ")),
            _ => services.push(words.join(" ")),
        }
    }
    services.sort();
    services
}

/// How often each of the listeners answers.
fn asked(times: usize) -> Vec<usize> {
    let mut counts = vec![0; 3];
    for _ in 0..times {
        let mut stream = TcpStream::connect((VIP, 80)).unwrap();
        stream.write_all(b"?").unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        counts[usize::from(answer[0])] += 1;
    }
    counts
}

fn listen(host: u8, port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 1, host), port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut question = [0];
            // A client that hangs up has asked nothing.
            if stream.read_exact(&mut question).is_ok() {
                stream.write_all(&[host]).unwrap();
            }
        }
    });
}

#[test]
fn ipvs_has_what_the_tables_say_and_balances() {
    const NAME: &str = "ipvs_has_what_the_tables_say_and_balances";
    if !privileged(NAME) {
        return;
    }
    in_namespace(|| {
        let state = machine();
        let Some(mut keeper) = agent(&state, ipvs::Options::default()) else {
            println!("SKIPPED {NAME}: this kernel has no IPVS");
            return;
        };
        let services = |draining| {
            tables(vec![
                (
                    vip(80, Protocol::Tcp),
                    vec![backend(1, 8081, false), backend(2, 8082, draining)],
                ),
                (vip(53, Protocol::Udp), vec![backend(1, 0, false)]),
                (
                    FrontendAddr::Published {
                        port: 443,
                        protocol: Protocol::Tcp,
                    },
                    Vec::new(),
                ),
            ])
        };
        let pass = keeper.pass(&services(false));
        assert_eq!((pass.done, pass.failed), (7, 0), "{:?}", keeper.errors());
        let table = ipvsadm();
        assert_eq!(
            table,
            [
                "TCP 10.99.0.1:80 rr -> 127.0.1.1:8081 Masq 1 -> 127.0.1.2:8082 Masq 1",
                "TCP 192.0.2.101:443 rr",
                "UDP 10.99.0.1:53 rr -> 127.0.1.1:53 Masq 1",
            ]
        );
        listen(1, 8081);
        listen(2, 8082);
        assert_eq!(asked(10), [0, 5, 5]);

        // A restart adopts; what nobody changed is not touched, and the tool's own additions stay.
        let added = Command::new("ipvsadm")
            .args(["-A", "-t", "192.0.2.101:99"])
            .status();
        assert!(added.unwrap().success());
        let mut keeper = agent(&state, ipvs::Options::default()).unwrap();
        assert_eq!(keeper.pass(&services(false)).done, 0);

        // Draining takes no new connection.
        assert_eq!(keeper.pass(&services(true)).done, 1);
        assert_eq!(asked(4), [0, 4, 0]);

        // Scheduler and affinity, changed in place.
        let affine = ipvs::Options {
            scheduler: Scheduler::Mh,
            affinity: Some(Affinity {
                seconds: 300,
                prefix: 32,
            }),
            ..ipvs::Options::default()
        };
        let mut keeper = agent(&state, affine).unwrap();
        let pass = keeper.pass(&services(false));
        assert_eq!((pass.done, pass.failed), (4, 0), "{:?}", keeper.statuses());
        let table = ipvsadm();
        assert!(
            table
                .iter()
                .any(|line| line.starts_with("TCP 10.99.0.1:80 mh (mh-fallback,mh-port) persistent 300")),
            "{table:?}"
        );
        let counts = asked(6);
        assert!(counts.contains(&6), "one client, one backend: {counts:?}");

        // Somebody removes a service behind the agent's back: the next resync sees it.
        let removed = Command::new("ipvsadm")
            .args(["-D", "-u", "10.99.0.1:53"])
            .status();
        assert!(removed.unwrap().success());
        keeper.look().unwrap();
        assert_eq!(keeper.pass(&services(false)).done, 2);

        // Every scheduler that is offered is one that the kernel has.
        for scheduler in [
            Scheduler::Rr,
            Scheduler::Wrr,
            Scheduler::Lc,
            Scheduler::Wlc,
            Scheduler::Sh,
        ] {
            let options = ipvs::Options {
                scheduler,
                ..ipvs::Options::default()
            };
            let mut keeper = agent(&state, options).unwrap();
            let pass = keeper.pass(&services(false));
            assert_eq!(
                (pass.done, pass.failed),
                (3, 0),
                "{scheduler:?} {:?}",
                keeper.statuses()
            );
            assert_eq!(keeper.pass(&services(false)).done, 0, "{scheduler:?}");
        }

        // Everything of ours goes, and nothing else.
        let mut keeper = agent(&state, ipvs::Options::default()).unwrap();
        assert_eq!(keeper.pass(&tables(Vec::new())).failed, 0);
        assert_eq!(ipvsadm(), ["TCP 192.0.2.101:99 wlc"]);
        let output = Command::new("ip").args(["-o", "addr"]).output().unwrap();
        assert!(!String::from_utf8(output.stdout).unwrap().contains("10.99.0.1"));
    });
}

#[test]
fn a_namespace_that_does_not_forward_is_refused_with_a_remedy() {
    const NAME: &str = "a_namespace_that_does_not_forward_is_refused_with_a_remedy";
    if !privileged(NAME) {
        return;
    }
    in_namespace(|| {
        let state = machine();
        if agent(&state, ipvs::Options::default()).is_none() {
            println!("SKIPPED {NAME}: this kernel has no IPVS");
            return;
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let exit = start(&options(&state, ipvs::Options::default())).err().unwrap();
        assert_eq!(exit.code(), 3);
        assert!(exit.to_string().contains("net.ipv4.ip_forward=1"), "{exit}");
    });
}

#[test]
fn an_uninstall_takes_from_ipvs_what_the_agent_made() {
    const NAME: &str = "an_uninstall_takes_from_ipvs_what_the_agent_made";
    if !privileged(NAME) {
        return;
    }
    in_namespace(|| {
        let state = machine();
        // Of a new namespace; the folder comes with IPVS.
        let setting = "/proc/sys/net/ipv4/vs/expire_nodest_conn";
        let before = std::fs::read_to_string(setting).ok();
        let Some(mut keeper) = agent(&state, ipvs::Options::default()) else {
            println!("SKIPPED {NAME}: this kernel has no IPVS");
            return;
        };
        // A second start does not take the first one's values for those of before.
        drop(agent(&state, ipvs::Options::default()));
        let added = Command::new("ipvsadm")
            .args(["-A", "-t", "192.0.2.101:99"])
            .status();
        assert!(added.unwrap().success());
        let pass = keeper.pass(&tables(vec![(
            vip(80, Protocol::Tcp),
            vec![backend(1, 8081, false)],
        )]));
        assert_eq!(pass.failed, 0, "{:?}", keeper.errors());
        drop(keeper);
        let places = Places {
            bpffs: "/nonexistent".into(),
            state: state.path().into(),
            socket: "/nonexistent".into(),
            purge: false,
        };
        let found = find(&places).unwrap();
        assert_eq!(found, [Thing::Ipvs(1, 1), Thing::Settings(2)]);
        for thing in &found {
            remove(&places, thing).unwrap();
        }
        assert_eq!(ipvsadm(), ["TCP 192.0.2.101:99 wlc"]);
        let addresses = Command::new("ip")
            .args(["-4", "addr", "show", "dev", "lo"])
            .output();
        assert!(!String::from_utf8_lossy(&addresses.unwrap().stdout).contains("10.99.0.1"));
        assert_eq!(std::fs::read_to_string(setting).ok(), before);
        assert_eq!(find(&places).unwrap(), []);
    });
}
