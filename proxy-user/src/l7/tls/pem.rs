// SPDX-License-Identifier: MIT OR Apache-2.0
//! A PEM file: certificate, chain and key in any order, checked before anything uses them.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use rustls::sign::CertifiedKey;

use super::x509;
use crate::l7::limits;

/// A certificate that can be served.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Chain and key, as rustls wants them. Its key is not printed.
    pub key: Arc<CertifiedKey>,
    /// Lower case; `*.` in front of a wildcard.
    pub names: Vec<String>,
    /// Seconds since 1970: of two certificates the later one is the renewed one.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// Why a PEM file cannot be used. No message has any of its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// The armour is broken.
    #[error("it is not PEM")]
    Syntax,
    /// Longer than the limit.
    #[error("it is larger than {} bytes", limits::CERT_BYTES_MAX)]
    TooLarge,
    /// No CERTIFICATE block.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// More than the limit.
    #[error("there are more than {} certificates in it", limits::CERT_CHAIN_MAX)]
    TooMany,
    /// A CERTIFICATE block that is none.
    #[error("certificate {0} in it cannot be read")]
    Certificate(usize),
    /// No PRIVATE KEY block.
    #[error("there is no unencrypted private key in it")]
    NoKey,
    /// Several of them.
    #[error("there is more than one private key in it")]
    Keys,
    /// A key that is broken or of an unknown kind.
    #[error("the private key in it cannot be used")]
    Key,
    /// None of the certificates is for the key.
    #[error("none of the certificates in it belongs to the private key")]
    Mismatch,
}

/// Reads a PEM file.
pub fn parse(pem: &[u8]) -> Result<Certificate, PemError> {
    if pem.len() > limits::CERT_BYTES_MAX {
        return Err(PemError::TooLarge);
    }
    let (mut certificates, mut key) = (Vec::new(), None);
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section.map_err(|_| PemError::Syntax)?;
        let found = match kind {
            SectionKind::Certificate => {
                certificates.push(CertificateDer::from(der));
                continue;
            }
            SectionKind::PrivateKey => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)),
            SectionKind::RsaPrivateKey => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der)),
            SectionKind::EcPrivateKey => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der)),
            _ => continue,
        };
        if key.replace(found).is_some() {
            return Err(PemError::Keys);
        }
    }
    if certificates.is_empty() {
        return Err(PemError::NoCertificate);
    }
    if certificates.len() > limits::CERT_CHAIN_MAX {
        return Err(PemError::TooMany);
    }
    let key = any_supported_type(&key.ok_or(PemError::NoKey)?).map_err(|_| PemError::Key)?;
    let public = key.public_key().ok_or(PemError::Key)?;
    let chain = order(certificates, public.as_ref())?;
    let leaf = x509::read(&chain[0]).ok_or(PemError::Certificate(1))?;
    let (names, not_before, not_after) = (leaf.names, leaf.not_before, leaf.not_after);
    Ok(Certificate {
        key: Arc::new(CertifiedKey::new(chain, key)),
        names,
        not_before,
        not_after,
    })
}

/// The certificate of the key first, then each one's issuer as far as there is one. Others are left out.
fn order(
    certificates: Vec<CertificateDer<'static>>,
    public_key: &[u8],
) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let fields: Vec<_> = (certificates.iter().enumerate())
        .map(|(at, der)| x509::read(der).ok_or(PemError::Certificate(at + 1)))
        .collect::<Result<_, _>>()?;
    // Of several for the same key the one that was issued last.
    let leaf = (0..fields.len())
        .filter(|&at| fields[at].public_key == public_key)
        .max_by_key(|&at| fields[at].not_before)
        .ok_or(PemError::Mismatch)?;
    let mut chain = vec![leaf];
    let mut last = leaf;
    while fields[last].issuer != fields[last].subject {
        let issuer =
            (0..fields.len()).find(|at| !chain.contains(at) && fields[*at].subject == fields[last].issuer);
        match issuer {
            Some(issuer) => chain.push(issuer),
            None => break,
        }
        last = chain[chain.len() - 1];
    }
    Ok(chain.into_iter().map(|at| certificates[at].clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Authority, self_signed};
    use super::*;

    #[test]
    fn chain_and_key_come_in_any_order() {
        let root = Authority::new("root");
        let middle = root.authority("middle");
        let (certificate, key) = middle.issue(&["a.acme.com"]);
        let stranger = Authority::new("stranger").pem();
        for parts in [
            [&certificate, &middle.pem(), &root.pem(), &key],
            [&key, &root.pem(), &middle.pem(), &certificate],
            [&stranger, &middle.pem(), &key, &certificate],
        ] {
            let parsed = parse(parts.map(String::as_str).concat().as_bytes()).unwrap();
            let subjects: Vec<_> = (parsed.key.cert.iter())
                .map(|der| x509::read(der).unwrap().names[0].clone())
                .collect();
            assert_eq!(subjects[..2], ["a.acme.com", "middle"], "{subjects:?}");
            assert_eq!(parsed.names, ["a.acme.com"]);
        }
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        let pair = |name| {
            let pem = self_signed(&[name]);
            let at = pem.find("-----BEGIN PRIVATE").unwrap();
            (pem[..at].to_owned(), pem[at..].to_owned())
        };
        let ((certificate, key), (_, other_key)) = (pair("a"), pair("b"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (pem, want) in [
            (String::new(), PemError::NoCertificate),
            ("garbage".into(), PemError::NoCertificate),
            (certificate.clone(), PemError::NoKey),
            (key.clone(), PemError::NoCertificate),
            (certificate.clone() + &other_key, PemError::Mismatch),
            (certificate.clone() + &key + &other_key, PemError::Keys),
            (certificate.clone() + broken + &key, PemError::Certificate(2)),
            (
                certificate.repeat(limits::CERT_CHAIN_MAX + 1) + &key,
                PemError::TooMany,
            ),
            ("x".repeat(limits::CERT_BYTES_MAX + 1), PemError::TooLarge),
        ] {
            assert_eq!(parse(pem.as_bytes()).err(), Some(want));
        }
        assert!(parse((certificate[..certificate.len() - 9].to_owned() + &key).as_bytes()).is_err());
        let key = parse(self_signed(&["a"]).as_bytes()).unwrap();
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }
}
