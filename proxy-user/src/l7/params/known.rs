// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every parameter of a service by name. The reader refuses (in a debug build) to look for another, and a test
//! compares the list with docs/compatibility.md.

/// How often and where a parameter may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Once for the service, in any case, also in a form; the last value counts.
    Scalar,
    /// Once for the service, a list; the first value counts.
    List,
    /// For each destination: `name`, `name.1` … `name.10`; the first value counts.
    Destination,
}

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// As the query has it.
    pub name: &'static str,
    /// Where it may stand.
    pub scope: Scope,
}

const fn scalar(name: &'static str) -> Parameter {
    Parameter {
        name,
        scope: Scope::Scalar,
    }
}

const fn list(name: &'static str) -> Parameter {
    Parameter {
        name,
        scope: Scope::List,
    }
}

const fn destination(name: &'static str) -> Parameter {
    Parameter {
        name,
        scope: Scope::Destination,
    }
}

/// All of them, sorted by name within each scope.
pub const PARAMETERS: &[Parameter] = &[
    scalar("aclName"),
    scalar("backendExtra"),
    scalar("checkResolvers"),
    scalar("compressionAlgo"),
    scalar("compressionType"),
    scalar("connectionMode"),
    scalar("discoveryType"),
    scalar("distribute"),
    scalar("isDefaultBackend"),
    scalar("persist"),
    scalar("proxyInstanceName"),
    scalar("redirectUnlessHttpsProto"),
    scalar("redirectWhenHttpProto"),
    scalar("replicas"),
    scalar("reqPathReplace"),
    scalar("reqPathSearch"),
    scalar("serviceCert"),
    scalar("serviceDomainAlgo"),
    scalar("serviceDomainMatchAll"),
    scalar("serviceName"),
    scalar("sessionType"),
    scalar("templateBePath"),
    scalar("templateFePath"),
    scalar("users"),
    scalar("usersPassEncrypted"),
    scalar("usersSecret"),
    list("addHeader"),
    list("addReqHeader"),
    list("addResHeader"),
    list("delReqHeader"),
    list("delResHeader"),
    list("setHeader"),
    list("setReqHeader"),
    list("setResHeader"),
    destination("allowIp"),
    destination("allowedMethods"),
    destination("balance"),
    destination("balanceGroup"),
    destination("balanceHeader"),
    destination("checkTcp"),
    destination("clitcpka"),
    destination("deniedMethods"),
    destination("denyIp"),
    destination("denyHttp"),
    destination("healthFall"),
    destination("healthInterval"),
    destination("healthPath"),
    destination("healthRise"),
    destination("healthTimeout"),
    destination("httpsOnly"),
    destination("httpsPort"),
    destination("httpsRedirectCode"),
    destination("ignoreAuthorization"),
    destination("maxQueue"),
    destination("maxRequests"),
    destination("outboundHostname"),
    destination("outlierErrors"),
    destination("outlierPercentMax"),
    destination("outlierTime"),
    destination("pathType"),
    destination("port"),
    destination("proxyProtocol"),
    destination("redirectFromDomain"),
    destination("reqMode"),
    destination("reqPathSearchReplace"),
    destination("retries"),
    destination("retryPercent"),
    destination("serviceDomain"),
    destination("serviceGroup"),
    destination("serviceHeader"),
    destination("servicePath"),
    destination("servicePathExclude"),
    destination("sessionCookie"),
    destination("sessionMaxAge"),
    destination("slowStart"),
    destination("srcHttpsPort"),
    destination("srcPort"),
    destination("sslVerifyNone"),
    destination("timeoutClient"),
    destination("timeoutConnect"),
    destination("timeoutIdle"),
    destination("timeoutQueue"),
    destination("timeoutResponse"),
    destination("timeoutServer"),
    destination("timeoutTunnel"),
    destination("upstreamCa"),
    destination("upstreamProtocol"),
    destination("upstreamSni"),
    destination("upstreamTls"),
    destination("userAgent"),
    destination("userDef"),
    destination("verifyClientSsl"),
];

/// Whether a form may set it; the reference's table of service-wide scalars, whose names match in any case.
pub fn is_scalar(name: &str) -> bool {
    PARAMETERS
        .iter()
        .any(|known| known.scope == Scope::Scalar && known.name.eq_ignore_ascii_case(name))
}

/// Whether it is registered with this scope.
pub fn is(name: &str, scope: Scope) -> bool {
    PARAMETERS
        .iter()
        .any(|known| known.name == name && known.scope == scope)
}
