// SPDX-License-Identifier: MIT OR Apache-2.0
//! `persist=true`: parameters become labels of the Swarm service, so that Swarm's own store keeps them.
//!
//! The service is read, its `com.df.*` labels are replaced, and the whole specification is sent back with the version
//! that was read. If somebody else has changed the service in between, the engine refuses and it starts over, so
//! nobody's change is lost. Labels of the service do not concern its tasks: none is restarted.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::read::{NOTIFY, PREFIX, is_called};
use super::{LookError, connect};
use crate::l7::limits;
use crate::l7::params::{Params, known};
use crate::l7::resolver::Resolver;
use crate::l7::settings::EngineHost;
use crate::unix_http::Error;

/// Why nothing was written, and the status that says so.
pub type Refused = (StatusCode, String);

/// Parameters that are said by other means, or are none of the service's.
const NOT_LABELS: [&str; 4] = ["serviceName", "persist", "replicas", "distribute"];

/// What cannot become a label, because everybody who may look at services reads labels.
pub fn check(params: &Params) -> Result<(), Refused> {
    let secret = match () {
        () if params.scalar("serviceCert").is_some() => "serviceCert: a key",
        () if params.scalar("users").is_some_and(|users| users.contains(':'))
            && !params.flag("usersPassEncrypted") =>
        {
            "users: a password (name it with usersSecret, or encrypt it)"
        }
        () => return Ok(()),
    };
    Err((
        StatusCode::BAD_REQUEST,
        format!("{secret} must not become a label"),
    ))
}

/// Writes the labels of a service; without parameters, takes them away.
pub async fn persist(
    host: &EngineHost,
    resolver: &Resolver,
    name: &str,
    params: Option<&Params>,
) -> Result<(), Refused> {
    let client = connect(host, resolver)
        .await
        .map_err(|error| unavailable(&error))?;
    for _ in 0..limits::PERSIST_ATTEMPTS_MAX {
        let list = (client.get("/services").await).map_err(|error| unavailable(&error.into()))?;
        let mut services = list.as_array().into_iter().flatten();
        let service = services.find(|service| is_called(service, name)).ok_or_else(|| {
            let message = format!("persist: there is no Swarm service `{name}` to keep it");
            (StatusCode::NOT_FOUND, message)
        })?;
        let (Some(id), Some(version)) = (service["ID"].as_str(), service["Version"]["Index"].as_u64()) else {
            return Err((
                StatusCode::BAD_GATEWAY,
                "persist: the engine's answer has no version".into(),
            ));
        };
        let mut spec = service["Spec"].clone();
        relabel(&mut spec, params);
        match client
            .post(&format!("/services/{id}/update?version={version}"), &spec)
            .await
        {
            Ok(_) => return Ok(()),
            Err(Error::Refused { message, .. }) if message.contains("out of sequence") => {
                tracing::debug!(service = name, "changed by somebody else meanwhile");
            }
            Err(error @ Error::Refused { .. }) => {
                return Err((StatusCode::BAD_GATEWAY, format!("persist: {error}")));
            }
            Err(error) => return Err(unavailable(&error.into())),
        }
    }
    Err((
        StatusCode::CONFLICT,
        format!("persist: somebody else keeps changing `{name}`"),
    ))
}

fn unavailable(error: &LookError) -> Refused {
    let message = format!("persist: the labels cannot be written: {error}");
    (StatusCode::SERVICE_UNAVAILABLE, message)
}

/// Replaces the labels that are parameters. Those of other programs stay, also under the same prefix.
fn relabel(spec: &mut Value, params: Option<&Params>) {
    if !spec["Labels"].is_object() {
        spec["Labels"] = json!({});
    }
    let Some(labels) = spec["Labels"].as_object_mut() else {
        return;
    };
    labels.retain(|label, _| label != NOTIFY && !label.strip_prefix(PREFIX).is_some_and(is_parameter));
    let Some(params) = params else { return };
    labels.insert(NOTIFY.into(), "true".into());
    let is_label = |key: &str| !NOT_LABELS.iter().any(|other| other.eq_ignore_ascii_case(key));
    // The first value of a repeated parameter wins in most cases, so it is the one that is written.
    for (key, value) in params.0.iter().rev().filter(|(key, _)| is_label(key)) {
        labels.insert(format!("{PREFIX}{key}"), value.as_str().into());
    }
}

fn is_parameter(key: &str) -> bool {
    let name = key.rsplit_once('.').map_or(key, |(name, _)| name);
    known::is_scalar(name)
        || [known::Scope::List, known::Scope::Destination]
            .into_iter()
            .any(|scope| known::is(name, scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_others_stay_and_ours_are_replaced() {
        let mut spec = json!({ "Labels": {
            "other": "1", "com.df.alertName": "mem", "com.df.shortName": "true", "com.df.scrapeNetwork": "n",
            "com.df.servicePath": "/old", "com.df.port.2": "81", "com.df.notify": "false", "com.df.distribute": "x",
        } });
        let params =
            Params::parse("serviceName=a&servicePath=/new&port=80&persist=true&replicas=3&aclName=01");
        relabel(&mut spec, Some(&params));
        let want = json!({
            "other": "1", "com.df.alertName": "mem", "com.df.shortName": "true", "com.df.scrapeNetwork": "n",
            "com.df.servicePath": "/new", "com.df.port": "80", "com.df.notify": "true", "com.df.aclName": "01",
        });
        assert_eq!(spec["Labels"], want);
        relabel(&mut spec, None);
        let want = json!({
            "other": "1", "com.df.alertName": "mem", "com.df.shortName": "true", "com.df.scrapeNetwork": "n",
        });
        assert_eq!(spec["Labels"], want);
        let mut spec = json!({ "Labels": null });
        relabel(&mut spec, Some(&Params::parse("port=1")));
        assert_eq!(spec["Labels"]["com.df.port"], "1");
    }

    #[test]
    fn a_password_or_key_never_becomes_a_label() {
        for (query, ok) in [
            ("users=a:hunter2", false),
            ("users=a", true),
            ("users=a:$6$x&usersPassEncrypted=true", true),
            ("serviceCert=PEM", false),
            ("usersSecret=x", true),
        ] {
            let outcome = check(&Params::parse(query));
            assert_eq!(outcome.is_ok(), ok, "{query}");
            assert!(!format!("{outcome:?}").contains("hunter2"));
        }
    }
}
