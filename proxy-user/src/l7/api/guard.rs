// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may use the admin port. Each setting that is given must be satisfied; without any, everybody may, as with the
//! original, because existing scripts need that.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};

use super::answer::{Answer, respond};
use crate::l7::settings::Admin;
use crate::l7::spec::ServiceSpec;

/// What a health check inside the container asks; it tells nothing and changes nothing.
const HEALTH: [&str; 2] = [
    "/v1/docker-flow-proxy/ping",
    "/v1/docker-flow-proxy/successfulinitreload",
];

/// Who may call, and how many may not.
pub struct Guard {
    admin: Admin,
    /// Calls without a valid token.
    pub unauthorized: AtomicU64,
    /// Calls from elsewhere.
    pub forbidden: AtomicU64,
    /// Calls without a client certificate.
    pub uncertified: AtomicU64,
}

/// Why a call is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No token, or a wrong one.
    Token,
    /// From an address that is not allowed.
    Address,
    /// Without a client certificate.
    Certificate,
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// From where.
    pub ip: IpAddr,
    /// With a certificate of an authority that is believed.
    pub is_verified: bool,
}

impl Guard {
    /// A guard with these settings.
    pub fn new(admin: Admin) -> Self {
        Guard {
            admin,
            unauthorized: AtomicU64::new(0),
            forbidden: AtomicU64::new(0),
            uncertified: AtomicU64::new(0),
        }
    }

    /// Whether anybody may do anything.
    pub fn is_open(&self) -> bool {
        self.admin.is_open()
    }

    /// Whether whoever got past [`Guard::check`] has proved to know a secret.
    pub fn proves_identity(&self) -> bool {
        !self.admin.tokens.is_empty() || self.admin.needs_certificate()
    }

    /// In words, for status and log.
    pub fn describe(&self) -> String {
        self.admin.describe()
    }

    /// Whether this call may be served.
    pub fn check(&self, caller: Caller, path: &str, headers: &HeaderMap) -> Result<(), Denied> {
        let peer = caller.ip.to_canonical();
        if peer.is_loopback() && HEALTH.contains(&path) {
            return Ok(());
        }
        let allow = &self.admin.allow;
        if !allow.is_empty() && !allow.contains(peer) {
            self.forbidden.fetch_add(1, Relaxed);
            return Err(Denied::Address);
        }
        if self.admin.needs_certificate() && !caller.is_verified {
            self.uncertified.fetch_add(1, Relaxed);
            return Err(Denied::Certificate);
        }
        let tokens = &self.admin.tokens;
        // All of them are compared, so that the time does not say which one was close.
        let known = bearer(headers).is_some_and(|given| {
            tokens.iter().fold(false, |found, token| {
                found | is_same(given, token.reveal().as_bytes())
            })
        });
        if !tokens.is_empty() && !known {
            self.unauthorized.fetch_add(1, Relaxed);
            return Err(Denied::Token);
        }
        Ok(())
    }
}

impl Denied {
    /// The original's shape with a status that it does not have.
    pub fn answer(self) -> Answer {
        let nothing = ServiceSpec::default();
        match self {
            Denied::Address => respond(
                StatusCode::FORBIDDEN,
                "This address may not use the admin port (PORTICO_ADMIN_ALLOW)",
                &nothing,
            ),
            Denied::Certificate => respond(
                StatusCode::FORBIDDEN,
                "A client certificate is needed (PORTICO_ADMIN_CA_FILE)",
                &nothing,
            ),
            Denied::Token => {
                let message = "A bearer token is needed (PORTICO_ADMIN_TOKEN_FILE)";
                let mut answer = respond(StatusCode::UNAUTHORIZED, message, &nothing);
                let challenge = HeaderValue::from_static("Bearer realm=\"portico\"");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                answer
            }
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

/// Compares in a time that depends on the length of `given` alone.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let mut differs = given.len() ^ token.len();
    for (at, byte) in given.iter().enumerate() {
        let want = token.get(at % token.len().max(1)).copied().unwrap_or_default();
        differs |= black_box(usize::from(byte ^ want));
    }
    black_box(differs) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::prefixes::PrefixSet;
    use crate::l7::settings::Token;

    fn check(admin: &Admin, peer: &str, authorization: Option<&str>) -> Result<(), Denied> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let caller = Caller {
            ip: peer.parse().unwrap(),
            is_verified: false,
        };
        Guard::new(admin.clone()).check(caller, "/v1/docker-flow-proxy/reconfigure", &headers)
    }

    #[test]
    fn without_a_setting_the_port_is_open() {
        let admin = Admin::default();
        assert_eq!(check(&admin, "192.0.2.1", None), Ok(()));
        assert!(Guard::new(admin).is_open());
    }

    #[test]
    fn a_token_must_be_the_whole_one() {
        let admin = Admin {
            tokens: ["first", "second"].into_iter().filter_map(Token::new).collect(),
            ..Admin::default()
        };
        for (value, want) in [
            (None, Err(Denied::Token)),
            (Some("Bearer first"), Ok(())),
            (Some("bearer second"), Ok(())),
            (Some("Bearer  second "), Ok(())),
            (Some("Bearer firs"), Err(Denied::Token)),
            (Some("Bearer firstfirst"), Err(Denied::Token)),
            (Some("Bearer "), Err(Denied::Token)),
            (Some("Bearer"), Err(Denied::Token)),
            (Some("Basic first"), Err(Denied::Token)),
            (Some("Bearer First"), Err(Denied::Token)),
        ] {
            assert_eq!(check(&admin, "127.0.0.1", value), want, "{value:?}");
        }
    }

    #[test]
    fn an_allow_list_and_a_token_must_both_be_satisfied() {
        let admin = Admin {
            tokens: Token::new("t").into_iter().collect(),
            allow: PrefixSet::parse(["10.0.0.0/8", "fd00::/16"]).unwrap(),
            tls: None,
        };
        for (peer, value, want) in [
            ("10.1.2.3", Some("Bearer t"), Ok(())),
            ("::ffff:10.1.2.3", Some("Bearer t"), Ok(())),
            ("fd00::1", Some("Bearer t"), Ok(())),
            ("10.1.2.3", None, Err(Denied::Token)),
            ("11.1.2.3", Some("Bearer t"), Err(Denied::Address)),
            ("127.0.0.1", Some("Bearer t"), Err(Denied::Address)),
        ] {
            assert_eq!(check(&admin, peer, value), want, "{peer} {value:?}");
        }
    }

    #[test]
    fn a_health_check_of_the_container_needs_nothing() {
        let admin = Admin {
            tokens: Token::new("t").into_iter().collect(),
            ..Admin::default()
        };
        let guard = Guard::new(admin);
        let ask = |peer: &str, path: &str| {
            let caller = Caller {
                ip: peer.parse().unwrap(),
                is_verified: false,
            };
            guard.check(caller, path, &HeaderMap::new())
        };
        assert_eq!(ask("127.0.0.1", HEALTH[0]), Ok(()));
        assert_eq!(
            ask("127.0.0.1", "/v1/docker-flow-proxy/config"),
            Err(Denied::Token)
        );
        assert_eq!(ask("10.0.0.1", HEALTH[0]), Err(Denied::Token));
    }
}
