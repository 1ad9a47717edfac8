// SPDX-License-Identifier: MIT OR Apache-2.0
//! What uplinks drop before all else: the operator's rules as settings of the programs, and the deny list's map.

use std::{collections::BTreeSet, io};

use aya::maps::{LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use ipnet::Ipv4Net;
use proxy_ebpf::abi::{
    Settings,
    limits::DENIED_MAX,
    settings::{DENY_LIST, IMPOSSIBLE},
};

use super::pins::Pins;

/// The rules; by default there are none.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Whose packets are dropped.
    pub deny: Vec<Ipv4Net>,
    /// Whether packets that no honest sender makes are.
    pub impossible: bool,
    /// SYNs to published ports that a prefix of this length may send in a tick.
    pub syn_rate: Option<SynRate>,
}

/// A limit for clients that open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynRate {
    /// SYNs in a tick.
    pub count: u32,
    /// Bits of the prefix, 1 to 32.
    pub prefix: u8,
}

impl Guard {
    /// Writes the rules into the programs' settings.
    pub(super) fn put(&self, settings: &mut Settings) {
        let deny = if self.deny.is_empty() { 0 } else { DENY_LIST };
        let impossible = if self.impossible { IMPOSSIBLE } else { 0 };
        settings.guard = deny | impossible;
        if let Some(rate) = self.syn_rate {
            settings.syn_rate = rate.count;
            settings.syn_mask_be = (u32::MAX << (32 - u32::from(rate.prefix))).to_be();
        }
    }

    /// Makes the map as the list is; what is in both is not touched.
    pub(super) fn fill(&self, pins: &Pins) -> io::Result<()> {
        let data = MapData::from_pin(pins.maps().join("DENIED")).map_err(io::Error::other)?;
        let map = Map::LpmTrie(data);
        let mut map: LpmTrie<MapData, [u8; 4], u32> = map.try_into().map_err(io::Error::other)?;
        let wanted: BTreeSet<(u32, [u8; 4])> = self.deny.iter().map(entry).collect();
        let there: BTreeSet<(u32, [u8; 4])> = map
            .iter()
            .map(|found| found.map(|(key, _)| (key.prefix_len(), key.data())))
            .collect::<Result<_, MapError>>()
            .map_err(io::Error::other)?;
        for (bits, data) in there.difference(&wanted) {
            map.remove(&Key::new(*bits, *data)).map_err(io::Error::other)?;
        }
        for (bits, data) in wanted.difference(&there) {
            map.insert(&Key::new(*bits, *data), 1, 0).map_err(|error| {
                io::Error::other(format!(
                    "{error} (at most {DENIED_MAX} prefixes, limits::DENIED_MAX)"
                ))
            })?;
        }
        Ok(())
    }
}

fn entry(prefix: &Ipv4Net) -> (u32, [u8; 4]) {
    (prefix.prefix_len().into(), prefix.network().octets())
}
