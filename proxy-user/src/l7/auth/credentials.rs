// SPDX-License-Identifier: MIT OR Apache-2.0
//! A list of users, ready to compare with.

use std::collections::HashSet;
use std::sync::Arc;

use hyper::header::HeaderValue;
use sha2::Sha256;

use crate::l7::limits;
use crate::l7::spec::User;

/// SHA-256.
pub(super) type Digest = [u8; 32];

/// What a client claims.
pub(super) struct Login {
    pub user: Vec<u8>,
    pub password: Vec<u8>,
}

/// The users of one realm. *Who writes it*: [`crate::l7::compile`]. *Lifetime*: the snapshot's.
#[derive(Clone)]
pub struct Credentials {
    challenge: HeaderValue,
    /// Of everything that decides, so that a list which was compiled again knows who has passed before.
    id: Digest,
    plain: HashSet<Digest>,
    hashed: Vec<(Box<str>, Arc<str>)>,
}

impl Credentials {
    /// A list, or what is wrong with it. Without users nobody passes.
    pub fn new(realm: &str, users: &[User]) -> Result<Self, String> {
        let quoted: String = realm.replace('\\', "\\\\").replace('"', "\\\"");
        let challenge = HeaderValue::from_str(&format!("Basic realm=\"{quoted}\""))
            .map_err(|_| "the name cannot stand in a realm".to_owned())?;
        let (mut plain, mut hashed) = (HashSet::new(), Vec::new());
        let mut id = Vec::new();
        for user in users.iter().filter(|user| !user.is_nobody) {
            let password = user.password.reveal();
            let digest = digest(&[user.username.as_bytes(), password.as_bytes()]);
            id.push(u8::from(user.pass_encrypted));
            id.extend_from_slice(&digest);
            if user.pass_encrypted {
                check_hash(password).map_err(|text| format!("the hash of `{}` {text}", user.username))?;
                hashed.push((user.username.as_str().into(), password.into()));
            } else {
                plain.insert(digest);
            }
        }
        Ok(Credentials {
            challenge,
            id: digest(&[&id]),
            plain,
            hashed,
        })
    }

    /// Value of WWW-Authenticate.
    pub fn challenge(&self) -> &HeaderValue {
        &self.challenge
    }

    pub(super) fn has_plain(&self, login: &Login) -> bool {
        !self.plain.is_empty() && self.plain.contains(&digest(&[&login.user, &login.password]))
    }

    pub(super) fn hashes(&self, login: &Login) -> Vec<Arc<str>> {
        self.hashed
            .iter()
            .filter(|(name, _)| name.as_bytes() == login.user)
            .map(|(_, hash)| hash.clone())
            .collect()
    }

    /// Stands for this login at this list.
    pub(super) fn digest(&self, login: &Login) -> Digest {
        digest(&[&self.id, &login.user, &login.password])
    }
}

/// No names and no hashes: `config` and logs print what they find.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} users", self.plain.len() + self.hashed.len())
    }
}

/// Each part with its length before it, so that no two lists of parts are the same bytes.
fn digest(parts: &[&[u8]]) -> Digest {
    use sha2::Digest as _;
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// A form that crypt(3) knows, and that can be computed in reasonable time.
fn check_hash(hash: &str) -> Result<(), String> {
    let is_known = match hash.split('$').collect::<Vec<_>>()[..] {
        ["", "1", _, _] | ["", "5" | "6", _, _] => true,
        ["", "5" | "6", rounds, _, _] => match rounds.strip_prefix("rounds=").map(str::parse::<u32>) {
            Some(Ok(rounds)) if rounds > limits::AUTH_ROUNDS_MAX => {
                return Err(format!("asks for more than {} rounds", limits::AUTH_ROUNDS_MAX));
            }
            Some(Ok(_)) => true,
            _ => false,
        },
        ["", "2a" | "2b" | "2y", cost, rest] => match cost.parse::<u32>() {
            Ok(cost) if cost > limits::AUTH_BCRYPT_COST_MAX => {
                return Err(format!("has a cost above {}", limits::AUTH_BCRYPT_COST_MAX));
            }
            Ok(_) => rest.len() == 53,
            Err(_) => false,
        },
        [des] => {
            des.len() == 13
                && des
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"./".contains(&b))
        }
        _ => false,
    };
    match is_known {
        true => Ok(()),
        false => {
            Err("is none of MD5 ($1$), SHA-256 ($5$), SHA-512 ($6$), bcrypt ($2a$, $2b$, $2y$), DES".into())
        }
    }
}
