// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attaching programs through pinned links, so that they stay when the agent goes.
//!
//! A link is pinned under a name that says what it is attached to. One that is there and runs the program wanted
//! is left alone. Another program is attached beside it and pinned as `new-NAME`, then takes the name: at every
//! moment at least one of the two is attached, and two at once do no harm (the second sees addresses that the
//! first has translated already).

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::{
    pin::PinError,
    programs::{
        CgroupAttachMode, CgroupSockAddr, LinkOrder, ProgramError, ProgramInfo, SchedClassifier,
        TcAttachType, Xdp, XdpMode, links::FdLink, tc::TcAttachOptions,
    },
};

use super::{clsact, netlink::interface_name, pins::pinned_info};

/// Why a program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refused the link.
    #[error("attach to {target}: {source}")]
    Attach {
        /// Interface or cgroup.
        target: String,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// bpffs or the interface's name.
    #[error("link {name}: {source}")]
    Pin {
        /// Link name.
        name: String,
        /// What it said.
        source: io::Error,
    },
}

/// Prefix of a link that has not taken its name yet. (bpffs refuses names with a dot.)
const NEW: &str = "new-";

/// Attaches a socket hook to a cgroup; true when something changed.
pub fn cgroup(
    links: &Path,
    name: &str,
    program: &mut CgroupSockAddr,
    cgroup: &fs::File,
) -> Result<bool, AttachError> {
    let id = program_id(program.info());
    if runs(links, name, id, 0) {
        return Ok(false);
    }
    let error = |source: Box<dyn std::error::Error + Send + Sync>| AttachError::Attach {
        target: name.into(),
        source,
    };
    // A bpf_link on a cgroup is always of the "multi" kind and takes no flag that says so.
    let link = program
        .attach(cgroup.as_fd(), CgroupAttachMode::Single)
        .map_err(|e| error(Box::new(e)))?;
    let link = program.take_link(link).map_err(|e| error(Box::new(e)))?;
    let link: FdLink = link.try_into().map_err(|e| error(Box::new(e)))?;
    pin(links, name, |path| link.pin(path).map(|_| ()))?;
    Ok(true)
}

/// Attaches a tc program to an interface's ingress; true when something changed.
pub fn ingress(
    links: &Path,
    name: &str,
    program: &mut SchedClassifier,
    ifindex: u32,
) -> Result<bool, AttachError> {
    let same = runs(links, name, program_id(program.info()), ifindex);
    if same && clsact::has_tcx() {
        return Ok(false);
    }
    let pin_error = |source| AttachError::Pin {
        name: name.into(),
        source,
    };
    let interface = interface_name(ifindex).map_err(pin_error)?;
    match attach_ingress(&interface, program, same)? {
        Attached::Link(link) => pin(links, name, |path| link.pin(path).map(|_| ()))?,
        Attached::Filter(made) => {
            if made.qdisc
                && let Some(mark) = qdisc_mark(links, ifindex)
            {
                fs::create_dir_all(mark).map_err(pin_error)?;
            }
            if same {
                return Ok(made.filter);
            }
            pin(links, name, |path| program.pin(path))?;
        }
    }
    Ok(true)
}

/// A directory that says that the interface's clsact qdisc is of our making. Beside the versions of the ABI, so that
/// all of them find it; like the qdisc it is gone after the next boot.
pub fn qdisc_mark(links: &Path, ifindex: u32) -> Option<PathBuf> {
    let bpffs = links.parent()?.parent()?;
    Some(bpffs.join(QDISC_MARKS).join(ifindex.to_string()))
}

/// Directory of these marks.
pub const QDISC_MARKS: &str = "clsact";

/// How long an interface may take to be free of our own old link.
const LET_GO_TIME_MAX: Duration = Duration::from_secs(1);

fn is_busy(error: &AttachError) -> bool {
    let AttachError::Attach { source, .. } = error else {
        return false;
    };
    matches!(source.downcast_ref(), Some(ProgramError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EBUSY))
}

/// Attaches the XDP program to an interface; true when something changed. An interface has one at a time: what runs
/// another program or in another mode is taken off first, and the tc program serves meanwhile.
pub fn xdp(
    links: &Path,
    name: &str,
    program: &mut Xdp,
    ifindex: u32,
    mode: XdpMode,
) -> Result<bool, AttachError> {
    let full = format!("{name}-{mode:?}").to_lowercase();
    if runs(links, &full, program_id(program.info()), ifindex) {
        return Ok(false);
    }
    let was_ours = detach_xdp(links, name).map_err(|source| AttachError::Pin {
        name: name.into(),
        source,
    })?;
    // The kernel lets a link go some time after its pin (bpf_link_put is deferred).
    let deadline = Instant::now() + LET_GO_TIME_MAX;
    let link = loop {
        match super::xdp::attach_link(program, ifindex, mode) {
            Err(e) if was_ours && is_busy(&e) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => break other?,
        }
    };
    pin(links, &full, |path| link.pin(path).map(|_| ()))?;
    Ok(true)
}

/// Removes an interface's XDP link, whatever its mode; true when there was one.
pub fn detach_xdp(links: &Path, name: &str) -> io::Result<bool> {
    let prefix = format!("{name}-");
    let mut found = false;
    for other in names(links)?.iter().filter(|other| other.starts_with(&prefix)) {
        unpin(links, other)?;
        found = true;
    }
    Ok(found)
}

/// What holds a tc program.
pub enum Attached {
    /// A tcx link, gone with its last descriptor or pin.
    Link(FdLink),
    /// A clsact filter, gone with its interface.
    Filter(clsact::Made),
}

/// Attaches a tc program to an interface's ingress, by whatever the kernel has. A clsact filter that is there
/// already keeps its program when `same` says that it is this one.
pub fn attach_ingress(
    interface: &str,
    program: &mut SchedClassifier,
    same: bool,
) -> Result<Attached, AttachError> {
    let error = |source: Box<dyn std::error::Error + Send + Sync>| AttachError::Attach {
        target: interface.into(),
        source,
    };
    if !clsact::has_tcx() {
        let made = clsact::attach(interface, program, same).map_err(|e| error(Box::new(e)))?;
        return Ok(Attached::Filter(made));
    }
    let link = program
        .attach_with_options(
            interface,
            TcAttachType::Ingress,
            TcAttachOptions::TcxOrder(LinkOrder::default()),
        )
        .map_err(|e| error(Box::new(e)))?;
    let link = program.take_link(link).map_err(|e| error(Box::new(e)))?;
    Ok(Attached::Link(link.try_into().map_err(|e| error(Box::new(e)))?))
}

/// Removes a link, or a filter on the interface that the name ends with; absent is success.
pub fn detach(links: &Path, name: &str) -> io::Result<()> {
    if !clsact::has_tcx()
        && links.join(name).exists()
        && !name.starts_with(NEW)
        && let Some(ifindex) = name.rsplit('-').next().and_then(|n| n.parse().ok())
    {
        match (interface_name(ifindex), qdisc_mark(links, ifindex)) {
            (Ok(interface), _) => clsact::detach(&interface)?,
            // The qdisc went with its interface, whose number another one may get.
            (Err(_), Some(mark)) => match fs::remove_dir(mark) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            },
            _ => {}
        }
    }
    unpin(links, name)
}

fn unpin(links: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(links.join(name)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Names of the pinned links; leftovers of an interrupted replacement are removed.
pub fn names(links: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(links)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(NEW) {
            unpin(links, &name)?;
        } else {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether a pinned tc link or filter is still attached to the interface that it was made for.
pub fn is_attached(links: &Path, name: &str, ifindex: u32) -> bool {
    let Ok(info) = pinned_info(&links.join(name)) else {
        return false;
    };
    match info.get("ifindex") {
        Some(index) => *index == ifindex.to_string(),
        None => interface_name(ifindex).is_ok(),
    }
}

/// Whether what is pinned under the name runs the program; a tc link also has to be on the interface.
fn runs(links: &Path, name: &str, program: Option<u32>, ifindex: u32) -> bool {
    let (Some(program), Ok(info)) = (program, pinned_info(&links.join(name))) else {
        return false;
    };
    info.get("prog_id") == Some(&program.to_string())
        && (ifindex == 0 || info.get("ifindex").is_none_or(|i| *i == ifindex.to_string()))
}

fn program_id(info: Result<ProgramInfo, ProgramError>) -> Option<u32> {
    info.ok().map(|info| info.id())
}

/// Pins what is attached now, then lets it take the name: what had it goes with its pin.
fn pin(links: &Path, name: &str, pin: impl FnOnce(&Path) -> Result<(), PinError>) -> Result<(), AttachError> {
    let error = |source| AttachError::Pin {
        name: name.into(),
        source,
    };
    let new = format!("{NEW}{name}");
    unpin(links, &new).map_err(error)?;
    pin(&links.join(&new)).map_err(|e| error(io::Error::other(e)))?;
    fs::rename(links.join(&new), links.join(name)).map_err(error)
}
