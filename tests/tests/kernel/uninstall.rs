// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico node --uninstall`: what is there before an agent began is there after it, and nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use proxy_user::kernel::{
    Options, clsact,
    pins::pinned_info,
    uninstall::{Places, Thing, find, remove},
    xdp::Choice,
};

use crate::{
    restart::{machine, started},
    support::*,
};

/// How long the kernel may take to let programs go after their pins, and to see that a link has no carrier.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);

fn said(program: &str, args: &str) -> String {
    let output = Command::new(program)
        .args(args.split_whitespace())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that an agent could have changed in this namespace and below this folder.
fn inventory(folder: &Path) -> Vec<String> {
    let mut found = vec![
        said("ip", "-d link"),
        said("ip", "addr"),
        said("ip", "neigh"),
        said("ip", "route"),
        said("ip", "rule"),
        said("tc", "qdisc show"),
        said("sysctl", "-a --pattern ^net.ipv4"),
    ];
    for interface in ["veth0", "veth1"] {
        found.push(said("tc", &format!("filter show dev {interface} ingress")));
        if clsact::has_tcx() {
            let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress).unwrap();
            found.push(format!("{} programs", programs.len()));
        }
    }
    files(folder, &mut found);
    found
}

/// Lists the lines that differ, which a comparison of the whole would bury.
fn assert_as_before(before: &[String], after: &[String]) {
    let lines = |of: &[String]| -> Vec<String> {
        of.iter()
            .flat_map(|part| part.lines())
            .map(String::from)
            .collect()
    };
    let (before, after) = (lines(before), lines(after));
    let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(before == after, "gone: {gone:#?}\nnew: {new:#?}");
}

fn files(folder: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        files(&path, found);
    }
    found.sort();
}

fn places(options: &Options) -> Places {
    Places {
        bpffs: options.bpffs.clone(),
        state: options.state.clone(),
        socket: PathBuf::from("/nonexistent/node.sock"),
        purge: false,
    }
}

/// Removes all; what was removed.
fn uninstall(options: &Options) -> Vec<Thing> {
    let places = places(options);
    let found = find(&places).unwrap();
    for thing in &found {
        remove(&places, thing).unwrap_or_else(|error| panic!("{thing}: {error}"));
    }
    found
}

/// Kernel's numbers of the pinned programs.
fn programs(options: &Options) -> Vec<u32> {
    let mut paths = Vec::new();
    files(&options.bpffs, &mut paths);
    let of_programs = paths.iter().filter(|path| path.contains("/programs/"));
    let infos = of_programs.filter_map(|path| pinned_info(Path::new(path)).ok());
    infos
        .filter_map(|info| info.get("prog_id")?.parse().ok())
        .collect()
}

/// The kernel says that an interface has no carrier up to a second after it came up (linkwatch): without this wait
/// the machine changes by itself between two looks at it.
fn wait_until_without_carrier(interface: &str) {
    let deadline = Instant::now() + SETTLE_TIME_MAX;
    loop {
        let link = said("ip", &format!("link show dev {interface}"));
        if link.contains("NO-CARRIER") {
            return;
        }
        assert!(Instant::now() < deadline, "{link}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn wait_until_gone(programs: &[u32]) {
    let deadline = Instant::now() + SETTLE_TIME_MAX;
    loop {
        let there: Vec<u32> = loaded_programs()
            .filter_map(|info| Some(info.ok()?.id()))
            .filter(|id| programs.contains(id))
            .collect();
        if there.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "programs {there:?} are still loaded");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_machine_is_as_it_was_before_the_agent() {
    if !privileged("a_machine_is_as_it_was_before_the_agent") {
        return;
    }
    in_namespace(|| {
        let (dir, mut options) = machine();
        options.xdp = Choice::Generic;
        // A qdisc that is somebody else's stays, empty as it is.
        let mut foreign = Command::new("tc");
        foreign.args(["qdisc", "add", "dev", "veth1", "clsact"]);
        assert!(foreign.status().unwrap().success());
        wait_until_without_carrier("veth0");
        let before = inventory(dir.path());

        let mut parts = started(&options);
        let veth1 = proxy_user::kernel::netlink::interface_index("veth1").unwrap();
        parts.datapath.attach_task_link(veth1).unwrap();
        parts.datapath.set_backend(1, local_backend()).unwrap();
        // As after SIGKILL: nothing of the agent's is put away.
        std::mem::forget(parts);
        let ours = programs(&options);
        assert_eq!(ours.len(), 12, "eight hooks, three of tc, one of XDP");
        assert_ne!(inventory(dir.path()), before);

        let dry = find(&places(&options)).unwrap();
        assert_eq!(uninstall(&options), dry, "a dry run says what is removed");
        wait_until_gone(&ours);
        assert_as_before(&before, &inventory(dir.path()));
        assert_eq!(
            find(&places(&options)).unwrap(),
            [],
            "nothing is left for a second time"
        );
    });
}

#[test]
fn what_is_others_stays() {
    if !privileged("what_is_others_stays") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        drop(started(&options));
        // Beside the versions, and a version whose agent died in the middle of a change.
        let vault = options.bpffs.join("vault");
        fs::create_dir(&vault).unwrap();
        fs::create_dir_all(options.bpffs.join("v1/links")).unwrap();
        let found = uninstall(&options);
        let pins = found.iter().filter(|thing| matches!(thing, Thing::Pins(_)));
        assert_eq!(pins.count(), 2, "{found:?}");
        let mut left = Vec::new();
        files(&options.bpffs, &mut left);
        assert_eq!(left, [vault.display().to_string()]);
        // A device of another kind with the tunnel's name is not the tunnel.
        ip("link add portico0 type veth peer name other0");
        assert!(
            !find(&places(&options))
                .unwrap()
                .iter()
                .any(|thing| matches!(thing, Thing::Tunnel(_)))
        );
        fs::remove_dir(&vault).unwrap();
    });
}

#[test]
fn the_mark_of_a_qdisc_goes_with_its_interface() {
    const NAME: &str = "the_mark_of_a_qdisc_goes_with_its_interface";
    if !privileged(NAME) {
        return;
    }
    if clsact::has_tcx() {
        return println!("SKIPPED {NAME}: this kernel has tcx, so no qdisc is made");
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        ip("link add veth2 type veth peer name veth3");
        let mut parts = started(&options);
        let veth2 = proxy_user::kernel::netlink::interface_index("veth2").unwrap();
        parts.datapath.attach_task_link(veth2).unwrap();
        let mark = options.bpffs.join("clsact").join(veth2.to_string());
        assert!(mark.is_dir());
        ip("link del veth2");
        parts.datapath.detach_task_link(veth2).unwrap();
        assert!(!mark.exists(), "its number may be another interface's next");
        drop(parts);
        uninstall(&options);
    });
}
