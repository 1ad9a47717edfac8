// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask image`: container images of the static binaries.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{build, cmd, paths};

/// Runs the verb.
pub fn run() -> Result<u8> {
    build::binaries()?;
    let tar = make("portico", "portico-image", &paths::target())?;
    println!("{}", tar.display());
    println!(
        "docker import --change 'ENTRYPOINT {PORTICO}' {} portico",
        tar.display()
    );
    Ok(0)
}

/// The proxy's entrypoint.
const PORTICO: &str = r#"["/portico","proxy"]"#;

/// Everything that the labs run: image name, tar, entrypoint. Into a folder of the lab, because it runs as root
/// and must leave nothing in the target folder that the user cannot write to again.
pub fn make_all(folder: &Path) -> Result<Vec<(&'static str, PathBuf, &'static str)>> {
    let (portico, go_demo) = (
        make("portico", "portico-image", folder)?,
        make("go-demo", "go-demo-image", folder)?,
    );
    Ok(vec![
        ("portico", portico, PORTICO),
        ("vfarcic/go-demo", go_demo.clone(), r#"["/go-demo"]"#),
        ("go-demo-db", go_demo, r#"["/go-demo","db"]"#),
    ])
}

/// A root file system with one static binary, /tmp and /var/lib/portico; the same bytes for the same binary.
fn make(binary: &str, name: &str, target: &Path) -> Result<PathBuf> {
    let staging = target.join("image").join(name);
    for folder in ["tmp", "var/lib/portico"] {
        fs::create_dir_all(staging.join(folder)).with_context(|| staging.display().to_string())?;
    }
    let source = paths::binary(binary);
    fs::copy(&source, staging.join(binary)).with_context(|| source.display().to_string())?;
    let tar = target.join(format!("{name}.tar"));
    let mut command = cmd::host("tar");
    command.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
    ]);
    command
        .arg("--directory")
        .arg(&staging)
        .arg("--create")
        .arg("--file")
        .arg(&tar)
        .args([binary, "tmp", "var"]);
    cmd::run(&mut command)?;
    Ok(tar)
}
