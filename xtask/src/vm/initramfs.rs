// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's first program: mounts this machine's root, copy on write, and hands over to it.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Lacks, fetch::Tree};
use crate::cmd;

/// What it takes to reach the shares and to write over them.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// The root share is read-only and may be cached; the other one is read by the host while the guest runs.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
fail() { echo "portico-vm: $1"; echo o > /proc/sysrq-trigger; sleep 60; }
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do
    insmod /modules/$module || fail "insmod $module"
done
share() { mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,$2 $1 $3 || fail "mount $1"; }
share root ro,cache=loose /lower
mount -t tmpfs -o size=90% tmpfs /upper
mkdir /upper/changes /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work overlay /new || fail overlay
mkdir -p /new/lib/modules /new/portico-vm
share modules ro,cache=loose /new/lib/modules
share exchange rw,cache=none /new/portico-vm
umount /proc /sys
mount --move /dev /new/dev
exec switch_root /new /bin/sh /portico-vm/guest || fail switch_root
"#;

/// Long enough for a machine whose disk is busy.
const PACKING: Duration = Duration::from_secs(60);

/// Writes `initramfs` for a kernel below `folder`.
pub fn build(tree: &Tree, folder: &Path) -> Result<PathBuf> {
    let root = folder.join("initramfs.d");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    }
    for part in ["bin", "dev", "lower", "modules", "new", "proc", "sys", "upper"] {
        fs::create_dir_all(root.join(part)).with_context(|| part.to_owned())?;
    }
    fs::copy(busybox()?, root.join("bin/busybox")).context("busybox")?;
    let mut order = String::new();
    for module in modules(tree)? {
        let name = module
            .file_name()
            .context("a module's file name")?
            .to_string_lossy();
        let (name, content) = match name.strip_suffix(".xz") {
            Some(name) => (name.to_owned(), unpack(&module)?),
            None => (
                name.into_owned(),
                fs::read(&module).with_context(|| module.display().to_string())?,
            ),
        };
        fs::write(root.join("modules").join(&name), content).with_context(|| name.clone())?;
        order += &format!("{name}\n");
    }
    fs::write(root.join("modules/order"), order).context("modules/order")?;
    fs::write(root.join("init"), INIT).context("init")?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(root.join("init"), mode).context("init")?;
    let archive = folder.join("initramfs");
    pack(&root, &archive)?;
    Ok(archive)
}

/// A busybox that needs no library.
fn busybox() -> Result<PathBuf> {
    let lacks = |what: &str| Lacks {
        what: what.to_owned(),
        how: "`cargo xtask setup` installs busybox-static".to_owned(),
    };
    let found = cmd::find("busybox").ok_or_else(|| lacks("busybox is missing"))?;
    let content = fs::read(&found).with_context(|| found.display().to_string())?;
    if needs_interpreter(&content) {
        return Err(lacks("busybox is not a static one").into());
    }
    Ok(found)
}

/// Whether a 64-bit little-endian ELF file has a program header of the kind PT_INTERP (elf(5)).
fn needs_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at + size).unwrap_or_default();
        bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | usize::from(byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|header| number(table + header * size, 4) == 3)
}

/// Files of the modules and of everything that they need, in the order in which they can be loaded.
fn modules(tree: &Tree) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for module in MODULES {
        let mut modprobe = cmd::host_admin("modprobe");
        modprobe.arg("--dirname").arg(&tree.folder);
        modprobe.args(["--set-version", &tree.release, "--show-depends", module]);
        for line in cmd::text(&mut modprobe)?.lines() {
            let file = match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["builtin", _] => continue,
                ["insmod", file, ..] => PathBuf::from(file),
                _ => bail!("modprobe --show-depends {module} said: {line}"),
            };
            if !found.contains(&file) {
                found.push(file);
            }
        }
    }
    Ok(found)
}

/// busybox's insmod does not read compressed modules.
fn unpack(module: &Path) -> Result<Vec<u8>> {
    let output = cmd::output(cmd::host("xz").args(["--decompress", "--stdout"]).arg(module))?;
    if !output.status.success() {
        bail!(
            "xz {}: {}",
            module.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    if !cmd::exists("cpio") {
        let how = "`cargo xtask setup` installs it".to_owned();
        return Err(Lacks {
            what: "cpio is missing".to_owned(),
            how,
        }
        .into());
    }
    let mut names = vec!["init".to_owned()];
    for folder in ["bin", "dev", "lower", "modules", "new", "proc", "sys", "upper"] {
        names.push(folder.to_owned());
        for entry in fs::read_dir(root.join(folder))? {
            names.push(format!("{folder}/{}", entry?.file_name().to_string_lossy()));
        }
    }
    let output = fs::File::create(archive).with_context(|| archive.display().to_string())?;
    let mut command = cmd::host("cpio");
    command.args(["--create", "--format=newc", "--quiet", "--owner=+0:+0"]);
    let mut cpio = command
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(output)
        .spawn()
        .context("cannot start cpio")?;
    if let Some(mut stdin) = cpio.stdin.take() {
        stdin.write_all(names.join("\n").as_bytes())?;
    }
    let status = cmd::wait_within(&mut cpio, PACKING)?;
    if !status.success() {
        bail!("cpio failed ({status})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_dynamic_linker_is_recognized() {
        let this = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needs_interpreter(&this));
        assert!(!needs_interpreter(b"#!/bin/sh"));
    }
}
