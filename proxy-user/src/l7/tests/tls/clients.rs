// SPDX-License-Identifier: MIT OR Apache-2.0
//! Client certificates, and that nothing gets around them: resumption, another replica's tickets, early data.

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

use super::*;
use crate::l7::secret::Secret;

const NEEDS: &str = "verifyClientSsl=true";

/// A proxy that has a certificate and asks clients for one of this authority.
fn asking(authority: &Authority, change: impl FnOnce(&mut Settings)) -> Site {
    let site = site(|settings| {
        let file = settings.state_dir.join("ca");
        std::fs::write(&file, authority.pem()).unwrap();
        settings.tls.client_authorities = Some(TlsSettings::read_authorities(&file).unwrap());
        change(settings);
    });
    let query = format!(
        "serviceName=s&servicePath=/&{NEEDS}&outboundHostname=127.0.0.1&port={}",
        echo_origin().port()
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    assert_eq!(site.put_certificate("a", &self_signed(&["a.org"])).status, 200);
    site
}

fn status(site: &Site, config: &Arc<ClientConfig>) -> u16 {
    let text = get(&mut connect(site.data(), "a.org", config).unwrap(), "");
    text["HTTP/1.1 ".len()..][..3].parse().unwrap()
}

fn resumed(site: &Site) -> u64 {
    site.metric("portico_proxy_tls_resumed_total")
}

#[test]
fn they_are_asked_for_where_a_service_wants_them() {
    let authority = Authority::new("clients");
    let (certificate, key) = authority.issue(&["me"]);
    let (stranger, stranger_key) = Authority::new("others").issue(&["me"]);
    let site = asking(&authority, |_| {});
    let with = client(Some((&certificate, &key)), &[]);
    // The second resumes the session of the first, and is as well known.
    for count in 0..2 {
        assert_eq!((status(&site, &with), resumed(&site)), (200, count));
    }
    let without = client(None, &[]);
    for count in 1..3 {
        assert_eq!((status(&site, &without), resumed(&site)), (403, count));
        assert_eq!(site.refused("client_cert_missing"), count);
    }
    let wrong = client(Some((&stranger, &stranger_key)), &[]);
    // With TLS 1.3 the client learns of it when it reads.
    let refused = connect(site.data(), "a.org", &wrong).and_then(|mut tls| tls.read(&mut [0; 1]));
    assert!(refused.is_err());
    // The alert is sent before it is counted.
    eventually("the refusal is counted", || site.refused("tls_failed") == 1);
}

#[test]
fn a_ticket_of_a_replica_with_other_authorities_proves_nothing() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (certificate, key) = theirs.issue(&["me"]);
    let secret = Secret::new("k".repeat(32));
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let with = client_of(versions, Some((&certificate, &key)), &[]);
        let lenient = asking(&theirs, |settings| {
            settings.tls.ticket_secrets = vec![secret.clone()]
        });
        let strict = asking(&ours, |settings| {
            settings.tls.ticket_secrets = vec![secret.clone()]
        });
        assert_eq!(status(&lenient, &with), 200);
        assert_eq!(
            (status(&strict, &with), resumed(&strict)),
            (403, 1),
            "{versions:?}"
        );
        assert_eq!(strict.refused("client_cert_missing"), 1);
        // It is the authority that is missing, not the session that is broken.
        assert_eq!((status(&lenient, &with), resumed(&lenient)), (200, 1));
    }
}

#[test]
fn a_certificate_that_has_run_out_is_not_brought_back_by_a_ticket() {
    let authority = Authority::new("clients");
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let settings = TlsSettings {
        client_authorities: Some(Arc::new(roots)),
        ..TlsSettings::default()
    };
    let tls = crate::l7::tls::Tls::new(&settings, Arc::default()).unwrap();
    let (certificate, _) = authority.issue(&["me"]);
    let chain: Vec<_> = rustls::pki_types::CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let at = |seconds| rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    // rcgen's certificates are good from 1975 to 4096.
    assert!(tls.is_good_client(&chain, at(1_700_000_000)));
    assert!(!tls.is_good_client(&chain, at(1_000)));
    assert!(!tls.is_good_client(&chain, at(80_000_000_000)));
    assert!(!tls.is_good_client(&[], at(1_700_000_000)));
    let without = crate::l7::tls::Tls::new(&TlsSettings::default(), Arc::default()).unwrap();
    assert!(!without.is_good_client(&chain, at(1_700_000_000)));
}

#[test]
fn early_data_is_never_offered() {
    let site = site(|_| {});
    site.route_all(echo_origin());
    assert_eq!(site.put_certificate("a", &self_signed(&["a.org"])).status, 200);
    let mut config = ClientConfig::clone(&client(None, &[]));
    config.enable_early_data = true;
    let config = Arc::new(config);
    for count in 0..2 {
        assert_eq!((status(&site, &config), resumed(&site)), (200, count));
    }
    let name = ServerName::try_from("a.org").unwrap();
    let mut again = ClientConnection::new(config.clone(), name).unwrap();
    assert!(again.early_data().is_none(), "the ticket allows early data");
}

/// A certificate of version 1, as `openssl x509 -req` makes it without extensions, its key and who issued it; good
/// until 2126.
const V1: [&str; 3] = [
    include_str!("v1/certificate.pem"),
    include_str!("v1/key.pem"),
    include_str!("v1/authority.pem"),
];

/// Shows a certificate that rustls would not take for its own.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn one_of_version_1_is_refused_and_the_reason_can_be_told() {
    let [certificate, key, authority] = V1.map(str::as_bytes);
    let own = rustls::pki_types::CertificateDer::from_pem_slice(certificate).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let mut config = ClientConfig::clone(&client(None, &[]));
    config.client_auth_cert_resolver = Arc::new(Shows(Arc::new(CertifiedKey::new(vec![own.clone()], key))));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority).unwrap();
    let roots = TlsSettings::read_authorities(file.path()).unwrap();
    let site = site(|settings| settings.tls.client_authorities = Some(roots.clone()));
    assert_eq!(site.put_certificate("a", &self_signed(&["a.org"])).status, 200);
    let refused = connect(site.data(), "a.org", &Arc::new(config)).and_then(|mut tls| tls.read(&mut [0; 1]));
    assert!(refused.is_err());
    eventually("counted", || site.refused("tls_failed") == 1);
    let settings = TlsSettings {
        client_authorities: Some(roots),
        ..TlsSettings::default()
    };
    let tls = crate::l7::tls::Tls::new(&settings, Arc::default()).unwrap();
    let reason = tls.why_not(&own).unwrap();
    assert!(
        reason.contains("version 1") && reason.contains("version 3"),
        "{reason}"
    );
    // Others are told as rustls tells them.
    let (stranger, _) = Authority::new("others").issue(&["me"]);
    let stranger = rustls::pki_types::CertificateDer::from_pem_slice(stranger.as_bytes()).unwrap();
    let reason = tls.why_not(&stranger).unwrap();
    assert!(reason.contains("UnknownIssuer"), "{reason}");
}
