// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's kernel packages: found, downloaded and verified by apt, unpacked into the user's cache, never installed.
//!
//! apt gets folders and a list of sources of its own, so that the machine's packages and lists stay as they are. The
//! archive is the one that the machine's apt uses; what it delivers must be signed by Debian's archive keys.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Kernel, Lacks};
use crate::{cmd, progress::step};

/// Debian's keys, from the package debian-archive-keyring; those of the next release are in it as well.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Depends on the newest kernel of its suite.
const META: &str = "linux-image-amd64";

/// An unpacked kernel.
pub struct Tree {
    /// `boot/vmlinuz-VERSION` and `lib/modules/VERSION` are below it.
    pub folder: PathBuf,
    /// The package's name with its version.
    pub package: String,
    /// As `uname -r` says it.
    pub release: String,
}

impl Tree {
    /// The kernel itself.
    pub fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// What the guest mounts at /lib/modules.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules")
    }
}

/// Where kernels are kept: the user's cache folder.
pub fn cache() -> Result<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("portico/kernels"))
}

/// The kernel, from the cache or, when it is not there or `refresh` is wanted, from the archive.
pub fn tree(kernel: Kernel, refresh: bool) -> Result<Tree> {
    let folder = cache()?.join(kernel.name());
    if let Some(tree) = (!refresh).then(|| unpacked(&folder)).flatten() {
        return Ok(tree);
    }
    for (program, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("depmod", "kmod")] {
        if !cmd::exists(program) {
            return Err(lacks(
                format!("{program} is missing"),
                format!("install {package}"),
            ));
        }
    }
    let archive = archive()?;
    let apt = Apt::new(&cache()?.join(format!("apt-{}", kernel.name())), &archive, kernel)?;
    let (name, version) = apt.newest(kernel)?;
    let package = format!("{name} {version}");
    if let Some(tree) = unpacked(&folder).filter(|tree| tree.package == package) {
        return Ok(tree);
    }
    step(format!("download {package}"));
    let file = apt.download(&name, &version)?;
    let new = folder.with_extension("new");
    remove(&new)?;
    fs::create_dir_all(&new).with_context(|| new.display().to_string())?;
    cmd::text(cmd::host("dpkg-deb").arg("--extract").arg(&file).arg(&new))?;
    let release = name.trim_start_matches("linux-image-").to_owned();
    // Debian 12 has modules below lib, later ones below usr/lib, and so do their depmod and modprobe look for them.
    let (old, later) = (new.join("lib"), new.join("usr/lib"));
    if old.exists() {
        fs::create_dir_all(new.join("usr")).context("usr")?;
        symlink("../lib", &later).context("usr/lib")?;
    } else {
        symlink("usr/lib", &old).context("lib")?;
    }
    cmd::text(cmd::host_admin("depmod").arg("--basedir").arg(&new).arg(&release))?;
    fs::write(new.join(MARK), format!("{package}\n{release}\n")).context(MARK)?;
    remove(&folder)?;
    fs::rename(&new, &folder).with_context(|| folder.display().to_string())?;
    fs::remove_file(&file).with_context(|| file.display().to_string())?;
    unpacked(&folder).with_context(|| format!("{package} has no kernel and modules where they are expected"))
}

/// Written last: a folder without it was not finished.
const MARK: &str = "portico-kernel";

fn unpacked(folder: &Path) -> Option<Tree> {
    let mark = fs::read_to_string(folder.join(MARK)).ok()?;
    let (package, release) = mark.trim().split_once('\n')?;
    let tree = Tree {
        folder: folder.to_path_buf(),
        package: package.to_owned(),
        release: release.to_owned(),
    };
    (tree.image().is_file() && tree.modules().join(release).join("modules.dep").is_file()).then_some(tree)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

fn lacks(what: String, how: String) -> anyhow::Error {
    Lacks { what, how }.into()
}

/// The Debian archive that this machine's apt is configured with.
fn archive() -> Result<String> {
    let known = cmd::text(cmd::host("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]))?;
    debian_archive(&known).map(str::to_owned).ok_or_else(|| {
        lacks(
            "apt's sources name no Debian archive".to_owned(),
            "the kernels are Debian's: add a source of Debian's main archive".to_owned(),
        )
    })
}

/// The main archive is the one whose last folder is `debian`; security updates and others have another one.
fn debian_archive(uris: &str) -> Option<&str> {
    uris.lines()
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
}

/// apt with folders of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path, archive: &str, kernel: Kernel) -> Result<Apt> {
        if !Path::new(KEYRING).exists() {
            return Err(lacks(
                format!("{KEYRING} is missing, so nothing could be verified"),
                "install debian-archive-keyring".to_owned(),
            ));
        }
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| part.display().to_string())?;
        }
        let source = format!(
            "deb [arch=amd64 signed-by={KEYRING}] {archive} {} main\n",
            kernel.suite()
        );
        fs::write(folder.join("sources.list"), source).context("sources.list")?;
        fs::write(folder.join("status"), "").context("status")?;
        let apt = Apt {
            folder: folder.to_path_buf(),
        };
        step(format!("package lists of Debian's {}", kernel.suite()));
        cmd::text(
            apt.program("apt-get")
                .args(["--quiet", "--error-on=any", "update"]),
        )?;
        Ok(apt)
    }

    fn program(&self, program: &str) -> Command {
        let mut command = cmd::host(program);
        let folder = self.folder.display();
        for option in [
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State={folder}/state"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
            "APT::Architecture=amd64".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // apt's own user cannot enter a cache folder in somebody's home.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.current_dir(&self.folder);
        command
    }

    /// Name and version of the kernel package that the suite's meta package depends on.
    fn newest(&self, kernel: Kernel) -> Result<(String, String)> {
        let shown = cmd::text(
            self.program("apt-cache")
                .args(["show", "--no-all-versions", META]),
        )?;
        dependency(&shown, &kernel.package_prefix()).with_context(|| {
            format!(
                "{META} of {} depends on no {}",
                kernel.suite(),
                kernel.package_prefix()
            )
        })
    }

    /// apt checks the file against the signed lists.
    fn download(&self, name: &str, version: &str) -> Result<PathBuf> {
        cmd::text(
            self.program("apt-get")
                .args(["--quiet", "download"])
                .arg(format!("{name}={version}")),
        )?;
        let prefix = format!("{name}_");
        let files = fs::read_dir(&self.folder).with_context(|| self.folder.display().to_string())?;
        for file in files {
            let path = file?.path();
            let found = path
                .file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&prefix));
            if found && path.extension().is_some_and(|e| e == "deb") {
                return Ok(path);
            }
        }
        bail!("apt-get download {name} left no file");
    }
}

/// The first package that begins with `prefix` and is depended on in exactly one version.
fn dependency(shown: &str, prefix: &str) -> Option<(String, String)> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends.split(", ").find_map(|dependency| {
        let (name, version) = dependency.split_once(" (= ")?;
        let version = version.strip_suffix(')')?;
        name.starts_with(prefix)
            .then(|| (name.to_owned(), version.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_meta_package_depends_on() {
        let shown = "Package: linux-image-amd64\nVersion: 6.1.176-1\nDepends: linux-image-6.1.0-50-amd64 (= 6.1.176-1)\n";
        let found = dependency(shown, "linux-image-6.1.");
        assert_eq!(
            found,
            Some(("linux-image-6.1.0-50-amd64".into(), "6.1.176-1".into()))
        );
        assert_eq!(dependency(shown, "linux-image-6.12."), None);
    }

    #[test]
    fn the_archive_is_told_from_the_security_one() {
        let uris = "https://mirror.example/debian-security/\nhttps://mirror.example/a/debian/\n";
        assert_eq!(debian_archive(uris), Some("https://mirror.example/a/debian/"));
        assert_eq!(debian_archive("https://mirror.example/ubuntu/\n"), None);
    }

    #[test]
    fn an_unfinished_tree_is_not_used() {
        let folder = std::env::temp_dir().join(format!("portico-tree-{}", std::process::id()));
        let modules = folder.join("lib/modules/6.1.0-1-amd64");
        fs::create_dir_all(&modules).unwrap();
        fs::create_dir_all(folder.join("boot")).unwrap();
        fs::write(modules.join("modules.dep"), "").unwrap();
        fs::write(
            folder.join(MARK),
            "linux-image-6.1.0-1-amd64 6.1.1-1\n6.1.0-1-amd64\n",
        )
        .unwrap();
        assert!(unpacked(&folder).is_none(), "no kernel");
        fs::write(folder.join("boot/vmlinuz-6.1.0-1-amd64"), "").unwrap();
        let tree = unpacked(&folder).unwrap();
        assert_eq!(tree.release, "6.1.0-1-amd64");
        fs::remove_dir_all(&folder).unwrap();
    }
}
