// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about the board, and checks of real servers on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::model::{
    HealthCheck, ServiceName, TaskAddr,
    health::{Member, Probe},
};

fn key(n: u8) -> MemberKey {
    (
        ServiceName::new("s"),
        Member::Plain(TaskAddr(Ipv4Addr::new(10, 0, 0, n).into()), 80),
    )
}

fn target(probe: Probe, address: SocketAddr) -> Target {
    Target {
        check: HealthCheck {
            probe,
            port: None,
            interval: Duration::from_millis(100),
            timeout: Duration::from_secs(5),
            rise: 2,
            fall: 3,
        },
        address: address.ip(),
        port: address.port(),
        netns: None,
    }
}

fn anybody() -> Target {
    target(Probe::Tcp, ([127, 0, 0, 1], 1).into())
}

#[test]
fn rise_and_fall_are_counted_in_a_row_and_the_first_check_decides() {
    let mut board = Board::default();
    board.keep(&[(key(1), anybody()), (key(2), anybody())].into());
    let mut say = |n: u8, results: &str| -> Vec<Option<bool>> {
        let outcome = |good| if good { Ok(()) } else { Err("no".into()) };
        let results = results.chars();
        results
            .map(|result| board.note(&key(n), outcome(result == '+'), 2, 3))
            .collect()
    };
    assert_eq!(say(1, "+"), [None], "what was used anyway is confirmed");
    assert_eq!(say(1, "--+--"), [None; 5]);
    assert_eq!(say(1, "-"), [Some(false)]);
    assert_eq!(say(1, "+-+"), [None; 3]);
    assert_eq!(say(1, "+"), [Some(true)]);
    assert_eq!(say(2, "-"), [Some(false)], "a first bad one decides at once");
    assert_eq!(say(3, "-"), [None], "nobody");
    let down: Vec<_> = board.down().into_values().flatten().collect();
    assert_eq!(down, [key(2).1]);
    assert_eq!(board.counts, [5, 7, 3]);
}

#[test]
fn who_is_not_asked_any_more_is_forgotten_and_who_was_down_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let health = Health::new(folder.path());
    let both: Targets = [(key(1), anybody()), (key(2), anybody())].into();
    assert!(health.set_targets(both.clone()).is_empty());
    let check = anybody().check;
    let down = health.note(&key(1), Err("no".into()), &check).expect("a change");
    health.remember(&down);

    let next = Health::new(folder.path());
    assert_eq!(next.set_targets(both.clone()), down);
    assert!(next.set_targets([(key(2), anybody())].into()).is_empty());
    assert!(next.set_targets(both).is_empty(), "it came as somebody new");
    fs::write(folder.path().join(FILE), "{").unwrap();
    let without = Health::new(folder.path());
    assert!(without.set_targets([(key(1), anybody())].into()).is_empty());
}

#[test]
fn jitter_stays_within_a_tenth() {
    for _ in 0..100 {
        let found = jittered(Duration::from_secs(10)).as_secs_f64();
        assert!((9.0..=11.0).contains(&found), "{found}");
    }
}

/// A server that answers each request with a function of it, over HTTP/1.1 or HTTP/2.
async fn server(
    answer: impl Fn(
        Request<Incoming>,
    ) -> Response<http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>>
    + Clone
    + Send
    + 'static,
    h2: bool,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let io = TokioIo::new(stream);
            if h2 {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { drop(builder.serve_connection(io, service).await) });
            } else {
                let builder = hyper::server::conn::http1::Builder::new();
                tokio::spawn(async move { drop(builder.serve_connection(io, service).await) });
            }
        }
    });
    address
}

#[tokio::test]
async fn http_looks_at_status_path_and_host() {
    let answer = |request: Request<Incoming>| {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let status = match request.uri().path() {
            "/ok" => 204,
            "/host" if host == "web" => 200,
            "/moved" => 302,
            _ => 503,
        };
        Response::builder()
            .status(status)
            .body(Full::default().boxed())
            .unwrap()
    };
    let address = server(answer, false).await;
    let ask = |path: &str, host: &str, expect: &[(u16, u16)]| {
        let (path, host, expect) = (path.into(), host.into(), expect.to_vec());
        let target = target(Probe::Http { path, host, expect }, address);
        async move { probe(&target).await }
    };
    let good = &[(200, 299)][..];
    assert_eq!(ask("/ok", "", good).await, Ok(()));
    assert_eq!(ask("/host", "web", good).await, Ok(()));
    assert_eq!(ask("/host", "", good).await, Err("status 503".into()));
    assert_eq!(ask("/moved", "", good).await, Err("status 302".into()));
    assert_eq!(ask("/moved", "", &[(200, 200), (300, 399)]).await, Ok(()));
}

#[tokio::test]
async fn grpc_health_is_the_protocols() {
    let answer = |request: Request<Incoming>| {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let body = |message: &'static [u8], status: &'static str| {
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
            let frames = [
                Ok(Frame::data(Bytes::from_static(message))),
                Ok(Frame::trailers(trailers)),
            ];
            http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed()
        };
        // The length of the request's message tells which service was asked for.
        let length = request
            .headers()
            .get("content-length")
            .map(|value| value.to_str().unwrap().to_owned());
        let body = match length.as_deref() {
            Some("5") | None => body(&[0, 0, 0, 0, 2, 8, 1], "0"),
            Some("8") => body(&[0, 0, 0, 0, 2, 8, 2], "0"),
            _ => body(&[], "5"),
        };
        Response::new(body)
    };
    let address = server(answer, true).await;
    let ask = |service: &str| {
        let target = target(
            Probe::Grpc {
                service: service.into(),
            },
            address,
        );
        async move { probe(&target).await }
    };
    assert_eq!(ask("").await, Ok(()));
    assert_eq!(ask("a").await, Err("serving status 2".into()));
    assert_eq!(ask("unknown").await, Err("grpc-status 5".into()));
    let h1 = server(|_| Response::new(Full::default().boxed()), false).await;
    let refused = probe(&target(
        Probe::Grpc {
            service: String::new(),
        },
        h1,
    ))
    .await;
    assert!(refused.is_err(), "a server that knows no HTTP/2");
}

#[tokio::test]
async fn a_member_goes_and_comes_back_and_one_that_hangs_is_timed() {
    let folder = tempfile::tempdir().unwrap();
    let health = Health::new(folder.path());
    let (tell, mut told) = mpsc::unbounded_channel();
    let running = tokio::spawn(health.clone().run(move |down| drop(tell.send(down))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut hangs = target(
        Probe::Http {
            path: "/".into(),
            host: String::new(),
            expect: vec![(200, 200)],
        },
        silent.local_addr().unwrap(),
    );
    hangs.check.timeout = Duration::from_millis(100);
    health.set_targets([(key(1), target(Probe::Tcp, address)), (key(2), hangs)].into());
    let patience = Duration::from_secs(20);
    let mut next = async || {
        tokio::time::timeout(patience, told.recv())
            .await
            .expect("in time")
            .unwrap()
    };
    let members = |down: Down| -> Vec<Member> { down.into_values().flatten().collect() };
    assert_eq!(members(next().await), [key(2).1], "it accepts and says nothing");
    assert_eq!(health.standings()[&key(2)].why, "no answer in 100ms");
    drop(listener);
    assert_eq!(members(next().await), [key(1).1, key(2).1]);
    assert!(health.standings()[&key(1)].why.contains("Connection refused"));
    let again = TcpListener::bind(address).await.unwrap();
    assert_eq!(members(next().await), [key(2).1]);
    // Nobody is asked: nobody connects any more.
    health.set_targets(Targets::new());
    assert!(health.standings().is_empty());
    drop(again);
    running.abort();
}
