// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which firewall rules the calling thread's namespace has: nftables (that of iptables as well) over netlink, and
//! the tables of iptables-legacy through their socket options. Only read, and only where they are loaded.

use std::{collections::BTreeMap, fs, io, path::Path};

use netlink_packet_core::{NLM_F_DUMP, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{exchange::Exchange, genetlink::find, legacy};

/// A chain of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `nft` or `legacy`.
    pub kind: &'static str,
    /// `ip`, `ip6`, `inet` or what else nft calls it.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its rules.
    pub rules: usize,
    /// Rules that say no more than "return": an engine's own DOCKER-USER has one.
    pub returns: usize,
}

/// nf_tables as a subsystem of nfnetlink, and what it is asked (linux/netfilter/nfnetlink.h, nf_tables.h).
const NFTABLES: u16 = 10 << 8;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
/// Family, version, two bytes of a resource.
const HEADER: usize = 4;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
/// The verdict that leaves a chain.
const RETURN: i32 = -5;

/// All chains that could be read; none of a kind whose modules are not loaded.
pub fn chains() -> io::Result<Vec<Chain>> {
    let mut all = if nft_is_loaded() { nft()? } else { Vec::new() };
    for (family, names) in [
        ("ip", "/proc/self/net/ip_tables_names"),
        ("ip6", "/proc/self/net/ip6_tables_names"),
    ] {
        // Absent without the module. A table that is named there exists, so asking for it makes none.
        let tables = match fs::read_to_string(names) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            tables => tables?,
        };
        for table in tables.lines() {
            all.extend(legacy::chains(family, table)?);
        }
    }
    Ok(all)
}

/// Asking would load it, on a kernel that has modules.
fn nft_is_loaded() -> bool {
    Path::new("/sys/module/nf_tables").exists()
        || !Path::new("/proc/modules").exists()
        || fs::read_to_string("/proc/kallsyms").is_ok_and(|symbols| symbols.contains(" nf_tables_getchain"))
}

fn nft() -> io::Result<Vec<Chain>> {
    let mut exchange = Exchange::open(NETLINK_NETFILTER)?;
    let mut chains: BTreeMap<(u8, String, String), Chain> = BTreeMap::new();
    dump(&mut exchange, GET_CHAIN, |family, attributes| {
        if let (Some(table), Some(name)) = (text(attributes, CHAIN_TABLE), text(attributes, CHAIN_NAME)) {
            chains.entry((family, table, name)).or_default();
        }
    })?;
    dump(&mut exchange, GET_RULE, |family, attributes| {
        if let (Some(table), Some(name)) = (text(attributes, RULE_TABLE), text(attributes, RULE_CHAIN)) {
            let chain = chains.entry((family, table, name)).or_default();
            chain.rules += 1;
            chain.returns += usize::from(returns(find(attributes, RULE_EXPRESSIONS).unwrap_or_default()));
        }
    })?;
    let named = |((number, table, name), chain): ((u8, String, String), Chain)| Chain {
        kind: "nft",
        family: family(number),
        table,
        name,
        ..chain
    };
    Ok(chains.into_iter().map(named).collect())
}

fn dump(exchange: &mut Exchange, what: u16, mut each: impl FnMut(u8, &[u8])) -> io::Result<()> {
    // Of every family (NFPROTO_UNSPEC), version 0.
    exchange.request(NFTABLES | what, NLM_F_DUMP, vec![0; HEADER], |answer| {
        if let Some(attributes) = answer.get(HEADER..) {
            each(answer[0], attributes);
        }
    })
}

fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let bytes = find(attributes, kind)?;
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// NFPROTO_* of linux/netfilter.h.
fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "other",
    }
}

/// Whether a rule's expressions do nothing but count and return.
fn returns(expressions: &[u8]) -> bool {
    let mut found = false;
    for element in NlasIterator::new(expressions).map_while(Result::ok) {
        let bytes = element.into_inner();
        let element = &bytes[HEADER..usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]))];
        match text(element, EXPRESSION_NAME).as_deref() {
            Some("counter") => {}
            Some("immediate") => {
                let code = find(element, EXPRESSION_DATA)
                    .and_then(|data| find(data, IMMEDIATE_DATA))
                    .and_then(|data| find(data, DATA_VERDICT))
                    .and_then(|verdict| find(verdict, VERDICT_CODE))
                    .and_then(|code| code.try_into().ok());
                if code.map(i32::from_be_bytes) != Some(RETURN) {
                    return false;
                }
                found = true;
            }
            _ => return false,
        }
    }
    found
}
