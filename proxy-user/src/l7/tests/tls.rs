// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLS and HTTP/2 towards clients, with clients of their own: rustls for TLS, hyper for HTTP/2, and raw frames.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::*;
use crate::l7::settings::Port;
use crate::l7::tls::testing::{Authority, self_signed};

mod admin;
mod clients;
mod tunnels;

pub(super) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Takes any certificate; the tests look at which one it is.
#[derive(Debug)]
struct Anything(rustls::crypto::CryptoProvider);

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub(super) fn client(identity: Option<(&str, &str)>, alpn: &[&str]) -> Arc<ClientConfig> {
    client_of(rustls::DEFAULT_VERSIONS, identity, alpn)
}

fn client_of(
    versions: &[&'static rustls::SupportedProtocolVersion],
    identity: Option<(&str, &str)>,
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty());
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificate =
                rustls::pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(Anything(provider)));
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A connection after its handshake.
pub(super) fn connect(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> std::io::Result<Tls> {
    let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut tls = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), stream);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}

/// Common name of the certificate that the server showed.
fn shown(tls: &Tls) -> Vec<u8> {
    tls.conn.peer_certificates().unwrap()[0].to_vec()
}

/// One request on it: status line and rest.
fn get(tls: &mut Tls, more: &str) -> String {
    tls.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n").as_bytes())
        .unwrap();
    let mut text = String::new();
    // An end without close_notify would be an error.
    tls.read_to_string(&mut text).unwrap();
    text
}

pub(super) fn site(change: impl FnOnce(&mut Settings)) -> Site {
    Site::with(|settings| {
        settings.ports = vec![Port {
            tls: true,
            ..Port::plain(0)
        }];
        change(settings);
    })
}

impl Site {
    pub(super) fn put_certificate(&self, name: &str, pem: &str) -> Reply {
        let mut wire = Wire::connect(self.proxy.as_ref().unwrap().api);
        wire.send(&format!(
            "PUT /v1/docker-flow-proxy/cert?certName={name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{pem}",
            pem.len()
        ));
        wire.reply()
    }
}

#[test]
fn a_port_speaks_tls_from_the_first_certificate_on() {
    let site = site(|_| {});
    site.route_all(echo_origin());
    assert!(!site.get("/").text().contains("x-forwarded-proto"));
    for (name, pem) in [
        ("a", "garbage"),
        ("..%2Fa", self_signed(&["a"]).as_str()),
        ("a", ""),
        ("", "x"),
    ] {
        let reply = site.put_certificate(name, pem);
        assert_eq!(reply.status, 400, "{name}");
        assert!(
            reply.text().starts_with("{\"Status\":\"NOK\""),
            "{}",
            reply.text()
        );
    }
    assert_eq!(site.api("/v1/docker-flow-proxy/cert?certName=a").status, 405);
    let reply = site.put_certificate("a.pem", &self_signed(&["a.org"]));
    assert_eq!(
        (reply.status, reply.text()),
        (200, "{\"Status\":\"OK\",\"Message\":\"\",\"Certs\":null}".into())
    );
    let mut tls = connect(site.data(), "a.org", &client(None, &[])).unwrap();
    let text = get(&mut tls, "");
    assert!(
        text.starts_with("HTTP/1.1 200 OK") && text.contains("x-forwarded-proto: https"),
        "{text}"
    );
    let listed = site.api("/v1/docker-flow-proxy/certs").text();
    assert!(
        listed.contains("\"ProxyServiceName\":\"a.pem\"") && listed.contains("BEGIN CERTIFICATE"),
        "{listed}"
    );
    assert!(!listed.contains("PRIVATE"), "a key is shown to anybody");
    assert_eq!(site.metric("portico_proxy_tls_handshakes_total"), 1);
}

#[test]
fn certificates_are_chosen_by_name_and_replaced_without_a_failed_handshake() {
    let site = site(|settings| {
        settings.tls.preferred = vec!["z*".into()];
        // One connection waits until everything was replaced.
        settings.timeouts.http_request = 30 * DEADLINE;
        settings.timeouts.http_keep_alive = 30 * DEADLINE;
    });
    site.route_all(echo_origin());
    for name in ["a.org", "z.org"] {
        assert_eq!(site.put_certificate(name, &self_signed(&[name])).status, 200);
    }
    let config = client(None, &[]);
    let address = site.data();
    // A client of its own each time: one that resumes a session is shown nothing new.
    let shown_for = |name| shown(&connect(address, name, &client(None, &[])).unwrap());
    let (a, z) = (shown_for("a.org"), shown_for("z.org"));
    assert_ne!(a, z);
    assert_eq!(shown_for("unknown.org"), z);
    let mut open = connect(address, "a.org", &config).unwrap();
    // Replacing goes on while others connect.
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let done = done.clone();
            std::thread::spawn(move || {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    let mut tls = connect(address, "a.org", &client(None, &[])).unwrap();
                    assert!(get(&mut tls, "").starts_with("HTTP/1.1 200"));
                    count += 1;
                }
                count
            })
        })
        .collect();
    let pems = [self_signed(&["a.org"]), self_signed(&["a.org"])];
    for round in 0..1000 {
        assert_eq!(site.put_certificate("a.org", &pems[round % 2]).status, 200);
    }
    done.store(true, Ordering::Relaxed);
    let handshakes: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(handshakes > 10, "{handshakes}");
    assert!(
        get(&mut open, "").starts_with("HTTP/1.1 200"),
        "an open connection keeps what it has"
    );
    assert_ne!(shown_for("a.org"), a);
    assert_eq!(site.refused("tls_failed"), 0);
}

#[test]
fn replicas_share_certificates_and_tickets() {
    let ticket = crate::l7::secret::Secret::new("k".repeat(32));
    let first = site(|settings| settings.tls.ticket_secrets = vec![ticket.clone()]);
    let api = first.proxy.as_ref().unwrap().api;
    assert_eq!(first.put_certificate("a", &self_signed(&["a.org"])).status, 200);
    let second = site(|settings| {
        settings.siblings = vec![("127.0.0.1".into(), Some(api.port()))];
        settings.tls.ticket_secrets = vec![ticket];
    });
    // The first is not named as its replica, so it must have shown no key.
    assert!(connect(second.data(), "a.org", &client(None, &[])).is_err());
    let third = site(|settings| settings.siblings = vec![("127.0.0.1".into(), Some(1))]);
    assert_eq!(third.put_certificate("a", &self_signed(&["a.org"])).status, 200);
    let api = third.proxy.as_ref().unwrap().api;
    let fourth = site(|settings| settings.siblings = vec![("127.0.0.1".into(), Some(api.port()))]);
    let config = client(None, &[]);
    let certificate = shown(&connect(third.data(), "a.org", &config).unwrap());
    assert_eq!(
        shown(&connect(fourth.data(), "a.org", &config).unwrap()),
        certificate
    );
    // Tickets: the second has the first's certificate by hand, and the same secret.
    assert_eq!(second.put_certificate("a", &self_signed(&["a.org"])).status, 200);
    let config = client(None, &[]);
    let route = echo_origin();
    for (site, resumed) in [(&first, 0), (&second, 1)] {
        site.route_all(route);
        assert!(get(&mut connect(site.data(), "a.org", &config).unwrap(), "").starts_with("HTTP/1.1 200"));
        assert_eq!(site.metric("portico_proxy_tls_resumed_total"), resumed);
    }
}

#[test]
fn a_services_certificate_is_kept_under_its_domain_and_never_shown() {
    let site = site(|_| {});
    let origin = echo_origin();
    let escape = |pem: &str| {
        let line_ends = pem.replace('\n', "\\n");
        form_urlencoded::byte_serialize(line_ends.as_bytes()).collect::<String>()
    };
    let query = |pem: &str| {
        format!(
            "serviceName=s&servicePath=/&serviceDomain=a.org&outboundHostname=127.0.0.1&port={}&serviceCert={}",
            origin.port(),
            escape(pem)
        )
    };
    let reply = site.reconfigure(&query("garbage"));
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("serviceCert"));
    let reply = site.reconfigure(&query(&self_signed(&["a.org"])));
    assert_eq!(reply.status, 200);
    assert!(!reply.text().contains("PRIVATE") && reply.text().contains("redacted"));
    assert!(connect(site.data(), "a.org", &client(None, &[])).is_ok());
    assert!(site.state.path().join("certs/a.org").exists());
}

#[test]
fn a_handshake_that_does_not_come_is_given_up() {
    let site = site(|settings| settings.timeouts.http_request = Duration::from_millis(100));
    assert_eq!(site.put_certificate("a", &self_signed(&["a.org"])).status, 200);
    assert!(site.connect().is_closed());
    let mut wire = site.connect();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut rest = Vec::new();
    let _ = wire.stream.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP"));
    // The connection is closed before it is counted.
    eventually("both are counted", || {
        (site.refused("tls_timeout"), site.refused("tls_failed")) == (1, 1)
    });
}

// ---- HTTP/2 ----

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await.unwrap() })
}

/// Requests over one connection of HTTP/2, all at once.
async fn exchange(address: SocketAddr, requests: Vec<Request<Full<Bytes>>>) -> Vec<Response<Incoming>> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(driver);
    let sent = requests.into_iter().map(|request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await.unwrap() }
    });
    futures_util::future::join_all(sent).await
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8_lossy(&response.into_body().collect().await.unwrap().to_bytes()).into_owned()
}

#[test]
fn http2_with_prior_knowledge_takes_the_same_way() {
    let site = Site::start();
    site.route_all(echo_origin());
    block_on(async {
        let request = Request::post("http://acme.com/p?q=1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("te", "trailers")
            .body(Full::new(Bytes::from("body")))
            .unwrap();
        let response = exchange(site.data(), vec![request]).await.pop().unwrap();
        assert_eq!(response.status(), 200);
        let seen = text(response).await;
        assert!(
            seen.starts_with("POST /p?q=1 HTTP/1.1\r\n") && seen.ends_with("body|"),
            "{seen}"
        );
        assert_eq!(
            (field(&seen, "host"), field(&seen, "cookie")),
            (Some("acme.com"), Some("a=1; b=2"))
        );
        assert_eq!(field(&seen, "x-forwarded-for"), Some("127.0.0.1"));
        let many = (0..200).map(|n| {
            Request::get(format!("http://a/{n}"))
                .body(Full::default())
                .unwrap()
        });
        for (n, response) in exchange(site.data(), many.collect())
            .await
            .into_iter()
            .enumerate()
        {
            assert!(text(response).await.starts_with(&format!("GET /{n} ")));
        }
    });
    assert_eq!(site.metric("portico_proxy_h2_connections_total"), 2);
    // HTTP/1.1 that begins with the same letters, cut anywhere, is still HTTP/1.1.
    let mut wire = site.connect();
    wire.send("P");
    wire.send("RI / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(wire.reply().status, 200);
}

#[test]
fn alpn_chooses_the_protocol() {
    let without = site(|settings| settings.tls.h2 = false);
    let site = site(|_| {});
    site.route_all(echo_origin());
    assert_eq!(site.put_certificate("a", &self_signed(&["a.org"])).status, 200);
    for (offered, want) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let tls = connect(site.data(), "a.org", &client(None, offered)).unwrap();
        assert_eq!(tls.conn.alpn_protocol(), want);
    }
    let mut tls = connect(site.data(), "a.org", &client(None, &["h2"])).unwrap();
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let mut head = [0; 9];
    tls.read_exact(&mut head).unwrap();
    assert_eq!(head[3], 4, "SETTINGS come first");
    assert_eq!(without.put_certificate("a", &self_signed(&["a.org"])).status, 200);
    let tls = connect(without.data(), "a.org", &client(None, &["h2", "http/1.1"])).unwrap();
    assert_eq!(tls.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn stopping_says_goaway_and_lets_requests_finish() {
    let (asked, is_asked) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let mut site = Site::with(|settings| settings.drain = DEADLINE);
    site.route_all(origin(move |_, mut wire| {
        wire.head();
        asked.send(()).unwrap();
        wait.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
    }));
    let address = site.data();
    let client = std::thread::spawn(move || {
        block_on(async {
            let request = Request::get("http://a/").body(Full::default()).unwrap();
            text(exchange(address, vec![request]).await.pop().unwrap()).await
        })
    });
    is_asked.recv_timeout(DEADLINE).unwrap();
    let stopping = std::thread::spawn(move || site.stop());
    go.send(()).unwrap();
    assert_eq!(client.join().unwrap(), "done");
    stopping.join().unwrap();
}
