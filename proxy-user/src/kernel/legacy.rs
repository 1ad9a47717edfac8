// SPDX-License-Identifier: MIT OR Apache-2.0
//! A table of iptables-legacy, as the kernel hands it out: one block of entries (linux/netfilter_ipv4/ip_tables.h).
//!
//! A chain of the user's begins with an entry whose target is `ERROR` and has the chain's name, and ends with one
//! that returns. A built-in chain begins at a hook's offset and ends at the hook's "underflow", its policy. The last
//! entry of all is an `ERROR` of its own.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::firewall::Chain;

/// IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES; those of IPv6 have the same numbers.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
const NAME_BYTES: usize = 32;
const HOOKS: usize = 5;
/// Name, valid hooks, an offset and an underflow for each, entries, bytes.
const INFO_BYTES: usize = NAME_BYTES + 4 * (1 + HOOKS + HOOKS + 2);
/// Name, bytes, and the block is aligned as its counters are.
const ENTRIES_HEADER: usize = 40;
/// Chains of iptables, in the order of the hooks.
const BUILT_IN: [&str; HOOKS] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// Most that is read of a table: 100 000 rules of 160 bytes.
const TABLE_BYTES_MAX: usize = 16 << 20;
/// The verdict that leaves a chain.
const RETURN: i32 = -5;

/// What differs between the families: the level of the options, and where in an entry things stand.
struct Family {
    name: &'static str,
    domain: i32,
    level: i32,
    /// Bytes of the part that matches addresses; after it a word of flags, `target_offset` and `next_offset`.
    addresses: usize,
    /// Bytes of an entry before its matches and its target.
    entry: usize,
}

const FAMILIES: [Family; 2] = [
    Family {
        name: "ip",
        domain: libc::AF_INET,
        level: libc::SOL_IP,
        addresses: 84,
        entry: 112,
    },
    Family {
        name: "ip6",
        domain: libc::AF_INET6,
        level: libc::IPPROTO_IPV6,
        addresses: 136,
        entry: 168,
    },
];

/// The chains of one table (`filter`, `nat`, …) of `ip` or `ip6`.
pub(super) fn chains(family: &str, table: &str) -> io::Result<Vec<Chain>> {
    let family = FAMILIES.iter().find(|known| known.name == family);
    let family = family.ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: no pointers; the descriptor is new and nobody else's.
    let socket = unsafe {
        let socket = libc::socket(
            family.domain,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::IPPROTO_RAW,
        );
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(socket)
    };
    let mut info = vec![0; INFO_BYTES];
    info[..table.len().min(NAME_BYTES - 1)]
        .copy_from_slice(&table.as_bytes()[..table.len().min(NAME_BYTES - 1)]);
    ask(&socket, family, GET_INFO, &mut info)?;
    let word = |at: usize| word(&info, NAME_BYTES + 4 * at) as usize;
    let bytes = word(2 + 2 * HOOKS);
    if bytes > TABLE_BYTES_MAX {
        return Err(io::Error::other(format!("{table}: {bytes} bytes of rules")));
    }
    let hooks: Vec<(usize, usize, &str)> = (0..HOOKS)
        .filter(|hook| word(0) >> hook & 1 == 1)
        .map(|hook| (word(1 + hook), word(1 + HOOKS + hook), BUILT_IN[hook]))
        .collect();
    let mut block = info[..NAME_BYTES].to_vec();
    block.extend((bytes as u32).to_ne_bytes());
    block.resize(ENTRIES_HEADER + bytes, 0);
    ask(&socket, family, GET_ENTRIES, &mut block)?;
    Ok(read(family, table, &hooks, &block[ENTRIES_HEADER..]))
}

fn ask(socket: &OwnedFd, family: &Family, option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the buffer is as long as the length says, and both outlive the call.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            family.level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn read(family: &Family, table: &str, hooks: &[(usize, usize, &str)], block: &[u8]) -> Vec<Chain> {
    let chain = |name: &str| Chain {
        kind: "legacy",
        family: family.name,
        table: table.into(),
        name: name.into(),
        ..Chain::default()
    };
    let mut chains: Vec<Chain> = Vec::new();
    let mut at = 0;
    while let Some(entry) = block.get(at..).filter(|entry| entry.len() > family.entry) {
        let target = usize::from(half(entry, family.addresses + 4));
        let next = usize::from(half(entry, family.addresses + 6));
        if let Some((_, _, name)) = hooks.iter().find(|(begin, _, _)| *begin == at) {
            chains.push(chain(name));
        }
        // Bytes and name of the target (xt_entry_target), then its data.
        match error_name(entry.get(target..).unwrap_or_default()) {
            Some(name) => chains.push(chain(&name)),
            None if hooks.iter().any(|(_, end, _)| *end == at) => {}
            None => {
                if let Some(chain) = chains.last_mut() {
                    chain.rules += 1;
                    let everything = entry[..family.addresses].iter().all(|byte| *byte == 0);
                    let verdict = word(entry, target + 32) as i32;
                    let standard = entry.get(target + 2) == Some(&0);
                    let plain = everything && target == family.entry && standard && verdict == RETURN;
                    chain.returns += usize::from(plain);
                }
            }
        }
        if next < family.entry {
            break;
        }
        at += next;
    }
    // The last entry of all.
    chains.pop();
    for chain in chains
        .iter_mut()
        .filter(|chain| !BUILT_IN.contains(&&chain.name[..]))
    {
        // The return at the end.
        chain.rules = chain.rules.saturating_sub(1);
        chain.returns = chain.returns.saturating_sub(1);
    }
    chains
}

/// The name in a target that begins a chain.
fn error_name(target: &[u8]) -> Option<String> {
    let name = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    (name(target.get(2..31)?) == "ERROR").then(|| name(target.get(32..62).unwrap_or_default()))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
    found.map_or(0, u16::from_ne_bytes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    found.map_or(0, u32::from_ne_bytes)
}
