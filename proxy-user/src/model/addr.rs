// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses by role, so that no function takes two bare addresses and mixes them up.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

macro_rules! address {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Ipv4Addr);

        impl $name {
            /// The address as it stands in a packet header, loaded natively (`…_be` fields).
            pub fn be(self) -> u32 {
                be(self.0)
            }

            /// Reads an address that somebody wrote.
            pub fn parse(text: &str) -> Result<Self, AddressError> {
                parse(text).map(Self)
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
    VipAddr
}
address! {
    /// Address of a task (or of a plain backend) on one network.
    TaskAddr
}
address! {
    /// Address under which the other nodes reach a node: the end of its tunnel.
    NodeAddr
}

/// An IPv4 address as it stands in a packet header, loaded natively.
pub fn be(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// Why a text is no usable address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an address of any family.
    #[error("'{0}' is not an address")]
    NotAnAddress(String),
    /// The data plane has no IPv6 yet.
    #[error("'{0}' is an IPv6 address; only IPv4 is supported for now")]
    V6(String),
    /// Nobody can be there.
    #[error("'{0}' is not the address of one host")]
    NotAHost(String),
}

fn parse(text: &str) -> Result<Ipv4Addr, AddressError> {
    match text.parse::<IpAddr>() {
        Err(_) => Err(AddressError::NotAnAddress(text.into())),
        Ok(IpAddr::V6(_)) => Err(AddressError::V6(text.into())),
        Ok(IpAddr::V4(v4)) if v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() => {
            Err(AddressError::NotAHost(text.into()))
        }
        Ok(IpAddr::V4(v4)) => Ok(v4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_checked_by_what_it_is() {
        for (text, expected) in [
            ("10.0.1.2", Ok(Ipv4Addr::new(10, 0, 1, 2))),
            ("", Err(AddressError::NotAnAddress("".into()))),
            ("10.0.1", Err(AddressError::NotAnAddress("10.0.1".into()))),
            (
                "10.0.1.2/24",
                Err(AddressError::NotAnAddress("10.0.1.2/24".into())),
            ),
            ("fd00::1", Err(AddressError::V6("fd00::1".into()))),
            ("0.0.0.0", Err(AddressError::NotAHost("0.0.0.0".into()))),
            ("224.0.0.1", Err(AddressError::NotAHost("224.0.0.1".into()))),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn network_order_is_the_bytes_of_the_header() {
        assert_eq!(
            VipAddr(Ipv4Addr::new(1, 2, 3, 4)).be().to_ne_bytes(),
            [1, 2, 3, 4]
        );
    }
}
