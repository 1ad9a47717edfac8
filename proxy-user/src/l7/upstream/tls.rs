// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLS towards tasks: whom to trust, what to ask for, and what is spoken inside.
//!
//! Verification is on unless `sslVerifyNone` turns it off, as the original's parameter does. A service's own CA replaces
//! the system's, and its name in the certificate is the host that the proxy connects to unless `upstreamSni` says
//! otherwise; the addresses of tasks play no part.

use std::hash::{Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How a target's tasks are spoken to in secret.
#[derive(Clone)]
pub struct Tls {
    wish: Wish,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

/// What was asked for; targets that ask for the same share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wish {
    /// Whether certificates are verified.
    pub verifies: bool,
    /// The name in the certificate and in SNI.
    pub name: Box<str>,
    /// PEM of the CA that is trusted; the system's without it.
    pub ca: Option<Box<[u8]>>,
    /// Whether HTTP/2 is offered.
    pub offers_h2: bool,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.wish == other.wish
    }
}

impl Eq for Tls {}

impl Hash for Tls {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.wish.hash(state);
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({}, verifies: {})", self.wish.name, self.wish.verifies)
    }
}

impl Tls {
    /// What a wish comes to, or why it cannot be had.
    pub fn new(wish: Wish) -> Result<Self, String> {
        let name = ServerName::try_from(wish.name.trim_matches(['[', ']']).to_owned())
            .map_err(|_| format!("`{}` cannot be a name in a certificate", wish.name))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = if wish.verifies {
            let roots = match &wish.ca {
                Some(pem) => Arc::new(roots(pem)?),
                None => system_roots()?,
            };
            builder.with_root_certificates(roots).with_no_client_auth()
        } else {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
                .with_no_client_auth()
        };
        if wish.offers_h2 {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        Ok(Tls {
            wish,
            name,
            config: Arc::new(config),
        })
    }

    /// The handshake. True when HTTP/2 was agreed on.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, bool)> {
        let connector = TlsConnector::from(self.config.clone());
        let stream = connector.connect(self.name.clone(), stream).await?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((stream, is_h2))
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    match roots.is_empty() {
        true => Err("has no certificate in it".into()),
        false => Ok(roots),
    }
}

/// Where distributions keep the CAs that they trust.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Read once, at the first service that needs them. Single certificates that cannot be read are left out.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Option<Arc<RootCertStore>>> = OnceLock::new();
    let read = || {
        let file = std::env::var_os("SSL_CERT_FILE");
        let pem = match &file {
            Some(file) => std::fs::read(Path::new(file)).ok(),
            None => SYSTEM.iter().find_map(|path| std::fs::read(path).ok()),
        }?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
        (!roots.is_empty()).then(|| Arc::new(roots))
    };
    let roots = ROOTS.get_or_init(read).clone();
    roots.ok_or_else(|| "there are no CAs on this system: set upstreamCa, or sslVerifyNone".into())
}

/// Trusts every certificate, but still wants the task to have the key of the one that it shows.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
