// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of users: `name:password` or `name`, from a parameter, a secret or the environment.

use std::path::Path;

use crate::l7::params::Problem;
use crate::l7::settings::ServiceDefaults;
use crate::l7::spec::User;

/// Stands for users of whom none can be used: whoever asks for users wants a closed door.
const NOBODY: &str = "(none)";

/// What a service says of its users.
pub struct Wanted<'a> {
    /// `users`.
    pub listed: &'a str,
    /// `usersSecret`.
    pub secret: Option<&'a str>,
    /// `usersPassEncrypted`.
    pub encrypted: bool,
}

/// A list as it is written. An entry without a colon has no password; one with a colon and nothing behind it is no
/// entry, nor is one without a name.
fn entries(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split([',', '\n']).filter_map(|item| {
        let (name, password) = match item.split_once(':') {
            Some((name, password)) => (name.trim(), Some(password.trim())),
            None => (item.trim(), None),
        };
        (!name.is_empty() && password != Some("")).then_some((name, password))
    })
}

/// The entries that have a password.
pub fn complete(text: &str, encrypted: bool) -> Vec<User> {
    entries(text)
        .filter_map(|(name, password)| Some(User::new(name, password?, encrypted)))
        .collect()
}

/// The users of a service: those listed, each with its own password or that of the secret (else of USERS), or all of
/// the secret when none is listed.
pub fn resolve(wanted: &Wanted<'_>, defaults: &ServiceDefaults) -> Result<Vec<User>, Problem> {
    let of_secret = match wanted.secret {
        Some(name) => Some(from_secret(&defaults.secrets, name, wanted.encrypted)?),
        None => None,
    };
    let mut users: Vec<User> = match (wanted.listed, &of_secret) {
        ("", Some(all)) => all.clone(),
        (listed, _) => {
            let others = of_secret.as_ref().unwrap_or(&defaults.users);
            entries(listed)
                .filter_map(|(name, password)| match password {
                    Some(password) => Some(User::new(name, password, wanted.encrypted)),
                    None => others
                        .iter()
                        .find(|user| user.username.eq_ignore_ascii_case(name))
                        .map(|user| User {
                            username: name.to_owned(),
                            ..user.clone()
                        }),
                })
                .collect()
        }
    };
    if users.is_empty() && (of_secret.is_some() || !wanted.listed.is_empty()) {
        users.push(User::nobody(NOBODY));
    }
    Ok(users)
}

fn from_secret(dir: &Path, name: &str, encrypted: bool) -> Result<Vec<User>, Problem> {
    let is_name = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !is_name {
        return Err(Problem::new("usersSecret", "is not the name of a secret"));
    }
    let path = dir.join(format!("dfp_users_{name}"));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(complete(&text, encrypted)),
        // As in the original: nobody passes until the secret is there and the service is configured again.
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "the users of a service cannot be read; nobody passes");
            Ok(Vec::new())
        }
    }
}
