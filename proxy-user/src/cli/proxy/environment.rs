// SPDX-License-Identifier: MIT OR Apache-2.0
//! Variables that are no flags, and the secrets that win over variables.

use std::io;
use std::path::Path;

use super::values::boolean;
use crate::cli::Exit;

/// Variables that have no flag, sorted. Passwords must not be flags, because everybody can read those.
pub(super) const VARIABLES: &[&str] = &[
    "CAPTURE_REQUEST_HEADER",
    "CA_FILE",
    "COMPRESSION_ALGO",
    "COMPRESSION_TYPE",
    "CONNECTION_MODE",
    "CRT_LIST_PATH",
    "DEBUG_ERRORS_ONLY",
    "DEBUG_HTTP_FORMAT",
    "DEBUG_TCP_FORMAT",
    "DEFAULT_PROTOCOL",
    "DEFAULT_REQ_MODE",
    "DNS_LOOKUP_PAUSE_MS",
    "ENABLE_H2",
    "PORTICO_STICKY_KEY",
    "PREFERRED_CERTIFICATE",
    "RESOLVERS",
    "SKIP_ADDRESS_VALIDATION",
    "SSL_BIND_CIPHERS",
    "SSL_BIND_OPTIONS",
    "STATS_PASS",
    "STATS_PASS_ENV",
    "STATS_PORT",
    "STATS_URI",
    "STATS_URI_ENV",
    "STATS_USER",
    "STATS_USER_ENV",
    "USERS",
    "USERS_PASS_ENCRYPTED",
];

/// Where settings come from beside the command line.
pub(super) struct Sources<'a> {
    /// The folder in which Docker puts secrets.
    pub secrets: &'a Path,
    /// The environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Sources<'_> {
    /// The secret `dfp_<name>`, without the line ends behind it.
    pub fn secret(&self, name: &str) -> Result<Option<String>, Exit> {
        let path = self.secrets.join(format!("dfp_{}", name.to_ascii_lowercase()));
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            // What may protect something is not left out because it cannot be read.
            Err(error) => Err(Exit::Failed(format!("cannot read {}: {error}", path.display()))),
        }
    }

    /// The secret, else the variable; an empty one counts as absent.
    pub fn text(&self, name: &str) -> Result<Option<String>, Exit> {
        debug_assert!(VARIABLES.contains(&name), "{name} is not in VARIABLES");
        self.any(name)
    }

    /// The same, also for what is only refused.
    pub(super) fn any(&self, name: &str) -> Result<Option<String>, Exit> {
        let text = match self.secret(name)? {
            Some(text) => Some(text),
            None => (self.variable)(name),
        };
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// A boolean; false when absent.
    pub fn flag(&self, name: &str) -> Result<bool, Exit> {
        match self.text(name)? {
            Some(text) => boolean(&text).map_err(|error| Exit::Usage(format!("{name}: {error}"))),
            None => Ok(false),
        }
    }
}
