// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options of one line, in any order, short and long, as ipvsadm takes them.

/// What a line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `-A`.
    AddService,
    /// `-a`.
    AddServer,
}

/// How packets get to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forward {
    /// `-g`, which is also what a line says that says nothing.
    Direct,
    /// `-i`.
    Tunnel,
    /// `-m`.
    Masquerade,
}

impl Forward {
    /// Whether the server sees its own address and port.
    pub fn translates(self) -> bool {
        self == Forward::Masquerade
    }
}

/// One line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options<'a> {
    pub command: Command,
    pub tcp: Option<&'a str>,
    pub udp: Option<&'a str>,
    pub scheduler: Option<&'a str>,
    pub flags: Option<&'a str>,
    /// With its number, if it has one.
    pub persistent: Option<Option<&'a str>>,
    pub netmask: Option<&'a str>,
    pub real: Option<&'a str>,
    pub forward: Option<Forward>,
    pub weight: Option<&'a str>,
}

/// What an option is.
#[derive(Clone, Copy)]
enum Is {
    Command(Command),
    Tcp,
    Udp,
    Scheduler,
    Flags,
    Persistent,
    Netmask,
    Real,
    Forward(Forward),
    Weight,
    /// A number that must be 0.
    Threshold,
    /// One that makes the line refused, whatever its value.
    Refused(&'static str),
}

const ONLY_ADD: &str = "a saved table has -A and -a lines only";
const TUNNEL: &str = "Portico's tunnel is chosen by the node, not by the server";

/// Short letter (blank = none, since no word has a blank), long name, meaning.
const OPTIONS: &[(char, &str, Is)] = &[
    ('A', "add-service", Is::Command(Command::AddService)),
    ('a', "add-server", Is::Command(Command::AddServer)),
    ('t', "tcp-service", Is::Tcp),
    ('u', "udp-service", Is::Udp),
    ('s', "scheduler", Is::Scheduler),
    ('b', "sched-flags", Is::Flags),
    ('p', "persistent", Is::Persistent),
    ('M', "netmask", Is::Netmask),
    ('r', "real-server", Is::Real),
    ('g', "gatewaying", Is::Forward(Forward::Direct)),
    ('i', "ipip", Is::Forward(Forward::Tunnel)),
    ('m', "masquerading", Is::Forward(Forward::Masquerade)),
    ('w', "weight", Is::Weight),
    ('x', "u-threshold", Is::Threshold),
    ('y', "l-threshold", Is::Threshold),
    (
        'f',
        "fwmark-service",
        Is::Refused("a firewall mark is no address: name address and port"),
    ),
    (' ', "sctp-service", Is::Refused("SCTP is not balanced")),
    ('6', "ipv6", Is::Refused("only IPv4 is supported for now")),
    (
        'o',
        "ops",
        Is::Refused("one-packet scheduling: Portico's datagrams have flows"),
    ),
    (' ', "pe", Is::Refused("Portico has no persistence engine (SIP)")),
    (' ', "tun-type", Is::Refused(TUNNEL)),
    (' ', "tun-port", Is::Refused(TUNNEL)),
    (' ', "tun-nocsum", Is::Refused(TUNNEL)),
    (' ', "tun-csum", Is::Refused(TUNNEL)),
    (' ', "tun-remcsum", Is::Refused(TUNNEL)),
    ('E', "edit-service", Is::Refused(ONLY_ADD)),
    ('e', "edit-server", Is::Refused(ONLY_ADD)),
    ('D', "delete-service", Is::Refused(ONLY_ADD)),
    ('d', "delete-server", Is::Refused(ONLY_ADD)),
    ('C', "clear", Is::Refused(ONLY_ADD)),
    ('Z', "zero", Is::Refused(ONLY_ADD)),
    ('R', "restore", Is::Refused(ONLY_ADD)),
    ('S', "save", Is::Refused(ONLY_ADD)),
];

impl<'a> Options<'a> {
    /// Reads the words of a line.
    pub fn read(words: &[&'a str]) -> Result<Self, String> {
        let mut command = None;
        let mut options = Options {
            command: Command::AddService,
            tcp: None,
            udp: None,
            scheduler: None,
            flags: None,
            persistent: None,
            netmask: None,
            real: None,
            forward: None,
            weight: None,
        };
        let mut words = words.iter().copied().peekable();
        while let Some(word) = words.next() {
            let (name, is, attached) = option(word)?;
            let mut value = || {
                let value = attached.or_else(|| words.next_if(|next| !next.starts_with('-')));
                value.ok_or_else(|| format!("{name} needs a value"))
            };
            match is {
                Is::Command(what) => once(&mut command, what, name)?,
                Is::Tcp => once(&mut options.tcp, value()?, name)?,
                Is::Udp => once(&mut options.udp, value()?, name)?,
                Is::Scheduler => once(&mut options.scheduler, value()?, name)?,
                Is::Flags => once(&mut options.flags, value()?, name)?,
                Is::Persistent => once(&mut options.persistent, value().ok(), name)?,
                Is::Netmask => once(&mut options.netmask, value()?, name)?,
                Is::Real => once(&mut options.real, value()?, name)?,
                Is::Forward(how) => once(&mut options.forward, how, name)?,
                Is::Weight => once(&mut options.weight, value()?, name)?,
                Is::Threshold if value()? == "0" => {}
                Is::Threshold => {
                    return Err(format!("{name}: Portico has no limit of connections per backend"));
                }
                Is::Refused(why) => return Err(format!("{name}: {why}")),
            }
        }
        options.command = command.ok_or(ONLY_ADD)?;
        Ok(options)
    }
}

fn once<T>(place: &mut Option<T>, value: T, name: &str) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!(
            "{name}: this, or another of its kind, stands there before"
        )),
    }
}

/// An option as it is written, its meaning, and the value that is part of the word (`-w5`, `--weight=5`).
fn option(word: &str) -> Result<(&str, Is, Option<&str>), String> {
    let unknown = || format!("'{word}' is no option that Portico knows");
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = long
            .split_once('=')
            .map_or((long, None), |(name, value)| (name, Some(value)));
        let found = OPTIONS.iter().find(|(_, known, _)| *known == name);
        let (_, _, is) = found.ok_or_else(unknown)?;
        return Ok((word.split('=').next().unwrap_or(word), *is, value));
    }
    let rest = word.strip_prefix('-').ok_or_else(unknown)?;
    let mut letters = rest.chars();
    let letter = letters.next().ok_or_else(unknown)?;
    let found = OPTIONS.iter().find(|(known, ..)| *known == letter);
    let (_, _, is) = found.ok_or_else(unknown)?;
    let value = Some(letters.as_str()).filter(|value| !value.is_empty());
    if value.is_some() && matches!(is, Is::Command(_) | Is::Forward(_)) {
        return Err(format!("'{word}': write one option at a time"));
    }
    Ok((word.get(..1 + letter.len_utf8()).unwrap_or(word), *is, value))
}
