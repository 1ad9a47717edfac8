// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things are pinned, and what a pinned link is attached to.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use proxy_ebpf::abi::{ABI_VERSION, Settings};

/// An array that can be had in a process's memory (linux/bpf.h, Linux 5.5); flow tables of earlier builds cannot.
const BPF_F_MMAPABLE: u64 = 1 << 10;
/// Magic number of bpffs (statfs(2), linux/magic.h BPF_FS_MAGIC).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The pin directories of one agent.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Opens (creates) the directories below `bpffs`, which must be on a BPF file system.
    pub fn open(bpffs: &Path) -> io::Result<Pins> {
        let pins = Pins {
            root: bpffs.join(format!("v{ABI_VERSION}")),
        };
        for dir in [pins.maps(), pins.root.join("programs"), pins.links()] {
            fs::create_dir_all(dir)?;
        }
        Ok(pins)
    }

    /// Directory of the maps.
    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    /// Forgets a pinned flow table that has another size or kind than is wanted now: its flows are lost, and the programs
    /// that still run keep theirs until their links are replaced.
    pub fn match_flow_table(&self, settings: &Settings) -> io::Result<()> {
        let path = self.maps().join("FLOWS");
        if !path.exists() {
            return Ok(());
        }
        let info = pinned_info(&path)?;
        let wanted = (u64::from(settings.flow_mask) + 1).to_string();
        let flags = info
            .get("map_flags")
            .and_then(|flags| u64::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
        let in_memory = flags.is_some_and(|flags| flags & BPF_F_MMAPABLE != 0);
        if info.get("max_entries") != Some(&wanted) || !in_memory {
            fs::remove_file(&path)?;
        }
        Ok(())
    }

    /// Directory of the programs of one object with one configuration.
    pub fn programs(&self, hash: &str) -> PathBuf {
        self.root.join("programs").join(hash)
    }

    /// Directory of the links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Removes the pins of every other version of the ABI, whose maps this one cannot read; the versions. Call it
    /// when this version's programs are attached: then no packet finds neither.
    pub fn forget_other_versions(&self) -> io::Result<Vec<String>> {
        let Some(all) = self.root.parent() else {
            return Ok(Vec::new());
        };
        let mut gone = Vec::new();
        for entry in fs::read_dir(all)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix('v').and_then(|text| text.parse::<u32>().ok());
            if version.is_some_and(|version| version != ABI_VERSION) {
                fs::remove_dir_all(all.join(&name))?;
                gone.push(name);
            }
        }
        Ok(gone)
    }

    /// Removes the programs of every other object; links keep theirs alive as long as they are attached.
    pub fn forget_other_programs(&self, hash: &str) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("programs"))? {
            let entry = entry?;
            if entry.file_name() != hash {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether the nearest existing parent of `path` is on a BPF file system.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let path = CString::new(existing.as_os_str().as_bytes())?;
    // SAFETY: statfs is plain old data; zero is valid.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_type as i64 & 0xffff_ffff == BPF_FS_MAGIC)
}

/// What the kernel tells of a pinned object through `/proc/self/fdinfo` (`prog_id`, `ifindex`, …).
pub fn pinned_info(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let fd = object_get(path)?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect())
}

/// BPF_OBJ_GET of bpf(2).
fn object_get(path: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_long = 7;
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = Attr {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: attr and the path outlive the call; the size is attr's own.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attr, size_of::<Attr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
