// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The eBPF object: entry points only. Decisions are in the library, maps in `maps`, packet access in `frame`.
#![no_std]
#![no_main]
// The round-robin counter's atomic add (see `maps`).
#![feature(asm_experimental_arch)]

mod frame;
mod maps;
mod sock;
mod stages;
mod tc;
mod words;
mod xdp;
mod xdp_frame;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};
use sock::Call;

/// cgroup/connect4: TCP and UDP sockets, IPv4. Minimum kernel: 4.17; netns cookie 5.7; refusal 5.18.
#[cgroup_sock_addr(connect4)]
pub fn portico_connect4(ctx: SockAddrContext) -> i32 {
    sock::v4(&ctx, Call::Connect)
}

/// cgroup/sendmsg4: datagrams of sockets that are not connected. Minimum kernel: 4.18.
#[cgroup_sock_addr(sendmsg4)]
pub fn portico_sendmsg4(ctx: SockAddrContext) -> i32 {
    sock::v4(&ctx, Call::Sendmsg)
}

/// cgroup/recvmsg4: the sender's address as the application knows it. Minimum kernel: 5.2.
#[cgroup_sock_addr(recvmsg4)]
pub fn portico_recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::v4(&ctx, Call::Reverse)
}

/// cgroup/getpeername4: the peer's address as the application knows it. Minimum kernel: 5.8.
#[cgroup_sock_addr(getpeername4)]
pub fn portico_getpeername4(ctx: SockAddrContext) -> i32 {
    sock::v4(&ctx, Call::Reverse)
}

/// cgroup/connect6: TCP and UDP sockets, IPv6, and IPv4 by mapped addresses. Minimum kernel: as connect4.
#[cgroup_sock_addr(connect6)]
pub fn portico_connect6(ctx: SockAddrContext) -> i32 {
    sock::v6(&ctx, Call::Connect)
}

/// cgroup/sendmsg6: as sendmsg4.
#[cgroup_sock_addr(sendmsg6)]
pub fn portico_sendmsg6(ctx: SockAddrContext) -> i32 {
    sock::v6(&ctx, Call::Sendmsg)
}

/// cgroup/recvmsg6: as recvmsg4.
#[cgroup_sock_addr(recvmsg6)]
pub fn portico_recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::v6(&ctx, Call::Reverse)
}

/// cgroup/getpeername6: as getpeername4.
#[cgroup_sock_addr(getpeername6)]
pub fn portico_getpeername6(ctx: SockAddrContext) -> i32 {
    sock::v6(&ctx, Call::Reverse)
}

/// tc ingress of an uplink: clients of published ports. Minimum kernel: 5.10 (redirect_neigh).
#[classifier]
pub fn portico_uplink(ctx: TcContext) -> i32 {
    tc::uplink(&ctx)
}

/// tc ingress of a task's host-side gateway veth: replies of published ports. Minimum kernel: 5.10.
#[classifier]
pub fn portico_task(ctx: TcContext) -> i32 {
    tc::task(&ctx)
}

/// tc ingress of the tunnel device. Minimum kernel: 5.10.
#[classifier]
pub fn portico_tunnel(ctx: TcContext) -> i32 {
    tc::tunnel(&ctx)
}

/// XDP of an uplink: clients of published ports whose task is on another node. Minimum kernel: 5.9 (bpf_link).
#[xdp]
pub fn portico_xdp(ctx: XdpContext) -> u32 {
    xdp::uplink(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The verifier refuses an endless loop, so an object that can get here does not load.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
