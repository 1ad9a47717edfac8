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
use proxy_ebpf::datapath::sock::{self, Address, Caller, Verdict};

use crate::maps::{Kernel, ticks};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;

#[inline(always)]
pub fn connect(ctx: &SockAddrContext) -> i32 {
    apply(ctx, sock::connect(&Kernel, caller(ctx), address(ctx)))
}

#[inline(always)]
pub fn sendmsg(ctx: &SockAddrContext) -> i32 {
    apply(ctx, sock::sendmsg(&Kernel, caller(ctx), address(ctx)))
}

#[inline(always)]
pub fn reverse(ctx: &SockAddrContext) -> i32 {
    apply(ctx, sock::reverse(&Kernel, caller(ctx), address(ctx)))
}

#[inline(always)]
fn caller(ctx: &SockAddrContext) -> Caller {
    // SAFETY: the kernel passes a valid context for the duration of the program.
    unsafe {
        Caller {
            namespace: bpf_get_netns_cookie(ctx.as_ptr()),
            socket: bpf_get_socket_cookie(ctx.as_ptr()),
            protocol: (*ctx.sock_addr).protocol as u8,
            now: ticks(),
        }
    }
}

#[inline(always)]
fn address(ctx: &SockAddrContext) -> Address {
    // SAFETY: as above. user_port is a 32-bit field that holds a 16-bit port in network order.
    unsafe {
        Address {
            addr_be: (*ctx.sock_addr).user_ip4,
            port_be: (*ctx.sock_addr).user_port as u16,
        }
    }
}

#[inline(always)]
fn apply(ctx: &SockAddrContext, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => ALLOW,
        Verdict::Use(address) => {
            // SAFETY: as above; the verifier allows these two fields to be written.
            unsafe {
                (*ctx.sock_addr).user_ip4 = address.addr_be;
                (*ctx.sock_addr).user_port = u32::from(address.port_be);
            }
            ALLOW
        }
        Verdict::Refuse => {
            // SAFETY: no memory involved.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            DENY
        }
    }
}
