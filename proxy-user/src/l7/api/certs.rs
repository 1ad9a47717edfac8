// SPDX-License-Identifier: MIT OR Apache-2.0
//! The certificate endpoints: `cert` takes one, `certs` shows them.

use std::net::IpAddr;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, StatusCode};

use super::Api;
use super::answer::{Answer, json};
use crate::l7::params::Params;
use crate::l7::tls::siblings::{Cert, Certs, without_key};
use crate::l7::{distribute, limits};

impl Api {
    /// Takes a certificate. What cannot be served is refused, and what is in force stays.
    pub(super) async fn put_certificate(&self, params: &Params, path: &str, body: Incoming) -> Answer {
        let bad = |message: &str| certs(StatusCode::BAD_REQUEST, message, None);
        let Some(name) = params.scalar("certName") else {
            return bad("certName parameter is mandatory");
        };
        let limited = Limited::new(body, limits::CERT_BYTES_MAX).collect();
        let pem = match tokio::time::timeout(limits::API_BODY_TIME_MAX, limited).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return bad("The body is malformed or too large"),
            Err(_) => return bad("The body did not arrive in time"),
        };
        if pem.is_empty() {
            return bad("The body must be the certificate in PEM");
        }
        // A mistake is named at once, not by a sibling whose answer is only a status.
        if let Err(error) = self.certs.check(name, &pem) {
            return bad(&format!("certName={name}: {error}"));
        }
        if params.flag("distribute") {
            let target = format!("{path}?{}", params.for_sibling());
            return match distribute::fan_out(&self.peers, &Method::PUT, &target, &pem).await {
                Ok(()) => certs(StatusCode::OK, "", None),
                Err(message) => bad(&message),
            };
        }
        match self.certs.put(name, &pem) {
            Ok(()) => {
                tracing::info!(name, "certificate in force");
                certs(StatusCode::OK, "", None)
            }
            Err(error) => bad(&error.to_string()),
        }
    }

    /// Shows the certificates. Keys are for other replicas alone: whoever knows the token, or has a replica's address.
    pub(super) async fn certificates(&self, peer: IpAddr) -> Answer {
        let is_replica = self.guard.proves_identity() || self.is_replica(peer).await;
        let dir = self.certs.dir().display().to_string();
        let list = self.certs.list().into_iter().map(|(name, pem)| Cert {
            service_port: String::new(),
            proxy_service_name: name,
            certs_dir: dir.clone(),
            cert_content: match is_replica {
                true => String::from_utf8_lossy(&pem).into_owned(),
                false => without_key(&pem),
            },
        });
        certs(StatusCode::OK, "", Some(list.collect()))
    }

    async fn is_replica(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        if !self.peers.can_exist() {
            return false;
        }
        let replicas = self.peers.addresses().await;
        replicas.iter().any(|replica| replica.ip().to_canonical() == peer)
    }
}

fn certs(status: StatusCode, message: &str, certs: Option<Vec<Cert>>) -> Answer {
    let text = if status.is_success() { "OK" } else { "NOK" };
    json(
        status,
        &Certs {
            status: text.into(),
            message: message.into(),
            certs,
        },
    )
}
