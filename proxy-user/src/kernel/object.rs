// SPDX-License-Identifier: MIT OR Apache-2.0
//! The eBPF object: embedded in the binary, loaded once per content and configuration.
//!
//! The programs are pinned under a hash of object and settings. An agent that starts again with the same object
//! and settings takes them from there and loads nothing; another object is loaded beside the old one, which goes
//! on until each link has been replaced.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        CgroupSockAddr, Program, ProgramError, SchedClassifier, Xdp,
        cgroup_sock_addr::CgroupSockAddrAttachType,
    },
};
use aya_obj::programs::xdp::XdpAttachType;
use proxy_ebpf::abi::Settings;

use super::pins::Pins;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portico.o"));

/// Names of all maps that are pinned and shared by successive agents.
pub const MAPS: [&str; 21] = [
    "FRONTENDS",
    "FRONTENDS6",
    "SLOTS",
    "BACKENDS",
    "SCOPES",
    "LOCAL_ADDRS",
    "LOCAL_TASKS",
    "NEXT",
    "FLOWS",
    "SOCKS",
    "SOCKS6",
    "COUNTERS",
    "ACTIVE",
    "TABLES",
    "AFFINITY",
    "FRAGMENTS",
    "SOURCES",
    "DENIED",
    "GENERATION",
    "WATCH",
    "EVENTS",
];

/// The socket hooks.
pub const SOCK_PROGRAMS: [(&str, CgroupSockAddrAttachType); 8] = [
    ("portico_connect4", CgroupSockAddrAttachType::Connect4),
    ("portico_sendmsg4", CgroupSockAddrAttachType::UDPSendMsg4),
    ("portico_recvmsg4", CgroupSockAddrAttachType::UDPRecvMsg4),
    ("portico_getpeername4", CgroupSockAddrAttachType::GetPeerName4),
    ("portico_connect6", CgroupSockAddrAttachType::Connect6),
    ("portico_sendmsg6", CgroupSockAddrAttachType::UDPSendMsg6),
    ("portico_recvmsg6", CgroupSockAddrAttachType::UDPRecvMsg6),
    ("portico_getpeername6", CgroupSockAddrAttachType::GetPeerName6),
];

/// The tc programs.
pub const TC_PROGRAMS: [&str; 3] = ["portico_uplink", "portico_task", "portico_tunnel"];

/// The XDP program.
pub const XDP_PROGRAM: &str = "portico_xdp";

/// Why the object could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Built by plain cargo.
    #[error("this binary was built without the eBPF object; build it with `cargo xtask build`")]
    NotBuilt,
    /// The kernel refused a program or map; the verifier's log is in the source.
    #[error("eBPF object: {0}")]
    Load(#[from] aya::EbpfError),
    /// A program could not be loaded, pinned or opened.
    #[error("eBPF program {name}: {source}")]
    Program {
        /// Program name.
        name: &'static str,
        /// What the kernel said, with the verifier's log.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// bpffs refused.
    #[error("pins: {0}")]
    Pins(#[from] std::io::Error),
}

/// The loaded object's programs.
pub struct Object {
    dir: PathBuf,
    /// Hash of object and settings, part of the pin path.
    pub hash: String,
    /// Whether the programs were there already.
    pub adopted: bool,
}

impl Object {
    /// Opens the programs for `settings`: pinned ones, or loaded now.
    pub fn open(pins: &Pins, settings: &Settings) -> Result<Object, ObjectError> {
        if OBJECT.is_empty() {
            return Err(ObjectError::NotBuilt);
        }
        let hash = hash(settings);
        let dir = pins.programs(&hash);
        let adopted = all_programs().all(|name| dir.join(name).exists())
            && MAPS.iter().all(|m| pins.maps().join(m).exists());
        if !adopted {
            load(pins, settings, &dir)?;
        }
        Ok(Object { dir, hash, adopted })
    }

    /// A socket hook, ready to attach.
    pub fn sock(
        &self,
        name: &'static str,
        kind: CgroupSockAddrAttachType,
    ) -> Result<CgroupSockAddr, ObjectError> {
        CgroupSockAddr::from_pin(self.dir.join(name), kind).map_err(|e| program_error(name, e))
    }

    /// A tc program, ready to attach.
    pub fn tc(&self, name: &'static str) -> Result<SchedClassifier, ObjectError> {
        SchedClassifier::from_pin(self.dir.join(name)).map_err(|e| program_error(name, e))
    }

    /// The XDP program, ready to attach.
    pub fn xdp(&self) -> Result<Xdp, ObjectError> {
        Xdp::from_pin(self.dir.join(XDP_PROGRAM), XdpAttachType::Interface)
            .map_err(|e| program_error(XDP_PROGRAM, e))
    }
}

/// Loads the object with the given pin directory for its maps; nothing is attached and no program is pinned.
pub fn load_unpinned(maps: Option<&Path>, settings: &Settings) -> Result<Ebpf, ObjectError> {
    if OBJECT.is_empty() {
        return Err(ObjectError::NotBuilt);
    }
    let mut loader = EbpfLoader::new();
    loader.override_global("SETTINGS", settings, true);
    loader.map_max_entries("FLOWS", settings.flow_mask + 1);
    if let Some(dir) = maps {
        for name in MAPS {
            loader.map_pin_path(name, dir.join(name));
        }
    }
    let mut ebpf = loader.load(OBJECT)?;
    for (name, _) in SOCK_PROGRAMS {
        let program = with::<CgroupSockAddr>(&mut ebpf, name)?;
        patiently(|| program.load()).map_err(|e| program_error(name, e))?;
    }
    for name in TC_PROGRAMS {
        let program = with::<SchedClassifier>(&mut ebpf, name)?;
        patiently(|| program.load()).map_err(|e| program_error(name, e))?;
    }
    let program = with::<Xdp>(&mut ebpf, XDP_PROGRAM)?;
    patiently(|| program.load()).map_err(|e| program_error(XDP_PROGRAM, e))?;
    Ok(ebpf)
}

/// How often a program is given to the verifier, which gives up with EAGAIN when the thread has a signal to look at
/// (do_check() in kernel/bpf/verifier.c).
const LOAD_TRIES: u32 = 5;

fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    let mut tries = 1;
    loop {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) && tries < LOAD_TRIES =>
            {
                tries += 1;
            }
            other => return other,
        }
    }
}

fn load(pins: &Pins, settings: &Settings, dir: &Path) -> Result<(), ObjectError> {
    let mut ebpf = load_unpinned(Some(&pins.maps()), settings)?;
    // What a crash left half pinned is of no use to anyone.
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    for name in all_programs() {
        let program = ebpf.program_mut(name).expect("load_unpinned found every program");
        program.pin(dir.join(name)).map_err(|e| program_error(name, e))?;
    }
    Ok(())
}

fn with<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, ObjectError>
where
    &'a mut P: TryFrom<&'a mut Program>,
    <&'a mut P as TryFrom<&'a mut Program>>::Error: std::error::Error + Send + Sync + 'static,
{
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| program_error(name, std::io::Error::other("not in the object")))?;
    program.try_into().map_err(|e| program_error(name, e))
}

fn all_programs() -> impl Iterator<Item = &'static str> {
    let sock = SOCK_PROGRAMS.iter().map(|(name, _)| *name);
    sock.chain(TC_PROGRAMS).chain([XDP_PROGRAM])
}

fn program_error(name: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> ObjectError {
    ObjectError::Program {
        name,
        source: Box::new(source),
    }
}

/// FNV-1a over object and settings: it only has to tell builds apart, not to resist anyone.
fn hash(settings: &Settings) -> String {
    let settings = [
        settings.tunnel_ifindex,
        settings.node_be,
        settings.tunnel_mss,
        settings.uplink_ifindex,
        settings.flow_mask,
        settings.guard,
        settings.syn_rate,
        settings.syn_mask_be,
    ]
    .into_iter()
    .chain(settings.timeouts);
    let bytes = OBJECT
        .iter()
        .copied()
        .chain(settings.flat_map(|w| w.to_le_bytes()));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_that_was_interrupted_is_asked_again_and_not_for_ever() {
        let refusal = |errno| ProgramError::LoadError {
            io_error: std::io::Error::from_raw_os_error(errno),
            verifier_log: aya_obj::VerifierLog::new(String::new()),
        };
        let asked = |until: u32, errno| {
            let mut tries = 0;
            let result = patiently(|| {
                tries += 1;
                if tries < until {
                    Err(refusal(errno))
                } else {
                    Ok(())
                }
            });
            (result.is_ok(), tries)
        };
        assert_eq!(asked(3, libc::EAGAIN), (true, 3));
        assert_eq!(asked(100, libc::EAGAIN), (false, LOAD_TRIES));
        assert_eq!(asked(3, libc::EACCES), (false, 1));
    }
}
