// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this replica tells another.
//!
//! Parameters may hold passwords and keys, which no other answer has. They only travel to a caller that has proved to
//! know a secret; an open admin port withholds those services whole, because a service without its users would be
//! open to everybody.

use hyper::StatusCode;

use super::Api;
use super::answer::{Answer, json};
use crate::l7::params::Params;
use crate::l7::peers::Copy;

impl Api {
    pub(super) fn copy(&self) -> Answer {
        let mut copy = Copy {
            sees_labels: self.labels.is_up(),
            withheld: Vec::new(),
            kept: self.table().kept(),
        };
        if !self.guard.proves_identity() {
            copy.kept.services.retain(|service| {
                let has_secret = has_secret(&service.params);
                if has_secret {
                    let name = service.params.scalar("serviceName").unwrap_or_default();
                    copy.withheld.push(name.to_owned());
                }
                !has_secret
            });
        }
        json(StatusCode::OK, &copy)
    }
}

fn has_secret(params: &Params) -> bool {
    const SECRETS: [&str; 2] = ["users", "serviceCert"];
    SECRETS.iter().any(|name| params.scalar(name).is_some())
}
