// SPDX-License-Identifier: MIT OR Apache-2.0
//! A name server of one zone that a test changes while it is asked, as Swarm's does.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use super::LOCAL;

/// The server and its zone.
pub struct Dns {
    pub address: SocketAddr,
    zone: Arc<Mutex<BTreeMap<String, Vec<Ipv4Addr>>>>,
}

impl Dns {
    pub fn start() -> Dns {
        let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
        let dns = Dns {
            address: socket.local_addr().unwrap(),
            zone: Arc::default(),
        };
        let zone = dns.zone.clone();
        std::thread::spawn(move || {
            let mut buf = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buf) {
                let answer = answer(&buf[..len], &zone.lock().unwrap());
                let _ = socket.send_to(&answer, from);
            }
        });
        dns
    }

    /// The tasks of a service are those with these last bytes of a loopback address.
    pub fn set(&self, service: &str, tasks: &[u8]) {
        let addresses = tasks.iter().map(|last| Ipv4Addr::new(127, 0, 0, *last)).collect();
        let name = format!("tasks.{service}");
        self.zone.lock().unwrap().insert(name, addresses);
    }
}

/// What a name server of this zone says.
pub fn answer(query: &[u8], zone: &BTreeMap<String, Vec<Ipv4Addr>>) -> Vec<u8> {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let len = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + len]).to_ascii_lowercase());
        at += 1 + len;
    }
    let question = &query[12..at + 5];
    let is_a = query[at + 1..at + 3] == [0, 1];
    let found = zone.get(&labels.join("."));
    let addresses = found.filter(|_| is_a).map_or(&[][..], Vec::as_slice);
    let code = if found.is_some_and(|found| !found.is_empty()) {
        0
    } else {
        3
    };
    let mut out = query[..2].to_vec();
    out.extend([0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    out.extend(question);
    for address in addresses {
        out.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 2, 88, 0, 4]);
        out.extend(address.octets());
    }
    out
}
