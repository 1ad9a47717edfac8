// SPDX-License-Identifier: MIT OR Apache-2.0
//! STATS_*: the statistics page.

use std::sync::Arc;

use super::environment::Sources;
use crate::cli::Exit;
use crate::l7::auth::Credentials;
use crate::l7::settings::Port;
use crate::l7::spec::User;
use crate::l7::stats::page::Settings;

/// Where the original has its page.
const URI: &str = "/admin?stats";
/// A user or password that opens the page to everybody.
const NONE: &str = "none";
/// A port of the page that is none of its own.
const MAIN_PORT: u16 = 80;

/// The page, if it has a user and a password. A port of its own is added to the others.
pub(super) fn settings(sources: &Sources<'_>, ports: &mut Vec<Port>) -> Result<Option<Settings>, Exit> {
    let (user, password) = (named(sources, "STATS_USER")?, named(sources, "STATS_PASS")?);
    // As in the original, `none` needs no counterpart.
    let is_open = [&user, &password]
        .iter()
        .any(|text| text.as_deref() == Some(NONE));
    let credentials = match (user, password) {
        _ if is_open => None,
        (Some(user), Some(password)) => {
            let list = Credentials::new("Strictly Private", &[User::new(&user, &password, false)]);
            Some(Arc::new(
                list.map_err(|error| Exit::Usage(format!("STATS_USER: {error}")))?,
            ))
        }
        _ => return Ok(None),
    };
    let port = match sources.text("STATS_PORT")? {
        None => None,
        Some(text) => match text.trim().parse() {
            Ok(MAIN_PORT) => None,
            Ok(port) if port > 0 => Some(port),
            _ => return Err(Exit::Usage(format!("STATS_PORT: `{text}` is not a port number"))),
        },
    };
    let port_is_own = port.is_some_and(|own| ports.iter().all(|port| port.number != own));
    if let Some(port) = port.filter(|_| port_is_own) {
        ports.push(Port::plain(port));
    }
    let uri = named(sources, "STATS_URI")?.unwrap_or_else(|| URI.into());
    if !uri.starts_with('/') {
        return Err(Exit::Usage(format!(
            "STATS_URI: `{uri}` does not begin with a slash"
        )));
    }
    Ok(Some(Settings {
        uri,
        port,
        port_is_own,
        credentials,
    }))
}

/// The value of the variable that `name`_ENV names, or else of `name`; or of its secret.
fn named(sources: &Sources<'_>, name: &str) -> Result<Option<String>, Exit> {
    match sources.text(&format!("{name}_ENV"))? {
        Some(other) if other != name => sources.any(&other),
        _ => sources.text(name),
    }
}
