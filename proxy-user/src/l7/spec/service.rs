// SPDX-License-Identifier: MIT OR Apache-2.0
//! What concerns the whole service.

use serde::{Serialize, Serializer};

use super::DestSpec;
use crate::l7::secret::{self, Secret};

/// A service. *Who writes it*: [`super::params`]. *Lifetime*: until it is replaced or removed.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(
    missing_docs,
    reason = "the fields are the parameters of the same name, docs/compatibility.md"
)]
pub struct ServiceSpec {
    pub acl_name: String,
    #[serde(serialize_with = "header_rules")]
    pub add_req_header: Vec<String>,
    #[serde(serialize_with = "header_rules")]
    pub add_res_header: Vec<String>,
    pub backend_extra: String,
    pub check_resolvers: bool,
    pub compression_algo: String,
    pub compression_type: String,
    pub connection_mode: String,
    pub debug: bool,
    pub debug_format: String,
    #[serde(serialize_with = "null_when_empty")]
    pub del_req_header: Vec<String>,
    #[serde(serialize_with = "null_when_empty")]
    pub del_res_header: Vec<String>,
    pub discovery_type: String,
    pub distribute: bool,
    pub is_default_backend: bool,
    pub proxy_instance_name: String,
    pub redirect_when_http_proto: bool,
    pub redirect_unless_https_proto: bool,
    pub replicas: i64,
    pub req_path_replace: String,
    pub req_path_search: String,
    #[serde(serialize_with = "redacted_when_given")]
    pub service_cert: Secret,
    pub service_domain_algo: String,
    #[serde(skip)]
    pub service_name: String,
    pub session_type: String,
    #[serde(serialize_with = "header_rules")]
    pub set_req_header: Vec<String>,
    #[serde(serialize_with = "header_rules")]
    pub set_res_header: Vec<String>,
    pub template_be_path: String,
    pub template_fe_path: String,
    pub use_global_users: bool,
    #[serde(serialize_with = "null_when_empty")]
    pub users: Vec<User>,
    pub service_port: String,
    pub acl_condition: String,
    pub is_global: bool,
    pub lookup_retry: i64,
    pub lookup_retry_interval: i64,
    #[serde(serialize_with = "null_when_empty")]
    pub service_dest: Vec<DestSpec>,
    #[serde(serialize_with = "null_when_empty")]
    pub tasks: Vec<String>,
}

impl ServiceSpec {
    /// What orders the service among others and names its rules.
    pub fn sort_name(&self) -> &str {
        if self.acl_name.is_empty() {
            &self.service_name
        } else {
            &self.acl_name
        }
    }

    /// Whether this reconfigure is a removal.
    pub fn is_removal(&self) -> bool {
        !self.is_global && self.replicas == 0
    }
}

/// A user of a service.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "shape of the original")]
pub struct User {
    pub username: String,
    pub password: Secret,
    pub pass_encrypted: bool,
    /// No password fits.
    #[serde(skip)]
    pub is_nobody: bool,
}

impl User {
    /// A user with a password, or its hash.
    pub fn new(username: &str, password: &str, pass_encrypted: bool) -> Self {
        User {
            username: username.into(),
            password: Secret::new(password),
            pass_encrypted,
            is_nobody: false,
        }
    }

    /// A user that nobody can be.
    pub fn nobody(username: &str) -> Self {
        User {
            username: username.into(),
            is_nobody: true,
            ..User::default()
        }
    }
}

fn redacted_when_given<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    match secret.is_empty() {
        true => serializer.serialize_str(""),
        false => secret.serialize(serializer),
    }
}

fn header_rules<S: Serializer>(rules: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    null_when_empty(&secret::shown_rules(rules), serializer)
}

fn null_when_empty<T: Serialize, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    match list {
        [] => serializer.serialize_none(),
        list => list.serialize(serializer),
    }
}
