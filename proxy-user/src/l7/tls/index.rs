// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which certificate a client gets for the name that it asks for.
//!
//! The exact name wins over a wildcard, a wildcard stands for one label, and whoever asks for nothing or for an
//! unknown name gets the first certificate of the order. Where several certificates have a name, the first whose key
//! the client can use is taken, so that an ECDSA and an RSA certificate may stand side by side.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use arc_swap::ArcSwap;

use super::pem::Certificate;

/// Certificates by name. Made whole and swapped whole.
#[derive(Debug, Default)]
pub struct Index {
    /// Lower case; wildcards as `*.acme.com`.
    by_name: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// In the order in which they are the default.
    all: Vec<Arc<CertifiedKey>>,
    /// No default for unknown names.
    is_strict: bool,
}

impl Index {
    /// An index of certificates in their order, each with the names that it is for.
    pub fn new<'a>(
        certificates: impl Iterator<Item = (&'a Certificate, &'a [String])>,
        is_strict: bool,
    ) -> Self {
        let mut index = Index {
            is_strict,
            ..Index::default()
        };
        for (certificate, names) in certificates {
            for name in names {
                let known = index.by_name.entry(name.as_str().into()).or_default();
                known.push(certificate.key.clone());
            }
            index.all.push(certificate.key.clone());
        }
        index
    }

    /// Whether there is nothing to serve.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The certificate for a name.
    pub fn find(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = |list: &[Arc<CertifiedKey>]| {
            let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
            list.iter().find(fits).cloned()
        };
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let exact = self.by_name.get(name.as_str()).and_then(|list| usable(list));
            exact.or_else(|| {
                let (_, parent) = name.split_once('.')?;
                usable(self.by_name.get(format!("*.{parent}").as_str())?)
            })
        });
        match (named, self.is_strict) {
            (Some(key), _) => Some(key),
            (None, true) => None,
            (None, false) => usable(&self.all),
        }
    }
}

/// The index in force, as rustls asks for it. *Who writes it*: the store, by a swap.
#[derive(Debug, Default)]
pub struct Current(pub ArcSwap<Index>);

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().find(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pem::parse;
    use super::super::testing::self_signed;
    use super::*;

    const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];

    fn find(certificates: &[Certificate], is_strict: bool, name: Option<&str>) -> Option<usize> {
        let list = certificates.iter().map(|c| (c, c.names.as_slice()));
        let found = Index::new(list, is_strict).find(name, ECDSA)?;
        certificates.iter().position(|c| Arc::ptr_eq(&c.key, &found))
    }

    #[test]
    fn exact_then_wildcard_then_the_first() {
        let certificates: Vec<_> = [
            &["x.org"][..],
            &["*.acme.com", "acme.com"],
            &["www.acme.com"],
            &["acme.com"],
        ]
        .map(|names| parse(self_signed(names).as_bytes()).unwrap())
        .into();
        for (name, want) in [
            (Some("www.acme.com"), Some(2)),
            (Some("WWW.acme.com"), Some(2)),
            (Some("a.acme.com"), Some(1)),
            (Some("acme.com"), Some(1)),
            (Some("x.org"), Some(0)),
        ] {
            assert_eq!(find(&certificates, false, name), want, "{name:?}");
            assert_eq!(find(&certificates, true, name), want, "{name:?}");
        }
        for name in [
            Some("a.b.acme.com"),
            Some("com"),
            Some(".acme.com."),
            Some(""),
            None,
        ] {
            assert_eq!(find(&certificates, false, name), Some(0), "{name:?}");
            assert_eq!(find(&certificates, true, name), None, "{name:?}");
        }
        assert_eq!(find(&[], false, None), None);
    }

    #[test]
    fn a_key_that_the_client_cannot_use_is_passed_over() {
        let certificate = parse(self_signed(&["a"]).as_bytes()).unwrap();
        let index = Index::new([(&certificate, certificate.names.as_slice())].into_iter(), false);
        assert!(
            index
                .find(Some("a"), &[SignatureScheme::RSA_PSS_SHA256])
                .is_none()
        );
    }
}
