// SPDX-License-Identifier: MIT OR Apache-2.0
//! Certificates from and for the other replicas, in the original's shape.

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::store::Store;
use super::x509;

/// Characters of a line (RFC 7468 §2).
const PEM_LINE: usize = 64;

/// The answer of the certificate endpoints.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Certs {
    /// `OK` or `NOK`.
    pub status: String,
    /// Why not.
    #[serde(default)]
    pub message: String,
    /// Null after a PUT.
    #[serde(default)]
    pub certs: Option<Vec<Cert>>,
}

/// One file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Cert {
    /// Always empty.
    #[serde(default)]
    pub service_port: String,
    /// The file's name.
    pub proxy_service_name: String,
    /// The folder.
    #[serde(default)]
    pub certs_dir: String,
    /// PEM.
    #[serde(default)]
    pub cert_content: String,
}

/// Takes over what a replica has and this one lacks or has in an older version. Returns how many.
pub fn adopt(store: &Store, answer: &[u8]) -> Result<usize, String> {
    let answer: Certs = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let mut taken = 0;
    for cert in answer.certs.into_iter().flatten() {
        match store.adopt(&cert.proxy_service_name, cert.cert_content.as_bytes()) {
            Ok(true) => taken += 1,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "certificate of another replica left out"),
        }
    }
    Ok(taken)
}

/// The certificates of a PEM file without its key: what is read as a certificate, written anew. Marks that are broken
/// cannot make a key look like a part of one.
pub fn without_key(pem: &[u8]) -> String {
    let mut out = String::new();
    for der in CertificateDer::pem_slice_iter(pem).flatten() {
        if !x509::is_whole(&der) {
            continue;
        }
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        for (n, digit) in STANDARD.encode(&der).chars().enumerate() {
            if n > 0 && n % PEM_LINE == 0 {
                out.push('\n');
            }
            out.push(digit);
        }
        out.push_str("\n-----END CERTIFICATE-----\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::self_signed;
    use super::*;

    #[test]
    fn only_certificates_are_shown() {
        let pem = self_signed(&["a"]);
        let at = pem.find("-----BEGIN PRIVATE").unwrap();
        let key_first = format!("{}{}", &pem[at..], &pem[..at]);
        for pem in [&pem, &key_first, &key_first.replace('\n', "\r\n")] {
            let shown = without_key(pem.as_bytes());
            assert!(
                !shown.contains("PRIVATE") && shown.contains("END CERTIFICATE"),
                "{shown}"
            );
            assert_eq!(shown, without_key(shown.as_bytes()));
        }
        // Here a mark is missing.
        let cut = pem.replacen("-----END CERTIFICATE-----\n", "", 1) + "-----END CERTIFICATE-----\n";
        assert_eq!(without_key(cut.as_bytes()), "");
        // A key between the marks of a certificate would not be read as a key either.
        assert_eq!(
            without_key(b"-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n"),
            ""
        );
    }
}
