// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Socket hooks: from `bpf_sock_addr` to the library and back.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_socket_cookie,
        generated::{bpf_get_netns_cookie, bpf_set_retval},
    },
    programs::SockAddrContext,
};
use proxy_ebpf::datapath::{
    ip::{Ip, V6},
    sock::{self, Address, Caller, Verdict},
};

use crate::maps::{Kernel, ticks};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// The hook of one call.
#[derive(Clone, Copy)]
pub enum Call {
    Connect,
    Sendmsg,
    /// recvmsg and getpeername.
    Reverse,
}

/// An IPv4 socket's.
#[inline(always)]
pub fn v4(ctx: &SockAddrContext, call: Call) -> i32 {
    // SAFETY: the kernel passes a valid context for the duration of the program.
    let addr = unsafe { (*ctx.sock_addr).user_ip4 };
    decide(ctx, call, addr, |addr| {
        // SAFETY: as above; the verifier allows the field to be written.
        unsafe { (*ctx.sock_addr).user_ip4 = addr }
    })
}

/// An IPv6 socket's.
#[inline(always)]
pub fn v6(ctx: &SockAddrContext, call: Call) -> i32 {
    // The verifier wants the words one by one.
    // SAFETY: as above.
    let word = |i: usize| unsafe { (&raw const (*ctx.sock_addr).user_ip6[i]).read_volatile() };
    let addr = V6([word(0), word(1), word(2), word(3)]);
    decide(ctx, call, addr, |V6([a, b, c, d])| {
        for (i, value) in [(0, a), (1, b), (2, c), (3, d)] {
            // SAFETY: as above.
            unsafe { (&raw mut (*ctx.sock_addr).user_ip6[i]).write_volatile(value) }
        }
    })
}

#[inline(always)]
fn decide<A: Ip>(ctx: &SockAddrContext, call: Call, addr: A, set: impl Fn(A)) -> i32 {
    // SAFETY: as above. user_port is a 32-bit field that holds a 16-bit port in network order.
    let port_be = unsafe { (*ctx.sock_addr).user_port } as u16;
    let (caller, address) = (caller(ctx), Address { addr, port_be });
    let verdict = match call {
        Call::Connect => sock::connect(&Kernel, caller, address),
        Call::Sendmsg => sock::sendmsg(&Kernel, caller, address),
        Call::Reverse => sock::reverse(&Kernel, caller, address),
    };
    match verdict {
        Verdict::Pass => ALLOW,
        Verdict::Use(address) => {
            set(address.addr);
            // SAFETY: as above.
            unsafe { (*ctx.sock_addr).user_port = u32::from(address.port_be) };
            ALLOW
        }
        Verdict::Refuse => {
            // SAFETY: no memory involved.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            DENY
        }
    }
}

#[inline(always)]
fn caller(ctx: &SockAddrContext) -> Caller {
    // SAFETY: as above.
    unsafe {
        Caller {
            namespace: bpf_get_netns_cookie(ctx.as_ptr()),
            socket: bpf_get_socket_cookie(ctx.as_ptr()),
            protocol: (*ctx.sock_addr).protocol as u8,
            now: ticks(),
        }
    }
}
