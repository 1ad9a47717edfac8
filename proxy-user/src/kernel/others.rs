// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who else has programs where ours are: on an interface, and on the cgroup root's connect hooks.

use std::{fs::File, io, os::fd::AsRawFd as _, path::Path};

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};
use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    link::{LinkAttribute, LinkXdp},
    tc::TcAttribute,
};

use super::{clsact, netlink};

/// How the names of our programs begin; the kernel cuts names after 15 bytes.
const OURS: &str = "portico_";

/// Programs and filters on an interface that are not ours, each as `WHERE NAME`.
pub fn on_interface(name: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for (direction, kind) in [
        ("ingress", TcAttachType::Ingress),
        ("egress", TcAttachType::Egress),
    ] {
        // Fails on kernels without tcx.
        if let Ok((_, programs)) = SchedClassifier::query_tcx(name, kind) {
            let foreign = programs.iter().map(called).filter(|name| !name.starts_with(OURS));
            found.extend(foreign.map(|name| format!("tcx {direction} {name}")));
        }
    }
    let (xdp, filters) = netlink::run(async |handle| {
        let mut links = handle.link().get().match_name(name).execute();
        let mut xdp = None;
        let mut index = 0;
        while let Some(link) = links.try_next().await? {
            index = link.header.index as i32;
            let attributes = link.attributes.iter();
            xdp = attributes.filter_map(xdp_program).next().or(xdp);
        }
        let mut filters = Vec::new();
        for ingress in [true, false] {
            let request = handle.traffic_filter(index).get();
            let request = if ingress {
                request.ingress()
            } else {
                request.egress()
            };
            let mut answers = request.execute();
            while let Some(filter) = answers.try_next().await? {
                let priority = (filter.header.info >> 16) as u16;
                // The kernel tells of a filter's head as well as of the filter.
                let kind = filter.attributes.iter().find_map(|attribute| match attribute {
                    TcAttribute::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
                if priority != clsact::PRIORITY && u32::from(filter.header.handle) != 0 {
                    let direction = if ingress { "ingress" } else { "egress" };
                    filters.push(format!("tc {direction} {}", kind.unwrap_or_default()));
                }
            }
        }
        Ok((xdp, filters))
    })?;
    found.extend(filters);
    if let Some(name) = xdp.map(name_of).filter(|name| !name.starts_with(OURS)) {
        found.push(format!("xdp {name}"));
    }
    Ok(found)
}

fn xdp_program(attribute: &LinkAttribute) -> Option<u32> {
    let LinkAttribute::Xdp(parts) = attribute else {
        return None;
    };
    parts.iter().find_map(|part| match part {
        LinkXdp::ProgId(id) if *id != 0 => Some(*id),
        _ => None,
    })
}

/// BPF_PROG_QUERY of bpf(2).
#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
}

/// Programs on the connect hooks of a cgroup that are not ours.
pub fn on_connect(cgroup: &Path) -> io::Result<Vec<String>> {
    const BPF_PROG_QUERY: libc::c_long = 16;
    const BPF_CGROUP_INET4_CONNECT: u32 = 10;
    const BPF_CGROUP_INET6_CONNECT: u32 = 11;
    /// BPF_CGROUP_MAX_PROGS.
    const PROGRAMS_MAX: usize = 64;
    let folder = File::open(cgroup)?;
    let mut found = Vec::new();
    for kind in [BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT] {
        let mut ids = [0_u32; PROGRAMS_MAX];
        let mut query = Query {
            target: folder.as_raw_fd() as u32,
            kind,
            query_flags: 0,
            attach_flags: 0,
            programs: ids.as_mut_ptr() as u64,
            count: PROGRAMS_MAX as u32,
        };
        // SAFETY: the structure and the array that it names outlive the call; the sizes are theirs.
        let answer =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        let ids = ids.iter().take(query.count as usize);
        found.extend(ids.map(|id| name_of(*id)).filter(|name| !name.starts_with(OURS)));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn name_of(id: u32) -> String {
    let mut all = loaded_programs().filter_map(Result::ok);
    all.find(|program| program.id() == id)
        .map_or_else(|| format!("program {id}"), |program| called(&program))
}

fn called(program: &ProgramInfo) -> String {
    match program.name_as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => format!("program {}", program.id()),
    }
}
