// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of address prefixes, asked once for each request.

use std::net::IpAddr;

use ipnet::IpNet;

use super::limits;

/// A set of addresses. *Who writes it*: settings and [`super::compile`]. *Limits*: [`limits::PREFIXES_MAX`] prefixes.
///
/// Both families share one number line: an IPv4 address is its IPv4-mapped IPv6 address. Ranges are sorted and do not
/// touch, so an address is found by binary search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixSet(Box<[(u128, u128)]>);

impl PrefixSet {
    /// Reads addresses and prefixes (`10.0.0.0/8`, `2001:db8::1`). Bits behind the prefix do not matter.
    pub fn parse<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut ranges = Vec::new();
        for item in items {
            if ranges.len() == limits::PREFIXES_MAX {
                return Err(format!("has more than {} prefixes", limits::PREFIXES_MAX));
            }
            let net = match item.parse::<IpAddr>() {
                Ok(address) => IpNet::from(address),
                Err(_) => item
                    .parse()
                    .map_err(|_| format!("`{item}` is not an address or prefix"))?,
            };
            ranges.push((number(net.network()), number(net.broadcast())));
        }
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (from, to) in ranges {
            match merged.last_mut() {
                Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Ok(PrefixSet(merged.into()))
    }

    /// Whether no address is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = number(address);
        let after = self.0.partition_point(|&(from, _)| from <= address);
        after > 0 && address <= self.0[after - 1].1
    }
}

/// An allow list and a deny list.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// When there are any: only these.
    pub allow: PrefixSet,
    /// Never these, even if they are allowed.
    pub deny: PrefixSet,
}

impl AddressPolicy {
    /// Whether a client with this address may pass.
    pub fn admits(&self, address: IpAddr) -> bool {
        (self.allow.is_empty() || self.allow.contains(address)) && !self.deny.contains(address)
    }
}

fn number(address: IpAddr) -> u128 {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    v6.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prefixes: &str, inside: &[&str], outside: &[&str]) {
        let set = PrefixSet::parse(prefixes.split(' ')).unwrap();
        for (addresses, want) in [(inside, true), (outside, false)] {
            for address in addresses {
                assert_eq!(
                    set.contains(address.parse().unwrap()),
                    want,
                    "{address} in {prefixes}"
                );
            }
        }
    }

    #[test]
    fn an_address_is_in_a_set_if_a_prefix_covers_it() {
        check(
            "10.1.2.3/8 192.0.2.7 192.0.2.8/31",
            &[
                "10.0.0.0",
                "10.255.255.255",
                "192.0.2.7",
                "192.0.2.9",
                "::ffff:10.1.1.1",
            ],
            &[
                "9.255.255.255",
                "11.0.0.0",
                "192.0.2.6",
                "192.0.2.10",
                "::a00:1",
                "::1",
            ],
        );
        check(
            "2001:db8::/32 ::1 fe80::/10",
            &[
                "2001:db8::",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                "::1",
                "fe80::1",
            ],
            &["2001:db9::", "::2", "0.0.0.1", "127.0.0.1"],
        );
        check(
            "0.0.0.0/0",
            &["0.0.0.0", "255.255.255.255"],
            &["::1", "::1:0:0:0"],
        );
        check(
            "::/0",
            &["0.0.0.0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            &[],
        );
        check(
            "10.0.0.0/8 10.0.0.0/24 10.1.0.0/16",
            &["10.200.0.0"],
            &["11.0.0.0"],
        );
        assert!(!PrefixSet::default().contains("::1".parse().unwrap()));
    }

    #[test]
    fn a_denied_address_is_out_and_an_allow_list_is_exclusive() {
        let set = |text: &str| PrefixSet::parse(text.split_whitespace()).unwrap();
        for (allow, deny, want) in [
            ("", "", [true, true, true]),
            ("10.0.0.0/8", "", [true, true, false]),
            ("", "10.1.0.0/16", [true, false, true]),
            ("10.0.0.0/8", "10.1.0.0/16", [true, false, false]),
            ("10.1.0.0/16", "10.0.0.0/8", [false, false, false]),
        ] {
            let policy = AddressPolicy {
                allow: set(allow),
                deny: set(deny),
            };
            let got = ["10.0.0.1", "10.1.0.1", "2001:db8::1"].map(|ip| policy.admits(ip.parse().unwrap()));
            assert_eq!(got, want, "allow {allow} deny {deny}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_named() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0",
            "acme.com",
            "::/129",
            "10.0.0.1-10.0.0.2",
        ] {
            let error = PrefixSet::parse([text]).unwrap_err();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
        let many = vec!["::1"; limits::PREFIXES_MAX + 1];
        assert!(PrefixSet::parse(many).is_err());
    }
}
