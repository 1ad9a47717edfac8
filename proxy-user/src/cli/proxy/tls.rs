// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLS settings from the original's variables.

use std::path::Path;

use super::environment::Sources;
use super::values::boolean;
use crate::cli::Exit;
use crate::l7::limits;
use crate::l7::secret::Secret;
use crate::l7::tls::{TlsSettings, ciphers, options};

/// Reads and checks them. What protects something and cannot be read ends the start.
pub(super) fn settings(
    sources: &Sources<'_>,
    certs: &Path,
    ticket_key_file: Option<&Path>,
) -> Result<TlsSettings, Exit> {
    let usage = |name: &str, error: &dyn std::fmt::Display| Exit::Usage(format!("{name}: {error}"));
    let text = sources.text("SSL_BIND_OPTIONS")?.unwrap_or_default();
    let mut protocol = options(&text).map_err(|error| usage("SSL_BIND_OPTIONS", &error))?;
    if let Some(text) = sources.text("SSL_BIND_CIPHERS")? {
        let (kept, left_out) = ciphers(&text).map_err(|error| usage("SSL_BIND_CIPHERS", &error))?;
        if !left_out.is_empty() {
            tracing::info!(
                left_out = left_out.join(":"),
                "SSL_BIND_CIPHERS: these are not served"
            );
        }
        protocol.ciphers = kept;
    }
    let authorities = sources.text("CA_FILE")?;
    let authorities = authorities.map(|path| TlsSettings::read_authorities(Path::new(&path)));
    let globs = sources.text("PREFERRED_CERTIFICATE")?.unwrap_or_default();
    let globs = globs.split(',').map(str::trim).filter(|glob| !glob.is_empty());
    let h2 = sources.text("ENABLE_H2")?.unwrap_or_else(|| "true".into());
    Ok(TlsSettings {
        dir: certs.to_owned(),
        secrets: sources.secrets.to_owned(),
        preferred: globs.map(str::to_owned).collect(),
        crt_list: sources.text("CRT_LIST_PATH")?.map(Into::into),
        client_authorities: authorities
            .transpose()
            .map_err(|error| usage("CA_FILE", &error))?,
        strict_sni: protocol.strict_sni,
        h2: boolean(&h2).map_err(|error| usage("ENABLE_H2", &error))?,
        protocol,
        ticket_secrets: ticket_secrets(sources, ticket_key_file)?,
    })
}

fn ticket_secrets(sources: &Sources<'_>, file: Option<&Path>) -> Result<Vec<Secret>, Exit> {
    let wrong = |error: String| Exit::Usage(format!("PORTICO_TICKET_KEY_FILE: {error}"));
    let text = match (sources.secret("TICKET_KEY")?, file) {
        (Some(text), _) => text,
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file);
            text.map_err(|error| wrong(format!("{}: {error}", file.display())))?
        }
        (None, None) => return Ok(Vec::new()),
    };
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        return Err(wrong("there is no key in it".into()));
    }
    if lines
        .iter()
        .any(|line| line.len() < limits::TICKET_SECRET_BYTES_MIN)
    {
        let least = limits::TICKET_SECRET_BYTES_MIN;
        return Err(wrong(format!(
            "a key has fewer than {least} characters; `openssl rand -hex 32` makes one"
        )));
    }
    Ok(lines.into_iter().map(Secret::new).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::tls::testing::Authority;

    fn read(dir: &Path, variables: &[(&str, &str)]) -> Result<TlsSettings, String> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let sources = Sources {
            secrets: dir,
            variable: &get,
        };
        settings(&sources, Path::new("/certs"), None).map_err(|error| error.to_string())
    }

    #[test]
    fn the_originals_variables_are_read_and_wrong_ones_named() {
        let dir = tempfile::tempdir().unwrap();
        let default = read(dir.path(), &[]).unwrap();
        assert!(default.h2 && default.protocol.tls12 && default.client_authorities.is_none());
        let file = dir.path().join("ca");
        std::fs::write(&file, Authority::new("ca").pem()).unwrap();
        let set = [
            ("ENABLE_H2", "false"),
            ("PREFERRED_CERTIFICATE", "a*, b"),
            ("CA_FILE", file.to_str().unwrap()),
            ("SSL_BIND_OPTIONS", "no-sslv3 strict-sni"),
            ("SSL_BIND_CIPHERS", "AES128-SHA:ECDHE-RSA-AES128-GCM-SHA256"),
            ("CRT_LIST_PATH", "/list"),
        ];
        let read_all = read(dir.path(), &set).unwrap();
        assert!(!read_all.h2 && read_all.strict_sni && read_all.client_authorities.is_some());
        assert_eq!(read_all.preferred, ["a*", "b"]);
        assert_eq!(read_all.protocol.ciphers.len(), 1);
        for (name, value) in [
            ("ENABLE_H2", "maybe"),
            ("CA_FILE", "/nonexistent"),
            ("CA_FILE", "/dev/null"),
            ("SSL_BIND_OPTIONS", "force-tlsv10"),
            ("SSL_BIND_CIPHERS", "HIGH"),
        ] {
            assert!(
                read(dir.path(), &[(name, value)]).is_err_and(|error| error.contains(name)),
                "{name}"
            );
        }
    }

    #[test]
    fn keys_of_tickets_come_from_a_secret_and_are_not_short() {
        let dir = tempfile::tempdir().unwrap();
        let key = "k".repeat(limits::TICKET_SECRET_BYTES_MIN);
        std::fs::write(dir.path().join("dfp_ticket_key"), format!("{key}\nold{key}\n")).unwrap();
        let settings = read(dir.path(), &[]).unwrap();
        assert_eq!(settings.ticket_secrets.len(), 2);
        assert!(!format!("{settings:?}").contains(&key));
        for text in ["\n", "short\n"] {
            std::fs::write(dir.path().join("dfp_ticket_key"), text).unwrap();
            assert!(read(dir.path(), &[]).is_err());
        }
    }
}
