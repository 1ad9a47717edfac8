// SPDX-License-Identifier: MIT OR Apache-2.0
//! HTTP basic authentication: who may pass, checked without making anybody else wait.
//!
//! A password that stands as it is costs one SHA-256. One that is a crypt(3) hash costs milliseconds, so it is hashed
//! on a thread beside the worker, one at a time for each worker, and a login that was right is remembered by its
//! digest. Wrong logins are not remembered: whoever guesses waits in the worker's queue for hashes, and so does only
//! who has not logged in before.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{self, HeaderMap, HeaderValue};
use tokio::sync::Semaphore;

use super::limits;
use super::refusal::Refusal;

mod credentials;
pub mod users;

pub use credentials::Credentials;
use credentials::{Digest, Login};

/// Why a request does not pass.
pub enum Denied {
    /// 401 with this challenge.
    Challenge(HeaderValue),
    /// Anything else.
    Refused(Refusal),
}

/// What a worker keeps for authentication.
pub struct Guard {
    hashing: Arc<Semaphore>,
    verified: RefCell<HashSet<Digest>>,
}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            hashing: Arc::new(Semaphore::new(limits::AUTH_HASHES_PER_WORKER)),
            verified: RefCell::default(),
        }
    }
}

impl Guard {
    /// Lets a request pass that satisfies every list, and takes its Authorization away. Who it was; empty if nobody
    /// had to say.
    pub async fn check(
        &self,
        lists: &[Arc<Credentials>],
        headers: &mut HeaderMap,
    ) -> Result<Vec<u8>, Denied> {
        let login = headers.get(header::AUTHORIZATION).and_then(login);
        for list in lists {
            let is_known = match &login {
                Some(login) => self.is_known(list, login).await.map_err(Denied::Refused)?,
                None => false,
            };
            if !is_known {
                return Err(Denied::Challenge(list.challenge().clone()));
            }
        }
        if lists.is_empty() {
            return Ok(Vec::new());
        }
        headers.remove(header::AUTHORIZATION);
        Ok(login.map(|login| login.user).unwrap_or_default())
    }

    async fn is_known(&self, list: &Credentials, login: &Login) -> Result<bool, Refusal> {
        if list.has_plain(login) {
            return Ok(true);
        }
        let hashes = list.hashes(login);
        if hashes.is_empty() {
            return Ok(false);
        }
        let digest = list.digest(login);
        if self.verified.borrow().contains(&digest) {
            return Ok(true);
        }
        let permit = self.hashing.clone().acquire_owned();
        let Ok(Ok(permit)) = tokio::time::timeout(limits::AUTH_WAIT_MAX, permit).await else {
            return Err(Refusal::AuthBusy);
        };
        let password = login.password.clone();
        let is_right = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            hashes
                .iter()
                .any(|hash| pwhash::unix::verify(password.as_slice(), hash))
        });
        // A hash that panics lets nobody in.
        let is_right = is_right.await.unwrap_or(false);
        if is_right {
            let mut verified = self.verified.borrow_mut();
            if verified.len() >= limits::AUTH_VERIFIED_MAX {
                verified.clear();
            }
            verified.insert(digest);
        }
        Ok(is_right)
    }
}

/// Reads `Basic base64(user:password)` (RFC 7617); none when it is something else.
fn login(value: &HeaderValue) -> Option<Login> {
    let value = value.as_bytes();
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut decoded = STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    let password = decoded.split_off(colon + 1);
    decoded.pop();
    (password.len() <= limits::AUTH_PASSWORD_BYTES_MAX).then_some(Login {
        user: decoded,
        password,
    })
}

#[cfg(test)]
mod tests;
