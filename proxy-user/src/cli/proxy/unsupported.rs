// SPDX-License-Identifier: MIT OR Apache-2.0
//! Variables of the original that have no effect here, and those that end the start.

use super::environment::Sources;
use crate::cli::Exit;
use crate::l7::snippets;

/// Variables that may be set and change nothing, because what they tune does not exist here.
pub(super) const NO_EFFECT: &[&str] = &[
    "CERTS",
    "CHECK_RESOLVERS",
    "DISPLAY_CONFIG_ON_ERROR",
    "DO_NOT_RESOLVE_ADDR",
    "HEALTHCHECK",
    "MODE",
    "RECONFIGURE_ATTEMPTS",
    "TERMINATE_ON_RELOAD",
];

/// Variables that would change behaviour and cannot be honoured, and what to use instead.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("EXTRA_FRONTEND", ""),
    ("EXTRA_GLOBAL", ""),
    (
        "CFG_TEMPLATE_PATH",
        "templates of HAProxy's configuration are not read; leave it out and say what the template says with \
         variables and parameters",
    ),
];

/// What the image of the original sets by itself, and what is therefore no wish of anybody.
const IMAGE_TEMPLATE: &str = "/cfg/tmpl/haproxy.tmpl";

/// Ends the start with the first variable that cannot be honoured.
pub(super) fn refuse(sources: &Sources<'_>) -> Result<(), Exit> {
    for (name, instead) in REFUSED {
        let Some(text) = sources.any(name)? else {
            continue;
        };
        let why = match (*name, text.as_str()) {
            ("CFG_TEMPLATE_PATH", IMAGE_TEMPLATE) => continue,
            // A comma ends a line there.
            ("EXTRA_FRONTEND" | "EXTRA_GLOBAL", text) => {
                snippets::refusal(&text.split([',', '\n']).collect::<Vec<_>>())
            }
            _ => (*instead).to_owned(),
        };
        return Err(Exit::Usage(format!("{name}: {why}")));
    }
    for name in NO_EFFECT {
        if sources.any(name)?.is_some() {
            tracing::debug!(name, "has no effect");
        }
    }
    Ok(())
}
