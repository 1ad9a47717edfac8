// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico doctor` beside firewalls and programs of others: each is found where it is, and not where it is not.
#![allow(clippy::unwrap_used, reason = "tests")]

mod machine;

use std::{
    ffi::CString,
    fs,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    process::Command,
};

use machine::{must, own_namespaces, portico, said};
use proxy_user::{cli::doctor, kernel::others};
use serde_json::Value;

/// Types of programs and of attachments (linux/bpf.h).
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_INET4_CONNECT: u32 = 10;

fn bpf(command: libc::c_long, attributes: &[u8]) -> i32 {
    // SAFETY: the attributes, and what they point at, outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), attributes.len()) };
    assert!(answer >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
    answer as i32
}

/// Somebody else's program, which does nothing.
fn program(kind: u32, attach: u32, verdict: i32) -> OwnedFd {
    const PROG_LOAD: libc::c_long = 5;
    let name = b"foreign_mesh";
    // r0 = verdict; exit.
    let mut code = vec![0xb7, 0, 0, 0];
    code.extend(verdict.to_ne_bytes());
    code.extend([0x95, 0, 0, 0, 0, 0, 0, 0]);
    let license = c"GPL";
    let mut attributes = vec![0; 72];
    attributes[0..4].copy_from_slice(&kind.to_ne_bytes());
    attributes[4..8].copy_from_slice(&2_u32.to_ne_bytes());
    attributes[8..16].copy_from_slice(&(code.as_ptr() as u64).to_ne_bytes());
    attributes[16..24].copy_from_slice(&(license.as_ptr() as u64).to_ne_bytes());
    attributes[48..48 + name.len()].copy_from_slice(name);
    attributes[68..72].copy_from_slice(&attach.to_ne_bytes());
    // SAFETY: the kernel returned a new descriptor.
    unsafe { OwnedFd::from_raw_fd(bpf(PROG_LOAD, &attributes)) }
}

fn pinned(folder: &Path, name: &str, kind: u32, verdict: i32) -> String {
    const OBJ_PIN: libc::c_long = 6;
    let program = program(kind, 0, verdict);
    let path = format!("{}/bpf/{name}", folder.display());
    let text = CString::new(path.clone()).unwrap();
    let mut attributes = vec![0; 16];
    attributes[0..8].copy_from_slice(&(text.as_ptr() as u64).to_ne_bytes());
    attributes[8..12].copy_from_slice(&program.as_raw_fd().to_ne_bytes());
    bpf(OBJ_PIN, &attributes);
    path
}

/// One finding of `portico doctor --json`, which must stand in the table as well.
fn finding(folder: &Path, name: &str) -> (bool, String) {
    let output = portico(folder, "doctor", "--json").output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let checks = found["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("no {name} in {found}"));
    assert_eq!(check["required"], false);
    let text = check["found"].as_str().unwrap().to_owned();
    let table = portico(folder, "doctor", "").output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains(name) && table.contains(&text),
        "{text} is not in {table}"
    );
    assert!(!check["follows"].as_str().unwrap().is_empty());
    (check["ok"].as_bool().unwrap(), text)
}

fn absent(folder: &Path, names: &[&str]) {
    for name in names {
        let (ok, text) = finding(folder, name);
        assert!(ok, "{name}: {text}");
    }
}

fn seen(folder: &Path, name: &str, words: &[&str]) {
    let (ok, text) = finding(folder, name);
    assert!(!ok, "{name}: {text}");
    for word in words {
        assert!(text.contains(word), "{name}: no '{word}' in '{text}'");
    }
}

/// Namespaces of its own; none without privileges or where a tool is missing, and it is said which.
fn place(test: &str, tools: &[&str]) -> Option<tempfile::TempDir> {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIPPED {test}: needs root");
        return None;
    }
    for tool in tools {
        if Command::new(tool).arg("-V").output().is_err() {
            println!("SKIPPED {test}: needs {tool}");
            return None;
        }
    }
    let folder = own_namespaces();
    must("ip link add veth0 type veth peer name veth1");
    must("ip link set veth0 up");
    Some(folder)
}

const FIREWALLS: [&str; 3] = ["firewall", "docker-user", "swarm-ingress"];

#[test]
fn rules_of_nft_are_found() {
    let Some(temporary) = place("rules_of_nft_are_found", &["nft"]) else {
        return;
    };
    let folder = temporary.path();
    absent(folder, &FIREWALLS);
    must("nft add table inet mine");
    must("nft add chain inet mine input");
    absent(folder, &FIREWALLS);
    must("nft add rule inet mine input tcp dport 22 accept");
    must("nft add rule inet mine input counter");
    seen(folder, "firewall", &["nft inet mine: 2 rules"]);
    absent(folder, &["docker-user", "swarm-ingress"]);
    // As iptables-nft and the engine write them.
    must("nft add table ip filter");
    must("nft add chain ip filter DOCKER-USER");
    must("nft add rule ip filter DOCKER-USER counter return");
    absent(folder, &["docker-user"]);
    must("nft insert rule ip filter DOCKER-USER ip saddr 192.0.2.0/24 counter return");
    seen(folder, "docker-user", &["nft ip: 1 rules"]);
    must("nft add table ip nat");
    must("nft add chain ip nat DOCKER-INGRESS");
    must("nft add rule ip nat DOCKER-INGRESS tcp dport 80 counter accept");
    seen(folder, "swarm-ingress", &["1 rules in DOCKER-INGRESS"]);
    must("nft flush ruleset");
    absent(folder, &FIREWALLS);
}

#[test]
fn rules_of_iptables_legacy_are_found() {
    const NAME: &str = "rules_of_iptables_legacy_are_found";
    let Some(temporary) = place(NAME, &["iptables-legacy", "ip6tables-legacy"]) else {
        return;
    };
    let folder = temporary.path();
    absent(folder, &FIREWALLS);
    if !said("iptables-legacy -t filter -N DOCKER-USER").status.success() {
        return println!("SKIPPED {NAME}: this kernel has no legacy tables");
    }
    must("iptables-legacy -A DOCKER-USER -j RETURN");
    absent(folder, &["docker-user"]);
    must("iptables-legacy -I DOCKER-USER -s 192.0.2.0/24 -j DROP");
    must("iptables-legacy -I DOCKER-USER -s 192.0.3.0/24 -j RETURN");
    must("iptables-legacy -A FORWARD -j DOCKER-USER");
    seen(folder, "firewall", &["legacy ip filter: 4 rules"]);
    seen(folder, "docker-user", &["legacy ip: 2 rules"]);
    must("iptables-legacy -t nat -N DOCKER-INGRESS");
    must("iptables-legacy -t nat -A DOCKER-INGRESS -p tcp --dport 80 -j ACCEPT");
    seen(folder, "swarm-ingress", &["1 rules in DOCKER-INGRESS"]);
    if said("ip6tables-legacy -A INPUT -s 2001:db8::/32 -j DROP")
        .status
        .success()
    {
        seen(
            folder,
            "firewall",
            &["legacy ip6 filter: 1 rules", "legacy ip nat: 1 rules"],
        );
    } else {
        println!("SKIPPED part of {NAME}: this kernel has no legacy tables of IPv6");
    }
    for table in ["filter", "nat"] {
        must(&format!("iptables-legacy -t {table} -F"));
        must(&format!("iptables-legacy -t {table} -X"));
    }
    said("ip6tables-legacy -F");
    absent(folder, &FIREWALLS);
}

#[test]
fn programs_of_others_are_found_on_the_uplink() {
    let Some(temporary) = place("programs_of_others_are_found_on_the_uplink", &["tc", "ip"]) else {
        return;
    };
    let folder = temporary.path();
    const NAME: &str = "uplink-programs";
    absent(folder, &[NAME]);
    let xdp = pinned(folder, "xdp", XDP, 2);
    must(&format!("ip link set dev veth0 xdpgeneric pinned {xdp}"));
    seen(folder, NAME, &["veth0: xdp foreign_mesh"]);
    must("ip link set dev veth0 xdpgeneric off");
    absent(folder, &[NAME]);
    must("tc qdisc add dev veth0 clsact");
    absent(folder, &[NAME]);
    let classifier = pinned(folder, "classifier", SCHED_CLS, 0);
    must(&format!(
        "tc filter add dev veth0 egress bpf da pinned {classifier}"
    ));
    seen(folder, NAME, &["veth0: tc egress bpf"]);
    must("tc qdisc del dev veth0 clsact");
    absent(folder, &[NAME]);
}

/// In a cgroup of its own: a hook at the root would be everybody's.
#[test]
fn connect_hooks_of_others_are_found() {
    const PROG_ATTACH: libc::c_long = 8;
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return println!("SKIPPED connect_hooks_of_others_are_found: needs root");
    }
    let Some(root) = doctor::cgroup2_mount() else {
        return println!("SKIPPED connect_hooks_of_others_are_found: no cgroup2");
    };
    let folder = root.join(format!("portico-doctor-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let before = others::on_connect(&folder);
    let hook = program(CGROUP_SOCK_ADDR, CGROUP_INET4_CONNECT, 1);
    let cgroup = fs::File::open(&folder).unwrap();
    let words = [
        cgroup.as_raw_fd() as u32,
        hook.as_raw_fd() as u32,
        CGROUP_INET4_CONNECT,
        0,
    ];
    bpf(PROG_ATTACH, &words.map(u32::to_ne_bytes).concat());
    let after = others::on_connect(&folder);
    fs::remove_dir(&folder).unwrap();
    assert_eq!(before.unwrap(), Vec::<String>::new());
    assert_eq!(after.unwrap(), ["foreign_mesh"]);
}
