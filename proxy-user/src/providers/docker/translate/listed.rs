// SPDX-License-Identifier: MIT OR Apache-2.0
//! A manager's `/services`.

use std::collections::BTreeMap;

use serde_json::Value;

/// What a manager says about one service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// (network id, address).
    pub(super) vips: Vec<(String, String)>,
    /// (published, target, protocol) in mode `ingress`.
    pub(super) ports: Vec<(i64, i64, String)>,
    /// The service's own.
    pub(super) labels: Value,
}

/// By service name. `Endpoint` is what is in force, `Spec` what was asked for.
pub(super) fn read(services: Option<&Value>) -> BTreeMap<String, Listed> {
    let mut found = BTreeMap::new();
    for service in array(services) {
        let Some(name) = service["Spec"]["Name"].as_str().filter(|name| !name.is_empty()) else {
            continue;
        };
        let endpoint = &service["Endpoint"];
        let vips = array(endpoint.get("VirtualIPs")).filter_map(|vip| {
            // 10.0.1.2/24; empty until it is allocated.
            let address = vip["Addr"].as_str()?.split('/').next()?;
            let network = vip["NetworkID"].as_str()?;
            (!address.is_empty()).then(|| (network.to_owned(), address.to_owned()))
        });
        let ports = array(endpoint.get("Ports")).filter_map(|port| {
            if port["PublishMode"].as_str().is_some_and(|mode| mode != "ingress") {
                return None;
            }
            // No published port until one is allocated.
            let published = port["PublishedPort"].as_i64().filter(|port| *port != 0)?;
            let target = port["TargetPort"].as_i64()?;
            Some((
                published,
                target,
                port["Protocol"].as_str().unwrap_or("tcp").to_owned(),
            ))
        });
        let listed = Listed {
            vips: vips.collect(),
            ports: ports.collect(),
            labels: service["Spec"]["Labels"].clone(),
        };
        found.insert(name.to_owned(), listed);
    }
    found
}

fn array(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}
