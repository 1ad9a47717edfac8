// SPDX-License-Identifier: MIT OR Apache-2.0
//! tc attachment without tcx: a filter on the clsact qdisc, for kernels before 6.6 (tcx came with e420bed02507).
//!
//! Such a filter belongs to the interface and to nobody's descriptor. What stands in for the pinned link is a pin
//! of the program, under the link's name: it says which program was attached, and the filter's fixed priority and
//! handle say which filter is ours.

use std::{io, sync::OnceLock};

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    links::Link as _,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
};

/// Our filter's priority: "PO".
const PRIORITY: u16 = 0x504f;
/// Our filter's handle inside that priority.
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Whether the kernel has tcx, found out by asking it for the programs of `lo`.
pub fn has_tcx() -> bool {
    static HAS_TCX: OnceLock<bool> = OnceLock::new();
    *HAS_TCX.get_or_init(|| SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok())
}

/// Puts the program into our filter of the interface's ingress.
///
/// True when there was no filter of ours before. A filter that is there is given the program, unless `same` says
/// that it runs it already.
pub fn attach(interface: &str, program: &mut SchedClassifier, same: bool) -> Result<bool, ProgramError> {
    match qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(e)) if e.raw_os_error() != Some(libc::EEXIST) => {
            return Err(TcError::NetlinkError(e).into());
        }
        Err(TcError::IoError(e)) => return Err(TcError::IoError(e).into()),
        _ => {}
    }
    let options = NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    };
    let (link, new) = match program.attach_with_options(
        interface,
        TcAttachType::Ingress,
        TcAttachOptions::Netlink(options),
    ) {
        Err(ProgramError::TcError(TcError::NetlinkError(e))) if e.raw_os_error() == Some(libc::EEXIST) => {
            if same {
                return Ok(false);
            }
            (
                program.attach_to_link(filter(interface).map_err(TcError::IoError)?)?,
                false,
            )
        }
        other => (other?, true),
    };
    // The filter stays when this process goes.
    std::mem::forget(program.take_link(link)?);
    Ok(new)
}

/// Removes our filter; an interface that is gone, or has none, is success.
pub fn detach(interface: &str) -> io::Result<()> {
    let gone = [libc::ENODEV, libc::ENOENT, libc::EINVAL];
    match filter(interface).map(|link| link.detach()) {
        Ok(Err(ProgramError::TcError(TcError::NetlinkError(e))))
            if e.raw_os_error().is_some_and(|e| gone.contains(&e)) =>
        {
            Ok(())
        }
        Ok(Err(e)) => Err(io::Error::other(e)),
        Ok(Ok(())) => Ok(()),
        Err(e) if e.raw_os_error().is_some_and(|e| gone.contains(&e)) => Ok(()),
        Err(e) => Err(e),
    }
}

fn filter(interface: &str) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, HANDLE, None)
}
