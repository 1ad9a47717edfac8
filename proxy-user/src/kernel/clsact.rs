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
use futures_util::TryStreamExt as _;
use netlink_packet_route::tc::{TcAttribute, TcHandle as NetlinkTcHandle};

use super::netlink;

/// Our filter's priority: "PO".
pub(super) const PRIORITY: u16 = 0x504f;
/// Our filter's handle inside that priority.
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Whether the kernel has tcx, found out by asking it for the programs of `lo`.
pub fn has_tcx() -> bool {
    static HAS_TCX: OnceLock<bool> = OnceLock::new();
    *HAS_TCX.get_or_init(|| SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok())
}

/// Puts the program into our filter of the interface's ingress.
///
/// A filter that is there is given the program, unless `same` says that it runs it already.
pub fn attach(interface: &str, program: &mut SchedClassifier, same: bool) -> Result<Made, ProgramError> {
    let qdisc = match qdisc_add_clsact(interface) {
        Ok(()) => true,
        Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST) => false,
        Err(error) => return Err(error.into()),
    };
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
                return Ok(Made { filter: false, qdisc });
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
    Ok(Made { filter: new, qdisc })
}

/// What was not there before.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// A filter of ours.
    pub filter: bool,
    /// The qdisc that filters hang on.
    pub qdisc: bool,
}

/// Removes the interface's clsact qdisc if no filter hangs on it any more; whether it did.
pub fn remove_empty(ifindex: u32) -> io::Result<bool> {
    let index = ifindex as i32;
    netlink::run(async |handle| {
        for ingress in [true, false] {
            let filters = handle.traffic_filter(index).get();
            let filters = if ingress {
                filters.ingress()
            } else {
                filters.egress()
            };
            if filters.execute().try_next().await?.is_some() {
                return Ok(false);
            }
        }
        let mut request = handle.qdisc().del(index);
        let message = request.message_mut();
        message.header.parent = NetlinkTcHandle::CLSACT;
        message.header.handle = NetlinkTcHandle {
            major: 0xffff,
            minor: 0,
        };
        message.attributes.push(TcAttribute::Kind("clsact".into()));
        request.execute().await.map(|()| true)
    })
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
