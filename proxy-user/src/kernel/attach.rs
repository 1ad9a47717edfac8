//! Attaching programs through pinned links, so that they stay when the agent goes.
//!
//! A link is pinned under a name that says what it is attached to. One that is there and runs the program wanted
//! is left alone. Another program is attached beside it and pinned as `new-NAME`, then takes the name: at every
//! moment at least one of the two is attached, and two at once do no harm (the second sees addresses that the
//! first has translated already).

use std::{fs, io, os::fd::AsFd, path::Path};

use aya::programs::{
    CgroupAttachMode, CgroupSockAddr, LinkOrder, SchedClassifier, TcAttachType, links::FdLink,
    tc::TcAttachOptions,
};

use super::{netlink::interface_name, pins::pinned_info};

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
    if runs(links, name, id, None) {
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
    pin(links, name, link)?;
    Ok(true)
}

/// Attaches a tc program to an interface's ingress; true when something changed.
pub fn ingress(
    links: &Path,
    name: &str,
    program: &mut SchedClassifier,
    ifindex: u32,
) -> Result<bool, AttachError> {
    let id = program_id(program.info());
    if runs(links, name, id, Some(ifindex)) {
        return Ok(false);
    }
    let interface = interface_name(ifindex).map_err(|source| AttachError::Pin {
        name: name.into(),
        source,
    })?;
    let error = |source: Box<dyn std::error::Error + Send + Sync>| AttachError::Attach {
        target: interface.clone(),
        source,
    };
    let link = program
        .attach_with_options(
            &interface,
            TcAttachType::Ingress,
            TcAttachOptions::TcxOrder(LinkOrder::default()),
        )
        .map_err(|e| error(Box::new(e)))?;
    let link = program.take_link(link).map_err(|e| error(Box::new(e)))?;
    let link: FdLink = link.try_into().map_err(|e| error(Box::new(e)))?;
    pin(links, name, link)?;
    Ok(true)
}

/// Removes a link; absent is success.
pub fn detach(links: &Path, name: &str) -> io::Result<()> {
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
            detach(links, &name)?;
        } else {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether a pinned tc link is still attached to the interface that it was made for.
pub fn is_attached(links: &Path, name: &str, ifindex: u32) -> bool {
    pinned_info(&links.join(name)).is_ok_and(|info| info.get("ifindex") == Some(&ifindex.to_string()))
}

fn runs(links: &Path, name: &str, program: Option<u32>, ifindex: Option<u32>) -> bool {
    let (Some(program), Ok(info)) = (program, pinned_info(&links.join(name))) else {
        return false;
    };
    info.get("prog_id") == Some(&program.to_string())
        && ifindex.is_none_or(|i| info.get("ifindex") == Some(&i.to_string()))
}

fn program_id(info: Result<aya::programs::ProgramInfo, aya::programs::ProgramError>) -> Option<u32> {
    info.ok().map(|info| info.id())
}

fn pin(links: &Path, name: &str, link: FdLink) -> Result<(), AttachError> {
    let error = |source| AttachError::Pin {
        name: name.into(),
        source,
    };
    let new = format!("{NEW}{name}");
    detach(links, &new).map_err(error)?;
    link.pin(links.join(&new))
        .map_err(|e| error(io::Error::other(e)))?;
    fs::rename(links.join(&new), links.join(name)).map_err(error)
}
