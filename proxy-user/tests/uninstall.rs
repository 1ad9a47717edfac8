// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico node --uninstall` beside a real agent: refused while it runs, complete after a SIGKILL.
#![allow(clippy::unwrap_used, reason = "tests")]

mod machine;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use machine::{DEADLINE, agent, must, own_namespaces, portico, said};

const CONFIG: &str = "node = \"a\"\n[[nodes]]\nname = \"a\"\naddress = \"192.0.2.1\"\n";

/// Links, addresses, neighbours, qdiscs and filters, and everything below the file system of the pins.
fn inventory(folder: &Path) -> Vec<String> {
    let mut found: Vec<String> = [
        "ip -d link",
        "ip addr",
        "ip neigh",
        "ip route",
        "tc qdisc show",
        "tc filter show dev veth0 ingress",
    ]
    .iter()
    .map(|line| String::from_utf8(said(line).stdout).unwrap())
    .collect();
    let pins = said(&format!("find {}", folder.join("bpf").display()));
    found.push(String::from_utf8(pins.stdout).unwrap());
    found
}

/// The kernel says up to a second late that an interface has no carrier (linkwatch).
fn until_it_changes_no_more() {
    let began = Instant::now();
    loop {
        let link = String::from_utf8(said("ip link show dev veth0").stdout).unwrap();
        if link.contains("NO-CARRIER") {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{link}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn uninstall(folder: &Path, flags: &str) -> (Option<i32>, String, String) {
    let output = portico(folder, "node --uninstall", flags).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_running_agent_is_left_alone_and_a_killed_one_leaves_nothing() {
    const NAME: &str = "a_running_agent_is_left_alone_and_a_killed_one_leaves_nothing";
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return println!("SKIPPED {NAME}: needs root");
    }
    let temporary = own_namespaces();
    let folder = temporary.path();
    fs::write(folder.join("portico.toml"), CONFIG).unwrap();
    // Addresses of links would be "tentative" for a while.
    must("sysctl -q net.ipv6.conf.default.disable_ipv6=1");
    must("ip link add veth0 type veth peer name veth1");
    must("ip link set veth0 up");
    until_it_changes_no_more();
    // Somebody else's filter, where this kernel has one.
    must("tc qdisc add dev veth0 clsact");
    said("tc filter add dev veth0 ingress pref 7 matchall action pass");
    let before = inventory(folder);

    let running = agent(folder);
    let added = portico(folder, "service add s", "--vip 10.9.9.9:80")
        .output()
        .unwrap();
    assert!(added.status.success(), "{added:?}");
    let with_agent = inventory(folder);
    assert_ne!(with_agent, before);
    let (code, _, refusal) = uninstall(folder, "--purge");
    assert_eq!(code, Some(1), "{refusal}");
    assert!(refusal.contains("an agent is running"), "{refusal}");
    assert_eq!(inventory(folder), with_agent);

    drop(running);
    let (code, told, why) = uninstall(folder, "--dry-run");
    assert_eq!(code, Some(0), "{why}");
    assert!(told.contains("would remove tunnel device portico0"), "{told}");
    assert_eq!(inventory(folder), with_agent, "a dry run removes nothing");
    let (code, _, why) = uninstall(folder, "");
    assert_eq!(code, Some(0), "{why}");
    // The kernel lets programs go some time after their pins.
    let began = Instant::now();
    while inventory(folder) != before && began.elapsed() < DEADLINE {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(inventory(folder), before);
    assert!(!folder.join("node.sock").exists());
    assert!(
        folder.join("state/api.json").exists(),
        "what the verbs have said stays"
    );

    let (code, told, why) = uninstall(folder, "");
    assert_eq!(code, Some(0), "{why}");
    assert!(told.contains("nothing of Portico's is here"), "{told}");
    let (code, told, why) = uninstall(folder, "--purge --json");
    assert_eq!(code, Some(0), "{why}");
    assert!(told.contains("\"kind\": \"state\""), "{told}");
    assert!(!folder.join("state").exists());
    must(&format!("umount {}", folder.join("bpf").display()));
}
