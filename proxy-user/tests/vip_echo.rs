// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ping VIP` in the namespace of a task, with a real agent: while the VIP is there, and no longer.
#![allow(clippy::unwrap_used, reason = "tests")]

mod machine;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use machine::{DEADLINE, Host, agent, must, own_namespaces, portico, said};
use socket2::{Domain, Protocol, Socket, Type};

/// ICMP type 8 code 0 of RFC 792, identifier 7, number 1, with its checksum; and the type of the answer.
const ASK: [u8; 8] = [8, 0, 0xf7, 0xf7, 0, 7, 0, 1];
const ANSWER: u8 = 0;
/// RFC 4443: the kernel writes the checksum.
const ASK6: [u8; 8] = [128, 0, 0, 0, 0, 7, 0, 1];
const ANSWER6: u8 = 129;

/// Whether somebody answers within a moment.
fn answers(address: IpAddr) -> bool {
    let (domain, protocol, ask, answer, header) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, ASK, ANSWER, 20),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, ASK6, ANSWER6, 0),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // Nobody has the address: an error says so.
    if socket.send_to(&ask, &SocketAddr::new(address, 0).into()).is_err() {
        return false;
    }
    let mut packet = [std::mem::MaybeUninit::uninit(); 128];
    while let Ok((length, from)) = socket.recv_from(&mut packet) {
        // SAFETY: the kernel has written that many bytes.
        let read: Vec<u8> = packet[..length]
            .iter()
            .map(|byte| unsafe { byte.assume_init() })
            .collect();
        let own = read[header..].get(4..8) == Some(&ask[4..]);
        if own && read[header] == answer && from.as_socket().map(|from| from.ip()) == Some(address) {
            return true;
        }
    }
    false
}

fn until(task: &Host, address: &'static str, wanted: bool, folder: &Path) {
    let began = Instant::now();
    let address: IpAddr = address.parse().unwrap();
    while task.on(move || answers(address)) != wanted {
        let table = task.on(|| said("ip route show table local"));
        let status = portico(folder, "status", "").output().unwrap();
        assert!(
            began.elapsed() < DEADLINE,
            "{address} answers: {}\n{table:?}\n{status:?}",
            !wanted
        );
        thread::park_timeout(Duration::from_millis(50));
    }
}

fn config(folder: &Path, task: &str, vips: &str) {
    let text = format!(
        r#"
node = "a"
[[nodes]]
name = "a"
address = "192.0.2.1"
[[networks]]
name = "back"
[[tasks]]
name = "web.1"
node = "a"
netns = "{task}"
networks = {{ back = ["10.0.9.5", "fd00:9::5"] }}
[[services]]
name = "web"
vips = {{ back = {vips} }}
tasks = ["web.1"]
"#
    );
    fs::write(folder.join("next"), text).unwrap();
    fs::rename(folder.join("next"), folder.join("portico.toml")).unwrap();
}

#[test]
fn a_task_gets_an_echo_from_the_vips_of_its_networks() {
    const NAME: &str = "a_task_gets_an_echo_from_the_vips_of_its_networks";
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return println!("SKIPPED {NAME}: needs root");
    }
    let temporary = own_namespaces();
    let folder = temporary.path();
    must("ip link set lo up");
    let task = Host::new("veth0", "10.0.9.5/24");
    must("ip addr add 192.0.2.1/24 dev veth0");
    let path = task.network();
    // Somebody else's: it stays.
    task.on(|| must("ip route add local 10.0.9.99/32 dev lo table local"));
    // The kernel's own IPv6 routes come some time after the interface.
    let routes =
        |task: &Host| task.on(|| String::from_utf8(said("ip -4 route show table all").stdout).unwrap());
    let ours6 = |task: &Host| task.on(|| said("ip -6 route show table local proto 149").stdout.len());
    let untouched = routes(&task);

    let both = r#"["10.0.9.2", "10.0.9.3", "10.0.9.6:80", "fd00:9::2"]"#;
    config(folder, &path, both);
    let running = agent(folder);
    for address in ["10.0.9.2", "10.0.9.3", "fd00:9::2"] {
        until(&task, address, true, folder);
    }
    // Its other ports may be somebody else's.
    until(&task, "10.0.9.6", false, folder);
    // The node's own namespace has none of them.
    assert!(!answers(Ipv4Addr::new(10, 0, 9, 2).into()));
    assert!(ours6(&task) > 0);
    config(folder, &path, r#"["10.0.9.3"]"#);
    until(&task, "10.0.9.2", false, folder);
    until(&task, "fd00:9::2", false, folder);
    until(&task, "10.0.9.3", true, folder);

    // Killed; the VIP goes meanwhile.
    drop(running);
    assert!(
        task.on(|| answers(Ipv4Addr::new(10, 0, 9, 3).into())),
        "nobody took it away"
    );
    config(folder, &path, r#"["10.0.9.4", "fd00:9::4"]"#);
    let running = agent(folder);
    until(&task, "10.0.9.4", true, folder);
    until(&task, "10.0.9.3", false, folder);

    drop(running);
    // Namespaces are found by their processes.
    let mut process = task.on(|| Command::new("sleep").arg("300").spawn().unwrap());
    let gone = portico(folder, "node --uninstall", "").output().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(gone.status.success(), "{gone:?}");
    let told = String::from_utf8(gone.stdout).unwrap();
    assert!(told.contains("answer ping"), "{told}");
    assert_eq!(routes(&task), untouched, "{told}");
    assert_eq!(ours6(&task), 0, "{told}");
}
