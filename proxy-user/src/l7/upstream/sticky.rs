// SPDX-License-Identifier: MIT OR Apache-2.0
//! A cookie that keeps a client with its task.
//!
//! Its value is a keyed hash of the task's address: the same in every replica of the proxy that has the same key, before
//! and after any update or scaling, and nothing that the client could turn back into an address. When the task is gone
//! or down the client gets another task and another value. The service never sees the cookie.

use std::net::SocketAddr;

use hyper::header::{self, HeaderMap, HeaderValue};

/// The cookie of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sticky {
    cookie: Box<str>,
    max_age: Option<u32>,
}

impl Sticky {
    /// A cookie with this name, for the browser's session or for so many seconds; none if it cannot be a name.
    pub fn new(cookie: &str, max_age: Option<u32>) -> Option<Self> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_name = !cookie.is_empty() && cookie.bytes().all(is_token);
        is_name.then(|| Sticky {
            cookie: cookie.into(),
            max_age,
        })
    }

    /// The task that the client was given, and the request without the cookie.
    pub fn take(&self, headers: &mut HeaderMap) -> Option<u64> {
        let mut found = None;
        let is_ours = |pair: &&str| pair.split('=').next() == Some(&self.cookie);
        let names_us = headers.get_all(header::COOKIE).iter().any(|value| {
            value
                .to_str()
                .is_ok_and(|text| pairs(text).any(|pair| is_ours(&pair)))
        });
        if !names_us {
            return None;
        }
        let header::Entry::Occupied(entry) = headers.entry(header::COOKIE) else {
            return None;
        };
        let (_, values) = entry.remove_entry_mult();
        let mut kept = Vec::new();
        for value in values {
            let Ok(text) = value.to_str() else {
                kept.push(value);
                continue;
            };
            for ours in pairs(text).filter(is_ours) {
                found = found.or(ours.split_once('=').and_then(|(_, token)| parse(token)));
            }
            let rest: Vec<&str> = pairs(text).filter(|pair| !is_ours(pair)).collect();
            if let Ok(value) = HeaderValue::from_str(&rest.join("; "))
                && !rest.is_empty()
            {
                kept.push(value);
            }
        }
        for value in kept {
            headers.append(header::COOKIE, value);
        }
        found
    }

    /// Gives the client a task.
    pub fn set(&self, headers: &mut HeaderMap, token: u64, is_tls: bool) {
        let mut text = format!("{}={token:016x}; Path=/; HttpOnly; SameSite=Lax", self.cookie);
        if let Some(seconds) = self.max_age {
            text.push_str(&format!("; Max-Age={seconds}"));
        }
        if is_tls {
            text.push_str("; Secure");
        }
        // A cookie's name is a token and the rest is ours.
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append(header::SET_COOKIE, value);
            // A cache that kept it would give one client's task to others.
            headers.append(header::CACHE_CONTROL, HeaderValue::from_static("private"));
        }
    }
}

/// What a cookie calls the task of a host that has this address.
pub fn token(key: &StickyKey, host: &str, address: SocketAddr) -> u64 {
    let text = format!("{host}\0{address}");
    let tag = ring::hmac::sign(&key.0, text.as_bytes());
    tag.as_ref()
        .iter()
        .take(8)
        .fold(0, |token, &byte| token << 8 | u64::from(byte))
}

/// What makes tokens unguessable. Replicas of the proxy must have the same.
#[derive(Clone)]
pub struct StickyKey(ring::hmac::Key);

impl StickyKey {
    /// A key from a secret of any length.
    pub fn new(secret: &[u8]) -> Self {
        StickyKey(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret))
    }
}

impl std::fmt::Debug for StickyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StickyKey")
    }
}

fn pairs(text: &str) -> impl Iterator<Item = &str> {
    text.split(';').map(str::trim).filter(|pair| !pair.is_empty())
}

fn parse(token: &str) -> Option<u64> {
    let is_token = token.len() == 16 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(token, 16).ok().filter(|_| is_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(fields: &[&'static str]) -> (Option<u64>, Vec<String>) {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::COOKIE, HeaderValue::from_static(field));
        }
        let found = Sticky::new("app", None).unwrap().take(&mut headers);
        let left = headers.get_all(header::COOKIE).iter();
        (
            found,
            left.map(|value| value.to_str().unwrap().to_owned()).collect(),
        )
    }

    #[test]
    fn the_cookie_is_read_and_does_not_reach_the_service() {
        assert_eq!(take(&["app=00000000000000ff"]), (Some(255), vec![]));
        assert_eq!(
            take(&["a=b; app=00000000000000ff; c=d", "xapp=1"]),
            (Some(255), vec!["a=b; c=d".into(), "xapp=1".into()])
        );
        assert_eq!(take(&["app=10.0.0.1;a=b"]), (None, vec!["a=b".into()]));
        assert_eq!(take(&["app=+0000000000000ff"]), (None, vec![]));
        assert_eq!(take(&["application=00000000000000ff"]).1.len(), 1);
    }

    #[test]
    fn the_cookie_has_its_attributes() {
        let mut headers = HeaderMap::new();
        let sticky = Sticky::new("app", Some(60)).unwrap();
        sticky.set(&mut headers, 255, true);
        assert_eq!(
            headers[header::SET_COOKIE],
            "app=00000000000000ff; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure"
        );
        assert_eq!(headers[header::CACHE_CONTROL], "private");
        assert_eq!(Sticky::new("a b", None), None);
    }
}
