// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which compiler on this machine can build for the kernel.
//!
//! It must have the source of `core` (`library/` in its sysroot) and accept `-Z`: Debian's rustc with its source
//! package and `RUSTC_BOOTSTRAP`, or a rustup nightly with the `rust-src` component.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::cmd;

/// A compiler for the eBPF target.
#[derive(Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// `/usr/bin/rustc` of Debian's `rustc-web`, and its source.
    Debian,
    /// rustup's nightly with `rust-src`.
    Nightly,
}

/// Edition 2024 and everything else that the programs use.
const MINOR_MIN: u32 = 88;

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Toolchain::Debian => "Debian's rustc",
            Toolchain::Nightly => "rustup's nightly",
        })
    }
}

impl Toolchain {
    /// Its cargo, set up so that it uses its own rustc.
    pub fn cargo(&self) -> Command {
        match self {
            Toolchain::Debian => {
                let mut command = cmd::host("/usr/bin/cargo");
                command
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env_remove("RUSTUP_TOOLCHAIN");
                command
            }
            Toolchain::Nightly => {
                let mut command = cmd::host("rustup");
                command
                    .args(["run", "nightly", "cargo"])
                    .env_remove("RUSTC")
                    .env_remove("CARGO");
                command
            }
        }
    }
}

/// The toolchain that is there; Debian's first, because its bpf-linker fits its LLVM.
pub fn find() -> Result<Toolchain> {
    [Toolchain::Debian, Toolchain::Nightly]
        .into_iter()
        .find(has_source)
        .context("no Rust compiler here has the source of core; `cargo xtask setup` installs one")
}

fn has_source(toolchain: &Toolchain) -> bool {
    let rustc = |flags: &[&str]| {
        let mut command = match toolchain {
            Toolchain::Debian => cmd::host("/usr/bin/rustc"),
            Toolchain::Nightly => {
                let mut command = cmd::host("rustup");
                // Only asked, not installed on the way.
                command
                    .env("RUSTUP_AUTO_INSTALL", "0")
                    .args(["run", "nightly", "rustc"]);
                command
            }
        };
        cmd::text(command.args(flags)).ok()
    };
    if *toolchain == Toolchain::Debian && !Path::new("/usr/bin/cargo").exists() {
        return false;
    }
    let (Some(sysroot), Some(version)) = (rustc(&["--print", "sysroot"]), rustc(&["--version"])) else {
        return false;
    };
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    source.exists() && minor(&version).is_some_and(|minor| minor >= MINOR_MIN)
}

fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

/// The linker for the eBPF target.
pub fn bpf_linker() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let installed = home
        .map(|home| home.join("bin/bpf-linker"))
        .filter(|file| file.exists());
    installed
        .or_else(|| cmd::find("bpf-linker"))
        .context("no bpf-linker; `cargo xtask setup` installs it")
}

/// The target triple of this machine, as rustc names it.
pub fn host_triple() -> Result<String> {
    let printed = cmd::text(cmd::host("rustc").arg("-vV"))?;
    match printed.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(triple) => Ok(triple.to_owned()),
        None => bail!("rustc -vV names no host:\n{printed}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(minor("rustc 1.96.0 (30a34c682 2026-05-25)"), Some(96));
        assert_eq!(minor("clang 22"), None);
    }
}
