// SPDX-License-Identifier: MIT OR Apache-2.0
//! What concerns one destination, and which destinations there are.

use std::collections::BTreeMap;

use super::reader::Reader;
use crate::l7::spec::{DestSpec, UserAgent};
use crate::l7::upstream::target;

/// Highest index of a destination (`servicePath.10`).
const INDEX_MAX: u32 = 10;

impl Reader<'_> {
    /// Indexed destinations up to the first gap, else the un-indexed one, else a placeholder.
    pub(super) fn destinations(&mut self) -> Vec<DestSpec> {
        let mut found = Vec::new();
        for index in 1..=INDEX_MAX {
            if !self.is_present(index) {
                break;
            }
            found.push(self.destination(index));
        }
        if !found.is_empty() {
            return found;
        }
        match self.is_present(0) {
            true => vec![self.destination(0)],
            false => vec![DestSpec {
                req_mode: self.req_mode(0),
                ..DestSpec::default()
            }],
        }
    }

    fn is_present(&self, index: u32) -> bool {
        ["servicePath", "port", "serviceDomain", "httpsPort"]
            .iter()
            .any(|name| self.is_given(name, index))
    }

    fn destination(&mut self, index: u32) -> DestSpec {
        let domains = self.dest_list("serviceDomain", index);
        let mut paths = self.dest_list("servicePath", index);
        if paths.is_empty() && !domains.is_empty() {
            paths.push("/".into());
        }
        let req_mode = self.req_mode(index);
        DestSpec {
            allowed_methods: Some(self.dest_list("allowedMethods", index)),
            balance_group: self.dest_text("balanceGroup", index),
            check_tcp: self.dest_flag("checkTcp", index),
            clitcpka: self.dest_flag("clitcpka", index),
            denied_methods: Some(self.dest_list("deniedMethods", index)),
            deny_http: self.dest_flag("denyHttp", index),
            // Asked for once, for all: the un-indexed value and HTTPS_ONLY cannot be undone by an index.
            https_only: self.defaults.https_only
                || self.dest_flag("httpsOnly", 0)
                || self.dest_flag("httpsOnly", index),
            https_redirect_code: self.dest_text("httpsRedirectCode", index),
            ignore_authorization: self.dest_flag("ignoreAuthorization", index),
            outbound_hostname: self.dest_text("outboundHostname", index),
            path_type: self.dest_text("pathType", index),
            port: self.dest_text("port", index),
            redirect_from_domain: Some(self.dest_list("redirectFromDomain", index)),
            req_mode_formatted: req_mode.clone(),
            req_mode,
            req_path_search_replace: self.dest_text("reqPathSearchReplace", index),
            service_group: self.dest_text("serviceGroup", index),
            service_header: Some(self.header_pairs(index)),
            service_path: Some(paths),
            service_path_exclude: Some(self.dest_list("servicePathExclude", index)),
            ssl_verify_none: self.dest_flag("sslVerifyNone", index),
            timeout_server: self.dest_text("timeoutServer", index),
            timeout_client: self.dest_text("timeoutClient", index),
            timeout_tunnel: self.dest_text("timeoutTunnel", index),
            verify_client_ssl: self.dest_flag("verifyClientSsl", index),
            user_agent: UserAgent {
                value: Some(self.dest_list("userAgent", index)),
                acl_name: String::new(),
            },
            proxy_protocol: self.dest_text("proxyProtocol", index),
            user_def: self.dest_text("userDef", index),
            index,
            req_path_search_replace_formatted: Some(Vec::new()),
            service_domain: Some(domains),
            https_port: self.port_number("httpsPort", index),
            src_port: self.port_number("srcPort", index),
            src_https_port: self.port_number("srcHttpsPort", index),
            allow_ip: self.dest_list("allowIp", index),
            deny_ip: self.dest_list("denyIp", index),
            native: (target::PARAMETERS.iter())
                .filter_map(|name| Some((*name, self.dest(name, index)?.to_owned())))
                .collect(),
            ..DestSpec::default()
        }
    }

    fn req_mode(&self, index: u32) -> String {
        self.dest("reqMode", index)
            .map_or_else(|| "http".into(), str::to_ascii_lowercase)
    }

    fn header_pairs(&self, index: u32) -> BTreeMap<String, String> {
        self.dest_list("serviceHeader", index)
            .iter()
            .filter_map(|item| item.split_once(':'))
            // The original drops items with another number of colons than one.
            .filter(|(_, value)| !value.contains(':'))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}
