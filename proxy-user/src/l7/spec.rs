// SPDX-License-Identifier: MIT OR Apache-2.0
//! A service as its parameters describe it, and as the API shows it.
//!
//! The order of the fields is the order of the keys in JSON, and the names are the original's: both are read by
//! other people's programs. What only Portico has stands in structs of its own that JSON skips.

use serde::Serialize;

mod destination;
mod service;

pub use destination::{DestSpec, UserAgent};
pub use service::{ServiceSpec, User};

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
