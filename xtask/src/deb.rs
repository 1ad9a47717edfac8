// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask deb`: a Debian package of the static binary, with units for both services and their settings.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{build, cmd, paths};

#[derive(clap::Args)]
pub struct Args {
    /// A static binary that is there already, instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// A file of the package: where, what, who may do what with it.
type File = (&'static str, &'static str, u32);

const FILES: &[File] = &[
    (
        "lib/systemd/system/portico-node.service",
        include_str!("deb/portico-node.service"),
        0o644,
    ),
    (
        "lib/systemd/system/portico-proxy.service",
        include_str!("deb/portico-proxy.service"),
        0o644,
    ),
    (
        "etc/default/portico-node",
        include_str!("deb/default-node"),
        0o644,
    ),
    (
        "etc/default/portico-proxy",
        include_str!("deb/default-proxy"),
        0o644,
    ),
    (
        "usr/share/man/man1/portico.1",
        include_str!("deb/portico.1"),
        0o644,
    ),
    (
        "DEBIAN/conffiles",
        "/etc/default/portico-node\n/etc/default/portico-proxy\n",
        0o644,
    ),
    ("DEBIAN/postinst", include_str!("deb/postinst"), 0o755),
    ("DEBIAN/prerm", include_str!("deb/prerm"), 0o755),
    ("DEBIAN/postrm", include_str!("deb/postrm"), 0o755),
];

/// Runs the verb.
pub fn run(args: &Args) -> Result<u8> {
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => {
            build::binaries()?;
            paths::binary("portico")
        }
    };
    println!("{}", make(&binary, &paths::target())?.display());
    Ok(0)
}

/// The same bytes for the same binary.
fn make(binary: &Path, folder: &Path) -> Result<PathBuf> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("Debian's name for {other} is not known here"),
    };
    let version = env!("CARGO_PKG_VERSION");
    let staging = folder.join("deb-staging");
    if staging.exists() {
        fs::remove_dir_all(&staging).with_context(|| staging.display().to_string())?;
    }
    for (path, text, mode) in FILES {
        write(&staging.join(path), text.as_bytes(), *mode)?;
    }
    let read = |path: PathBuf| fs::read(&path).with_context(|| path.display().to_string());
    write(&staging.join("usr/bin/portico"), &read(binary.to_owned())?, 0o755)?;
    write(
        &staging.join("usr/share/doc/portico/copyright"),
        &copyright()?,
        0o644,
    )?;
    cmd::run(
        cmd::host("gzip")
            .args(["-9n"])
            .arg(staging.join("usr/share/man/man1/portico.1")),
    )?;
    fs::create_dir_all(staging.join("etc/portico"))?;
    let size = cmd::text(cmd::host("du").args(["-sk", "--exclude=DEBIAN"]).arg(&staging))?;
    let control = format!(
        "Package: portico\nVersion: {version}\nArchitecture: {architecture}\nSection: net\nPriority: optional\n\
         Installed-Size: {}\nMaintainer: The Portico authors <portico@example.org>\n\
         Description: front door of a Docker Swarm\n \
         An eBPF data plane that gives every service its virtual IP and every published\n \
         port its routing mesh, and an L7 proxy that is reconfigured by HTTP calls.\n",
        size.split_whitespace().next().unwrap_or("0"),
    );
    write(&staging.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
    // Folders as this user's umask made them are not what a system wants.
    cmd::run(
        cmd::host("find")
            .arg(&staging)
            .args(["-type", "d", "-exec", "chmod", "755", "{}", "+"]),
    )?;
    let package = folder.join(format!("portico_{version}_{architecture}.deb"));
    let mut command = cmd::host("dpkg-deb");
    command.env("SOURCE_DATE_EPOCH", "0");
    command
        .args(["--root-owner-group", "--build"])
        .arg(&staging)
        .arg(&package);
    cmd::run(&mut command)?;
    fs::remove_dir_all(&staging).with_context(|| staging.display().to_string())?;
    Ok(package)
}

/// All licences, one behind the other.
fn copyright() -> Result<Vec<u8>> {
    let mut text =
        b"Portico is MIT or Apache-2.0, at your choice; its eBPF programs also GPL-2.0.\n".to_vec();
    for name in ["LICENSE-MIT", "LICENSE-APACHE", "LICENSE-GPL-2.0"] {
        let path = paths::root().join(name);
        text.push(b'\n');
        text.extend(fs::read(&path).with_context(|| path.display().to_string())?);
    }
    Ok(text)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path)).with_context(|| path.display().to_string())?;
    fs::write(path, content).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Everything below a folder that is no folder, by its path there.
    fn files(root: &Path, below: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(below).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() && !path.is_symlink() {
                true => files(root, &path, found),
                false => drop(found.insert(path.strip_prefix(root).unwrap().display().to_string())),
            }
        }
    }

    #[test]
    fn a_package_installs_into_a_root_and_leaves_nothing_there() {
        if !cmd::exists("dpkg") || !cmd::exists("dpkg-deb") {
            return println!("skipped: dpkg is not there");
        }
        let folder = paths::target().join(format!("deb-test-{}", std::process::id()));
        let root = folder.join("root");
        for path in [
            "var/lib/dpkg/info",
            "var/lib/dpkg/updates",
            "var/lib/dpkg/triggers",
            "tmp",
        ] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
        let binary = folder.join("binary");
        write(&binary, b"#!/bin/sh\necho portico\n", 0o755).unwrap();
        let package = make(&binary, &folder).unwrap();
        assert_eq!(
            fs::read(&package).unwrap(),
            fs::read(make(&binary, &folder).unwrap()).unwrap()
        );
        let dpkg = |args: &[&str]| {
            let mut command = cmd::host_admin("dpkg");
            command.arg(format!("--root={}", root.display()));
            command.arg(format!("--log={}", folder.join("log").display()));
            command
                .args([
                    "--force-not-root",
                    "--force-script-chrootless",
                    "--force-bad-path",
                ])
                .args(args);
            cmd::text(&mut command).unwrap()
        };
        dpkg(&["--install", &package.display().to_string()]);
        let mut installed = BTreeSet::new();
        files(&root, &root, &mut installed);
        installed.retain(|path| !path.starts_with("var/lib/dpkg/"));
        let want = [
            "etc/default/portico-node",
            "etc/default/portico-proxy",
            "lib/systemd/system/portico-node.service",
            "lib/systemd/system/portico-proxy.service",
            "usr/bin/portico",
            "usr/share/doc/portico/copyright",
            "usr/share/man/man1/portico.1.gz",
        ];
        assert_eq!(installed, want.map(String::from).into());
        let mode = fs::metadata(root.join("usr/bin/portico"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        // What an administrator has written stays until the package is purged, and so does what the proxy keeps.
        fs::write(root.join("etc/default/portico-proxy"), "PORT=1\n").unwrap();
        fs::create_dir_all(root.join("var/lib/portico-proxy")).unwrap();
        fs::write(root.join("var/lib/portico-proxy/services.json"), "{}").unwrap();
        dpkg(&["--remove", "portico"]);
        assert!(root.join("etc/default/portico-proxy").exists() && !root.join("usr/bin/portico").exists());
        dpkg(&["--purge", "portico"]);
        let mut left = BTreeSet::new();
        files(&root, &root, &mut left);
        left.retain(|path| !path.starts_with("var/lib/dpkg/"));
        assert_eq!(left, BTreeSet::new());
        fs::remove_dir_all(&folder).unwrap();
    }
}
