// SPDX-License-Identifier: MIT OR Apache-2.0
//! The operator's verbs over the socket, beside a file and alone.

use hyper::StatusCode;
use serde_json::json;

use super::*;
use crate::unix_http::Error;

async fn edit(socket: &Path, edits: Value) -> Result<Value, (StatusCode, String)> {
    match unix_http::post(socket, "/v1/edits", edits.to_string().into()).await {
        Ok(body) => Ok(serde_json::from_slice(&body).unwrap()),
        Err(Error::Refused { status, message, .. }) => {
            let body: Value = serde_json::from_str(&message).unwrap();
            Err((status, body["error"].as_str().unwrap().to_owned()))
        }
        Err(error) => panic!("{error}"),
    }
}

fn add(name: &str, vip: &str) -> Value {
    json!({ "verb": "add-service", "service": name, "spec": { "vips": [vip], "backends": { "10.0.0.7:80": {} } } })
}

async fn owners(socket: &Path) -> Vec<(String, String)> {
    let body = unix_http::get(socket, "/v1/services").await.unwrap();
    let services: Value = serde_json::from_slice(&body).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let services = services.as_array().unwrap().iter();
    services
        .map(|service| (text(&service["name"]), text(&service["owner"])))
        .collect()
}

#[tokio::test]
async fn the_operators_services_stand_beside_the_files_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (file, socket) = (folder.path().join("portico.toml"), folder.path().join("s"));
    fs::write(&file, FILE).unwrap();
    let kernel = Fake::default();
    let running = agent(&kernel, &file, &socket);
    until(&socket, "programmed", |status| status["frontends"]["done"] == 2).await;

    let answer = edit(
        &socket,
        json!([add("mine", "10.9.0.1:80"), add("theirs", "proxy=10.0.1.9")]),
    )
    .await
    .unwrap();
    assert_eq!(answer["in_force"], true, "{answer:#}");
    assert_eq!(answer["changed"], json!([true, true]));
    assert_eq!(
        kernel.state().frontends.len(),
        4,
        "the answer came after the kernel followed"
    );
    let pair = |name: &str, owner: &str| (name.to_owned(), owner.to_owned());
    assert_eq!(
        owners(&socket).await,
        [pair("a", "file"), pair("mine", "api"), pair("theirs", "api")]
    );

    for (edits, status, expected) in [
        (
            json!([{ "verb": "remove-service", "service": "a" }]),
            StatusCode::CONFLICT,
            "service 'a' belongs to the provider 'file': edit ",
        ),
        (
            json!([add("b", "proxy=10.0.1.2:80")]),
            StatusCode::BAD_REQUEST,
            "belongs to service 'a'",
        ),
        (
            json!([{ "verb": "add-service", "service": "b", "spec": { "ports": ["80"] } }]),
            StatusCode::BAD_REQUEST,
            "the port 80/tcp belongs to service 'a' of the provider 'file'",
        ),
        (
            json!([{ "verb": "set-service", "service": "none", "fields": {} }]),
            StatusCode::NOT_FOUND,
            "there is no service 'none'",
        ),
        (
            json!([{ "verb": "dance" }]),
            StatusCode::BAD_REQUEST,
            "unknown variant `dance`",
        ),
    ] {
        let error = edit(&socket, edits.clone()).await.unwrap_err();
        assert_eq!(error.0, status, "{edits}: {}", error.1);
        assert!(error.1.contains(expected), "{edits}: {}", error.1);
    }

    // What only the other provider knows to be wrong is kept, not in force, and said under the right name.
    let answer = edit(&socket, json!([add("lost", "nowhere=10.9.0.2")]))
        .await
        .unwrap();
    assert_eq!(answer["in_force"], false);
    assert_eq!(
        answer["refused"][0],
        "api: service 'lost': vips.nowhere: unknown network 'nowhere'"
    );
    edit(&socket, json!([{ "verb": "remove-service", "service": "lost" }]))
        .await
        .unwrap();

    // A task of the other provider serves a port of the operator's.
    let answer = edit(
        &socket,
        json!([{ "verb": "add-service", "service": "port", "spec": { "ports": ["81:8080"], "tasks": ["a.1"] } }]),
    )
    .await
    .unwrap();
    assert_eq!(answer["services"][0]["ports"][0]["active"], 1, "{answer:#}");

    // Killed and started again: nothing changes.
    let before = kernel.state().clone();
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let again = agent(&kernel, &file, &socket);
    let found = until(&socket, "again", |status| status["frontends"]["done"] == 5).await;
    assert_eq!(found["reconciler"]["operations"], 0, "{found:#}");
    assert_eq!(*kernel.state(), before);

    // The file takes a name that the operator has: the file's version counts, and it is said.
    let claimed = format!("{FILE}\n[[services]]\nname = \"mine\"\nvips = {{ host = \"10.9.0.5\" }}\n");
    replace(&file, &claimed);
    let found = until(&socket, "claimed", |status| !status["refused"][0].is_null()).await;
    let message = found["refused"][0]["message"].as_str().unwrap();
    assert!(
        message.starts_with("api: service 'mine': name: is used by an earlier service"),
        "{message}"
    );
    assert!(owners(&socket).await.contains(&pair("mine", "file")));
    let answer = edit(&socket, json!([{ "verb": "remove-service", "service": "mine" }]))
        .await
        .unwrap();
    assert_eq!(answer["refused"], json!([]), "{answer:#}");
    again.abort();
}

#[tokio::test]
async fn the_operators_verbs_are_enough() {
    let folder = tempfile::tempdir().unwrap();
    let (file, socket) = (folder.path().join("portico.toml"), folder.path().join("s"));
    let kernel = Fake::default();
    let provider = Provider::Alone {
        source: "api.json".into(),
        node: "n1".into(),
    };
    let nothing = Report::Snapshot(crate::model::Snapshot::default());
    let claimed = admin::Socket::claim(&socket).unwrap();
    let running = tokio::spawn(run(
        parts(&kernel),
        provider,
        api(&file),
        Some(nothing),
        claimed,
        None,
    ));
    let answer = edit(&socket, json!([add("mine", "10.9.0.1:80")])).await.unwrap();
    assert_eq!(answer["in_force"], true, "{answer:#}");
    let found = status(&socket).await.unwrap();
    assert_eq!(
        (&found["provider"]["kind"], &found["provider"]["state"]),
        (&json!("api"), &json!("ok"))
    );
    let policy = json!([
        { "verb": "set-service", "service": "mine", "fields": { "scheduler": "wrr", "affinity": "1m", "allow": ["10.0.0.0/8"] } },
        { "verb": "set-backend", "service": "mine", "backend": "10.0.0.7:80", "fields": { "weight": 7 } },
    ]);
    let answer = edit(&socket, policy).await.unwrap();
    let mine = &answer["services"][0];
    assert_eq!(mine["scheduler"], "wrr", "{answer:#}");
    assert_eq!(mine["affinity"], json!({ "seconds": 60, "prefix": 32 }));
    assert_eq!(
        (&mine["allow"], &mine["deny"]),
        (&json!(["10.0.0.0/8"]), &json!([]))
    );
    assert_eq!(mine["backends"][0]["weight"], 7);
    assert_eq!(
        status(&socket).await.unwrap()["policies"],
        json!({ "scheduler": { "wrr": 1 }, "client": { "preserve": 1 }, "affinity": 1, "filtered": 1 })
    );
    let wrong = json!([{ "verb": "set-service", "service": "mine", "fields": { "scheduler": "RR" } }]);
    let (code, text) = edit(&socket, wrong).await.unwrap_err();
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert!(text.contains("scheduler: 'RR' is none of rr, wrr"), "{text}");
    let drain = json!([{ "verb": "set-backend", "service": "mine", "backend": "10.0.0.7:80", "fields": { "draining": true } }]);
    let answer = edit(&socket, drain).await.unwrap();
    let vip = &answer["services"][0]["vips"][0];
    assert_eq!((&vip["active"], &vip["draining"]), (&json!(0), &json!(1)));
    let state = kernel.state().clone();
    assert_eq!(
        (state.slots.len(), state.backends.len()),
        (0, 1),
        "it keeps what it has"
    );
    running.abort();
}
