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
use crate::l7::secret;

impl Api {
    pub(super) fn copy(&self) -> Answer {
        let mut copy = Copy {
            sees_labels: self.labels.is_up(),
            withheld: Vec::new(),
            kept: self.table().kept(),
        };
        if !self.guard.proves_identity() {
            let separator = self.settings.defaults.separator.as_str();
            copy.kept.services.retain(|service| {
                let has_secret = has_secret(&service.params, separator);
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

fn has_secret(params: &Params, separator: &str) -> bool {
    const SECRETS: [&str; 2] = ["users", "serviceCert"];
    const RULES: [&str; 7] = [
        "addHeader",
        "addReqHeader",
        "addResHeader",
        "serviceHeader",
        "setHeader",
        "setReqHeader",
        "setResHeader",
    ];
    let names_secret = |value: &str| {
        let mut items = value.split(if separator.is_empty() { "\n" } else { separator });
        items.any(|item| {
            let name = item.trim().split([' ', '\t', ':']).next();
            name.is_some_and(secret::is_in)
        })
    };
    let is_rule = |name: &str| RULES.contains(&name.split('.').next().unwrap_or_default());
    SECRETS.iter().any(|name| params.scalar(name).is_some())
        || (params.0.iter()).any(|(name, value)| is_rule(name) && names_secret(value))
}
