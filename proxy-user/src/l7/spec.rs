// SPDX-License-Identifier: MIT OR Apache-2.0
//! A service as its parameters describe it, and as the API shows it.
//!
//! The order of the fields is the order of the keys in JSON, and the names are the original's: both are read by
//! other people's programs.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// A service. *Who writes it*: [`super::params`]. *Lifetime*: until it is replaced or removed.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(
    missing_docs,
    reason = "the fields are the parameters of the same name, docs/compatibility.md"
)]
pub struct ServiceSpec {
    pub acl_name: String,
    #[serde(serialize_with = "null_when_empty")]
    pub add_req_header: Vec<String>,
    #[serde(serialize_with = "null_when_empty")]
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
    pub service_cert: String,
    pub service_domain_algo: String,
    #[serde(skip)]
    pub service_name: String,
    pub session_type: String,
    #[serde(serialize_with = "null_when_empty")]
    pub set_req_header: Vec<String>,
    #[serde(serialize_with = "null_when_empty")]
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

/// A user of a service, without the password.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "shape of the original")]
pub struct User {
    pub username: String,
    pub password: String,
    pub pass_encrypted: bool,
}

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
}

impl DestSpec {
    /// The paths, whether or not the destination was read.
    pub fn paths(&self) -> &[String] {
        self.service_path.as_deref().unwrap_or_default()
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

/// A service where it stands alone, in `config?type=json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Named<'a> {
    service_name: &'a str,
    #[serde(flatten)]
    spec: &'a ServiceSpec,
}

impl<'a> Named<'a> {
    /// The service with its name.
    pub fn new(spec: &'a ServiceSpec) -> Self {
        Named {
            service_name: &spec.service_name,
            spec,
        }
    }
}

/// The common answer of the API.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Response<'a> {
    /// `OK` or `NOK`.
    pub status: &'static str,
    /// Empty when all went well.
    pub message: &'a str,
    /// The service that was asked for.
    pub service_name: &'a str,
    /// Everything that is known of it.
    #[serde(flatten)]
    pub spec: &'a ServiceSpec,
}

fn null_when_empty<T: Serialize, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    match list {
        [] => serializer.serialize_none(),
        list => list.serialize(serializer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_answer_keep_their_names_and_order() {
        let spec = ServiceSpec {
            service_dest: vec![DestSpec::default()],
            ..ServiceSpec::default()
        };
        let answer = Response {
            status: "OK",
            message: "",
            service_name: "a",
            spec: &spec,
        };
        let text = serde_json::to_string(&answer).unwrap();
        let want = concat!(
            r#"{"Status":"OK","Message":"","ServiceName":"a","AclName":"","AddReqHeader":null,"#,
            r#""AddResHeader":null,"BackendExtra":"","CheckResolvers":false,"CompressionAlgo":"","#,
            r#""CompressionType":"","ConnectionMode":"","Debug":false,"DebugFormat":"","DelReqHeader":null,"#,
            r#""DelResHeader":null,"DiscoveryType":"","Distribute":false,"IsDefaultBackend":false,"#,
            r#""ProxyInstanceName":"","RedirectWhenHttpProto":false,"RedirectUnlessHttpsProto":false,"#,
            r#""Replicas":0,"ReqPathReplace":"","ReqPathSearch":"","ServiceCert":"","ServiceDomainAlgo":"","#,
            r#""SessionType":"","SetReqHeader":null,"SetResHeader":null,"TemplateBePath":"","#,
            r#""TemplateFePath":"","UseGlobalUsers":false,"Users":null,"ServicePort":"","AclCondition":"","#,
            r#""IsGlobal":false,"LookupRetry":0,"LookupRetryInterval":0,"ServiceDest":[{"#,
            r#""AllowedMethods":null,"BalanceGroup":"","CheckTCP":false,"Clitcpka":false,"#,
            r#""DeniedMethods":null,"DenyHttp":false,"HttpsOnly":false,"HttpsPort":0,"#,
            r#""HttpsRedirectCode":"","IgnoreAuthorization":false,"OutboundHostname":"","PathType":"","#,
            r#""Port":"","RedirectFromDomain":null,"ReqMode":"","ReqModeFormatted":"","#,
            r#""ReqPathSearchReplace":"","ServiceDomain":null,"ServiceGroup":"","ServiceHeader":null,"#,
            r#""ServicePath":null,"ServicePathExclude":null,"SrcPort":0,"SrcHttpsPort":0,"SrcPortAcl":"","#,
            r#""SrcPortAclName":"","SrcHttpsPortAcl":"","SrcHttpsPortAclName":"","SslVerifyNone":false,"#,
            r#""TimeoutServer":"","TimeoutClient":"","TimeoutTunnel":"","VerifyClientSsl":false,"#,
            r#""UserAgent":{"Value":null,"AclName":""},"UserDef":"","Index":0,"#,
            r#""ReqPathSearchReplaceFormatted":null,"IncludeSrcPortACL":false,"#,
            r#""IncludeSrcHttpsPortACL":false}],"Tasks":null}"#,
        );
        assert_eq!(text, want);
    }
}
