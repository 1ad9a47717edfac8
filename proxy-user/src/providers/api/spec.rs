// SPDX-License-Identifier: MIT OR Apache-2.0
//! A service as the operator describes it. The field names are a contract: they are the JSON of the agent's API
//! and of its state file.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::model::{
    policy::weight,
    snapshot::{BackendParams, HOST, HealthParams, PolicyParams, PortParams, Problem, ServiceParams},
};

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceSpec {
    /// `[NETWORK=]ADDRESS[:PORT[/PROTOCOL]]`; without a network it is the node's own (`host`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<String>,
    /// `PUBLISHED[:TARGET][/PROTOCOL]`, served by tasks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// Tasks of the other provider that serve it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
    /// How backends and tasks are checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthParams>,
    /// Who gets a new flow: `rr`, `wrr`, `lc`, `wlc`, `sh`, `mh` or `random`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// How long a client keeps its backend: `NUMBER[s|m|h|d][/PREFIX]` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// What tasks see as the client: `preserve`, `dsr` or `masquerade`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Prefixes that may open flows to published ports; if there are any, nobody else may.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Prefixes that may not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// How long a draining member's flows live: `NUMBER[s|m|h|d]` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<String>,
    /// `ADDRESS:PORT` -> how it serves.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub backends: BTreeMap<String, BackendSpec>,
}

/// A backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackendSpec {
    /// Its share of new flows, 0 to 255; `None` = 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    /// Gets no new flow, keeps the old ones.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

impl ServiceSpec {
    /// As the Writer wants it; what cannot even be read is a problem of it.
    pub fn params(&self, name: &str) -> Arc<ServiceParams> {
        let mut params = ServiceParams {
            name: name.into(),
            tasks: self.tasks.clone(),
            health: self.health.clone().map(Box::new),
            policy: self.policy().shared(),
            ..ServiceParams::default()
        };
        for vip in &self.vips {
            let (network, address) = vip.split_once('=').unwrap_or((HOST, vip));
            params.vips.push((network.into(), address.into()));
        }
        for (i, text) in self.ports.iter().enumerate() {
            match port(text) {
                Ok(port) => params.ports.push(port),
                Err(why) => params.problems.push(Problem::new(format!("ports[{i}]"), why)),
            }
        }
        for (text, spec) in &self.backends {
            // Judged here, because the Writer knows a backend's position only.
            if let Err(why) = weight(spec.weight) {
                let field = format!("backends[{text}].weight");
                params.problems.push(Problem::new(field, why));
                continue;
            }
            match text.parse::<SocketAddr>() {
                Ok(address) => params.backends.push(BackendParams {
                    address: address.ip().to_string(),
                    port: address.port().into(),
                    weight: spec.weight,
                    draining: spec.draining,
                }),
                Err(_) => params.problems.push(Problem::new(
                    format!("backends[{text}]"),
                    format!("'{text}' is not ADDRESS:PORT"),
                )),
            }
        }
        Arc::new(params)
    }

    /// How its flows are spread, and who may open them.
    pub fn policy(&self) -> PolicyParams {
        PolicyParams {
            scheduler: self.scheduler.clone(),
            affinity: self.affinity.clone(),
            client: self.client.clone(),
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            drain: self.drain.clone(),
        }
    }
}

/// Reads `PUBLISHED[:TARGET][/PROTOCOL]`.
fn port(text: &str) -> Result<PortParams, String> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (published, target) = numbers.split_once(':').unwrap_or((numbers, numbers));
    let number = |text: &str| {
        text.parse()
            .map_err(|_| format!("'{text}' is not a port; the form is PUBLISHED[:TARGET][/PROTOCOL]"))
    };
    Ok(PortParams {
        published: number(published)?,
        target: number(target)?,
        protocol: protocol.into(),
        guessed: false,
    })
}
