// SPDX-License-Identifier: MIT OR Apache-2.0
//! The watcher against an engine that a test plays on a unix socket.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle};

use super::*;

type Answers = Arc<Mutex<BTreeMap<&'static str, Value>>>;

fn answers() -> Answers {
    Arc::new(Mutex::new(BTreeMap::from([
        (
            "/version",
            json!({ "Version": "29.0.1", "ApiVersion": "1.52", "MinAPIVersion": "1.44" }),
        ),
        (
            "/v1.44/info",
            json!({ "Name": "host", "Swarm": { "LocalNodeState": "active", "NodeAddr": "10.9.9.1" } }),
        ),
        (
            "/v1.44/networks",
            json!([{ "Id": "n1", "Scope": "swarm" }, { "Id": "l1", "Scope": "local" }]),
        ),
        (
            "/v1.44/networks/n1",
            json!({ "Id": "n1", "Name": "proxy", "Services": {
            "web": { "VIP": "10.0.1.2", "Tasks": [] } } }),
        ),
        ("/v1.44/containers/json", json!([])),
    ])))
}

/// Plays the engine; what has no answer is 404.
fn engine(socket: &Path, answers: Answers) -> JoinHandle<()> {
    drop(std::fs::remove_file(socket));
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let answers = answers.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let found = answers.lock().unwrap().get(request.uri().path()).cloned();
                let mut response = Response::new(Full::new(Bytes::new()));
                match found {
                    Some(value) => *response.body_mut() = Full::new(Bytes::from(value.to_string())),
                    None => *response.status_mut() = StatusCode::NOT_FOUND,
                }
                std::future::ready(Ok::<_, Infallible>(response))
            });
            connections.spawn(async move {
                drop(
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    })
}

async fn next(reports: &mut mpsc::Receiver<Report>, what: &str) -> Report {
    tokio::time::timeout(Duration::from_secs(10), reports.recv())
        .await
        .expect(what)
        .expect(what)
}

#[tokio::test]
async fn follows_the_engine_and_survives_its_absence() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("d.sock");
    let answers = answers();
    let playing = engine(&socket, answers.clone());
    let (watcher, address, first) = Watcher::connect(&socket, Some("node-1".into())).await.unwrap();
    assert_eq!(address.unwrap().to_string(), "10.9.9.1");
    assert_eq!((&first.node[..], &first.services[0].name[..]), ("node-1", "web"));
    let (put, mut reports) = mpsc::channel(16);
    let running = tokio::spawn(watcher.run(move |report| put.try_send(report).expect("the test reads")));

    answers.lock().unwrap().get_mut("/v1.44/networks/n1").unwrap()["Services"] = json!({});
    let report = next(&mut reports, "a service less").await;
    assert!(
        matches!(&report, Report::Snapshot(snapshot) if snapshot.services[0].remembered),
        "{report:?}"
    );

    // Back from a restart, but not yet in its Swarm: an empty answer must not be believed.
    answers.lock().unwrap().get_mut("/v1.44/info").unwrap()["Swarm"]["LocalNodeState"] = "pending".into();
    let report = next(&mut reports, "not ready").await;
    assert!(
        matches!(&report, Report::Unreadable(why) if why.contains("not in a Swarm")),
        "{report:?}"
    );
    answers.lock().unwrap().get_mut("/v1.44/info").unwrap()["Swarm"]["LocalNodeState"] = "active".into();
    let report = next(&mut reports, "ready").await;
    assert!(matches!(&report, Report::Snapshot(_)), "{report:?}");

    playing.abort();
    drop(playing.await);
    let report = next(&mut reports, "gone").await;
    assert!(
        matches!(&report, Report::Unreadable(why) if why.contains("docker: cannot connect")),
        "{report:?}"
    );
    let _playing = engine(&socket, answers.clone());
    while !matches!(next(&mut reports, "back").await, Report::Snapshot(_)) {}
    running.abort();
}

#[tokio::test]
async fn what_is_missing_at_the_start_is_said_with_exit_code_3() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("d.sock");
    let lacks = |outcome: Result<_, Exit>| match outcome.err() {
        Some(Exit::Lacks { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert!(lacks(Watcher::connect(&socket, None).await).contains("the Docker Engine does not answer"));
    let answers = answers();
    let _playing = engine(&socket, answers.clone());
    answers.lock().unwrap().get_mut("/v1.44/info").unwrap()["Swarm"]["LocalNodeState"] = "inactive".into();
    assert!(lacks(Watcher::connect(&socket, None).await).contains("not part of a Swarm"));
    answers
        .lock()
        .unwrap()
        .insert("/version", json!({ "Version": "19.03", "ApiVersion": "1.40" }));
    assert!(lacks(Watcher::connect(&socket, None).await).contains("older than 20.10"));
}
