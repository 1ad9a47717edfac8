// SPDX-License-Identifier: MIT OR Apache-2.0
//! Session tickets that every worker, and every replica with the same secret, can read.
//!
//! Time is cut into periods of [`limits::TICKET_PERIOD`]. A ticket carries the number of its period and is sealed with
//! that period's key. Shared keys are derived from the secret; without one a period's key is made by chance and
//! forgotten two periods later, so that tickets that were recorded cannot be opened by whoever takes the process later.
//! Tickets only resume sessions (TLS 1.3 with a fresh key exchange); early data is never accepted.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

use crate::l7::limits;
use crate::l7::secret::Secret;

const NUMBER_LEN: usize = 8;
const INFO: &[u8] = b"portico session ticket 1";

/// Makes and opens tickets.
pub struct Tickets {
    /// The first makes tickets, all open them, so that a secret can be replaced while replicas have both. Empty: keys
    /// of this process alone.
    secrets: Vec<Secret>,
    keys: ArcSwap<Keys>,
}

/// Keys of the last period and of this one; of the next too where a replica's clock may be ahead.
#[derive(Default)]
struct Keys {
    period: u64,
    known: Vec<(u64, Arc<LessSafeKey>)>,
}

impl Tickets {
    /// Tickets under these secrets.
    pub fn new(secrets: Vec<Secret>) -> Self {
        Tickets {
            secrets,
            keys: ArcSwap::default(),
        }
    }

    /// The keys of a moment. Two workers may make the first keys of a period at once; one of them wins and the other
    /// takes its keys.
    fn keys(&self, period: u64) -> Arc<Keys> {
        let current = self.keys.load();
        if current.period == period && !current.known.is_empty() {
            return Arc::clone(&current);
        }
        self.keys.rcu(|old| {
            if old.period == period && !old.known.is_empty() {
                return Arc::clone(old);
            }
            Arc::new(self.next(old, period))
        });
        self.keys.load_full()
    }

    fn next(&self, old: &Keys, period: u64) -> Keys {
        let mut known = Vec::new();
        if self.secrets.is_empty() {
            known.extend(random_key().map(|key| (period, Arc::new(key))));
            let last = period.saturating_sub(1);
            known.extend(old.known.iter().filter(|(number, _)| *number == last).cloned());
        }
        for number in [period, period.saturating_sub(1), period + 1] {
            let derived = self.secrets.iter().filter_map(|secret| derive(secret, number));
            known.extend(derived.map(|key| (number, Arc::new(key))));
        }
        Keys { period, known }
    }

    fn seal(&self, plain: &[u8], period: u64) -> Option<Vec<u8>> {
        let keys = self.keys(period);
        let (_, key) = keys.known.iter().find(|(number, _)| *number == period)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let number = period.to_be_bytes();
        let mut sealed = plain.to_vec();
        let nonce_ = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_, Aad::from(number), &mut sealed)
            .ok()?;
        Some([&number[..], &nonce, &sealed].concat())
    }

    fn open(&self, ticket: &[u8], period: u64) -> Option<Vec<u8>> {
        let (number, rest) = ticket.split_first_chunk::<NUMBER_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let wanted = u64::from_be_bytes(*number);
        let keys = self.keys(period);
        keys.known
            .iter()
            .filter(|(of, _)| *of == wanted)
            .find_map(|(_, key)| {
                let mut opened = sealed.to_vec();
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let plain = key.open_in_place(nonce, Aad::from(*number), &mut opened).ok()?;
                let length = plain.len();
                opened.truncate(length);
                Some(opened)
            })
    }
}

fn derive(secret: &Secret, period: u64) -> Option<LessSafeKey> {
    let extracted = Salt::new(HKDF_SHA256, INFO).extract(secret.reveal().as_bytes());
    let number = period.to_be_bytes();
    let info = [&number[..]];
    let expanded = extracted.expand(&info, &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(expanded)))
}

fn random_key() -> Option<LessSafeKey> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    UnboundKey::new(&AES_256_GCM, &bytes).ok().map(LessSafeKey::new)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() / limits::TICKET_PERIOD.as_secs()
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets")
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        // Made at the end of a period, it is good for the next one.
        u32::try_from(limits::TICKET_PERIOD.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(texts: &[&str]) -> Tickets {
        Tickets::new(texts.iter().map(|text| Secret::new(*text)).collect())
    }

    #[test]
    fn replicas_with_the_same_secret_open_each_others_tickets() {
        let (a, b, other) = (shared(&["one"]), shared(&["one"]), shared(&["two"]));
        let ticket = a.seal(b"state", 7).unwrap();
        assert_eq!(b.open(&ticket, 7).as_deref(), Some(&b"state"[..]));
        assert_eq!(other.open(&ticket, 7), None);
        // While the secret is replaced, replicas have both, in either order.
        let both = shared(&["two", "one"]);
        assert_eq!(both.open(&ticket, 7).as_deref(), Some(&b"state"[..]));
        assert!(other.open(&both.seal(b"state", 7).unwrap(), 7).is_some());
    }

    #[test]
    fn a_ticket_lives_for_its_period_and_the_next() {
        for tickets in [shared(&["one"]), Tickets::new(Vec::new())] {
            let ticket = tickets.seal(b"state", 7).unwrap();
            assert!(tickets.open(&ticket, 7).is_some());
            assert!(tickets.open(&ticket, 8).is_some());
            assert!(tickets.open(&ticket, 9).is_none());
            let period = tickets.seal(b"state", 9).unwrap();
            assert!(tickets.open(&period, 9).is_some());
        }
        // A replica whose clock is a little behind.
        let ticket = shared(&["one"]).seal(b"state", 8).unwrap();
        assert!(shared(&["one"]).open(&ticket, 7).is_some());
    }

    #[test]
    fn without_a_secret_a_period_that_is_gone_cannot_come_back() {
        let tickets = Tickets::new(Vec::new());
        let ticket = tickets.seal(b"state", 7).unwrap();
        assert!(tickets.open(&ticket, 9).is_none());
        assert!(tickets.open(&ticket, 7).is_none(), "its key was forgotten");
        assert!(
            Tickets::new(Vec::new()).open(&ticket, 7).is_none(),
            "another process"
        );
    }

    #[test]
    fn what_was_changed_is_not_opened() {
        let tickets = shared(&["one"]);
        let ticket = tickets.seal(b"state", 7).unwrap();
        assert!(!ticket.windows(5).any(|window| window == b"state"));
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.open(&changed, 7), None, "{at}");
            assert_eq!(tickets.open(&ticket[..at], 7), None, "{at}");
        }
        assert_ne!(ticket, tickets.seal(b"state", 7).unwrap());
    }
}
