// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flags of what uplinks drop before all else.

use ipnet::Ipv4Net;

use crate::{
    kernel::guard::{Guard, SynRate},
    model::policy,
};

/// Most SYNs of a limit: more is none.
const RATE_MAX: u32 = 1 << 30;
/// Each address by itself, unless the operator says otherwise.
const PREFIX: u8 = 32;

/// The flags.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "guard-flags")]
pub(super) struct Args {
    /// Drop everything that comes in through an uplink from these addresses or prefixes; repeat or separate by commas.
    /// It counts for the whole node, your own access to it included
    #[arg(long, value_name = "PREFIX", env = "PORTICO_DENY", value_delimiter = ',', value_parser = prefix)]
    deny: Vec<Prefix>,
    /// Drop packets that no honest sender makes: TCP flags that contradict each other, port 0, sources that are
    /// nobody's
    #[arg(long, env = "PORTICO_DROP_MALFORMED")]
    drop_malformed: bool,
    /// SYNs to published ports that an address, or all of a prefix together, may send in 1.07 s (2^30 ns); more are
    /// dropped
    #[arg(long, value_name = "COUNT[/BITS]", env = "PORTICO_SYN_RATE", value_parser = rate)]
    syn_rate: Option<SynRate>,
}

/// None of an empty text, as an environment variable may be.
type Prefix = Option<Ipv4Net>;

impl Args {
    /// Whether there is any rule.
    pub(super) fn is_any(&self) -> bool {
        self.drop_malformed || self.syn_rate.is_some() || self.deny.iter().any(Option::is_some)
    }

    pub(super) fn rules(&self) -> Guard {
        Guard {
            deny: self.deny.iter().copied().flatten().collect(),
            impossible: self.drop_malformed,
            syn_rate: self.syn_rate,
        }
    }
}

fn prefix(text: &str) -> Result<Prefix, String> {
    if text.is_empty() {
        return Ok(None);
    }
    policy::prefix(text).map(Some)
}

fn rate(text: &str) -> Result<SynRate, String> {
    let (count, bits) = match text.split_once('/') {
        Some((count, bits)) => (count, Some(bits)),
        None => (text, None),
    };
    let count = count
        .parse()
        .ok()
        .filter(|count| (1..=RATE_MAX).contains(count))
        .ok_or_else(|| format!("'{count}' is not between 1 and {RATE_MAX}"))?;
    let prefix = match bits {
        None => PREFIX,
        Some(bits) => bits
            .parse()
            .ok()
            .filter(|bits| (1..=32).contains(bits))
            .ok_or_else(|| format!("'{bits}' is not between 1 and 32 bits"))?,
    };
    Ok(SynRate { count, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_perhaps_a_prefix() {
        let read = |text| rate(text).map(|rate| (rate.count, rate.prefix));
        assert_eq!(read("100"), Ok((100, 32)));
        assert_eq!(read("100/24"), Ok((100, 24)));
        for wrong in ["", "0", "-1", "x/24", "100/0", "100/33", "100/", "9999999999"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(prefix(""), Ok(None));
        assert!(prefix("fd00::/8").is_err());
    }
}
