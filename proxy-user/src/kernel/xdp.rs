// SPDX-License-Identifier: MIT OR Apache-2.0
//! XDP on the uplinks: where it is used, and how the program is attached.
//!
//! The tc program is always there and does everything; XDP in front of it saves the kernel's work for packets that
//! go on to other nodes. So nothing is lost where a driver has no XDP, and a failure is told, not fatal, unless the
//! operator asked for a mode by name.

use std::path::Path;

use aya::programs::{Xdp, XdpMode, links::FdLink};

use super::{
    attach::{self, AttachError},
    netlink::Link,
};

/// What the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Native on network cards whose driver has it, none on other interfaces.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic form: for tests; it costs more than it saves.
    Generic,
    /// tc alone.
    Off,
}

/// What an uplink has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The program, in this mode.
    On(&'static str),
    /// tc alone, and why.
    Off(String),
}

impl Outcome {
    /// For `status`.
    pub fn text(&self) -> String {
        match self {
            Outcome::On(mode) => (*mode).to_owned(),
            Outcome::Off(why) => format!("off: {why}"),
        }
    }
}

/// Name of an uplink's link, without its mode.
pub fn link_name(ifindex: u32) -> String {
    format!("xdp-{ifindex}")
}

/// Attaches the program as the operator wants it; also whether something changed.
pub fn uplink(
    links: &Path,
    choice: Choice,
    link: &Link,
    program: &mut Xdp,
) -> Result<(Outcome, bool), AttachError> {
    let (mode, text) = match choice {
        Choice::Off => return without(links, link.ifindex, "by --xdp off".into()),
        Choice::Auto if !is_card(link) => {
            return without(links, link.ifindex, format!("{} is no network card", link.name));
        }
        Choice::Auto | Choice::Native => (XdpMode::Driver, "native"),
        Choice::Generic => (XdpMode::Skb, "generic"),
    };
    match attach::xdp(links, &link_name(link.ifindex), program, link.ifindex, mode) {
        Ok(changed) => Ok((Outcome::On(text), changed)),
        Err(AttachError::Attach { source, .. }) if choice == Choice::Auto => {
            without(links, link.ifindex, source.to_string())
        }
        Err(e) => Err(e),
    }
}

fn without(links: &Path, ifindex: u32, why: String) -> Result<(Outcome, bool), AttachError> {
    let name = link_name(ifindex);
    let changed = attach::detach_xdp(links, &name).map_err(|source| AttachError::Pin { name, source })?;
    Ok((Outcome::Off(why), changed))
}

/// Whether a network card's driver made the interface. A veth or a bridge would take the program as well, but sends
/// what it answers only if its other end is made for that.
pub fn is_card(link: &Link) -> bool {
    !link.is_virtual && link.mac != [0; 6]
}

/// A link that ends with its pin.
pub fn attach_link(program: &mut Xdp, ifindex: u32, mode: XdpMode) -> Result<FdLink, AttachError> {
    let error = |source: Box<dyn std::error::Error + Send + Sync>| AttachError::Attach {
        target: format!("XDP of interface {ifindex}"),
        source,
    };
    let link = program
        .attach_to_if_index(ifindex, mode)
        .map_err(|e| error(Box::new(e)))?;
    let link = program.take_link(link).map_err(|e| error(Box::new(e)))?;
    link.try_into().map_err(|e| error(Box::new(e)))
}
