// SPDX-License-Identifier: MIT OR Apache-2.0
//! What concerns one destination.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::l7::secret::{self, REDACTED};

/// A destination. Lists are `null` in the placeholder of an invalid request and `[]` in one that was read.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(
    missing_docs,
    reason = "the fields are the parameters of the same name, docs/compatibility.md"
)]
pub struct DestSpec {
    pub allowed_methods: Option<Vec<String>>,
    pub balance_group: String,
    #[serde(rename = "CheckTCP")]
    pub check_tcp: bool,
    pub clitcpka: bool,
    pub denied_methods: Option<Vec<String>>,
    pub deny_http: bool,
    pub https_only: bool,
    pub https_port: u16,
    pub https_redirect_code: String,
    pub ignore_authorization: bool,
    pub outbound_hostname: String,
    pub path_type: String,
    pub port: String,
    pub redirect_from_domain: Option<Vec<String>>,
    pub req_mode: String,
    pub req_mode_formatted: String,
    pub req_path_search_replace: String,
    pub service_domain: Option<Vec<String>>,
    pub service_group: String,
    #[serde(serialize_with = "fields")]
    pub service_header: Option<BTreeMap<String, String>>,
    pub service_path: Option<Vec<String>>,
    pub service_path_exclude: Option<Vec<String>>,
    pub src_port: u16,
    pub src_https_port: u16,
    pub src_port_acl: String,
    pub src_port_acl_name: String,
    pub src_https_port_acl: String,
    pub src_https_port_acl_name: String,
    pub ssl_verify_none: bool,
    pub timeout_server: String,
    pub timeout_client: String,
    pub timeout_tunnel: String,
    pub verify_client_ssl: bool,
    pub user_agent: UserAgent,
    pub user_def: String,
    pub index: u32,
    pub req_path_search_replace_formatted: Option<Vec<String>>,
    #[serde(rename = "IncludeSrcPortACL")]
    pub include_src_port_acl: bool,
    #[serde(rename = "IncludeSrcHttpsPortACL")]
    pub include_src_https_port_acl: bool,
    #[serde(skip)]
    pub proxy_protocol: String,
    // From here on Portico's own: shown only where they are used, so that the shape stays the original's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_ip: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny_ip: Vec<String>,
    #[serde(skip)]
    pub native: crate::l7::upstream::target::Given,
}

impl DestSpec {
    /// The paths, whether or not the destination was read.
    pub fn paths(&self) -> &[String] {
        self.service_path.as_deref().unwrap_or_default()
    }

    /// Whether requests are routed to it; otherwise whole connections are.
    pub fn is_http(&self) -> bool {
        !matches!(self.req_mode.as_str(), "tcp" | "sni")
    }

    /// The domains, whether or not the destination was read.
    pub fn domains(&self) -> &[String] {
        self.service_domain.as_deref().unwrap_or_default()
    }
}

/// Patterns of User-Agent.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "shape of the original")]
pub struct UserAgent {
    pub value: Option<Vec<String>>,
    pub acl_name: String,
}

/// What a request must have to get through is nobody else's business.
fn fields<S: Serializer>(
    fields: &Option<BTreeMap<String, String>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let shown = fields.as_ref().map(|fields| {
        let pairs = fields.iter().map(|(name, value)| match secret::is_in(name) {
            true => (name.as_str(), REDACTED),
            false => (name.as_str(), value.as_str()),
        });
        pairs.collect::<BTreeMap<_, _>>()
    });
    shown.serialize(serializer)
}
