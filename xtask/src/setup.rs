// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask setup`: installs what building and the labs need; a second run finds nothing to do.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{cmd, progress::step, toolchain};

/// Exit code when something is missing (DESIGN.md, section 7).
const LACKS: u8 = 3;

/// A Debian package that is there when its files are.
struct Package {
    name: &'static str,
    /// A program, or an absolute path; any of them will do.
    provides: &'static [&'static str],
    why: &'static str,
}

const fn package(name: &'static str, provides: &'static [&'static str], why: &'static str) -> Package {
    Package { name, provides, why }
}

const PACKAGES: [Package; 9] = [
    package("gcc", &["cc"], "links the binaries"),
    package(
        "libc6-dev",
        &[
            "/usr/lib/x86_64-linux-gnu/libc.a",
            "/usr/lib/aarch64-linux-gnu/libc.a",
            "/usr/lib/libc.a",
        ],
        "the C library that the static binaries contain",
    ),
    package("iproute2", &["ip"], "namespaces and links of the labs"),
    package("util-linux", &["nsenter"], "enters namespaces"),
    package("mount", &["mount"], "bpffs and the hosts files of the labs"),
    package("nftables", &["nft"], "masquerading of the embedded lab"),
    package("iptables", &["iptables"], "dockerd does not start without it"),
    package("docker.io", &["dockerd"], "the engines of the docker lab"),
    package("curl", &["curl"], "the tour's client"),
];

/// What only `cargo xtask test` uses.
const TEST_PACKAGES: [Package; 5] = [
    package("iputils-ping", &["ping"], "the tests ping VIPs with it"),
    package(
        "shellcheck",
        &["shellcheck"],
        "the tests check the shell scripts with it",
    ),
    package(
        "vagrant",
        &["vagrant"],
        "the tests let it validate the Vagrantfile",
    ),
    package("ruby", &["ruby"], "the tests read the Vagrantfile with it"),
    package(
        "python3",
        &["/usr/bin/python3"],
        "the Vagrantfile's manager hands out its join token with it",
    ),
];

/// What virtual machines need.
const VM_PACKAGES: [Package; 7] = [
    package(
        "ipvsadm",
        &["ipvsadm"],
        "programs IPVS where a kernel has it: the tests compare with it, the bench measures it",
    ),
    package(
        "qemu-system-x86",
        &["qemu-system-x86_64"],
        "virtual machines for other kernels (cargo xtask vm)",
    ),
    package(
        "busybox-static",
        &["/usr/share/doc/busybox-static"],
        "the first program in a virtual machine",
    ),
    package("cpio", &["cpio"], "packs a virtual machine's first file system"),
    package(
        "kmod",
        &["modprobe"],
        "finds the modules that a virtual machine loads",
    ),
    package("xz-utils", &["xz"], "unpacks modules"),
    package(
        "debian-archive-keyring",
        &["/usr/share/keyrings/debian-archive-keyring.gpg"],
        "verifies the kernels",
    ),
];

/// What the bench measures Portico beside, and with.
const BENCH_PACKAGES: [Package; 4] = [
    package("wrk", &["wrk"], "the bench's client"),
    package(
        "nginx-light",
        &["nginx"],
        "the bench's origins, and one that it measures",
    ),
    package(
        "libnginx-mod-stream",
        &["/usr/lib/nginx/modules/ngx_stream_module.so"],
        "nginx as a relay, which the bench measures",
    ),
    package("haproxy", &["haproxy"], "the bench measures it"),
];

/// What the machine is to be set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Building and the labs.
    Demo,
    /// That, and what the tests use.
    Everything,
    /// Building, virtual machines and the contestants.
    Bench,
}

impl For {
    /// Packages without which something can be skipped, and the rest goes on.
    fn optional(self) -> Vec<&'static Package> {
        match self {
            For::Demo => Vec::new(),
            For::Everything => TEST_PACKAGES.iter().chain(&VM_PACKAGES).collect(),
            For::Bench => VM_PACKAGES.iter().chain(&BENCH_PACKAGES).collect(),
        }
    }
}

/// The compiler way of a bare Debian: a rustc with the matching source of core, and the LLVM of its linker.
const COMPILER: [Package; 5] = [
    package("rustc-web", &[], "a rustc that has"),
    package("cargo-web", &[], "its own cargo and"),
    package(
        "rust-web-src",
        &[],
        "the source of core, which the eBPF target needs",
    ),
    package(
        "llvm-22-dev",
        &["llvm-config-22"],
        "bpf-linker is built against it",
    ),
    package(
        "libpolly-22-dev",
        &["/usr/lib/llvm-22/lib/libPolly.a"],
        "named by llvm-config's list of libraries",
    ),
];

/// The release that fits LLVM 22 and was tried.
const BPF_LINKER: &str = "^0.13";

fn is_there(package: &Package) -> bool {
    package.provides.iter().any(|name| {
        if name.starts_with('/') {
            Path::new(name).exists()
        } else {
            cmd::exists(name)
        }
    })
}

/// What is missing on this machine.
struct Missing {
    packages: Vec<&'static Package>,
    /// No compiler for the eBPF target.
    compiler: bool,
    linker: bool,
    components: Vec<&'static str>,
}

impl Missing {
    fn find(purpose: For) -> Missing {
        let compiler = toolchain::find().is_err();
        let linker = toolchain::bpf_linker().is_err();
        let mut packages: Vec<&Package> = PACKAGES
            .iter()
            .chain(purpose.optional())
            .filter(|package| !is_there(package))
            .collect();
        if compiler && !prefers_rustup() {
            packages.extend(&COMPILER);
        } else if linker && matches!(toolchain::find(), Ok(toolchain::Toolchain::Debian)) {
            packages.extend(COMPILER.iter().skip(3).filter(|package| !is_there(package)));
        }
        let components = [("rustfmt", "rustfmt"), ("clippy", "cargo-clippy")];
        let components = components
            .into_iter()
            .filter(|(_, program)| purpose == For::Everything && !has_component(program));
        Missing {
            packages,
            compiler,
            linker,
            components: components.map(|(name, _)| name).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty() && !self.compiler && !self.linker && self.components.is_empty()
    }

    fn print(&self) {
        for package in &self.packages {
            println!("  package {:<16} {}", package.name, package.why);
        }
        if self.compiler && prefers_rustup() {
            println!("  rustup nightly with rust-src: compiles core for the eBPF target");
        }
        if self.linker {
            println!("  bpf-linker: links eBPF programs (cargo install, about a minute)");
        }
        for component in &self.components {
            println!("  rustup component {component}: `cargo xtask test` uses it");
        }
    }
}

/// Asked by running it: rustup has a proxy of that name even when the component is not installed.
fn has_component(program: &str) -> bool {
    cmd::output(cmd::host(program).arg("--version")).is_ok_and(|output| output.status.success())
}

/// A machine without apt, or whose release does not have the compiler, gets it from rustup.
fn prefers_rustup() -> bool {
    let known = cmd::text(cmd::host("apt-cache").args(["policy", "rust-web-src"]));
    // Without lists (a fresh container image) apt knows nothing yet: the distribution decides.
    let debian = fs::read_to_string("/etc/debian_version").is_ok_and(|version| version.starts_with("12"));
    let offered = known.is_ok_and(|policy| {
        policy
            .lines()
            .any(|line| line.contains("Candidate:") && !line.contains("(none)"))
    });
    !(offered || debian) && cmd::exists("rustup")
}

/// Runs the verb.
pub fn run(purpose: For, check: bool) -> Result<u8> {
    let missing = Missing::find(purpose);
    if missing.is_empty() {
        step("setup: nothing is missing");
        return Ok(0);
    }
    println!("{}", if check { "missing:" } else { "will install:" });
    missing.print();
    if check {
        println!("`cargo xtask setup` installs it");
        return Ok(LACKS);
    }
    install(&missing)?;
    let left = Missing::find(purpose);
    if !left.is_empty() {
        println!("still missing:");
        left.print();
        return Ok(LACKS);
    }
    step("setup: done");
    Ok(0)
}

fn install(missing: &Missing) -> Result<()> {
    if !missing.packages.is_empty() {
        install_packages(&missing.packages)?;
    }
    if missing.compiler && prefers_rustup() {
        step("rustup toolchain nightly with rust-src");
        let arguments = [
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ];
        cmd::run(cmd::host("rustup").args(arguments))?;
    }
    for component in &missing.components {
        step(format!("rustup component {component}"));
        cmd::run(cmd::host("rustup").args(["component", "add", component]))?;
    }
    if missing.linker { install_linker() } else { Ok(()) }
}

fn install_packages(packages: &[&Package]) -> Result<()> {
    if !cmd::exists("apt-get") {
        let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
        bail!(
            "this machine has no apt-get; install the equivalents of: {}",
            names.join(" ")
        );
    }
    let is_needed = |package: &&&Package| {
        PACKAGES
            .iter()
            .chain(&COMPILER)
            .any(|other| other.name == package.name)
    };
    let (needed, optional): (Vec<&Package>, Vec<&Package>) = packages.iter().partition(is_needed);
    let needed: Vec<&str> = needed.iter().map(|package| package.name).collect();
    let quiet = QuietServices::install(packages)?;
    let result = if needed.is_empty() { Ok(()) } else { apt(&needed) };
    if result.is_ok() {
        for package in optional {
            // One by one: a distribution that lacks one of them (Debian 13 has no vagrant) may have the others.
            if let Err(error) = apt(&[package.name]) {
                println!("{}: {error:#}", package.name);
            }
        }
    }
    quiet.remove()?;
    result
}

fn apt(names: &[&str]) -> Result<()> {
    let install = |names: &[&str]| {
        let mut command = cmd::as_root("env");
        command.args([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "--yes",
            "--no-install-recommends",
        ]);
        cmd::run(command.args(names))
    };
    step(format!("apt-get install {}", names.join(" ")));
    // The lists may be good enough; when they are old or absent, one update and a second try.
    if has_lists() && install(names).is_ok() {
        return Ok(());
    }
    step("apt-get update");
    cmd::run(cmd::as_root("apt-get").args(["update", "--quiet"]))?;
    install(names)
}

fn has_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|lists| {
        lists
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

/// Keeps packages' services from being started: the labs have engines of their own, and a machine should not find
/// itself with a Docker daemon or a web server because somebody tested Portico on it.
struct QuietServices {
    units: Vec<&'static str>,
    policy: bool,
}

/// Packages with services, and the services' units.
const SERVICES: [(&str, &[&str]); 4] = [
    ("docker.io", &["docker.service", "docker.socket"]),
    ("nginx-light", &["nginx.service"]),
    ("haproxy", &["haproxy.service"]),
    ("ipvsadm", &["ipvsadm.service"]),
];

/// invoke-rc.d(8) asks this program; 101 means that the action is not allowed.
const POLICY: &str = "/usr/sbin/policy-rc.d";

impl QuietServices {
    fn install(packages: &[&Package]) -> Result<QuietServices> {
        let is_new = |name: &str| packages.iter().any(|package| package.name == name);
        let new = SERVICES.iter().filter(|(name, _)| is_new(name));
        let units: Vec<&str> = new.flat_map(|(_, units)| units.iter().copied()).collect();
        let policy = !units.is_empty() && !Path::new(POLICY).exists();
        if policy {
            let script = format!("printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}");
            cmd::run(cmd::as_root("sh").args(["-c", &script]))?;
        }
        Ok(QuietServices { units, policy })
    }

    fn remove(self) -> Result<()> {
        if self.policy {
            cmd::run(cmd::as_root("rm").args(["-f", POLICY]))?;
        }
        if !self.units.is_empty() && Path::new("/run/systemd/system").exists() {
            for unit in self.units {
                step(format!(
                    "{unit} was installed for labs and bench alone: it stays off"
                ));
                // A package whose installation failed has no unit.
                let _ = cmd::run(cmd::as_root("systemctl").args(["disable", "--now", unit]));
            }
        }
        Ok(())
    }
}

fn install_linker() -> Result<()> {
    let mut command = cmd::host(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command.args([
        "install",
        "--quiet",
        "--locked",
        "bpf-linker",
        "--version",
        BPF_LINKER,
    ]);
    if toolchain::find()? == toolchain::Toolchain::Debian {
        let prefix = cmd::text(cmd::host("llvm-config-22").arg("--prefix")).context("llvm-22-dev")?;
        // Its default LLVM is newer than any that Debian has, and without the prefix it does not find this one.
        command
            .env("LLVM_PREFIX", prefix.trim())
            .args(["--no-default-features", "--features", "llvm-22"]);
    }
    step("cargo install bpf-linker");
    cmd::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_missing() {
        assert!(is_there(&package("dash", &["sh"], "")));
        assert!(is_there(&package("x", &["/nowhere", "/bin/sh"], "")));
        assert!(!is_there(&package("x", &["no-such-program-anywhere"], "")));
    }
}
