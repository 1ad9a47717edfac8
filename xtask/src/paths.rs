// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things are in the source tree.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The workspace's root.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// This program. When cargo has built it anew meanwhile, the kernel calls the file that runs deleted, and the new one
/// has its place.
pub fn this() -> Result<PathBuf> {
    let path = std::env::current_exe().context("own path")?;
    let text = path.to_string_lossy();
    Ok(match text.strip_suffix(" (deleted)") {
        Some(before) => before.into(),
        None => path,
    })
}

/// The eBPF object that the `portico` binary embeds.
pub fn object() -> PathBuf {
    target().join("bpf/portico.o")
}

/// A finished static binary (`portico`, `go-demo`).
pub fn binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}
