// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is spoken to tasks: TLS, HTTP/2 with trailers and both directions at once, events as they come.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener as AsyncListener;

use super::*;

/// Sends back each piece of the body as it comes, then a status in the trailers, as gRPC does.
async fn echo(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let seen = format!(
        "{:?} {} te={}|",
        request.version(),
        request.uri(),
        request.headers().get("te").map_or("-", |te| te.to_str().unwrap()),
    );
    let body = request.into_body();
    let frames = futures_util::stream::unfold((Some(body), Some(seen)), |(body, seen)| async move {
        let mut body = body?;
        if let Some(seen) = seen {
            return Some((Ok(Frame::data(Bytes::from(seen))), (Some(body), None)));
        }
        match body.frame().await {
            Some(Ok(frame)) => Some((Ok(frame), (Some(body), None))),
            _ => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                Some((Ok(Frame::trailers(trailers)), (None, None)))
            }
        }
    });
    Ok(Response::builder()
        .header("content-type", "application/grpc")
        // Over HTTP/1.1 trailers are passed on only where they were announced.
        .header("trailer", "grpc-status")
        .body(StreamBody::new(frames))
        .unwrap())
}

async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T, is_h2: bool) {
    let io = TokioIo::new(stream);
    let _ = match is_h2 {
        true => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service_fn(echo))
                .await
        }
        false => {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service_fn(echo))
                .await
        }
    };
}

/// An origin that speaks HTTP/2, in the clear or, with a certificate, what ALPN says.
fn modern_origin(tls: Option<rustls::ServerConfig>) -> SocketAddr {
    let (tell, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = AsyncListener::bind((LOCAL, 0)).await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let acceptor = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Some(acceptor) = acceptor else {
                        return serve(stream, true).await;
                    };
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    serve(stream, is_h2).await;
                });
            }
        });
    });
    address.recv_timeout(DEADLINE).unwrap()
}

/// A certificate for a name and its PEM, which is its own CA.
fn certificate(name: &str, alpn: &[&[u8]]) -> (rustls::ServerConfig, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    (config, made.cert.pem())
}

fn route_to(site: &Site, origin: SocketAddr, more: &str) -> Reply {
    let query = format!(
        "serviceName=all&servicePath=/&outboundHostname=127.0.0.1&port={}{more}",
        origin.port()
    );
    site.reconfigure(&query)
}

#[test]
fn http2_in_the_clear_carries_trailers_and_both_directions_at_once() {
    let site = Site::start();
    assert_eq!(
        route_to(&site, modern_origin(None), "&upstreamProtocol=h2c").status,
        200
    );
    let mut wire = site.connect();
    wire.send("POST /svc/Method?q=1 HTTP/1.1\r\nHost: acme.com\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n");
    let head = wire.head();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let chunk = |wire: &mut Wire| {
        let size = usize::from_str_radix(wire.line().trim(), 16).unwrap();
        let mut data = vec![0; size + 2];
        wire.stream.read_exact(&mut data).unwrap();
        String::from_utf8(data).unwrap().trim_end().to_owned()
    };
    assert_eq!(
        chunk(&mut wire),
        "HTTP/2.0 http://acme.com/svc/Method?q=1 te=trailers|"
    );
    // Each piece comes back before the next is sent.
    for piece in ["one", "two", "three"] {
        wire.send(&format!("{:x}\r\n{piece}\r\n", piece.len()));
        assert_eq!(chunk(&mut wire), piece);
    }
    wire.send("0\r\n\r\n");
    assert_eq!(chunk_end(&mut wire), "grpc-status: 0\r\n");
    // The connection is shared, and the next request goes over it.
    for _ in 0..5 {
        assert_eq!(site.get("/").status, 200);
    }
    assert!(site.metric("portico_proxy_upstream_connects_total") <= 2);
}

fn chunk_end(wire: &mut Wire) -> String {
    assert_eq!(wire.line(), "0\r\n");
    wire.head()
}

#[test]
fn tls_to_a_service_is_verified_unless_it_is_told_not_to_be() {
    let secrets = tempfile::tempdir().unwrap();
    let site = Site::with(|settings| settings.defaults.secrets = secrets.path().to_owned());
    let (config, pem) = certificate("app.internal", &[b"h2", b"http/1.1"]);
    std::fs::write(secrets.path().join("ca.pem"), pem).unwrap();
    let origin = modern_origin(Some(config));
    for (more, want) in [
        ("&sslVerifyNone=true", Ok("HTTP/1.1 / ")),
        (
            "&sslVerifyNone=true&upstreamProtocol=h2",
            Ok("HTTP/2.0 https://acme.com/ "),
        ),
        (
            "&upstreamTls=true&upstreamCa=ca.pem&upstreamSni=app.internal",
            Ok("HTTP/1.1 / "),
        ),
        (
            "&upstreamTls=true&upstreamCa=ca.pem&upstreamSni=app.internal&upstreamProtocol=h2",
            Ok("HTTP/2.0 https://acme.com/ "),
        ),
        ("&upstreamTls=true&upstreamCa=ca.pem", Err(503)),
        (
            "&upstreamTls=true&upstreamCa=ca.pem&upstreamSni=other.internal",
            Err(503),
        ),
    ] {
        let reply = route_to(&site, origin, more);
        assert_eq!(reply.status, 200, "{more}: {}", reply.text());
        let reply = site.get("/");
        match want {
            Ok(start) => assert!(
                reply.status == 200 && reply.text().starts_with(start),
                "{more}: {}",
                reply.text()
            ),
            Err(status) => assert_eq!(reply.status, status, "{more}"),
        }
    }
}

#[test]
fn events_arrive_as_they_are_sent() {
    let site = Site::start();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    site.route_all(origin(move |_, mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        for number in 0..3 {
            wire.send(&format!("data: {number}\n\n"));
            wait.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        }
    }));
    let mut wire = site.connect();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(wire.head().starts_with("HTTP/1.1 200"));
    for number in 0..3 {
        wire.line();
        assert_eq!(wire.line(), format!("data: {number}\n"));
        assert_eq!((wire.line(), wire.line()), ("\n".into(), "\r\n".into()));
        go.send(()).unwrap();
    }
    assert_eq!(wire.line(), "0\r\n");
}
