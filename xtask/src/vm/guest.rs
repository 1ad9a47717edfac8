// SPDX-License-Identifier: MIT OR Apache-2.0
//! The script that the guest runs as its first process: mounts, modules, the steps one after the other, power off.

use std::path::{Path, PathBuf};

use super::machine::Step;
use crate::{cmd, lab, paths};

/// Where the guest has the folder that it shares with the host, read and write.
pub const EXCHANGE: &str = "/portico-vm";
/// Tells a command in the guest where `--share` is.
const SHARE_VARIABLE: &str = "PORTICO_VM_SHARE";

/// What the labs, the tests and the comparison with other balancers use. One that a kernel has not as a module is
/// built in or missed by what needs it, which says so better than we could here.
const MODULES: &str = "nf_tables nft_chain_nat nft_masq nft_ct br_netfilter veth vxlan bridge cls_bpf sch_ingress dummy ip_vs ip_vs_rr";

/// Folders that hold what only this boot of the machine means; the guest begins with empty ones.
const EMPTY: [&str; 3] = ["/run", "/tmp", "/var/tmp"];

/// File systems that Linux expects, each with its type.
const MOUNTS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// The script. `folder` is where the steps run.
pub fn script(release: &str, steps: &[Step], folder: &Path, share: bool) -> String {
    let mut text = format!("#!/bin/sh\n# Linux {release}, made by cargo xtask vm\n");
    for (kind, place) in MOUNTS {
        text += &format!("mkdir -p {place} && mount -t {kind} {kind} {place}\n");
    }
    for place in emptied() {
        text += &format!("mount -t tmpfs -o mode=1777 tmpfs {place}\n");
    }
    if share {
        let options = "trans=virtio,version=9p2000.L,msize=512000,rw,cache=none";
        text += &format!("mount -t 9p -o {options} share {EXCHANGE}/share\n");
        text += &format!("export {SHARE_VARIABLE}={EXCHANGE}/share\n");
    }
    for (name, value) in environment() {
        text += &format!("export {name}={}\n", cmd::quoted(&value));
    }
    let host = release.replace('.', "-");
    text += &format!("echo portico-vm-{host} > /proc/sys/kernel/hostname\n");
    text += &format!("for module in {MODULES}; do modprobe -q $module; done\nip link set lo up\n");
    text += &format!(
        "cd {}\necho > {EXCHANGE}/booted\n",
        cmd::quoted(&folder.to_string_lossy())
    );
    for (number, step) in steps.iter().enumerate() {
        let command: Vec<String> = step.command.iter().map(|word| cmd::quoted(word)).collect();
        let base = format!("{EXCHANGE}/{number}");
        // env: the command may set variables before its program's name.
        text += &format!(
            "env {} </dev/null >{base}.out 2>{base}.err\necho $? > {base}.code\n",
            command.join(" ")
        );
    }
    text + "echo o > /proc/sysrq-trigger\nwhile :; do sleep 60; done\n"
}

/// A folder that the command or its programs are in stays visible.
fn emptied() -> impl Iterator<Item = &'static str> {
    let needed: Vec<PathBuf> = [
        Some(paths::root()),
        Some(paths::target()),
        std::env::current_dir().ok(),
        paths::this().ok(),
    ]
    .into_iter()
    .flatten()
    .collect();
    EMPTY
        .into_iter()
        .filter(move |place| !needed.iter().any(|path| path.starts_with(place)))
}

/// What the user's programs need to be found; nothing else of the user's environment.
fn environment() -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = ["HOME", "CARGO_HOME", "RUSTUP_HOME", "TERM"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect();
    let path = std::env::var("PATH").unwrap_or_default();
    variables.push(("PATH".into(), format!("{path}:/usr/sbin:/usr/bin:/sbin:/bin")));
    variables.push(("CARGO_TARGET_DIR".into(), paths::target().display().to_string()));
    // Nothing can be installed in there, and what was built is there.
    variables.push((lab::PREPARED.into(), "1".into()));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_script_and_words_stay_words() {
        let steps = [Step::new(
            "a",
            &[
                "sh".to_owned(),
                "-c".to_owned(),
                "echo \"it's\"; exit 3".to_owned(),
            ],
        )];
        let text = script("6.1.0-1-amd64", &steps, Path::new("/a b"), true);
        assert!(text.contains("cd '/a b'\n"), "{text}");
        assert!(
            text.contains(r#"env sh -c 'echo "it'\''s"; exit 3' </dev/null >/portico-vm/0.out"#),
            "{text}"
        );
        let mut sh = std::process::Command::new("sh");
        assert!(cmd::feed(sh.arg("-n"), &text).is_ok());
    }

    #[test]
    fn the_source_tree_is_never_hidden() {
        assert!(emptied().all(|place| !paths::root().starts_with(place)));
        assert!(emptied().count() >= 1, "/run at least");
    }
}
