// SPDX-License-Identifier: MIT OR Apache-2.0
//! IPVS's messages (linux/ip_vs.h): operations to attributes, dumps to a table.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use crate::{
    kernel::genetlink::{Attributes, Family, find},
    reconcile::ipvs::{
        Destination, Forward, Key, Scheduler, Service,
        plan::Op,
        table::{CHOSEN_FLAGS, Virtual},
    },
};

/// Name and version of the family.
pub const FAMILY: (&str, u8) = ("IPVS", 1);

const NEW_SERVICE: u8 = 1;
const SET_SERVICE: u8 = 2;
const DEL_SERVICE: u8 = 3;
const GET_SERVICE: u8 = 4;
const NEW_DEST: u8 = 5;
const SET_DEST: u8 = 6;
const DEL_DEST: u8 = 7;
const GET_DEST: u8 = 8;

const SERVICE: u16 = 1;
const DEST: u16 = 2;

const SVC_AF: u16 = 1;
const SVC_PROTOCOL: u16 = 2;
const SVC_ADDR: u16 = 3;
const SVC_PORT: u16 = 4;
const SVC_SCHED_NAME: u16 = 6;
const SVC_FLAGS: u16 = 7;
const SVC_TIMEOUT: u16 = 8;
const SVC_NETMASK: u16 = 9;

const DEST_ADDR: u16 = 1;
const DEST_PORT: u16 = 2;
const DEST_FWD_METHOD: u16 = 3;
const DEST_WEIGHT: u16 = 4;
const DEST_U_THRESH: u16 = 5;
const DEST_L_THRESH: u16 = 6;
const DEST_ADDR_FAMILY: u16 = 11;

/// Of the forwarding method: masquerading, direct routing, and the bits that name a method.
const MASQ: u32 = 0;
const DROUTE: u32 = 3;
const METHODS: u32 = 7;

/// Room for an IPv6 address, of which IPv4 uses the beginning.
const ADDRESS: usize = 16;

fn address(of: Ipv4Addr) -> [u8; ADDRESS] {
    let mut bytes = [0; ADDRESS];
    bytes[..4].copy_from_slice(&of.octets());
    bytes
}

/// What names a service.
fn named(key: Key) -> Attributes {
    let family = libc::AF_INET as u16;
    Attributes::default()
        .put(SVC_AF, &family.to_ne_bytes())
        .put(SVC_PROTOCOL, &key.protocol_number().to_ne_bytes())
        .put(SVC_ADDR, &address(*key.address.ip()))
        .put(SVC_PORT, &key.address.port().to_be_bytes())
}

fn described(key: Key, service: &Service) -> Attributes {
    // The flags and a mask of those that are meant.
    let flags = [service.flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
    named(key)
        .put(
            SVC_SCHED_NAME,
            &[service.scheduler.name().as_bytes(), b"\0"].concat(),
        )
        .put(SVC_FLAGS, &flags)
        .put(SVC_TIMEOUT, &service.timeout.to_ne_bytes())
        .put(SVC_NETMASK, &service.netmask.octets())
}

fn destination(to: SocketAddrV4) -> Attributes {
    let family = libc::AF_INET as u16;
    Attributes::default()
        .put(DEST_ADDR, &address(*to.ip()))
        .put(DEST_PORT, &to.port().to_be_bytes())
        .put(DEST_ADDR_FAMILY, &family.to_ne_bytes())
}

fn full_destination(to: SocketAddrV4, with: Destination) -> Attributes {
    let method = if with.forward == Forward::Dr { DROUTE } else { MASQ };
    let no_threshold = 0u32.to_ne_bytes();
    destination(to)
        .put(DEST_FWD_METHOD, &method.to_ne_bytes())
        .put(DEST_WEIGHT, &with.weight.to_ne_bytes())
        .put(DEST_U_THRESH, &no_threshold)
        .put(DEST_L_THRESH, &no_threshold)
}

/// The command and its attributes for an operation on services or destinations.
pub fn of(op: &Op) -> (u8, Attributes) {
    let service = |inner: &Attributes| Attributes::default().nest(SERVICE, inner);
    match op {
        Op::AddService(key, with) => (NEW_SERVICE, service(&described(*key, with))),
        Op::SetService(key, with) => (SET_SERVICE, service(&described(*key, with))),
        Op::DeleteService(key) => (DEL_SERVICE, service(&named(*key))),
        Op::AddDestination(key, to, with) => (
            NEW_DEST,
            service(&named(*key)).nest(DEST, &full_destination(*to, *with)),
        ),
        Op::SetDestination(key, to, with) => (
            SET_DEST,
            service(&named(*key)).nest(DEST, &full_destination(*to, *with)),
        ),
        Op::DeleteDestination(key, to) => (DEL_DEST, service(&named(*key)).nest(DEST, &destination(*to))),
        Op::AddAddress(_) | Op::DeleteAddress(_) => unreachable!("an address is the interface's, not IPVS's"),
    }
}

/// Every IPv4 service of TCP and UDP; others (marks, SCTP, IPv6) are nothing that Portico could have made.
pub fn services(family: &mut Family) -> io::Result<BTreeMap<Key, Virtual>> {
    let mut found = BTreeMap::new();
    for message in family.dump(GET_SERVICE, &Attributes::default())? {
        let Some((key, service)) = find(&message, SERVICE).and_then(read_service) else {
            continue;
        };
        let asked = Attributes::default().nest(SERVICE, &named(key));
        let messages = family.dump(GET_DEST, &asked)?;
        let destinations = messages
            .iter()
            .filter_map(|message| find(message, DEST).and_then(read_destination));
        let is = Virtual {
            service,
            destinations: destinations.collect(),
        };
        found.insert(key, is);
    }
    Ok(found)
}

fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_ne_bytes(
        find(attributes, kind)?.get(..4)?.try_into().ok()?,
    ))
}

fn short(attributes: &[u8], kind: u16) -> Option<[u8; 2]> {
    find(attributes, kind)?.get(..2)?.try_into().ok()
}

fn v4(attributes: &[u8], kind: u16) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = find(attributes, kind)?.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes))
}

fn read_service(attributes: &[u8]) -> Option<(Key, Service)> {
    if u16::from_ne_bytes(short(attributes, SVC_AF)?) != libc::AF_INET as u16 {
        return None;
    }
    let address = SocketAddrV4::new(
        v4(attributes, SVC_ADDR)?,
        u16::from_be_bytes(short(attributes, SVC_PORT)?),
    );
    let key = Key::of(u16::from_ne_bytes(short(attributes, SVC_PROTOCOL)?), address)?;
    let name = find(attributes, SVC_SCHED_NAME)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let service = Service {
        scheduler: Scheduler::parse(&String::from_utf8_lossy(name)),
        flags: number(attributes, SVC_FLAGS)? & CHOSEN_FLAGS,
        timeout: number(attributes, SVC_TIMEOUT)?,
        netmask: v4(attributes, SVC_NETMASK)?,
    };
    Some((key, service))
}

fn read_destination(attributes: &[u8]) -> Option<(SocketAddrV4, Destination)> {
    let to = SocketAddrV4::new(
        v4(attributes, DEST_ADDR)?,
        u16::from_be_bytes(short(attributes, DEST_PORT)?),
    );
    let forward = match number(attributes, DEST_FWD_METHOD)? & METHODS {
        MASQ => Forward::Nat,
        DROUTE => Forward::Dr,
        _ => Forward::Foreign,
    };
    let weight = number(attributes, DEST_WEIGHT)?;
    Some((to, Destination { forward, weight }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::ipvs::table::Affinity;

    fn key() -> Key {
        Key::parse("10.1.0.1:80/tcp").unwrap()
    }

    #[test]
    fn a_service_is_laid_out_as_the_kernel_reads_it_and_read_back_as_it_was() {
        let affinity = Affinity {
            seconds: 300,
            prefix: 24,
        };
        let service = Service::new(Scheduler::Mh, Some(affinity));
        let (command, attributes) = of(&Op::AddService(key(), service));
        assert_eq!(command, 1);
        let inner = find(attributes.bytes(), 1).unwrap();
        // AF_INET, TCP, the address at the front of sixteen bytes, the port in network order.
        assert_eq!(find(inner, 1), Some(&2u16.to_ne_bytes()[..]));
        assert_eq!(find(inner, 2), Some(&6u16.to_ne_bytes()[..]));
        assert_eq!(find(inner, 3).unwrap()[..5], [10, 1, 0, 1, 0]);
        assert_eq!(find(inner, 3).unwrap().len(), 16);
        assert_eq!(find(inner, 4), Some(&[0, 80][..]));
        assert_eq!(find(inner, 6), Some(&b"mh\0"[..]));
        // Persistent, fallback, port in the hash; the mask says that all flags are meant.
        let flags = [0x19u32.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
        assert_eq!(find(inner, 7), Some(flags.as_slice()));
        assert_eq!(find(inner, 8), Some(&300u32.to_ne_bytes()[..]));
        assert_eq!(find(inner, 9), Some(&[255, 255, 255, 0][..]));
        assert_eq!(read_service(inner), Some((key(), service)));
    }

    #[test]
    fn a_destination_is_laid_out_as_the_kernel_reads_it_and_read_back_as_it_was() {
        let to = SocketAddrV4::new([172, 18, 0, 11].into(), 8080);
        for (forward, method) in [(Forward::Nat, 0u32), (Forward::Dr, 3)] {
            let with = Destination { forward, weight: 7 };
            let (command, attributes) = of(&Op::AddDestination(key(), to, with));
            assert_eq!(command, 5);
            let service = find(attributes.bytes(), 1).unwrap();
            assert_eq!(find(service, 6), None, "only what names the service");
            let inner = find(attributes.bytes(), 2).unwrap();
            assert_eq!(find(inner, 2), Some(&8080u16.to_be_bytes()[..]));
            assert_eq!(find(inner, 3), Some(&method.to_ne_bytes()[..]));
            assert_eq!(find(inner, 11), Some(&2u16.to_ne_bytes()[..]));
            assert_eq!(read_destination(inner), Some((to, with)));
        }
        assert_eq!(of(&Op::DeleteDestination(key(), to)).0, 7);
        assert_eq!(of(&Op::DeleteService(key())).0, 3);
    }

    #[test]
    fn what_the_kernel_adds_to_flags_and_what_portico_does_not_balance_is_left_out() {
        let service = Service::new(Scheduler::Rr, None);
        let (_, attributes) = of(&Op::AddService(key(), service));
        let mut inner = find(attributes.bytes(), 1).unwrap().to_vec();
        let at = inner.windows(4).position(|bytes| bytes == [12, 0, 7, 0]).unwrap() + 4;
        // IP_VS_SVC_F_HASHED.
        inner[at] |= 2;
        assert_eq!(read_service(&inner), Some((key(), service)));
        let at = inner.windows(4).position(|bytes| bytes == [6, 0, 2, 0]).unwrap() + 4;
        inner[at] = 132;
        assert_eq!(read_service(&inner), None, "SCTP");
    }
}
