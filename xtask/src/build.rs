// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask build`: the eBPF object, then static binaries with the object inside.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{cmd, paths, progress::step, toolchain};

/// Runs the verb. `profile_release` is what everything but a quick check wants.
pub fn run(release: bool) -> Result<u8> {
    object()?;
    for (package, binary) in BINARIES {
        static_binary(package, binary, release)?;
    }
    Ok(0)
}

const BINARIES: [(&str, &str); 2] = [("proxy-user", "portico"), ("portico-tests", "go-demo")];

/// The object and the release binaries.
pub fn binaries() -> Result<()> {
    run(true).map(|_| ())
}

/// Compiles the eBPF programs to `target/bpf/portico.o`.
pub fn object() -> Result<()> {
    let toolchain = toolchain::find()?;
    step(format!("eBPF object, with {toolchain}"));
    let folder = paths::target().join("bpf-build");
    let mut command = toolchain.cargo();
    command
        .current_dir(paths::root())
        .args(["build", "--quiet", "--locked", "--package", "proxy-ebpf"]);
    command.args(["--bin", "portico-ebpf", "--features", "bpf", "--profile", "bpf"]);
    command.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"]);
    command.env("CARGO_TARGET_DIR", &folder);
    let linker = toolchain::bpf_linker()?;
    // --btf: the kernel refuses map definitions without types, and wants line information for its messages.
    command.env(
        "CARGO_ENCODED_RUSTFLAGS",
        [
            "-C",
            &format!("linker={}", linker.display()),
            "-C",
            "link-arg=--btf",
            "-C",
            "debuginfo=2",
        ]
        .join("\x1f"),
    );
    cmd::run(&mut command).context("the eBPF object did not build")?;
    let built = folder.join("bpfel-unknown-none/bpf/portico-ebpf");
    let object = paths::object();
    fs::create_dir_all(object.parent().unwrap_or(&object))?;
    let new = fs::read(&built).with_context(|| built.display().to_string())?;
    // Untouched when nothing changed, so that cargo does not build the binary again.
    if fs::read(&object).ok().as_ref() != Some(&new) {
        fs::write(&object, new).with_context(|| object.display().to_string())?;
    }
    Ok(())
}

/// Compiles a binary that needs nothing but a kernel: it runs in an empty image.
fn static_binary(package: &str, binary: &str, release: bool) -> Result<()> {
    step(format!("{binary}, static"));
    let triple = toolchain::host_triple()?;
    let mut command = cargo();
    command.args([
        "build",
        "--quiet",
        "--locked",
        "--package",
        package,
        "--bin",
        binary,
        "--target",
        &triple,
    ]);
    if release {
        command.arg("--release");
    }
    // With --target the flag is for the binary alone and not for build scripts and macros, which cannot be static.
    command.env("CARGO_ENCODED_RUSTFLAGS", "-C\x1ftarget-feature=+crt-static");
    cmd::run(&mut command)?;
    let profile = if release { "release" } else { "debug" };
    let built = paths::target().join(&triple).join(profile).join(binary);
    let place = paths::target().join(profile).join(binary);
    fs::create_dir_all(place.parent().unwrap_or(&place))?;
    copy_if_changed(&built, &place)
}

/// Copies beside and renames: the old file may be running.
fn copy_if_changed(from: &PathBuf, to: &PathBuf) -> Result<()> {
    let new = fs::read(from).with_context(|| from.display().to_string())?;
    if fs::read(to).ok().as_ref() == Some(&new) {
        return Ok(());
    }
    let beside = to.with_extension("new");
    fs::copy(from, &beside).with_context(|| beside.display().to_string())?;
    fs::rename(&beside, to).with_context(|| to.display().to_string())
}

/// The user's cargo, in the workspace, with the object in place.
pub fn cargo() -> Command {
    let mut command = cmd::host(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command
        .current_dir(paths::root())
        .env("PORTICO_BPF_OBJECT", paths::object());
    // The same value everywhere, or cargo would run proxy-user's build script again each time.
    command.env("CARGO_TARGET_DIR", paths::target());
    command
}
