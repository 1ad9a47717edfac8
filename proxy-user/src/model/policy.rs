// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a service's flows are spread over its backends, and who may open them.
//!
//! The same words everywhere: keys of `portico.toml`, labels `portico.KEY` of a Swarm service, fields of the agent's
//! API. What is not said has the value that changes nothing.

use std::{
    fmt,
    net::Ipv4Addr,
    sync::{Arc, LazyLock},
};

use ipnet::Ipv4Net;

use super::{
    limits,
    snapshot::{PolicyParams, Problem},
};

/// Who gets a new flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduler {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// Each in turn, as often as its weight says.
    WeightedRoundRobin,
    /// Who has the fewest open flows.
    Least,
    /// Who has the fewest open flows for its weight.
    WeightedLeast,
    /// By the client's address.
    SourceHash,
    /// By the client's address and port (Maglev).
    Maglev,
    /// By chance, as often as its weight says.
    Random,
}

impl Scheduler {
    /// All of them.
    pub const ALL: [Scheduler; 7] = [
        Scheduler::RoundRobin,
        Scheduler::WeightedRoundRobin,
        Scheduler::Least,
        Scheduler::WeightedLeast,
        Scheduler::SourceHash,
        Scheduler::Maglev,
        Scheduler::Random,
    ];

    /// Its name in configuration, which is IPVS's where IPVS has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheduler::RoundRobin => "rr",
            Scheduler::WeightedRoundRobin => "wrr",
            Scheduler::Least => "lc",
            Scheduler::WeightedLeast => "wlc",
            Scheduler::SourceHash => "sh",
            Scheduler::Maglev => "mh",
            Scheduler::Random => "random",
        }
    }

    /// Whether weights other than 0 make a difference.
    pub const fn weighs(self) -> bool {
        !matches!(self, Scheduler::RoundRobin | Scheduler::Least)
    }
}

/// What a task sees as the client of a published port, and how its replies travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientMode {
    /// The client; replies leave by the node that the client used.
    #[default]
    Preserve,
    /// The client; replies leave by the task's node.
    Dsr,
    /// The node that the client used.
    Masquerade,
}

impl ClientMode {
    /// All of them.
    pub const ALL: [ClientMode; 3] = [ClientMode::Preserve, ClientMode::Dsr, ClientMode::Masquerade];

    /// Its name in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            ClientMode::Preserve => "preserve",
            ClientMode::Dsr => "dsr",
            ClientMode::Masquerade => "masquerade",
        }
    }
}

/// A client keeps its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// For so many seconds after its last new flow.
    pub seconds: u32,
    /// Leading bits of an address that make a client.
    pub prefix: u8,
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s/{}", self.seconds, self.prefix)
    }
}

/// The policy of a service. The default is round robin among equals, open to everyone, with the client's address kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who gets a new flow.
    pub scheduler: Scheduler,
    /// Whether a client keeps its backend.
    pub affinity: Option<Affinity>,
    /// What tasks see as the client.
    pub client: ClientMode,
    /// If not empty: who may open flows to published ports, nobody else.
    pub allow: Vec<Ipv4Net>,
    /// Who may not. Of two prefixes that an address is in, the longer one counts.
    pub deny: Vec<Ipv4Net>,
    /// Seconds after which a draining member's flows are reset; `None` = when its provider drops it.
    pub drain: Option<u32>,
}

impl Policy {
    /// To be kept: nearly all services have the default, and then it is the same one.
    pub fn shared(self) -> Arc<Self> {
        static USUAL: LazyLock<Arc<Policy>> = LazyLock::new(Arc::default);
        if self == **USUAL {
            USUAL.clone()
        } else {
            Arc::new(self)
        }
    }

    /// Checks what a provider read.
    pub fn new(params: &PolicyParams) -> Result<Policy, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut policy = Policy::default();
        let mut note = |field: &str, problem: String| problems.push(Problem::new(field, problem));
        if let Some(text) = &params.scheduler {
            match Scheduler::ALL.into_iter().find(|known| known.as_str() == text) {
                Some(scheduler) => policy.scheduler = scheduler,
                None => note("scheduler", none_of(text, Scheduler::ALL.map(Scheduler::as_str))),
            }
        }
        if let Some(text) = &params.client {
            match ClientMode::ALL.into_iter().find(|known| known.as_str() == text) {
                Some(client) => policy.client = client,
                None => note("client", none_of(text, ClientMode::ALL.map(ClientMode::as_str))),
            }
        }
        if let Some(text) = &params.affinity {
            match affinity(text) {
                Ok(affinity) => policy.affinity = affinity,
                Err(problem) => note("affinity", problem),
            }
        }
        if let Some(text) = &params.drain {
            match drain(text) {
                Ok(drain) => policy.drain = drain,
                Err(problem) => note("drain", problem),
            }
        }
        for (field, texts, found) in [
            ("allow", &params.allow, &mut policy.allow),
            ("deny", &params.deny, &mut policy.deny),
        ] {
            for (i, text) in texts.iter().enumerate() {
                match prefix(text) {
                    Ok(prefix) => found.push(prefix),
                    Err(problem) => note(&format!("{field}[{i}]"), problem),
                }
            }
            found.sort_unstable();
            found.dedup();
        }
        if let Some(both) = policy.allow.iter().find(|prefix| policy.deny.contains(prefix)) {
            note("deny", format!("{both} is allowed as well"));
        }
        if policy.allow.len() + policy.deny.len() > limits::PREFIXES_MAX {
            let max = limits::PREFIXES_MAX;
            note(
                "allow",
                format!("more than {max} prefixes with deny (limits::PREFIXES_MAX)"),
            );
        }
        if problems.is_empty() {
            Ok(policy)
        } else {
            Err(problems)
        }
    }

    /// Whether sources are looked at.
    pub fn is_filtered(&self) -> bool {
        !self.allow.is_empty() || !self.deny.is_empty()
    }
}

fn none_of<const N: usize>(text: &str, known: [&str; N]) -> String {
    format!("'{text}' is none of {}", known.join(", "))
}

/// Reads `NUMBER[s|m|h|d][/PREFIX]`; `0` and `none` mean no affinity.
fn affinity(text: &str) -> Result<Option<Affinity>, String> {
    const FORM: &str = "the form is NUMBER[s|m|h|d][/PREFIX], or none";
    if text == "none" {
        return Ok(None);
    }
    let (time, prefix) = text.split_once('/').unwrap_or((text, "32"));
    let prefix = match prefix.parse() {
        Ok(prefix) if (1..=32).contains(&prefix) => prefix,
        _ => return Err(format!("'{prefix}' is not a prefix length (1 to 32); {FORM}")),
    };
    let max = (limits::AFFINITY_SECONDS_MAX, "AFFINITY_SECONDS_MAX");
    Ok(match seconds(time, FORM, max)? {
        0 => None,
        seconds => Some(Affinity { seconds, prefix }),
    })
}

/// Reads `NUMBER[s|m|h|d]`; `none` means no deadline, 0 that flows are reset at once.
fn drain(text: &str) -> Result<Option<u32>, String> {
    const FORM: &str = "the form is NUMBER[s|m|h|d], or none";
    if text == "none" {
        return Ok(None);
    }
    let max = (limits::DRAIN_SECONDS_MAX, "DRAIN_SECONDS_MAX");
    seconds(text, FORM, max).map(Some)
}

/// Reads `NUMBER[s|m|h|d]` up to a limit, which has a name.
fn seconds(time: &str, form: &str, (max, name): (u32, &str)) -> Result<u32, String> {
    let (number, unit) = match time.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => time.split_at(at),
        None => (time, "s"),
    };
    let wrong = || format!("'{time}' is not a time; {form}");
    let unit: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .and_then(|seconds| u32::try_from(seconds).ok())
        .ok_or_else(wrong)?;
    if seconds > max {
        return Err(format!("'{time}' is more than {max} seconds (limits::{name})"));
    }
    Ok(seconds)
}

/// Reads `ADDRESS[/BITS]`. Bits behind the prefix are refused: who writes them means something else.
pub(crate) fn prefix(text: &str) -> Result<Ipv4Net, String> {
    let wrong = || format!("'{text}' is not an IPv4 prefix (ADDRESS or ADDRESS/BITS)");
    let net = match text.split_once('/') {
        Some(_) => text.parse::<Ipv4Net>().map_err(|_| wrong())?,
        None => Ipv4Net::from(text.parse::<Ipv4Addr>().map_err(|_| wrong())?),
    };
    if net.addr() == net.network() {
        Ok(net)
    } else {
        Err(format!(
            "'{text}' has bits behind its prefix; {} is meant?",
            net.trunc()
        ))
    }
}

/// Checks a weight; what nobody said is 1.
pub fn weight(given: Option<i64>) -> Result<u8, String> {
    let given = given.unwrap_or(1);
    u8::try_from(given).map_err(|_| format!("{given} is not a weight (0 to 255)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl FnOnce(&mut PolicyParams)) -> Result<Policy, String> {
        let mut params = PolicyParams::default();
        change(&mut params);
        Policy::new(&params).map_err(|wrong| format!("{}: {}", wrong[0].field, wrong[0].message))
    }

    #[test]
    fn what_is_not_said_changes_nothing() {
        assert_eq!(read(|_| ()), Ok(Policy::default()));
    }

    #[test]
    fn affinities_have_a_time_and_a_prefix() {
        let affinity = |text: &str| read(|p| p.affinity = Some(text.into())).map(|policy| policy.affinity);
        let some = |seconds, prefix| Ok(Some(Affinity { seconds, prefix }));
        for (text, expected) in [
            ("600", some(600, 32)),
            ("600s", some(600, 32)),
            ("10m/24", some(600, 24)),
            ("2h/8", some(7_200, 8)),
            ("30d", some(2_592_000, 32)),
            ("0", Ok(None)),
            ("none", Ok(None)),
        ] {
            assert_eq!(affinity(text), expected, "{text}");
        }
        for text in [
            "",
            "m",
            "-1",
            "10x",
            "10m/",
            "10m/0",
            "10m/33",
            "1.5h",
            "31d",
            "99999999999999999999d",
        ] {
            assert!(affinity(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_drain_has_a_time_or_no_end() {
        let drain = |text: &str| read(|p| p.drain = Some(text.into())).map(|policy| policy.drain);
        for (text, expected) in [
            ("30", Some(30)),
            ("5m", Some(300)),
            ("1d", Some(86_400)),
            ("0", Some(0)),
            ("none", None),
        ] {
            assert_eq!(drain(text), Ok(expected), "{text}");
        }
        for text in ["", "5m/24", "-1", "soon", "25h"] {
            assert!(drain(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_are_whole_and_named_once() {
        let lists = |allow: &[&str], deny: &[&str]| {
            read(|p| {
                p.allow = allow.iter().map(|text| (*text).into()).collect();
                p.deny = deny.iter().map(|text| (*text).into()).collect();
            })
            .map(|policy| (policy.allow.len(), policy.deny.len()))
        };
        assert_eq!(
            lists(&["10.0.0.0/8", "10.0.0.0/8", "192.0.2.1"], &["10.1.0.0/16"]),
            Ok((2, 1))
        );
        assert_eq!(
            lists(&["10.0.0.0/8"], &["10.0.0.0/8"]),
            Err("deny: 10.0.0.0/8 is allowed as well".into())
        );
        assert_eq!(
            lists(&["10.0.0.1/8"], &[]),
            Err("allow[0]: '10.0.0.1/8' has bits behind its prefix; 10.0.0.0/8 is meant?".into())
        );
        for text in ["", "10.0.0.0/33", "fd00::/8", "10.0.0", "web"] {
            assert!(lists(&[], &[text]).is_err(), "{text}");
        }
        let many: Vec<String> = (0..=limits::PREFIXES_MAX)
            .map(|i| format!("10.0.{}.{}", i / 256, i % 256))
            .collect();
        assert!(read(|p| p.allow = many).is_err());
    }

    #[test]
    fn names_are_those_of_ipvs() {
        for scheduler in Scheduler::ALL {
            let policy = read(|p| p.scheduler = Some(scheduler.as_str().into()));
            assert_eq!(policy.map(|policy| policy.scheduler), Ok(scheduler));
        }
        assert_eq!(
            read(|p| p.scheduler = Some("RR".into())),
            Err("scheduler: 'RR' is none of rr, wrr, lc, wlc, sh, mh, random".into())
        );
        assert!(read(|p| p.client = Some("nat".into())).is_err());
    }

    #[test]
    fn weights_fit_in_a_byte() {
        assert_eq!(
            (weight(None), weight(Some(0)), weight(Some(255))),
            (Ok(1), Ok(0), Ok(255))
        );
        assert!(weight(Some(256)).is_err() && weight(Some(-1)).is_err());
    }
}
