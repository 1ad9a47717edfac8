// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLS of the admin port: its certificate, who must show one, and how replicas know each other.
//!
//! A replica calls the others at their addresses, so no name can be compared: it believes who shows the same
//! certificate, or one of the authorities that clients need one of.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::pem::parse;

/// TLS of the admin port.
#[derive(Clone, Debug)]
pub struct AdminTls {
    /// For whoever calls.
    pub server: Arc<ServerConfig>,
    /// For calls to the other replicas.
    pub client: Arc<ClientConfig>,
    /// Whether callers must show a certificate.
    pub needs_certificate: bool,
}

impl AdminTls {
    /// TLS with this PEM file of a certificate and its key, for callers with a certificate of these authorities.
    pub fn new(pem: &[u8], authorities: Option<Arc<RootCertStore>>) -> Result<Self, String> {
        let own = parse(pem).map_err(|error| error.to_string())?.key;
        let text = |error: Error| error.to_string();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(text)?;
        let server = match &authorities {
            None => server.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                    // A health check inside the container has none; the guard decides.
                    .allow_unauthenticated()
                    .build();
                server.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
            }
        };
        let mut server = server.with_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())));
        // Calls are few; none is spared its proof.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let replica = Replica {
            own: own.end_entity_cert().map_err(text)?.clone().into_owned(),
            authorities: match &authorities {
                None => None,
                Some(roots) => {
                    let verifier =
                        WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
                    Some(verifier.build().map_err(|error| error.to_string())?)
                }
            },
            provider: provider.clone(),
        };
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(text)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(replica))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        Ok(AdminTls {
            server: Arc::new(server),
            client: Arc::new(client),
            needs_certificate: authorities.is_some(),
        })
    }
}

/// Says who is a replica.
#[derive(Debug)]
struct Replica {
    own: CertificateDer<'static>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Replica {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *shown == self.own {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(authorities) = &self.authorities else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        match authorities.verify_server_cert(shown, chain, name, ocsp, now) {
            // The name is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Authority, self_signed};
    use super::*;

    fn replica(own: &[u8], authorities: Option<&Authority>) -> Replica {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let authorities = authorities.map(|authority| {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der.clone()).unwrap();
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            verifier.build().unwrap()
        });
        Replica {
            own: CertificateDer::from(own.to_vec()),
            authorities,
            provider,
        }
    }

    #[test]
    fn a_replica_shows_our_certificate_or_one_of_our_authority() {
        let (ours, others) = (Authority::new("ours"), Authority::new("others"));
        let end_entity = |pem: &str| {
            let key = parse(pem.as_bytes()).unwrap().key;
            key.end_entity_cert().unwrap().clone().into_owned()
        };
        let issued = |authority: &Authority| {
            let (certificate, key) = authority.issue(&["proxy"]);
            end_entity(&(certificate + &key))
        };
        let own = end_entity(&self_signed(&["a"]));
        let (own, same, of_ours, of_others) = (own.as_ref(), own.clone(), issued(&ours), issued(&others));
        let believes = |replica: &Replica, shown: &CertificateDer<'_>| {
            let name = ServerName::try_from("192.0.2.1").unwrap();
            let verified = replica.verify_server_cert(shown, &[], &name, &[], UnixTime::now());
            verified.is_ok()
        };
        for (replica, want) in [
            (replica(own, None), [true, false, false]),
            (replica(own, Some(&ours)), [true, true, false]),
        ] {
            let got = [&same, &of_ours, &of_others].map(|shown| believes(&replica, shown));
            assert_eq!(got, want);
        }
    }
}
