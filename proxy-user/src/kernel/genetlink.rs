// SPDX-License-Identifier: MIT OR Apache-2.0
//! Generic netlink: a family found by its name, requests with attributes, acknowledgements and dumps.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NlasIterator};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::exchange::Exchange;

/// The family that knows the others (GENL_ID_CTRL), and how it is asked (linux/genetlink.h).
const CONTROL: u16 = 0x10;
const CONTROL_VERSION: u8 = 2;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Command, version, two reserved bytes.
const HEADER: usize = 4;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;

/// Attributes one after another, as they are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds one.
    pub fn put(mut self, kind: u16, value: &[u8]) -> Self {
        const ALIGNMENT: usize = 4;
        let length = u16::try_from(ALIGNMENT + value.len()).expect("attributes of ours are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }

    /// Adds one that holds others.
    pub fn nest(self, kind: u16, inner: &Attributes) -> Self {
        self.put(kind | NESTED, &inner.0)
    }

    /// As they are sent.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The value of the first attribute of a kind.
pub fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut all = NlasIterator::new(attributes).map_while(Result::ok);
    all.find(|attribute| attribute.kind() == kind).map(|attribute| {
        // Borrows from the message, not from the iterator's item.
        let value = attribute.into_inner();
        &value[HEADER..usize::from(u16::from_ne_bytes([value[0], value[1]]))]
    })
}

/// A family of the namespace that the socket was opened in.
pub struct Family {
    exchange: Exchange,
    id: u16,
    version: u8,
}

impl Family {
    /// Finds a family; the kernel loads its module if it can. `NotFound` if there is none.
    pub fn open(name: &str, version: u8) -> io::Result<Family> {
        let mut control = Family {
            exchange: Exchange::open(NETLINK_GENERIC)?,
            id: CONTROL,
            version: CONTROL_VERSION,
        };
        let asked = Attributes::default().put(FAMILY_NAME, &[name.as_bytes(), b"\0"].concat());
        let answers = control.request(GET_FAMILY, NLM_F_ACK, &asked)?;
        let id = answers.first().and_then(|answer| find(answer, FAMILY_ID));
        let id = id.and_then(|id| id.try_into().ok()).map(u16::from_ne_bytes);
        Ok(Family {
            id: id.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?,
            version,
            ..control
        })
    }

    /// Does something.
    pub fn command(&mut self, command: u8, attributes: &Attributes) -> io::Result<()> {
        self.request(command, NLM_F_ACK, attributes).map(|_| ())
    }

    /// Asks for all of something: the attributes of each.
    pub fn dump(&mut self, command: u8, attributes: &Attributes) -> io::Result<Vec<Vec<u8>>> {
        self.request(command, NLM_F_DUMP, attributes)
    }

    fn request(&mut self, command: u8, flags: u16, attributes: &Attributes) -> io::Result<Vec<Vec<u8>>> {
        let payload = [&[command, self.version, 0, 0], attributes.bytes()].concat();
        let mut found = Vec::new();
        self.exchange.request(self.id, flags, payload, |answer| {
            // An answer shorter than its header has no attributes.
            found.push(answer.get(HEADER..).unwrap_or_default().to_vec());
        })?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_found_again() {
        let inner = Attributes::default().put(3, &[1, 2, 3]).put(4, &[9]);
        assert_eq!(inner.bytes(), [7, 0, 3, 0, 1, 2, 3, 0, 5, 0, 4, 0, 9, 0, 0, 0]);
        let outer = Attributes::default().put(1, b"x").nest(2, &inner);
        let nested = find(outer.bytes(), 2).unwrap();
        assert_eq!(find(nested, 4), Some(&[9][..]));
        assert_eq!(find(nested, 5), None);
        assert_eq!(
            find(&[200, 0, 1, 0], 1),
            None,
            "a length that lies is no attribute"
        );
    }

    #[test]
    fn a_family_that_does_not_exist_is_not_found() {
        let error = Family::open("nonsense", 1).err().expect("no such family");
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    }

    #[test]
    fn the_kernel_knows_the_family_of_families() {
        assert_eq!(Family::open("nlctrl", CONTROL_VERSION).unwrap().id, CONTROL);
    }
}
