// SPDX-License-Identifier: MIT OR Apache-2.0
//! BPF programs of a few dozen instructions, and bpf(2) for them: the harness has to be small to be subtracted.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// Bytes at the front of the frame that [`restoring`] puts back.
pub const HEAD: usize = 64;
const XDP_TX: i32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const MAP_TYPE_PROG_ARRAY: u32 = 3;
const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const TEST_RUN: libc::c_long = 10;

/// One instruction (linux/bpf.h, `struct bpf_insn`).
fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    u64::from(code)
        | u64::from(dst) << 8
        | u64::from(src) << 12
        | u64::from(off as u16) << 16
        | u64::from(imm as u32) << 32
}

fn mov(dst: u8, src: u8) -> u64 {
    insn(0xbf, dst, src, 0, 0)
}

fn mov_imm(dst: u8, imm: i32) -> u64 {
    insn(0xb7, dst, 0, 0, imm)
}

fn load_u32(dst: u8, src: u8, off: i16) -> u64 {
    insn(0x61, dst, src, off, 0)
}

fn call(helper: i32) -> u64 {
    insn(0x85, 0, 0, 0, helper)
}

const EXIT: u64 = 0x95;

/// `return XDP_TX`.
pub fn floor() -> io::Result<OwnedFd> {
    load(&[mov_imm(0, XDP_TX), EXIT])
}

/// What each run of a [`restoring`] program does to the frame.
pub struct Frames<'a> {
    /// The frame as it came in.
    pub frame: &'a [u8],
    /// Bits of the client's port that are random.
    pub port_mask: u16,
    /// Bits of the low half of its address that are.
    pub addr_mask: u16,
}

/// A program that makes the frame what it was, gives it a client, and calls the program that is measured.
pub fn restoring(target: BorrowedFd, frames: &Frames) -> io::Result<(OwnedFd, OwnedFd)> {
    let array = prog_array(target)?;
    let len = frames.frame.len() as i32;
    let mut code = vec![
        mov(6, 1),
        load_u32(2, 6, 0),
        load_u32(3, 6, 4),
        insn(0x1f, 3, 2, 0, 0),
        insn(0x15, 3, 0, 4, len), // as long as it was?
        insn(0x17, 3, 0, 0, len),
        mov(1, 6),
        mov(2, 3),
        call(44), // xdp_adjust_head
        load_u32(7, 6, 0),
        load_u32(3, 6, 4),
        mov(1, 7),
        insn(0x07, 1, 0, 0, HEAD as i32),
        insn(0xbd, 1, 3, 2, 0), // r1 <= data_end
        mov_imm(0, 0),
        EXIT,
    ];
    for (at, word) in (0..).step_by(4).zip(frames.frame[..HEAD].chunks(4)) {
        let word = i32::from_le_bytes(word.try_into().expect("four bytes"));
        code.push(insn(0x62, 7, 0, at, word));
    }
    // The same work whether or not a mask lets anything through.
    let fixed = |at: usize, mask: u16| {
        i32::from(u16::from_le_bytes([frames.frame[at], frames.frame[at + 1]]) & !mask)
    };
    for (at, mask, shift) in [(34, frames.port_mask, 0), (28, frames.addr_mask, 16)] {
        if shift == 0 {
            code.push(call(7)); // get_prandom_u32
            code.push(mov(8, 0));
        }
        code.extend([
            mov(1, 8),
            insn(0x77, 1, 0, 0, shift),
            insn(0x57, 1, 0, 0, i32::from(mask)),
            insn(0x47, 1, 0, 0, fixed(at, mask)),
            insn(0x6b, 7, 1, at as i16, 0),
        ]);
    }
    code.extend([
        mov(1, 6),
        insn(0x18, 2, 1, 0, array.as_raw_fd()),
        0,
        mov_imm(3, 0),
        call(12), // tail_call
        mov_imm(0, 0),
        EXIT,
    ]);
    Ok((load(&code)?, array))
}

/// Runs an XDP program over a frame that came in by an interface; nanoseconds per run and the last verdict.
pub fn run(program: &OwnedFd, frame: &[u8], ifindex: u32, repeat: u32) -> io::Result<(u32, u32)> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        pad: u32,
    }
    // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
    let mut attr = Attr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: context.as_ptr() as u64,
        ..Default::default()
    };
    bpf(TEST_RUN, &mut attr)?;
    Ok((attr.duration, attr.retval))
}

fn load(code: &[u64]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let mut log = vec![0u8; 64 << 10];
    let mut attr = Attr {
        prog_type: PROG_TYPE_XDP,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr() as u64,
        expected_attach_type: ATTACH_XDP,
        ..Default::default()
    };
    bpf(PROG_LOAD, &mut attr).and_then(owned).map_err(|e| {
        let said = String::from_utf8_lossy(&log);
        io::Error::other(format!("{e}: {}", said.trim_end_matches('\0')))
    })
}

fn prog_array(program: BorrowedFd) -> io::Result<OwnedFd> {
    // map_type, key_size, value_size, max_entries, map_flags
    let mut create = [MAP_TYPE_PROG_ARRAY, 4, 4, 1, 0];
    let array = bpf(MAP_CREATE, &mut create).and_then(owned)?;
    let (key, value) = (0u32, program.as_raw_fd());
    // map_fd, key, value, flags
    let mut update = [
        array.as_raw_fd() as u64,
        (&raw const key) as u64,
        (&raw const value) as u64,
        0,
    ];
    bpf(MAP_UPDATE, &mut update)?;
    Ok(array)
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i64> {
    // SAFETY: the attribute and all that it points to outlive the call; the size is its own.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
