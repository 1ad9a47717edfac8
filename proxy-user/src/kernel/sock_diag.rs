// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets of a namespace, listed and destroyed (sock_diag(7), linux/inet_diag.h).
//!
//! A destroyed TCP socket sends RST to its peer, and its owner gets ECONNABORTED; a destroyed UDP socket is not
//! connected any more, and its owner gets ECONNABORTED once. Both are how the kernel tells an application that it
//! has to connect again. Needs CONFIG_INET_DIAG_DESTROY (Linux 4.5), which Debian and Ubuntu have.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::exchange::Exchange;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// States that have a peer (net/tcp_states.h): ESTABLISHED 1, SYN_SENT 2, SYN_RECV 3, FIN_WAIT1 4, FIN_WAIT2 5,
/// CLOSE_WAIT 8, LAST_ACK 9, CLOSING 11. A connected UDP socket is ESTABLISHED.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Length of `struct inet_diag_sockid`: two ports, two addresses of 16 bytes, interface, cookie.
const ID: usize = 48;
/// Family, state, timer, retransmissions stand before the id in `struct inet_diag_msg`.
const BEFORE_ID: usize = 4;

/// A socket that has a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The kernel's number for it, the same as bpf_get_socket_cookie's.
    pub cookie: u64,
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's; an IPv4-mapped one as IPv4.
    pub peer: SocketAddr,
    /// As the kernel wants it back.
    id: [u8; ID],
    /// AF_INET or AF_INET6.
    family: u8,
    /// IPPROTO_TCP or IPPROTO_UDP.
    protocol: u8,
}

impl Connected {
    fn read(message: &[u8], protocol: u8) -> Option<Connected> {
        let family = *message.first()?;
        let id: [u8; ID] = message.get(BEFORE_ID..BEFORE_ID + ID)?.try_into().ok()?;
        let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
        let address = |at: usize| -> IpAddr {
            let bytes: [u8; 16] = id[at..at + 16].try_into().unwrap_or_default();
            if i32::from(family) == libc::AF_INET {
                Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()
            } else {
                IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
            }
        };
        let half = |at: usize| u32::from_ne_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]);
        Some(Connected {
            cookie: u64::from(half(40)) | u64::from(half(44)) << 32,
            local: SocketAddr::new(address(4), port(0)),
            peer: SocketAddr::new(address(20), port(2)),
            id,
            family,
            protocol,
        })
    }

    fn request(&self) -> Vec<u8> {
        request(self.family, self.protocol, &self.id)
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: u8, id: &[u8; ID]) -> Vec<u8> {
    let mut request = vec![family, protocol, 0, 0];
    request.extend(CONNECTED.to_ne_bytes());
    request.extend(id);
    request
}

/// Destroys the TCP and UDP sockets of the calling thread's namespace that `chosen` says; how many.
pub fn destroy(chosen: impl Fn(&Connected) -> bool) -> io::Result<usize> {
    let mut exchange = Exchange::open(NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    let mut missing = None;
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            let (family, protocol) = (family as u8, protocol as u8);
            let asked = request(family, protocol, &[0; ID]);
            let listed = exchange.request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, asked, |message| {
                found.extend(Connected::read(message, protocol).filter(|socket| chosen(socket)));
            });
            // One kind that cannot be listed (each has a module of its own) does not keep the others.
            if let Err(error) = listed {
                missing = Some(error);
            }
        }
    }
    let mut destroyed = 0;
    for socket in found {
        match exchange.request(SOCK_DESTROY, NLM_F_ACK, socket.request(), |_| ()) {
            Ok(()) => destroyed += 1,
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if destroyed == 0 => Err(error),
        _ => Ok(destroyed),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_message_that_is_too_short_is_no_socket() {
        assert_eq!(Connected::read(&[2; BEFORE_ID + ID - 1], 6), None);
        assert_eq!(Connected::read(&[], 6), None);
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_cookies_have_64_bits() {
        let mut message = vec![libc::AF_INET6 as u8, 1, 0, 0];
        message.extend([0x1f, 0x90, 0, 80]);
        message.extend(Ipv6Addr::LOCALHOST.octets());
        message.extend(Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped().octets());
        message.extend(0_u32.to_ne_bytes());
        message.extend([7_u32, 1].map(u32::to_ne_bytes).concat());
        let socket = Connected::read(&message, 6).unwrap();
        assert_eq!(socket.local, "[::1]:8080".parse().unwrap());
        assert_eq!(socket.peer, "10.0.0.7:80".parse().unwrap());
        assert_eq!(socket.cookie, (1 << 32) + 7);
    }

    #[test]
    fn the_chosen_socket_is_reset_and_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || {
            let client = TcpStream::connect(address).unwrap();
            (client, listener.accept().unwrap().0)
        };
        let ((mut chosen, mut peer), (other, _other_peer)) = (connect(), connect());
        let local = chosen.local_addr().unwrap();
        match destroy(|socket| socket.local == local) {
            Ok(count) => assert_eq!(count, 1),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return println!("SKIPPED the_chosen_socket_is_reset_and_no_other: needs CAP_NET_ADMIN");
            }
            Err(error) => panic!("{error}"),
        }
        let mut byte = [0];
        assert_eq!(
            chosen.read(&mut byte).unwrap_err().kind(),
            ErrorKind::ConnectionAborted
        );
        assert_eq!(
            peer.read(&mut byte).unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        other.set_nonblocking(true).unwrap();
        assert_eq!(other.peek(&mut byte).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
