// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts the eBPF object where `kernel/load.rs` can include it.
//!
//! `cargo xtask build` compiles the object first. Without it (plain `cargo check`, clippy) an empty file takes
//! its place, and the binary says at run time that it was built without one.
use std::{env, fs, path::PathBuf};

fn main() {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| manifest.join("../target"), PathBuf::from);
    let object =
        env::var_os("PORTICO_BPF_OBJECT").map_or_else(|| target.join("bpf/portico.o"), PathBuf::from);
    println!("cargo:rerun-if-env-changed=PORTICO_BPF_OBJECT");
    println!("cargo:rerun-if-env-changed=CARGO_TARGET_DIR");
    // Watching a file that does not exist yet makes cargo run this script on every build until it does.
    println!("cargo:rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("portico.o");
    fs::write(out, bytes).expect("OUT_DIR is writable");
}
