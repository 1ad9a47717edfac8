// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses by role, so that no function takes two bare addresses and mixes them up.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

macro_rules! address {
    ($(#[$meta:meta])* $name:ident($kind:ty), $parse:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $kind);

        impl $name {
            /// Reads an address that somebody wrote.
            pub fn parse(text: &str) -> Result<Self, AddressError> {
                $parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address! {
    /// Virtual address of a service inside one network.
    VipAddr(IpAddr), parse
}
address! {
    /// Address of a task (or of a plain backend) on one network.
    TaskAddr(IpAddr), parse
}
address! {
    /// Address under which the other nodes reach a node: the end of its tunnel.
    NodeAddr(Ipv4Addr), parse_v4
}

impl NodeAddr {
    /// The address as it stands in a packet header, loaded natively (`…_be` fields).
    pub fn be(self) -> u32 {
        be(self.0)
    }
}

/// Which kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// An address's.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// An IPv4 address as it stands in a packet header, loaded natively.
pub fn be(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// An IPv6 address as it stands in a packet header, loaded natively by words.
pub fn be6(address: Ipv6Addr) -> [u32; 4] {
    let bits = address.to_bits();
    [96, 64, 32, 0].map(|shift| ((bits >> shift) as u32).to_be())
}

/// The other direction of [`be6`].
pub fn ip6(words: [u32; 4]) -> Ipv6Addr {
    let bits = words
        .iter()
        .fold(0, |bits, word| bits << 32 | u128::from(u32::from_be(*word)));
    Ipv6Addr::from_bits(bits)
}

/// Why a text is no usable address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an address of any family.
    #[error("'{0}' is not an address")]
    NotAnAddress(String),
    /// The tunnel and published ports are IPv4's.
    #[error("'{0}' is an IPv6 address; nodes reach each other by IPv4")]
    V6(String),
    /// Nobody can be there.
    #[error("'{0}' is not the address of one host")]
    NotAHost(String),
    /// It means another one on every interface.
    #[error("'{0}' is a link-local address, which means nothing without its interface")]
    LinkLocal(String),
    /// It is an IPv4 address.
    #[error("'{0}' is an IPv4 address in IPv6 form; write it as {1}")]
    Mapped(String, Ipv4Addr),
}

fn parse(text: &str) -> Result<IpAddr, AddressError> {
    match text.parse::<IpAddr>() {
        Err(_) => Err(AddressError::NotAnAddress(text.into())),
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST => {
            Err(AddressError::NotAHost(text.into()))
        }
        Ok(IpAddr::V6(v6)) if v6.is_unicast_link_local() => Err(AddressError::LinkLocal(text.into())),
        Ok(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => Err(AddressError::Mapped(text.into(), v4)),
            None => Ok(v6.into()),
        },
        Ok(v4) => Ok(v4),
    }
}

fn parse_v4(text: &str) -> Result<Ipv4Addr, AddressError> {
    match parse(text)? {
        IpAddr::V4(v4) => Ok(v4),
        IpAddr::V6(_) => Err(AddressError::V6(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_checked_by_what_it_is() {
        for (text, expected) in [
            ("10.0.1.2", Ok(Ipv4Addr::new(10, 0, 1, 2).into())),
            ("fd00::1", Ok(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into())),
            ("", Err(AddressError::NotAnAddress("".into()))),
            ("10.0.1", Err(AddressError::NotAnAddress("10.0.1".into()))),
            (
                "10.0.1.2/24",
                Err(AddressError::NotAnAddress("10.0.1.2/24".into())),
            ),
            ("fe80::1", Err(AddressError::LinkLocal("fe80::1".into()))),
            ("::", Err(AddressError::NotAHost("::".into()))),
            ("ff02::1", Err(AddressError::NotAHost("ff02::1".into()))),
            (
                "::ffff:10.0.1.2",
                Err(AddressError::Mapped(
                    "::ffff:10.0.1.2".into(),
                    Ipv4Addr::new(10, 0, 1, 2),
                )),
            ),
            ("0.0.0.0", Err(AddressError::NotAHost("0.0.0.0".into()))),
            ("224.0.0.1", Err(AddressError::NotAHost("224.0.0.1".into()))),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        let v6 = Err(AddressError::V6("fd00::1".into()));
        assert_eq!(NodeAddr::parse("fd00::1"), v6);
    }

    #[test]
    fn network_order_is_the_bytes_of_the_header() {
        assert_eq!(be(Ipv4Addr::new(1, 2, 3, 4)).to_ne_bytes(), [1, 2, 3, 4]);
        let six: Ipv6Addr = "1:203::f".parse().unwrap();
        let words = be6(six);
        assert_eq!(words[0].to_ne_bytes(), [0, 1, 2, 3]);
        assert_eq!(words[3].to_ne_bytes(), [0, 0, 0, 15]);
        assert_eq!(ip6(words), six);
    }
}
