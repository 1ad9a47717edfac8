// SPDX-License-Identifier: MIT OR Apache-2.0
//! The namespace's settings of IPVS that the agent changes, and what they were before.

use std::{fs, io, path::Path};

use crate::cli::Exit;

/// A client must not come back to a destination that drains, nor wait for one that is gone.
const SETTINGS: [&str; 2] = ["expire_quiescent_template", "expire_nodest_conn"];
/// What they are set to.
const WANTED: &str = "1";
/// File of the state directory with their values before, one `NAME VALUE` per line.
const BEFORE: &str = "ipvs.settings";
const FOLDER: &str = "/proc/sys/net/ipv4/vs";

/// Sets them. What they were is written down first, and only once: a second start finds the agent's own values.
pub(super) fn set(state: &Path) -> Result<(), Exit> {
    let lacks = |name: &str, error: io::Error| Exit::Lacks {
        what: format!("{FOLDER}/{name}: {error}"),
        how: "run as root, with /proc/sys writable".into(),
    };
    let record = state.join(BEFORE);
    if !record.exists() {
        let mut text = String::new();
        for name in SETTINGS {
            let value = read(name).map_err(|error| lacks(name, error))?;
            text += &format!("{name} {value}\n");
        }
        fs::write(&record, text).map_err(|error| Exit::Failed(format!("{}: {error}", record.display())))?;
    }
    for name in SETTINGS {
        fs::write(path(name), WANTED).map_err(|error| lacks(name, error))?;
    }
    Ok(())
}

/// The settings that were changed, with the values that they had.
pub fn changed(state: &Path) -> io::Result<Vec<(String, String)>> {
    match fs::read_to_string(state.join(BEFORE)) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Gives them back, unless somebody else has set them since or the kernel has no IPVS any more.
pub fn restore(state: &Path) -> io::Result<()> {
    for (name, before) in changed(state)? {
        match read(&name) {
            Ok(now) if now == WANTED => fs::write(path(&name), before)?,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match fs::remove_file(state.join(BEFORE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Only settings that are ours to change.
fn parse(text: &str) -> Vec<(String, String)> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let known = pairs.filter(|(name, value)| SETTINGS.contains(name) && value.parse::<u32>().is_ok());
    known
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn path(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

fn read(name: &str) -> io::Result<String> {
    fs::read_to_string(path(name)).map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_our_settings_is_given_back() {
        let text = "expire_nodest_conn 0\n../ip_forward 0\nexpire_quiescent_template x\n\n";
        assert_eq!(parse(text), [("expire_nodest_conn".to_owned(), "0".to_owned())]);
    }
}
