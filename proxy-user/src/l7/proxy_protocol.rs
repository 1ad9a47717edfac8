// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PROXY protocol, versions 1 and 2: who a connection is from, told by the proxy before us, or to the service.
//!
//! What the header says is believed only where the operator has said that it comes first ([`Acceptance`]).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;

use super::limits;
use super::prefixes::PrefixSet;
use super::refusal::Refusal;

/// Who is connected with whom, as far as the client is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peers {
    /// The client.
    pub client: SocketAddr,
    /// The address that it used.
    pub local: SocketAddr,
}

/// Which connections begin with a header.
#[derive(Clone, Debug, Default)]
pub struct Acceptance {
    /// Ports beside those with `accept-proxy` in DEFAULT_PORTS and BIND_PORTS.
    pub ports: BTreeSet<u16>,
    /// All ports.
    pub all: bool,
    /// Who sends one; everybody if empty. Connections of others begin without.
    pub from: PrefixSet,
}

impl Acceptance {
    /// Whether connections to a port begin with a header.
    pub fn concerns(&self, port: u16) -> bool {
        self.all || self.ports.contains(&port)
    }

    /// Whether a sender is one that begins so.
    pub fn is_from(&self, sender: IpAddr) -> bool {
        self.from.is_empty() || self.from.contains(sender)
    }
}

/// A version of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

impl Version {
    /// Reads the value of proxyProtocol.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        match text {
            "" => Ok(None),
            "v1" | "1" | "send-proxy" => Ok(Some(Version::V1)),
            "v2" | "2" | "send-proxy-v2" => Ok(Some(Version::V2)),
            other => Err(format!("`{other}` is not v1 or v2")),
        }
    }
}

/// What the beginning of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// More is needed to know.
    Partial,
    /// A header of this length. Without peers the connection speaks for itself: LOCAL, UNKNOWN, not TCP.
    Whole {
        /// Bytes.
        length: usize,
        /// What it says.
        peers: Option<Peers>,
    },
    /// Not a header.
    Invalid,
}

const V1_START: &[u8] = b"PROXY ";
/// Longest header of version 1, with its CRLF.
const V1_BYTES_MAX: usize = 107;
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;

/// Reads what has arrived so far.
pub fn read(bytes: &[u8]) -> Header {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(a, b)| a == b);
    match bytes.first() {
        None => Header::Partial,
        Some(b'P') if begins(V1_START) => read_v1(bytes),
        Some(b'\r') if begins(V2_START) => read_v2(bytes),
        Some(_) => Header::Invalid,
    }
}

fn read_v1(bytes: &[u8]) -> Header {
    let head = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() < V1_BYTES_MAX {
            true => Header::Partial,
            false => Header::Invalid,
        };
    };
    let Ok(line) = std::str::from_utf8(&head[..end]) else {
        return Header::Invalid;
    };
    let words: Vec<&str> = line.split(' ').collect();
    let peers = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family, source, target, source_port, target_port] => {
            let is_family = |ip: &IpAddr| match family {
                "TCP4" => ip.is_ipv4(),
                "TCP6" => ip.is_ipv6(),
                _ => false,
            };
            let address = |ip: &str, port: &str| {
                let ip = ip.parse().ok().filter(is_family)?;
                let is_plain = port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse().ok().filter(|_| is_plain)?;
                Some(SocketAddr::new(ip, port))
            };
            match (address(source, source_port), address(target, target_port)) {
                (Some(client), Some(local)) => Some(Peers { client, local }),
                _ => return Header::Invalid,
            }
        }
        _ => return Header::Invalid,
    };
    Header::Whole {
        length: end + 2,
        peers,
    }
}

fn read_v2(bytes: &[u8]) -> Header {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED_BYTES) else {
        return Header::Partial;
    };
    let [command, family] = [fixed[12], fixed[13]];
    let content = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let length = V2_FIXED_BYTES + content;
    if !matches!(command, V2_LOCAL | V2_PROXY) || length > limits::PROXY_HEADER_BYTES_MAX {
        return Header::Invalid;
    }
    let Some(content) = rest.get(..content) else {
        return Header::Partial;
    };
    // A LOCAL header may hold anything: it is skipped (§2.2).
    let (peers, extras) = match (command, family) {
        (V2_PROXY, V2_TCP4) => match content.split_at_checked(12) {
            Some((a, extras)) => {
                let ip = |at: usize| IpAddr::from(Ipv4Addr::new(a[at], a[at + 1], a[at + 2], a[at + 3]));
                (Some(addresses(ip(0), ip(4), &a[8..])), extras)
            }
            None => return Header::Invalid,
        },
        (V2_PROXY, V2_TCP6) => match content.split_at_checked(36) {
            Some((a, extras)) => {
                let ip = |at: usize| {
                    let mut octets = [0; 16];
                    octets.copy_from_slice(&a[at..at + 16]);
                    IpAddr::from(Ipv6Addr::from(octets))
                };
                (Some(addresses(ip(0), ip(16), &a[32..])), extras)
            }
            None => return Header::Invalid,
        },
        _ => (None, &[][..]),
    };
    match are_extras(extras) {
        true => Header::Whole { length, peers },
        false => Header::Invalid,
    }
}

fn addresses(source: IpAddr, target: IpAddr, ports: &[u8]) -> Peers {
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Peers {
        client: SocketAddr::new(source, port(0)),
        local: SocketAddr::new(target, port(2)),
    }
}

/// Whether the bytes are type-length-values; their meaning is ignored.
fn are_extras(mut bytes: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(next) = rest.get(length..) else {
            return false;
        };
        bytes = next;
    }
    bytes.is_empty()
}

/// The header that tells a service who its client is.
pub fn write(version: Version, peers: &Peers) -> Vec<u8> {
    // Both addresses must be of one family.
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let (source, target) = (peers.client.ip().to_canonical(), peers.local.ip().to_canonical());
    let ports = [peers.client.port(), peers.local.port()];
    match (version, source, target) {
        (Version::V1, IpAddr::V4(a), IpAddr::V4(b)) => {
            format!("PROXY TCP4 {a} {b} {} {}\r\n", ports[0], ports[1]).into()
        }
        (Version::V1, a, b) => {
            let (a, b) = (mapped(a), mapped(b));
            format!("PROXY TCP6 {a} {b} {} {}\r\n", ports[0], ports[1]).into()
        }
        (Version::V2, a, b) => {
            let (family, addresses) = match (a, b) {
                (IpAddr::V4(a), IpAddr::V4(b)) => (V2_TCP4, [a.octets(), b.octets()].concat()),
                (a, b) => (V2_TCP6, [mapped(a).octets(), mapped(b).octets()].concat()),
            };
            let length = (addresses.len() + 4) as u16;
            let ports = ports.map(u16::to_be_bytes).concat();
            [
                V2_START,
                &[V2_PROXY, family],
                &length.to_be_bytes(),
                &addresses,
                &ports,
            ]
            .concat()
        }
    }
}

/// The header of a connection of our own.
pub fn local(version: Version) -> &'static [u8] {
    match version {
        Version::V1 => b"PROXY UNKNOWN\r\n",
        Version::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

/// Takes the header off a connection; none if the connection speaks for itself.
pub async fn receive(stream: &mut TcpStream) -> Result<Option<Peers>, Refusal> {
    let (length, peers) = look(stream).await?;
    // The header has been looked at and is there.
    let mut header = vec![0; length];
    match stream.read_exact(&mut header).await {
        Ok(_) => Ok(peers),
        Err(_) => Err(Refusal::ProxyHeaderInvalid),
    }
}

async fn look(stream: &TcpStream) -> Result<(usize, Option<Peers>), Refusal> {
    let mut known = 0;
    let mut seen = Vec::with_capacity(limits::PROXY_HEADER_BYTES_MAX);
    loop {
        let arrived = stream.async_io(Interest::READABLE, || peek_more(stream, &mut seen, known));
        known = match arrived.await {
            Ok(length) => length,
            // A health check that only connects.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && known == 0 => {
                return Err(Refusal::ProxyHeaderMissing);
            }
            Err(_) => return Err(Refusal::ProxyHeaderInvalid),
        };
        match read(&seen) {
            Header::Whole { length, peers } => return Ok((length, peers)),
            Header::Invalid => return Err(Refusal::ProxyHeaderInvalid),
            Header::Partial if known == seen.capacity() => return Err(Refusal::ProxyHeaderInvalid),
            Header::Partial => {}
        }
    }
}

/// Looks at what a socket has, without taking it: the bytes belong to whoever gets the connection. If it is what was
/// known already, tokio is told to wait.
pub fn peek_more(stream: &TcpStream, seen: &mut Vec<u8>, known: usize) -> io::Result<usize> {
    seen.clear();
    match socket2::SockRef::from(stream).peek(seen.spare_capacity_mut())? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length if length == known => Err(io::ErrorKind::WouldBlock.into()),
        length => {
            // SAFETY: the kernel has written this many bytes into the spare capacity.
            unsafe { seen.set_len(length) };
            Ok(length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(client: &str, local: &str) -> Peers {
        Peers {
            client: client.parse().unwrap(),
            local: local.parse().unwrap(),
        }
    }

    fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u16).to_be_bytes();
        [V2_START, &[command, family], &length, content].concat()
    }

    #[test]
    fn what_is_written_is_read_again_and_a_part_of_it_is_partial() {
        for (one, wanted) in [
            (
                peers("192.0.2.1:5", "198.51.100.2:443"),
                peers("192.0.2.1:5", "198.51.100.2:443"),
            ),
            (
                peers("[2001:db8::1]:5", "[::1]:443"),
                peers("[2001:db8::1]:5", "[::1]:443"),
            ),
            (
                peers("192.0.2.1:5", "[::1]:443"),
                peers("[::ffff:192.0.2.1]:5", "[::1]:443"),
            ),
        ] {
            for version in [Version::V1, Version::V2] {
                let header = write(version, &one);
                let whole = Header::Whole {
                    length: header.len(),
                    peers: Some(wanted),
                };
                assert_eq!(read(&header), whole, "{version:?}");
                assert_eq!(read(&[&header[..], b"GET /"].concat()), whole);
                for end in 0..header.len() {
                    assert_eq!(read(&header[..end]), Header::Partial, "{end}");
                }
            }
        }
    }

    #[test]
    fn headers_without_addresses_leave_the_connection_as_it_is() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ::2 1 2\r\n".to_vec(),
            v2(V2_LOCAL, 0, &[]),
            v2(V2_LOCAL, V2_TCP4, &[1]),
            v2(V2_PROXY, 0, &[]),
            v2(V2_PROXY, 0x31, &[0; 216]),
        ] {
            let length = header.len();
            assert_eq!(read(&header), Header::Whole { length, peers: None }, "{header:?}");
        }
    }

    #[test]
    fn extras_are_skipped_and_must_fit() {
        let addresses = [192, 0, 2, 1, 198, 51, 100, 2, 0, 5, 1, 187];
        let header = v2(
            V2_PROXY,
            V2_TCP4,
            &[&addresses[..], &[2, 0, 1, b'a', 4, 0, 0]].concat(),
        );
        let wanted = Some(peers("192.0.2.1:5", "198.51.100.2:443"));
        assert_eq!(
            read(&header),
            Header::Whole {
                length: header.len(),
                peers: wanted
            }
        );
        for extras in [&[2][..], &[2, 0], &[2, 0, 2, b'a']] {
            let header = v2(V2_PROXY, V2_TCP4, &[&addresses[..], extras].concat());
            assert_eq!(read(&header), Header::Invalid, "{extras:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_invalid() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 100]].concat();
        for header in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            b"PROXY\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 +2\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 70000\r\n",
            b"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
            b"PROXY TCP4 ::1 ::2 1 2\r\n",
            b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            b"PROXY \xff\r\n",
            &long,
            &v2(0x11, V2_TCP4, &[0; 12]),
            &v2(0x22, V2_TCP4, &[0; 12]),
            &v2(V2_PROXY, V2_TCP4, &[0; 11]),
            &v2(V2_PROXY, V2_TCP6, &[0; 35]),
            &v2(V2_PROXY, 0, &vec![0; limits::PROXY_HEADER_BYTES_MAX]),
        ] {
            assert_eq!(read(header), Header::Invalid, "{header:?}");
        }
    }
}
