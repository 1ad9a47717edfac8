// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things are in the source tree.

use std::path::{Path, PathBuf};

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

/// The eBPF object that the `portico` binary embeds.
pub fn object() -> PathBuf {
    target().join("bpf/portico.o")
}

/// A finished static binary (`portico`, `go-demo`).
pub fn binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}
