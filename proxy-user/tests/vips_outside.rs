// SPDX-License-Identifier: MIT OR Apache-2.0
//! VIPs for clients outside, with real packets: a client and a backend, each on a network of its own, and between
//! them a node whose agent was told to serve VIPs.
#![allow(clippy::unwrap_used, reason = "tests")]

mod machine;

use std::{
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use machine::{DEADLINE, Host, agent_with, must, own_namespaces, portico};

const CLIENT: &str = "192.0.2.10";
/// The node's address where clients are.
const NODE: &str = "192.0.2.1";
const BACKEND: &str = "198.51.100.20";
const VIP: &str = "203.0.113.7";

fn say(folder: &Path, words: &str) {
    let output = portico(folder, words, "").output().unwrap();
    assert!(output.status.success(), "{words}: {output:?}");
}

/// Tells everybody the address that they come from, by TCP and UDP.
fn tell_addresses() {
    let listener = TcpListener::bind("0.0.0.0:8080").unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            std::io::Write::write_all(&mut stream, peer.to_string().as_bytes()).unwrap();
        }
    });
    let socket = UdpSocket::bind("0.0.0.0:8080").unwrap();
    thread::spawn(move || {
        let mut any = [0; 16];
        while let Ok((_, peer)) = socket.recv_from(&mut any) {
            socket.send_to(peer.to_string().as_bytes(), peer).unwrap();
        }
    });
}

/// The client's own address and the one that the backend sees.
fn ask_tcp(to: String) -> std::io::Result<(SocketAddr, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut seen = String::new();
    stream.read_to_string(&mut seen)?;
    Ok((stream.local_addr()?, seen.parse().unwrap()))
}

fn ask_udp(to: String) -> (SocketAddr, SocketAddr) {
    let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.send_to(b"who am I", &to).unwrap();
    let mut seen = [0; 64];
    let (length, from) = socket.recv_from(&mut seen).unwrap();
    assert_eq!(from.to_string(), to, "the answer comes from whom was asked");
    let seen = std::str::from_utf8(&seen[..length]).unwrap();
    (socket.local_addr().unwrap(), seen.parse().unwrap())
}

#[test]
fn clients_outside_use_vips_where_the_operator_says_so() {
    const NAME: &str = "clients_outside_use_vips_where_the_operator_says_so";
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return println!("SKIPPED {NAME}: needs root");
    }
    let temporary = own_namespaces();
    let folder = temporary.path();
    must("ip link set lo up");
    must("sysctl -q net.ipv4.ip_forward=1");
    must("sysctl -q net.ipv4.conf.all.rp_filter=0");
    must("sysctl -q net.ipv4.conf.default.rp_filter=0");
    let client = Host::new("veth0", "192.0.2.10/24");
    let backend = Host::new("veth1", "198.51.100.20/24");
    must("ip addr add 192.0.2.1/24 dev veth0");
    must("ip addr add 198.51.100.1/24 dev veth1");
    client.on(|| must("ip route add default via 192.0.2.1"));
    backend.on(|| {
        must("ip route add default via 198.51.100.1");
        tell_addresses();
    });
    std::fs::write(folder.join("portico.toml"), "node = \"a\"\n").unwrap();
    let agent = agent_with(folder, "--serve-vips --uplink veth0,veth1");

    for (mode, sees) in [("masquerade", NODE), ("preserve", CLIENT)] {
        let to = format!("{VIP}:80");
        say(
            folder,
            &format!("service add web --vip {to} --vip {to}/udp --client {mode}"),
        );
        say(folder, &format!("backend add web {BACKEND}:8080"));
        for _ in 0..20 {
            let to = to.clone();
            let (_, seen) = client.on(move || ask_tcp(to)).unwrap();
            assert_eq!(seen.ip().to_string(), sees, "{mode}");
        }
        let (own, seen) = client.on({
            let to = to.clone();
            move || ask_udp(to)
        });
        assert_eq!(seen.ip().to_string(), sees, "{mode}");
        if mode == "preserve" {
            assert_eq!(seen, own);
        }
        let output = portico(folder, "flows --service web --json", "")
            .output()
            .unwrap();
        let flows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(flows["matching"], 21, "{flows:#}");
        let output = portico(folder, &format!("trace {CLIENT} -> {to} --json"), "")
            .output()
            .unwrap();
        let trace = String::from_utf8(output.stdout).unwrap();
        assert!(
            trace.contains("\"web\"") && trace.contains("routes"),
            "{trace} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        // Nobody serves it: an error at once, not a timeout.
        say(folder, &format!("backend rm web {BACKEND}:8080"));
        let refused = client.on(|| ask_tcp(format!("{VIP}:80"))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{mode}: {refused}");
        say(folder, "service rm web");
        say(folder, "flows --flush --all");
    }

    // The backend has the VIP and answers by itself.
    backend.on(|| must("ip addr add 203.0.113.7/32 dev lo"));
    say(folder, &format!("service add web --vip {VIP}:8080 --client dsr"));
    say(folder, &format!("backend add web {BACKEND}:8080"));
    let (own, seen) = client.on(|| ask_tcp(format!("{VIP}:8080"))).unwrap();
    assert_eq!(seen, own);

    // Who may is asked.
    say(folder, "service set web --deny 192.0.2.0/24");
    let denied = client.on(|| {
        TcpStream::connect_timeout(
            &format!("{VIP}:8080").parse().unwrap(),
            Duration::from_millis(300),
        )
    });
    assert_eq!(denied.unwrap_err().kind(), ErrorKind::TimedOut);
    drop(agent);
}
