// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the operator says of TLS, and the configuration that rustls makes of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};

use super::index::Current;
use super::protocol::Protocol;
use super::tickets::Tickets;
use crate::l7::limits;
use crate::l7::secret::Secret;

/// What the operator says.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// The certificate folder.
    pub dir: PathBuf,
    /// Docker's secrets.
    pub secrets: PathBuf,
    /// PREFERRED_CERTIFICATE: globs on file names.
    pub preferred: Vec<String>,
    /// CRT_LIST_PATH.
    pub crt_list: Option<PathBuf>,
    /// CA_FILE, read.
    pub client_authorities: Option<Arc<RootCertStore>>,
    /// Unknown names get no certificate.
    pub strict_sni: bool,
    /// ENABLE_H2.
    pub h2: bool,
    /// SSL_BIND_OPTIONS and SSL_BIND_CIPHERS.
    pub protocol: Protocol,
    /// What replicas derive the keys of their tickets from.
    pub ticket_secrets: Vec<Secret>,
}

impl TlsSettings {
    /// Reads CA_FILE.
    pub fn read_authorities(path: &Path) -> Result<Arc<RootCertStore>, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
        Self::parse_authorities(&pem).map_err(|error| wrong(&error))
    }

    /// The certificates of authorities.
    pub fn parse_authorities(pem: &[u8]) -> Result<Arc<RootCertStore>, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|_| "it is not PEM")?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        match roots.is_empty() {
            true => Err("there is no certificate in it".into()),
            false => Ok(Arc::new(roots)),
        }
    }
}

/// TLS as workers use it.
#[derive(Clone)]
pub struct Tls {
    /// Shared by all workers.
    pub config: Arc<ServerConfig>,
    /// The certificates in force.
    pub current: Arc<Current>,
    /// Who says which client certificates are good; none while nobody is asked for one.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Tls {
    /// The configuration that the settings mean.
    pub fn new(settings: &TlsSettings, current: Arc<Current>) -> Result<Self, rustls::Error> {
        let protocol = &settings.protocol;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: protocol.suites(),
            ..aws_lc_rs::default_provider()
        });
        let versions = [(protocol.tls13, &TLS13), (protocol.tls12, &TLS12)];
        let versions: Vec<_> = versions
            .into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, version)| version)
            .collect();
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions)?;
        let verifier = match &settings.client_authorities {
            None => None,
            Some(roots) => Some(
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| rustls::Error::General(error.to_string()))?,
            ),
        };
        let builder = match verifier.clone() {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_cert_resolver(current.clone());
        config.ignore_client_order = !protocol.client_order;
        // A server with state would only resume what came to the same process.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if protocol.tickets {
            config.ticketer = Arc::new(Tickets::new(settings.ticket_secrets.clone()));
            config.send_tls13_tickets = limits::TICKETS_PER_HANDSHAKE;
        } else {
            config.send_tls13_tickets = 0;
        }
        config.max_early_data_size = 0;
        if settings.h2 {
            config.alpn_protocols.push(b"h2".to_vec());
        }
        config
            .alpn_protocols
            .extend([b"http/1.1".to_vec(), b"http/1.0".to_vec()]);
        Ok(Tls {
            config: Arc::new(config),
            current,
            verifier,
        })
    }

    /// Whether this chain is one that a full handshake would accept now.
    ///
    /// A ticket brings back the chain that the first handshake saw. It may have run out since, and the replica that
    /// made the ticket may have had other authorities.
    pub(in crate::l7) fn is_good_client(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        match (&self.verifier, chain) {
            (Some(verifier), [own, others @ ..]) => verifier.verify_client_cert(own, others, now).is_ok(),
            _ => false,
        }
    }

    /// Why a client's certificate would not be taken now.
    #[cfg(test)]
    pub(in crate::l7) fn why_not(&self, own: &CertificateDer<'_>) -> Option<String> {
        let outcome = self
            .verifier
            .as_ref()?
            .verify_client_cert(own, &[], UnixTime::now());
        super::accept::why_refused(&outcome.err()?)
    }

    /// Whether ports with `:ssl` speak TLS.
    pub fn is_on(&self) -> bool {
        !self.current.0.load().is_empty()
    }
}
