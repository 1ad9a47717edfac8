// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a reconfigure query: the rules of the original, and nothing that depends on them being right.
//!
//! A query becomes a [`ServiceSpec`] and a list of [`Problem`]s; the caller decides which of its checks come
//! before the problems, because the order of status codes is part of the contract.

use std::collections::BTreeMap;

use super::settings::ServiceDefaults;
use super::spec::{DestSpec, ServiceSpec, User, UserAgent};

/// Highest index of a destination (`servicePath.10`).
const INDEX_MAX: u32 = 10;

/// Service-wide parameters that are not lists.
const SCALARS: [&str; 23] = [
    "aclName",
    "backendExtra",
    "checkResolvers",
    "compressionAlgo",
    "compressionType",
    "connectionMode",
    "discoveryType",
    "distribute",
    "isDefaultBackend",
    "proxyInstanceName",
    "redirectUnlessHttpsProto",
    "redirectWhenHttpProto",
    "replicas",
    "reqPathReplace",
    "reqPathSearch",
    "serviceCert",
    "serviceDomainAlgo",
    "serviceDomainMatchAll",
    "serviceName",
    "sessionType",
    "templateBePath",
    "templateFePath",
    "usersSecret",
];

/// A decoded query, in the order of the URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(pub Vec<(String, String)>);

/// A parameter whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name as it stood in the query.
    pub name: String,
    /// What is wrong, without the name.
    pub text: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.text)
    }
}

impl Params {
    /// Decodes a query string. `;` separates nothing: it may be part of a value.
    pub fn parse(query: &str) -> Self {
        Params(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// Adds what a form-encoded body may set: service-wide scalars, unless the query has them too. The original
    /// reads everything else from the query alone.
    #[must_use]
    pub fn with_form(mut self, body: &[u8]) -> Self {
        let is_scalar = |name: &str| SCALARS.iter().any(|scalar| scalar.eq_ignore_ascii_case(name));
        let form = form_urlencoded::parse(body)
            .into_owned()
            .filter(|(name, _)| is_scalar(name));
        self.0.splice(0..0, form);
        self
    }

    /// The first value of a per-destination or list parameter; an empty one counts as absent.
    pub fn first(&self, name: &str) -> Option<&str> {
        let value = self
            .0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())?;
        (!value.is_empty()).then_some(value)
    }

    /// The last value of a service-wide scalar, whose name matches in any case.
    pub fn scalar(&self, name: &str) -> Option<&str> {
        let value = self
            .0
            .iter()
            .rfind(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())?;
        (!value.is_empty()).then_some(value)
    }

    /// A service-wide boolean: Go's forms and `on`.
    pub fn flag(&self, name: &str) -> bool {
        self.scalar(name)
            .is_some_and(|value| go_bool(value) || value == "on")
    }

    /// The query again, with `distribute=false`, sorted by name as the original's fan-out sends it.
    pub fn for_sibling(&self) -> String {
        let mut pairs: Vec<&(String, String)> = self
            .0
            .iter()
            .filter(|(key, _)| !key.eq_ignore_ascii_case("distribute"))
            .collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out = form_urlencoded::Serializer::new(String::new());
        out.append_pair("distribute", "false");
        for (key, value) in pairs {
            out.append_pair(key, value);
        }
        out.finish()
    }
}

fn go_bool(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

/// Reads a whole service.
pub fn read_service(params: &Params, defaults: &ServiceDefaults) -> (ServiceSpec, Vec<Problem>) {
    let mut reader = Reader {
        params,
        defaults,
        problems: Vec::new(),
    };
    let spec = reader.service();
    (spec, reader.problems)
}

struct Reader<'a> {
    params: &'a Params,
    defaults: &'a ServiceDefaults,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn service(&mut self) -> ServiceSpec {
        let params = self.params;
        let text = |name: &str| params.scalar(name).unwrap_or_default().to_owned();
        let replicas = params.scalar("replicas");
        let mut spec = ServiceSpec {
            service_name: text("serviceName"),
            acl_name: text("aclName"),
            add_req_header: self.list_or_alias("addReqHeader", "addHeader"),
            set_req_header: self.list_or_alias("setReqHeader", "setHeader"),
            del_req_header: self.list("delReqHeader"),
            add_res_header: self.list("addResHeader"),
            set_res_header: self.list("setResHeader"),
            del_res_header: self.list("delResHeader"),
            backend_extra: text("backendExtra"),
            check_resolvers: params.flag("checkResolvers"),
            compression_algo: text("compressionAlgo"),
            compression_type: text("compressionType"),
            connection_mode: text("connectionMode"),
            discovery_type: text("discoveryType"),
            distribute: params.flag("distribute"),
            is_default_backend: params.flag("isDefaultBackend"),
            proxy_instance_name: text("proxyInstanceName"),
            redirect_when_http_proto: params.flag("redirectWhenHttpProto"),
            redirect_unless_https_proto: params.flag("redirectUnlessHttpsProto"),
            // Absent means a global service; what is not a number means none, as in the original.
            is_global: replicas.is_none(),
            replicas: replicas.map_or(0, |text| text.parse().unwrap_or(0)),
            req_path_search: text("reqPathSearch"),
            req_path_replace: text("reqPathReplace"),
            service_cert: params
                .scalar("serviceCert")
                .map(|_| REDACTED.to_owned())
                .unwrap_or_default(),
            service_domain_algo: text("serviceDomainAlgo"),
            session_type: text("sessionType"),
            template_be_path: text("templateBePath"),
            template_fe_path: text("templateFePath"),
            users: self.users(),
            ..ServiceSpec::default()
        };
        if spec.service_domain_algo.is_empty() {
            spec.service_domain_algo = match params.flag("serviceDomainMatchAll") {
                true => "hdr_dom(host)".into(),
                false => self.defaults.domain_algo.name().into(),
            };
        }
        spec.service_dest = self.destinations();
        spec
    }

    /// Names only: a password must not be able to reach an answer or a log.
    fn users(&self) -> Vec<User> {
        let listed = self.params.scalar("users").unwrap_or_default();
        let secret = self
            .params
            .scalar("usersSecret")
            .map(|name| format!("(secret {name})"));
        let pass_encrypted = self.params.flag("usersPassEncrypted");
        let mut names: Vec<String> = (listed
            .split([',', '\n'])
            .map(|user| user.split(':').next().unwrap_or_default().trim().to_owned()))
        .filter(|name| !name.is_empty())
        .chain(secret)
        .collect();
        // Whoever asks for users wants a closed door, even if none of them can be used.
        if names.is_empty() && !listed.is_empty() {
            names.push("(none)".into());
        }
        names
            .into_iter()
            .map(|username| User {
                username,
                password: REDACTED.into(),
                pass_encrypted,
            })
            .collect()
    }

    fn destinations(&mut self) -> Vec<DestSpec> {
        let mut found = Vec::new();
        for index in 1..=INDEX_MAX {
            if !self.is_present(&format!(".{index}")) {
                break;
            }
            found.push(self.destination(index));
        }
        if !found.is_empty() {
            return found;
        }
        match self.is_present("") {
            true => vec![self.destination(0)],
            false => vec![DestSpec {
                req_mode: self.req_mode(0),
                ..DestSpec::default()
            }],
        }
    }

    fn is_present(&self, suffix: &str) -> bool {
        ["servicePath", "port", "serviceDomain", "httpsPort"]
            .iter()
            .any(|name| self.params.first(&format!("{name}{suffix}")).is_some())
    }

    fn destination(&mut self, index: u32) -> DestSpec {
        let domains = self.dest_list("serviceDomain", index);
        let mut paths = self.dest_list("servicePath", index);
        if paths.is_empty() && !domains.is_empty() {
            paths.push("/".into());
        }
        let text = |name: &str| self.dest(name, index).unwrap_or_default().to_owned();
        let req_mode = self.req_mode(index);
        DestSpec {
            allowed_methods: Some(self.dest_list("allowedMethods", index)),
            balance_group: text("balanceGroup"),
            check_tcp: self.dest_flag("checkTcp", index),
            clitcpka: self.dest_flag("clitcpka", index),
            denied_methods: Some(self.dest_list("deniedMethods", index)),
            deny_http: self.dest_flag("denyHttp", index),
            // Asked for once, for all: the un-indexed value and HTTPS_ONLY cannot be undone by an index.
            https_only: self.defaults.https_only
                || self.params.first("httpsOnly").is_some_and(go_bool)
                || self.dest_flag("httpsOnly", index),
            https_redirect_code: text("httpsRedirectCode"),
            ignore_authorization: self.dest_flag("ignoreAuthorization", index),
            outbound_hostname: text("outboundHostname"),
            path_type: text("pathType"),
            port: text("port"),
            redirect_from_domain: Some(self.dest_list("redirectFromDomain", index)),
            req_mode_formatted: req_mode.clone(),
            req_mode,
            req_path_search_replace: text("reqPathSearchReplace"),
            service_group: text("serviceGroup"),
            service_header: Some(self.header_pairs(index)),
            service_path: Some(paths),
            service_path_exclude: Some(self.dest_list("servicePathExclude", index)),
            ssl_verify_none: self.dest_flag("sslVerifyNone", index),
            timeout_server: text("timeoutServer"),
            timeout_client: text("timeoutClient"),
            timeout_tunnel: text("timeoutTunnel"),
            verify_client_ssl: self.dest_flag("verifyClientSsl", index),
            user_agent: UserAgent {
                value: Some(self.dest_list("userAgent", index)),
                acl_name: String::new(),
            },
            user_def: text("userDef"),
            index,
            req_path_search_replace_formatted: Some(Vec::new()),
            service_domain: Some(domains),
            https_port: self.port_number("httpsPort", index),
            src_port: self.port_number("srcPort", index),
            src_https_port: self.port_number("srcHttpsPort", index),
            ..DestSpec::default()
        }
    }

    /// The value for an index, else the un-indexed one.
    fn dest(&self, name: &str, index: u32) -> Option<&str> {
        let indexed = match index {
            0 => None,
            _ => self.params.first(&format!("{name}.{index}")),
        };
        indexed.or_else(|| self.params.first(name))
    }

    fn dest_flag(&self, name: &str, index: u32) -> bool {
        self.dest(name, index).is_some_and(go_bool)
    }

    fn dest_list(&self, name: &str, index: u32) -> Vec<String> {
        self.dest(name, index)
            .map(|text| self.split(text))
            .unwrap_or_default()
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

    fn port_number(&mut self, name: &str, index: u32) -> u16 {
        let Some(text) = self.dest(name, index) else {
            return 0;
        };
        match text.parse() {
            Ok(port) => port,
            Err(_) => {
                let name = if index > 0 && self.params.first(&format!("{name}.{index}")).is_some() {
                    format!("{name}.{index}")
                } else {
                    name.to_owned()
                };
                let text = format!("`{text}` is not a port number");
                self.problems.push(Problem { name, text });
                0
            }
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.params
            .first(name)
            .map(|text| self.split(text))
            .unwrap_or_default()
    }

    fn list_or_alias(&self, name: &str, alias: &str) -> Vec<String> {
        let list = self.list(name);
        if list.is_empty() { self.list(alias) } else { list }
    }

    /// An empty separator separates nothing (the original splits into characters).
    fn split(&self, text: &str) -> Vec<String> {
        match self.defaults.separator.as_str() {
            "" => vec![text.to_owned()],
            separator => text.split(separator).map(str::to_owned).collect(),
        }
    }
}

/// What stands in answers for a password or a key.
pub const REDACTED: &str = "(redacted)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::domain::DomainAlgo;

    fn defaults() -> ServiceDefaults {
        ServiceDefaults {
            separator: ",".into(),
            domain_algo: DomainAlgo::Begins,
            https_only: false,
            instance_filter: None,
        }
    }

    fn read(query: &str) -> ServiceSpec {
        let (spec, problems) = read_service(&Params::parse(query), &defaults());
        assert_eq!(problems, []);
        spec
    }

    /// Index, port and paths of each destination.
    fn check(query: &str, want: &[(u32, &str, &[&str])]) {
        let spec = read(query);
        let got: Vec<(u32, &str, Vec<&str>)> = spec
            .service_dest
            .iter()
            .map(|d| {
                (
                    d.index,
                    d.port.as_str(),
                    d.service_path.iter().flatten().map(String::as_str).collect(),
                )
            })
            .collect();
        let want: Vec<(u32, &str, Vec<&str>)> = want.iter().map(|(i, p, s)| (*i, *p, s.to_vec())).collect();
        assert_eq!(got, want, "{query}");
    }

    #[test]
    fn destinations_follow_the_indexing_rules() {
        check("servicePath=/a&port=1", &[(0, "1", &["/a"])]);
        check("servicePath=/a,/b&port=1", &[(0, "1", &["/a", "/b"])]);
        check("servicePath=/a,%20/b&port=1", &[(0, "1", &["/a", " /b"])]);
        // Un-indexed values are defaults, not a destination.
        check(
            "servicePath.1=/a&servicePath.2=/b&port=8",
            &[(1, "8", &["/a"]), (2, "8", &["/b"])],
        );
        check(
            "port.1=1&port.2=2&servicePath=/x",
            &[(1, "1", &["/x"]), (2, "2", &["/x"])],
        );
        // A gap ends the list; so does the tenth.
        check("port.1=1&port.3=3", &[(1, "1", &[])]);
        check("port.2=2&servicePath=/x", &[(0, "", &["/x"])]);
        let many: String = (1..=12).map(|i| format!("port.{i}={i}&")).collect();
        assert_eq!(read(&many).service_dest.len(), 10);
        // A domain alone means every path.
        check("serviceDomain=acme.com&port=1", &[(0, "1", &["/"])]);
        // Empty is absent; the first of a repeated parameter wins.
        check("servicePath=&port=1", &[(0, "1", &[])]);
        check("servicePath=/a&servicePath=/b&port=1", &[(0, "1", &["/a"])]);
        // Per-destination names are case-sensitive.
        check("SERVICEPATH=/a&port=1", &[(0, "1", &[])]);
        check("", &[(0, "", &[])]);
    }

    #[test]
    fn scalars_match_in_any_case_and_the_last_wins() {
        let spec = read("SERVICENAME=a&serviceName=b&aclname=x&isDefaultBackend=on&port=1");
        assert_eq!((spec.service_name.as_str(), spec.acl_name.as_str()), ("b", "x"));
        assert!(spec.is_default_backend);
    }

    #[test]
    fn booleans_are_gos() {
        for (text, want) in [
            ("1", true),
            ("t", true),
            ("TRUE", true),
            ("True", true),
            ("0", false),
        ] {
            assert_eq!(
                read(&format!("port=1&httpsOnly={text}")).service_dest[0].https_only,
                want,
                "{text}"
            );
        }
        for text in ["yes", "tRue", "on", "2"] {
            assert!(
                !read(&format!("port=1&httpsOnly={text}")).service_dest[0].https_only,
                "{text}"
            );
        }
        // The un-indexed value cannot be undone.
        assert!(read("port.1=1&httpsOnly=true&httpsOnly.1=false").service_dest[0].https_only);
    }

    #[test]
    fn replicas_distinguish_absent_zero_and_nonsense() {
        for (query, want) in [
            ("", (true, 0)),
            ("replicas=3", (false, 3)),
            ("replicas=0", (false, 0)),
            ("replicas=x", (false, 0)),
        ] {
            let spec = read(query);
            assert_eq!((spec.is_global, spec.replicas), want, "{query}");
        }
    }

    #[test]
    fn header_pairs_need_exactly_one_colon() {
        let spec = read("port=1&serviceHeader=X-A:1,broken,X-B:2:3,X-C:4");
        let headers = spec.service_dest[0].service_header.clone().unwrap();
        assert_eq!(
            headers.into_iter().collect::<Vec<_>>(),
            [("X-A".into(), "1".into()), ("X-C".into(), "4".into())]
        );
    }

    #[test]
    fn an_empty_separator_separates_nothing() {
        let defaults = ServiceDefaults {
            separator: String::new(),
            ..defaults()
        };
        let (spec, _) = read_service(&Params::parse("servicePath=/a,/b&port=1"), &defaults);
        assert_eq!(spec.service_dest[0].service_path, Some(vec!["/a,/b".into()]));
    }

    #[test]
    fn numbers_that_are_none_are_problems_with_their_name() {
        let (_, problems) = read_service(&Params::parse("port.1=1&srcPort.1=http"), &defaults());
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].name, "srcPort.1");
    }

    #[test]
    fn a_form_sets_scalars_that_the_query_does_not() {
        let params = Params::parse("servicePath=/a&port=1&aclName=query")
            .with_form(b"serviceName=form&ACLNAME=form&port=2&servicePath=/b&addReqHeader=X-A%20b");
        let (spec, _) = read_service(&params, &defaults());
        assert_eq!(
            (spec.service_name.as_str(), spec.acl_name.as_str()),
            ("form", "query")
        );
        assert_eq!(
            (spec.service_dest[0].port.as_str(), spec.service_dest[0].paths()),
            ("1", &["/a".to_owned()][..])
        );
        assert!(spec.add_req_header.is_empty());
        let (spec, _) = read_service(
            &Params::parse("serviceName=a").with_form(b"servicePath=/&port=1"),
            &defaults(),
        );
        assert!(spec.service_dest[0].paths().is_empty());
    }

    #[test]
    fn users_that_cannot_be_used_still_close_the_door() {
        for (text, count) in [("a:b", 1), ("a:b,c", 2), (":b", 1), (",", 1), ("", 0)] {
            assert_eq!(read(&format!("port=1&users={text}")).users.len(), count, "{text}");
        }
    }

    #[test]
    fn the_query_for_a_sibling_does_not_distribute() {
        let params = Params::parse("serviceName=a&distribute=true&aclName=b%20c");
        assert_eq!(params.for_sibling(), "distribute=false&aclName=b+c&serviceName=a");
    }
}
