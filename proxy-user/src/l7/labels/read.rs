// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a service's labels to the parameters that a listener would send.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::LookError;
use crate::engine::{Client, filters};
use crate::l7::params::Params;

/// What every label begins with.
pub const PREFIX: &str = "com.df.";
/// Asks for a service to be served.
pub const NOTIFY: &str = "com.df.notify";
/// Cuts the stack's name off.
const SHORT_NAME: &str = "com.df.shortName";
/// The stack that a service belongs to.
const STACK: &str = "com.docker.stack.namespace";

/// Every service that asks for it, by the name that it is to have.
pub async fn services(client: &Client) -> Result<BTreeMap<String, Params>, LookError> {
    let query = filters(&json!({ "label": [NOTIFY] }));
    let list = client.get(&format!("/services?{query}")).await?;
    let services = list.as_array().into_iter().flatten();
    Ok(translate(services))
}

/// The parameters of a list of services. Of two that want one name, the one whose ID is less has it.
pub fn translate<'a>(services: impl Iterator<Item = &'a Value>) -> BTreeMap<String, Params> {
    let mut by_id: Vec<&Value> = services.collect();
    by_id.sort_by_key(|service| std::cmp::Reverse(service["ID"].as_str()));
    by_id.into_iter().filter_map(params).collect()
}

fn params(service: &Value) -> Option<(String, Params)> {
    let spec = &service["Spec"];
    let labels: BTreeMap<&str, &str> = (spec["Labels"].as_object()?.iter())
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
        .collect();
    if !labels
        .get(NOTIFY)
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    {
        return None;
    }
    let name = service_name(spec["Name"].as_str()?, &labels);
    // Every replica reads for itself, so there is nothing to distribute.
    const OURS: [&str; 4] = ["notify", "serviceName", "distribute", "replicas"];
    let mut params: Vec<(String, String)> = (labels.iter())
        .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value)))
        .filter(|(key, _)| !OURS.iter().any(|ours| ours.eq_ignore_ascii_case(key)))
        .map(|(key, value)| (key.to_owned(), (*value).to_owned()))
        .collect();
    params.push(("serviceName".into(), name.clone()));
    if let Some(replicas) = spec["Mode"]["Replicated"]["Replicas"].as_u64() {
        params.push(("replicas".into(), replicas.to_string()));
    }
    Some((name, Params(params)))
}

/// The name without the stack's, if a label asks for that.
fn service_name(name: &str, labels: &BTreeMap<&str, &str>) -> String {
    let is_short = labels
        .get(SHORT_NAME)
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let stack = labels.get(STACK).filter(|_| is_short);
    stack
        .and_then(|stack| name.strip_prefix(stack)?.strip_prefix('_'))
        .unwrap_or(name)
        .to_owned()
}

/// Whether a service of the engine is the one that has `wanted` for a name.
pub fn is_called(service: &Value, wanted: &str) -> bool {
    let spec = &service["Spec"];
    let empty = serde_json::Map::new();
    let labels = (spec["Labels"].as_object().unwrap_or(&empty).iter())
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
        .collect();
    (spec["Name"].as_str()).is_some_and(|name| name == wanted || service_name(name, &labels) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters of each service, sorted, as `name?a=b&c=d`.
    fn check(services: Value, want: &[&str]) {
        let got: Vec<String> = translate(services.as_array().unwrap().iter())
            .into_iter()
            .map(|(name, mut params)| {
                params.0.sort();
                let pairs: Vec<String> = params
                    .0
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                format!("{name}?{}", pairs.join("&"))
            })
            .collect();
        assert_eq!(got, want);
    }

    fn service(id: &str, name: &str, labels: Value) -> Value {
        json!({ "ID": id, "Spec": { "Name": name, "Labels": labels, "Mode": { "Global": {} } } })
    }

    #[test]
    fn every_label_is_a_parameter_and_the_rest_is_ours() {
        check(
            json!([
                service(
                    "1",
                    "web",
                    json!({
                        "com.df.notify": "TRUE", "com.df.servicePath.1": "/a", "com.df.port.10": "80",
                        "com.df.distribute": "true", "com.df.serviceName": "other", "com.df.replicas": "9",
                        "com.df.scrapeNetwork": "proxy", "other": "x",
                    })
                ),
                service(
                    "2",
                    "off",
                    json!({ "com.df.notify": "false", "com.df.port": "80" })
                ),
                service("3", "none", json!({ "com.df.port": "80" })),
                json!({ "ID": "4", "Spec": { "Name": "scaled", "Labels": { "com.df.notify": "true" },
                    "Mode": { "Replicated": { "Replicas": 3 } } } }),
                json!({ "ID": "5" }),
                json!("nonsense"),
            ]),
            &[
                "scaled?replicas=3&serviceName=scaled",
                "web?port.10=80&scrapeNetwork=proxy&serviceName=web&servicePath.1=/a",
            ],
        );
    }

    #[test]
    fn a_short_name_is_without_the_stack_and_belongs_to_one_service() {
        let labels = |short: &str, port: &str| {
            json!({ "com.df.notify": "true", "com.df.shortName": short, "com.df.port": port,
                "com.docker.stack.namespace": "stack" })
        };
        let services = json!([
            service("2", "stack_web", labels("true", "2")),
            service("1", "web", labels("true", "1")),
            service("3", "stack_db", labels("false", "3")),
            service("4", "stackless", labels("true", "4")),
        ]);
        let found = translate(services.as_array().unwrap().iter());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["stack_db", "stackless", "web"]);
        assert_eq!(found["web"].scalar("port"), Some("1"));
        assert!(is_called(&services[0], "web") && is_called(&services[0], "stack_web"));
        assert!(!is_called(&services[2], "db"));
    }
}
