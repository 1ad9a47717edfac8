// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lines of `ipvsadm -S -n`, read and written. Pure.
//!
//! Each line is read alone; what Portico has no equal for makes the line refused, with a reason, and with it the
//! lines that need it. Nothing is guessed: only what means the same here is carried over.

mod options;
mod write;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use options::{Command, Options};
pub(super) use write::{block, of_vip, write};

use crate::{
    model::{Policy, Protocol, Scheduler, TaskAddr, VipAddr, VipPort},
    providers::api::{BackendSpec, ServiceSpec},
};

/// Address and port of a virtual service.
pub(super) type Virtual = (VipAddr, VipPort);

/// What ipvsadm takes when `-A` names no scheduler.
const SCHEDULER: &str = "wlc";
/// Seconds that `-p` means alone.
const PERSISTENT_SECONDS: &str = "300";

/// Something to say about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    /// From 1.
    pub line: usize,
    /// What.
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// A virtual service with its real servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Imported {
    /// The line that adds it.
    pub line: usize,
    /// Where it is.
    pub at: Virtual,
    /// What it is for Portico.
    pub spec: ServiceSpec,
}

impl Imported {
    /// ipvsadm has no names; this one is made from the address.
    pub fn name(&self) -> String {
        let (address, port) = self.at;
        format!("{}-{address}-{}", port.protocol.as_str(), port.port)
    }
}

/// What a text says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// In the order of the text.
    pub services: Vec<Imported>,
    /// Lines that cannot be carried over.
    pub refused: Vec<Remark>,
    /// What is carried over under another name.
    pub notes: Vec<Remark>,
}

/// Reads a whole text.
pub(super) fn read(text: &str) -> Table {
    let mut table = Table::default();
    let mut reader = Reader::default();
    for (i, text) in text.lines().enumerate() {
        let line = i + 1;
        let words = text.split_whitespace();
        let words: Vec<&str> = words.take_while(|word| !word.starts_with('#')).collect();
        if words.is_empty() {
            continue;
        }
        let done = Options::read(&words).and_then(|options| reader.line(line, &options, &mut table));
        if let Err(text) = done {
            table.refused.push(Remark { line, text });
        }
    }
    table
}

/// The services so far.
#[derive(Default)]
struct Reader {
    /// Position in the table, or none when its line was refused; with the line.
    known: BTreeMap<Virtual, (Option<usize>, usize)>,
}

impl Reader {
    fn line(&mut self, line: usize, options: &Options<'_>, table: &mut Table) -> Result<(), String> {
        let at = virtual_service(options)?;
        match options.command {
            Command::AddService => {
                if let Some((_, earlier)) = self.known.get(&at) {
                    return Err(format!("line {earlier} has this service already"));
                }
                self.known.insert(at, (None, line));
                let (mut spec, note) = service(options)?;
                spec.vips.push(format!(
                    "{}/{}",
                    SocketAddr::new(at.0.0, at.1.port),
                    at.1.protocol
                ));
                self.known.insert(at, (Some(table.services.len()), line));
                table.services.push(Imported { line, at, spec });
                table.notes.extend(note.map(|text| Remark { line, text }));
                Ok(())
            }
            Command::AddServer => match self.known.get(&at) {
                None => Err("no line before it adds its service (-A)".into()),
                Some((None, earlier)) => Err(format!("its service (line {earlier}) is refused")),
                Some((Some(position), _)) => match table.services.get_mut(*position) {
                    Some(imported) => server(&mut imported.spec, at, options),
                    None => Err("its service is unknown".into()),
                },
            },
        }
    }
}

fn virtual_service(options: &Options<'_>) -> Result<Virtual, String> {
    let (protocol, text) = match (options.tcp, options.udp) {
        (Some(text), None) => (Protocol::Tcp, text),
        (None, Some(text)) => (Protocol::Udp, text),
        _ => return Err("names no service, or more than one (-t or -u ADDRESS:PORT)".into()),
    };
    let (address, port) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("'{text}' is not ADDRESS:PORT"))?;
    if address.contains(':') && !address.starts_with('[') {
        return Err(format!("'{address}' stands in brackets before a port"));
    }
    let address = host(address)?;
    let port = match port.parse() {
        Ok(0) => {
            return Err("port 0 is every port of one protocol: Portico has one port, or all of both".into());
        }
        Ok(port) => port,
        Err(_) => {
            return Err(format!(
                "'{port}' is not a port; write numbers with ipvsadm -S -n"
            ));
        }
    };
    Ok((VipAddr(address), VipPort { port, protocol }))
}

fn host(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = TaskAddr::parse(bare.unwrap_or(text));
    address
        .map(|address| address.0)
        .map_err(|error| error.to_string())
}

/// Scheduler and affinity, and what to say about them.
fn service(options: &Options<'_>) -> Result<(ServiceSpec, Option<String>), String> {
    let (scheduler, note) = scheduler(options.scheduler.unwrap_or(SCHEDULER), options.flags)?;
    let affinity = match (options.persistent, options.netmask) {
        (None, None) => None,
        (None, Some(_)) => return Err("-M belongs to -p".into()),
        (Some(seconds), mask) => Some(affinity(seconds.unwrap_or(PERSISTENT_SECONDS), mask)?),
    };
    if options.real.is_some() || options.weight.is_some() || options.forward.is_some() {
        return Err("-r, -w, -g, -i and -m belong to -a".into());
    }
    let spec = ServiceSpec {
        scheduler: Some(scheduler.as_str().into()),
        affinity,
        ..ServiceSpec::default()
    };
    let policy = Policy::new(&spec.policy());
    policy.map_err(|wrong| {
        wrong
            .first()
            .map(|wrong| wrong.message.clone())
            .unwrap_or_default()
    })?;
    Ok((spec, note))
}

fn scheduler(name: &str, flags: Option<&str>) -> Result<(Scheduler, Option<String>), String> {
    let known = Scheduler::ALL.into_iter().filter(|one| *one != Scheduler::Random);
    let found = known.clone().find(|one| one.as_str() == name).ok_or_else(|| {
        let names: Vec<&str> = known.map(Scheduler::as_str).collect();
        format!("scheduler '{name}' is none of {}", names.join(", "))
    })?;
    let hashes = matches!(found, Scheduler::SourceHash | Scheduler::Maglev);
    let mut by_port = false;
    for flag in flags.into_iter().flat_map(|flags| flags.split(',')) {
        let short = flag.strip_prefix(name).and_then(|flag| flag.strip_prefix('-'));
        match short.unwrap_or(flag) {
            // Portico gives no client to who takes no new flow, so there is nothing to switch on.
            "fallback" | "flag-1" if hashes => {}
            "port" | "flag-2" if hashes => by_port = true,
            _ => {
                return Err(format!(
                    "scheduler {name} has no flag '{flag}' that Portico knows"
                ));
            }
        }
    }
    let meant = match (hashes, by_port) {
        (false, _) => found,
        (true, false) => Scheduler::SourceHash,
        (true, true) => Scheduler::Maglev,
    };
    let (what, meant_name) = (
        if by_port {
            "address and port"
        } else {
            "address alone"
        },
        meant.as_str(),
    );
    let note = format!("the client's {what} decides, which is Portico's scheduler {meant_name}");
    Ok((meant, (meant != found).then_some(note)))
}

fn affinity(seconds: &str, mask: Option<&str>) -> Result<String, String> {
    let number: u32 = seconds
        .parse()
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("-p: '{seconds}' is not a number of seconds"))?;
    let Some(mask) = mask else {
        return Ok(format!("{number}s"));
    };
    let bits: u32 = match mask.parse::<Ipv4Addr>() {
        Ok(mask) => mask.into(),
        Err(_) => return Err(format!("-M: '{mask}' is not an IPv4 mask")),
    };
    if bits == 0 || bits.leading_ones() + bits.trailing_zeros() != u32::BITS {
        return Err(format!("-M: '{mask}' is not a prefix of 1 to 32 bits"));
    }
    Ok(match bits.leading_ones() {
        u32::BITS => format!("{number}s"),
        prefix => format!("{number}s/{prefix}"),
    })
}

fn server(spec: &mut ServiceSpec, (vip, port): Virtual, options: &Options<'_>) -> Result<(), String> {
    if options.scheduler.or(options.flags).or(options.netmask).is_some() || options.persistent.is_some() {
        return Err("-s, -b, -p and -M belong to -A".into());
    }
    let text = options.real.ok_or("names no server (-r ADDRESS:PORT)")?;
    let (address, own) = match text.rsplit_once(':') {
        Some((address, port))
            if !address.ends_with(':') && (!address.contains(':') || address.ends_with(']')) =>
        {
            (address, Some(port))
        }
        _ => (text, None),
    };
    let address = host(address)?;
    if address.is_ipv6() != vip.0.is_ipv6() {
        return Err(format!("{address} and {vip} are of two kinds"));
    }
    let own: Option<u16> = match own.map(str::parse) {
        None => None,
        Some(Ok(port)) => Some(port),
        Some(Err(_)) => {
            return Err(format!(
                "'{text}' is not ADDRESS:PORT; write numbers with ipvsadm -S -n"
            ));
        }
    };
    // As ipvsadm does it: what is not translated keeps the service's port.
    let direct = !options.forward.is_some_and(|forward| forward.translates());
    let port = own.filter(|own| !direct && *own != 0).unwrap_or(port.port);
    let weight = match options.weight.map(str::parse::<i64>) {
        None | Some(Ok(1)) => None,
        Some(Ok(weight @ 0..=255)) => Some(weight),
        Some(_) => {
            let text = options.weight.unwrap_or_default();
            return Err(format!("weight '{text}' is none of 0 to 255"));
        }
    };
    let client = direct.then(|| "dsr".to_owned());
    if !spec.backends.is_empty() && spec.client != client {
        return Err("-m and -g (or -i) in one service: Portico has one way for all its backends".into());
    }
    let name = SocketAddr::new(address, port).to_string();
    if spec.backends.contains_key(&name) {
        return Err(format!("an earlier line has the server {name} already"));
    }
    spec.client = client;
    let backend = BackendSpec {
        weight,
        draining: false,
    };
    spec.backends.insert(name, backend);
    Ok(())
}

#[cfg(test)]
mod tests;
