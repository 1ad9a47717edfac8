// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is done with a request that a rule took.

use std::sync::Arc;
use std::time::Duration;

use super::values::{redirect_status, seconds};
use super::{Context, Shared};
use crate::l7::auth::Credentials;
use crate::l7::compress::Compression;
use crate::l7::headers::HeaderEdits;
use crate::l7::params::Problem;
use crate::l7::prefixes::{AddressPolicy, PrefixSet};
use crate::l7::rewrite::Rewrite;
use crate::l7::spec::DestSpec;

/// What is done with a request that a rule took.
#[derive(Debug, Default)]
pub struct Policy {
    /// 403 for other addresses.
    pub addresses: AddressPolicy,
    /// Redirect to https with this status, what came without TLS.
    pub https_redirect: Option<u16>,
    /// 403 without a client certificate.
    pub needs_client_certificate: bool,
    /// 403 when it came without TLS.
    pub deny_http: bool,
    /// 403 for every other method.
    pub allowed_methods: Vec<Box<str>>,
    /// 403 for these methods.
    pub denied_methods: Vec<Box<str>>,
    /// Lists of users, all of which must know the client.
    pub auth: Vec<Arc<Credentials>>,
    /// What is compressed for clients that want it.
    pub compression: Option<Arc<Compression>>,
    /// In order.
    pub rewrites: Vec<Rewrite>,
    /// Edits of the request.
    pub request_headers: HeaderEdits,
    /// Edits of the response.
    pub response_headers: HeaderEdits,
    /// How long the upstream may be silent.
    pub timeout_server: Duration,
    /// How long an upgraded connection may be.
    pub timeout_tunnel: Duration,
    /// Whether upstream connections are used for another request.
    pub keep_alive: bool,
}

impl Shared<'_> {
    pub(super) fn policy(
        &self,
        dest: &DestSpec,
        context: &Context<'_>,
        is_plain: bool,
    ) -> Result<Policy, Problem> {
        let methods = |list: &Option<Vec<String>>| list.iter().flatten().map(|m| m.as_str().into()).collect();
        let timeouts = &context.settings.timeouts;
        let mut rewrites = Vec::new();
        if !self.spec.req_path_search.is_empty() {
            let rule = Rewrite::new(&self.spec.req_path_search, &self.spec.req_path_replace, false);
            rewrites.push(rule.map_err(|text| Problem::new("reqPathSearch", text))?);
        }
        if !dest.req_path_search_replace.is_empty() {
            let rules = Rewrite::parse_all(&dest.req_path_search_replace);
            rewrites.extend(rules.map_err(|text| Problem::new("reqPathSearchReplace", text))?);
        }
        let redirect_status = redirect_status(&dest.https_redirect_code)?;
        Ok(Policy {
            addresses: AddressPolicy {
                allow: prefixes("allowIp", &dest.allow_ip)?,
                deny: prefixes("denyIp", &dest.deny_ip)?,
            },
            https_redirect: (dest.https_only && is_plain).then_some(redirect_status),
            needs_client_certificate: dest.verify_client_ssl,
            deny_http: dest.deny_http && is_plain,
            allowed_methods: methods(&dest.allowed_methods),
            denied_methods: methods(&dest.denied_methods),
            compression: self.compression.clone(),
            auth: match dest.ignore_authorization {
                true => Vec::new(),
                false => self.auth.clone(),
            },
            rewrites,
            request_headers: self.request_headers.clone(),
            response_headers: self.response_headers.clone(),
            timeout_server: seconds("timeoutServer", &dest.timeout_server)?.unwrap_or(timeouts.server),
            timeout_tunnel: seconds("timeoutTunnel", &dest.timeout_tunnel)?.unwrap_or(timeouts.tunnel),
            keep_alive: self.keep_alive,
        })
    }
}

/// A list of prefixes. A list that was given and has none in it would let everybody pass.
fn prefixes(parameter: &str, items: &[String]) -> Result<PrefixSet, Problem> {
    let set = PrefixSet::parse(items.iter().flat_map(|item| item.split_whitespace()))
        .map_err(|text| Problem::new(parameter, text))?;
    match set.is_empty() && !items.is_empty() {
        true => Err(Problem::new(parameter, "has no address in it")),
        false => Ok(set),
    }
}
