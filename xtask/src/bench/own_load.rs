// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads that no well-known generator gives through a balancer: datagrams with echoes, the time of connect() alone,
//! and many flows that only have to exist. Each is a process of its own, in the client's or an origin's namespace.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::load::Load;

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Own {
    /// Echoes datagrams with its name in front, on each address
    Echo { name: String, listen: Vec<SocketAddrV4> },
    /// Datagrams to and fro on a few sockets
    Udp {
        to: Vec<SocketAddrV4>,
        #[arg(long)]
        seconds: u32,
        #[arg(long)]
        sockets: u32,
    },
    /// One connection after another
    Connect {
        to: Vec<SocketAddrV4>,
        #[arg(long)]
        seconds: u32,
    },
    /// Opens flows of one datagram each
    Fill {
        to: SocketAddrV4,
        #[arg(long)]
        flows: u32,
        /// Own addresses; each has flows of [`PORTS`]
        #[arg(long, value_delimiter = ',')]
        from: Vec<Ipv4Addr>,
    },
}

/// What a load says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Said {
    pub requests: u64,
    pub seconds: f64,
    /// Microseconds at 50, 75, 90 and 99 %.
    pub latency: Vec<f64>,
    pub errors: u64,
    /// Answers by the name that the origin gave.
    pub shares: BTreeMap<String, u64>,
}

impl Said {
    /// As the other loads.
    pub fn load(&self) -> Load {
        Load {
            requests: self.requests,
            seconds: self.seconds,
            latency: self.latency.clone(),
            errors: self.errors,
        }
    }
}

/// Bytes of a datagram.
const DATAGRAM: usize = 64;
/// An answer that has not come by then is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Source ports of one address: all that are not privileged, less a few for whatever else runs there.
pub const PORTS: u32 = 60_000;
const FIRST_PORT: u32 = 2000;

/// Runs one of them.
pub fn run(own: &Own) -> Result<u8> {
    match own {
        Own::Echo { name, listen } => echo(name, listen)?,
        Own::Udp { to, seconds, sockets } => say(&udp(to, *seconds, *sockets)?)?,
        Own::Connect { to, seconds } => say(&connect(to, *seconds)?)?,
        Own::Fill { to, flows, from } => fill(*to, *flows, from)?,
    }
    Ok(0)
}

fn say(said: &Said) -> Result<()> {
    println!("{}", serde_json::to_string(said)?);
    Ok(())
}

fn echo(name: &str, listen: &[SocketAddrV4]) -> Result<()> {
    let mut threads = Vec::new();
    for address in listen {
        let socket = UdpSocket::bind(address).with_context(|| address.to_string())?;
        let name = name.to_owned();
        threads.push(thread::spawn(move || -> Result<()> {
            let mut buffer = [0; 2048];
            loop {
                let (length, from) = socket.recv_from(&mut buffer)?;
                let marked = name.len().min(length);
                buffer[..marked].copy_from_slice(&name.as_bytes()[..marked]);
                // A client that has gone is no reason to end.
                let _ = socket.send_to(&buffer[..length], from);
            }
        }));
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("an echo panicked"))??;
    }
    Ok(())
}

/// The name in front of an echo.
fn name_in(echo: &[u8]) -> String {
    let end = echo.iter().position(|byte| *byte == 0).unwrap_or(echo.len());
    String::from_utf8_lossy(&echo[..end]).into_owned()
}

/// Every socket has one datagram on the way; as one comes back the next leaves.
fn udp(to: &[SocketAddrV4], seconds: u32, sockets: u32) -> Result<Said> {
    let mut open = Vec::new();
    for number in 0..sockets as usize {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to[number % to.len()])?;
        socket.set_nonblocking(true)?;
        open.push(socket);
    }
    let mut waits: Vec<libc::pollfd> = open
        .iter()
        .map(|socket| libc::pollfd {
            fd: socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let mut sent = vec![Instant::now(); open.len()];
    let mut times = Vec::new();
    let mut shares = BTreeMap::new();
    let datagram = [0; DATAGRAM];
    let mut echo = [0; DATAGRAM];
    let start = Instant::now();
    let length = Duration::from_secs(u64::from(seconds));
    for (socket, sent) in open.iter().zip(&mut sent) {
        *sent = Instant::now();
        socket.send(&datagram)?;
    }
    let mut errors = 0;
    while start.elapsed() < length {
        // SAFETY: the slice is as long as is said, and its descriptors are open.
        let ready = unsafe {
            libc::poll(
                waits.as_mut_ptr(),
                waits.len() as libc::nfds_t,
                PATIENCE.as_millis() as i32,
            )
        };
        ensure!(ready > 0, "no echo within {} s", PATIENCE.as_secs());
        for (number, wait) in waits.iter().enumerate().filter(|(_, wait)| wait.revents != 0) {
            match open[number].recv(&mut echo) {
                Ok(length) => {
                    times.push(sent[number].elapsed());
                    *shares.entry(name_in(&echo[..length])).or_insert(0) += 1;
                }
                Err(_) => errors += 1,
            }
            debug_assert_eq!(wait.fd, open[number].as_raw_fd());
            sent[number] = Instant::now();
            open[number].send(&datagram)?;
        }
    }
    Ok(Said {
        requests: times.len() as u64,
        seconds: start.elapsed().as_secs_f64(),
        latency: percentiles(&mut times),
        errors,
        shares,
    })
}

/// Connects, takes the time of that, asks once so that the origin counts it, and hangs up without leaving TIME_WAIT.
fn connect(to: &[SocketAddrV4], seconds: u32) -> Result<Said> {
    let mut times = Vec::new();
    let mut errors = 0;
    let start = Instant::now();
    let length = Duration::from_secs(u64::from(seconds));
    for number in 0.. {
        if start.elapsed() >= length {
            break;
        }
        let address = SocketAddr::from(to[number % to.len()]);
        let before = Instant::now();
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                let took = before.elapsed();
                match ask(stream) {
                    Ok(()) => times.push(took),
                    Err(_) => errors += 1,
                }
            }
            Err(_) => errors += 1,
        }
    }
    Ok(Said {
        requests: times.len() as u64,
        seconds: start.elapsed().as_secs_f64(),
        latency: percentiles(&mut times),
        errors,
        shares: BTreeMap::new(),
    })
}

fn ask(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer)?;
    ensure!(answer[..length].starts_with(b"HTTP/1.1 200"), "no answer");
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the option's value is a linger, of the size that is said.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as libc::socklen_t,
        )
    };
    ensure!(set == 0, "SO_LINGER: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Sends a datagram from each source, which makes a flow of it; a balancer that remembers flows says how many there
/// are.
///
/// A socket for each would be most of the work, so they are written as whole packets. Now and then an ordinary socket
/// waits for an echo, so that no queue on the way gets longer than [`AT_ONCE`].
fn fill(to: SocketAddrV4, flows: u32, from: &[Ipv4Addr]) -> Result<()> {
    ensure!(
        flows <= PORTS * from.len() as u32,
        "{} addresses are too few for {flows} flows",
        from.len()
    );
    // SAFETY: no memory involved. IPPROTO_RAW means that packets come with their IPv4 header (raw(7)).
    let raw = unsafe {
        libc::socket(
            libc::AF_INET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::IPPROTO_RAW,
        )
    };
    ensure!(raw >= 0, "a raw socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just opened, and nobody else has it.
    let raw = unsafe { std::fs::File::from_raw_fd(raw) };
    // SAFETY: plain integers, for which zero is a value.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as libc::sa_family_t;
    address.sin_addr.s_addr = u32::from(*to.ip()).to_be();
    let pace = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    pace.connect(to)?;
    pace.set_read_timeout(Some(PATIENCE))?;
    for number in 0..flows {
        let source = from[(number / PORTS) as usize];
        let port = u16::try_from(FIRST_PORT + number % PORTS)?;
        let packet = datagram(SocketAddrV4::new(source, port), to);
        // SAFETY: packet and address are as long as is said, and live until the call returns.
        let sent = unsafe {
            libc::sendto(
                raw.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        ensure!(sent >= 0, "a datagram: {}", std::io::Error::last_os_error());
        if number % AT_ONCE == AT_ONCE - 1 {
            pace.send(&[0; DATAGRAM])?;
            pace.recv(&mut [0; DATAGRAM])
                .context("no echo between the flows")?;
        }
    }
    Ok(())
}

/// A tenth of what a network device's input queue has room for by default.
const AT_ONCE: u32 = 100;
const HEADERS: usize = 20 + 8;

/// An IPv4 packet (RFC 791) with a UDP datagram (RFC 768), zeros, without a checksum; the kernel fills in that of the
/// IPv4 header and its length.
fn datagram(from: SocketAddrV4, to: SocketAddrV4) -> [u8; HEADERS + DATAGRAM] {
    let mut packet = [0; HEADERS + DATAGRAM];
    let [ip, udp] = [0, 20];
    packet[ip] = 0x45;
    packet[ip + 8] = 64;
    packet[ip + 9] = libc::IPPROTO_UDP as u8;
    packet[ip + 12..ip + 16].copy_from_slice(&from.ip().octets());
    packet[ip + 16..ip + 20].copy_from_slice(&to.ip().octets());
    packet[udp..udp + 2].copy_from_slice(&from.port().to_be_bytes());
    packet[udp + 2..udp + 4].copy_from_slice(&to.port().to_be_bytes());
    packet[udp + 4..udp + 6].copy_from_slice(&((8 + DATAGRAM) as u16).to_be_bytes());
    packet
}

/// Microseconds at 50, 75, 90 and 99 %.
fn percentiles(times: &mut [Duration]) -> Vec<f64> {
    times.sort_unstable();
    let at = |share: f64| {
        let index = (times.len().saturating_sub(1) as f64 * share).round() as usize;
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    [0.5, 0.75, 0.9, 0.99].map(at).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo on a port of the kernel's choice, on a thread that ends with the test.
    fn echoing(name: &'static str) -> SocketAddrV4 {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let SocketAddr::V4(address) = free else {
            panic!("{free}")
        };
        thread::spawn(move || echo(name, &[address]));
        address
    }

    #[test]
    fn datagrams_come_back_with_the_name_of_who_echoed_them() {
        let to = [echoing("one"), echoing("two")];
        // The echo's thread binds at its own time; until then the port is refused.
        let said = (0..100).find_map(|_| udp(&to, 1, 4).ok()).expect("an echo");
        assert!(said.requests > 10 && said.shares.len() == 2, "{said:?}");
        assert_eq!(said.shares.values().sum::<u64>(), said.requests);
        assert_eq!(said.latency.len(), 4);
        assert!(fill(to[0], PORTS + 1, &[Ipv4Addr::LOCALHOST]).is_err());
    }

    #[test]
    fn datagrams_of_many_sources_arrive() {
        if !crate::cmd::is_root() {
            return eprintln!("raw sockets need root: not tested");
        }
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(to) = receiver.local_addr().unwrap() else {
            panic!("not IPv4")
        };
        let flows = AT_ONCE - 1;
        fill(to, flows, &[Ipv4Addr::LOCALHOST]).unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        for number in 0..flows {
            let mut datagram = [1; 2 * DATAGRAM];
            let (length, from) = receiver.recv_from(&mut datagram).unwrap();
            assert_eq!(&datagram[..length], [0; DATAGRAM]);
            assert_eq!(u32::from(from.port()), FIRST_PORT + number);
        }
    }

    #[test]
    fn percentiles_are_of_sorted_times() {
        let mut times: Vec<Duration> = (1..=101).rev().map(Duration::from_micros).collect();
        let found: Vec<f64> = percentiles(&mut times).iter().map(|us| us.round()).collect();
        assert_eq!(found, [51.0, 76.0, 91.0, 100.0]);
    }
}
