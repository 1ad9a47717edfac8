// SPDX-License-Identifier: MIT OR Apache-2.0
//! What gRPC does with HTTP/2, end to end: messages both ways at any time, a status in the trailers or in the head,
//! and calls that are given up.

use std::convert::Infallible;
use std::sync::mpsc::Sender;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener as AsyncListener, TcpStream as AsyncStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::*;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What is sent comes out as frames of a body, which ends when nobody can send any more.
fn frames() -> (
    UnboundedSender<Frame<Bytes>>,
    impl Stream<Item = Result<Frame<Bytes>, Infallible>>,
) {
    let (send, mut receive) = unbounded_channel();
    let stream = futures_util::stream::poll_fn(move |cx| receive.poll_recv(cx));
    (send, stream.map(Ok))
}

fn status(code: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", code.parse().unwrap());
    fields
}

/// Tells when it is dropped: the call has ended, one way or the other.
struct Told(Sender<String>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send("ended".into());
    }
}

/// The service's methods. Each notes what becomes of it.
async fn method(request: Request<Incoming>, notes: Sender<String>) -> Result<Response<Body>, Infallible> {
    let (parts, mut body) = request.into_parts();
    let te = parts.headers.get("te").map_or("-", |te| te.to_str().unwrap());
    let _ = notes.send(format!("{:?} {} te={te}", parts.version, parts.uri.path()));
    let head = Response::builder().header("content-type", "application/grpc");
    let (send, frames) = frames();
    let say = move |text: String| {
        let _ = send.send(Frame::data(Bytes::from(text)));
        send.clone()
    };
    match parts.uri.path() {
        "/Count" => {
            let mut count = 0;
            while let Some(Ok(frame)) = body.frame().await {
                count += frame.data_ref().map_or(0, Bytes::len);
            }
            let _ = say(count.to_string()).send(Frame::trailers(status("0")));
        }
        "/Many" => {
            for n in 0..3 {
                let send = say(n.to_string());
                if n == 2 {
                    let _ = send.send(Frame::trailers(status("0")));
                }
            }
        }
        "/Echo" => drop(tokio::spawn(async move {
            let told = Told(notes);
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data() {
                    say(String::from_utf8_lossy(&data).into_owned());
                }
            }
            let _ = say(String::new()).send(Frame::trailers(status("7")));
            drop(told);
        })),
        // A head with the end of the stream in it.
        _ => {
            let response = head
                .header("grpc-status", "12")
                .body(http_body_util::Empty::new().boxed_unsync());
            return Ok(response.unwrap());
        }
    }
    Ok(head.body(StreamBody::new(frames).boxed_unsync()).unwrap())
}

/// The address of a service that speaks HTTP/2 in the clear, and its notes.
fn service() -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let (tell, address) = std::sync::mpsc::channel();
    let (note, notes) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = AsyncListener::bind((LOCAL, 0)).await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let note = note.clone();
                let service = service_fn(move |request| method(request, note.clone()));
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    });
    (address.recv_timeout(DEADLINE).unwrap(), notes)
}

/// A call: what sends its messages, and the answer.
async fn call(site: SocketAddr, method: &str) -> (Option<UnboundedSender<Frame<Bytes>>>, Response<Incoming>) {
    let stream = AsyncStream::connect(site).await.unwrap();
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(driver);
    let (send, messages) = frames();
    let mut send = Some(send);
    let request = Request::post(format!("http://a{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(messages))
        .unwrap();
    // A client stream is ended by its sender; the others have one message.
    if let Some(send) = send.take_if(|_| method != "/Echo") {
        for text in ["a", "b", "c"] {
            send.send(Frame::data(Bytes::from(text))).unwrap();
        }
    }
    let response = tokio::time::timeout(DEADLINE, sender.send_request(request))
        .await
        .unwrap()
        .unwrap();
    (send, response)
}

async fn message(body: &mut Incoming) -> String {
    let frame = tokio::time::timeout(DEADLINE, body.frame()).await.unwrap();
    String::from_utf8_lossy(&frame.unwrap().unwrap().into_data().unwrap()).into_owned()
}

/// Everything that is left, and the status in the trailers.
async fn rest(body: Incoming) -> (String, String) {
    let whole = body.collect().await.unwrap();
    let code = whole
        .trailers()
        .map_or("none", |fields| fields["grpc-status"].to_str().unwrap());
    let code = code.to_owned();
    (String::from_utf8_lossy(&whole.to_bytes()).into_owned(), code)
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await.unwrap() })
}

fn site_of(origin: SocketAddr) -> Site {
    let site = Site::start();
    let query = format!(
        "serviceName=s&servicePath=/&upstreamProtocol=h2c&outboundHostname=127.0.0.1&port={}",
        origin.port()
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    site
}

#[test]
fn every_kind_of_call() {
    let (origin, notes) = service();
    let site = site_of(origin);
    block_on(async {
        for (method, want) in [("/Count", "3"), ("/Many", "012")] {
            let (_, response) = call(site.data(), method).await;
            assert_eq!(response.headers()["content-type"], "application/grpc");
            assert_eq!(
                rest(response.into_body()).await,
                (want.to_owned(), "0".to_owned())
            );
            assert_eq!(notes.recv().unwrap(), format!("HTTP/2.0 {method} te=trailers"));
        }
        // Each message comes back before the next is sent.
        let (send, response) = call(site.data(), "/Echo").await;
        let send = send.unwrap();
        let mut body = response.into_body();
        for text in ["one", "two", "three"] {
            send.send(Frame::data(Bytes::from(text))).unwrap();
            assert_eq!(message(&mut body).await, text);
        }
        drop(send);
        assert_eq!(rest(body).await, (String::new(), "7".to_owned()));
        // An error without a message: the head is all there is.
        let (_, response) = call(site.data(), "/Unknown").await;
        assert_eq!(response.headers()["grpc-status"], "12");
        assert!(hyper::body::Body::is_end_stream(response.body()));
    });
}

#[test]
fn a_call_that_the_client_gives_up_ends_for_the_service_too() {
    let (origin, notes) = service();
    let site = site_of(origin);
    block_on(async {
        let (send, response) = call(site.data(), "/Echo").await;
        let send = send.unwrap();
        let mut body = response.into_body();
        send.send(Frame::data(Bytes::from("one"))).unwrap();
        assert_eq!(message(&mut body).await, "one");
        // Dropping the answer resets the stream.
        drop((body, send));
        // On a thread of its own: the client's connection has to run on to say so.
        let heard = tokio::task::spawn_blocking(move || {
            [
                notes.recv_timeout(DEADLINE).unwrap(),
                notes.recv_timeout(DEADLINE).unwrap(),
            ]
        });
        assert_eq!(heard.await.unwrap(), ["HTTP/2.0 /Echo te=trailers", "ended"]);
        // The connection to the service goes on.
        let (_, response) = call(site.data(), "/Count").await;
        assert_eq!(rest(response.into_body()).await, ("3".to_owned(), "0".to_owned()));
    });
}

#[test]
fn trailers_of_http1_services_reach_clients_of_http2() {
    let site = Site::start();
    site.route_all(origin(|_, mut wire| {
        let head = wire.head();
        let request = wire.rest(head, true);
        let count = request.body.len();
        wire.send("HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n");
        wire.send(&format!("1\r\n{count}\r\n0\r\ngrpc-status: 0\r\n\r\n"));
    }));
    block_on(async {
        let (_, response) = call(site.data(), "/Count").await;
        assert_eq!(rest(response.into_body()).await, ("3".to_owned(), "0".to_owned()));
    });
}

#[test]
fn events_are_not_held_back() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let site = Site::start();
    site.route_all(origin(move |_, mut wire| {
        let head = wire.head();
        wire.rest(head, true);
        wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        for n in 0..3 {
            wire.send(&format!("data: {n}\n\n"));
            wait.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        }
    }));
    block_on(async {
        let (_, response) = call(site.data(), "/events").await;
        let mut body = response.into_body();
        for n in 0..3 {
            assert_eq!(message(&mut body).await, format!("data: {n}\n\n"));
            go.send(()).unwrap();
        }
        assert_eq!(rest(body).await, (String::new(), "none".to_owned()));
    });
}
