// SPDX-License-Identifier: MIT OR Apache-2.0
//! An XDP program that lets everything pass: two instructions, so nothing is compiled for it.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};

/// linux/bpf.h: commands, types, `XDP_PASS`, and `XDP_FLAGS_DRV_MODE` of linux/if_link.h.
const PROG_LOAD: i64 = 5;
const LINK_CREATE: i64 = 28;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;
const XDP_PASS: i32 = 2;
const DRIVER_MODE: u32 = 1 << 2;

/// `struct bpf_insn`: opcode, registers, offset, immediate.
#[repr(C)]
struct Instruction(u8, u8, i16, i32);

/// `r0 = XDP_PASS; exit`.
static PASS: [Instruction; 2] = [Instruction(0xb7, 0, 0, XDP_PASS), Instruction(0x95, 0, 0, 0)];

/// The first fields of `union bpf_attr` for each command; what follows is zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instructions: u32,
    first: u64,
    license: u64,
    /// Verifier's log and all that is not used.
    rest: [u64; 13],
}

#[repr(C)]
#[derive(Default)]
struct Create {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
    rest: [u64; 14],
}

/// Attaches it to an interface of the calling thread's namespace, until the value is dropped.
pub fn attach(interface: &str) -> Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: a string that ends with zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "{interface}: {}", io::Error::last_os_error());
    let load = Load {
        program_type: PROG_TYPE_XDP,
        instructions: PASS.len() as u32,
        first: PASS.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    let program = call(PROG_LOAD, &load).context("a program that passes everything")?;
    let create = Create {
        program: program.as_raw_fd() as u32,
        interface: index,
        attach_type: ATTACH_TYPE_XDP,
        flags: DRIVER_MODE,
        ..Create::default()
    };
    call(LINK_CREATE, &create).with_context(|| format!("XDP on {interface}"))
}

fn call<T>(command: i64, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are plain integers, as long as is said, and what they point to is static.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: new, and nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
