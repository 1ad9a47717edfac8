// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every reason for which the proxy answers a request itself, or drops a connection, with its name and answer.

use hyper::StatusCode;

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:ident, $text:literal;)*) => {
        /// A reason with a name and a counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Refusal { $($(#[$doc])* $variant,)* }

        impl Refusal {
            /// All of them, in the order of the counters.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$variant,)*];

            /// Label of the counter.
            pub fn name(self) -> &'static str {
                match self { $(Refusal::$variant => $name,)* }
            }

            /// Status of the answer.
            pub fn status(self) -> StatusCode {
                match self { $(Refusal::$variant => StatusCode::$status,)* }
            }

            /// One sentence for the client.
            pub fn text(self) -> &'static str {
                match self { $(Refusal::$variant => $text,)* }
            }
        }
    };
}

refusals! {
    /// HTTP/1.1 without Host.
    HostMissing = "host_missing", BAD_REQUEST, "The request has no Host field.";
    /// Two Host fields.
    HostDuplicate = "host_duplicate", BAD_REQUEST, "The request has more than one Host field.";
    /// Not a host with an optional port.
    HostInvalid = "host_invalid", BAD_REQUEST, "The Host field is not a host.";
    /// Not origin-form or absolute-form with http.
    TargetInvalid = "target_invalid", BAD_REQUEST, "The request target is not one that this server serves.";
    /// A Transfer-Encoding other than `chunked`.
    CodingInvalid = "coding_invalid", BAD_REQUEST, "The transfer coding is not one that this server serves.";
    /// hyper could not read the head.
    HeadInvalid = "head_invalid", BAD_REQUEST, "The request is malformed.";
    /// Longer than the limit.
    HeadTooLarge = "head_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, "The request head is too large.";
    /// Longer than the limit.
    UriTooLong = "uri_too_long", URI_TOO_LONG, "The request target is too long.";
    /// CONNECT.
    Connect = "connect", METHOD_NOT_ALLOWED, "CONNECT is not served here.";
    /// The head did not end in time.
    HeadTimeout = "head_timeout", REQUEST_TIMEOUT, "The request did not arrive in time.";
    /// The client's body broke off or is malformed.
    BodyInvalid = "body_invalid", BAD_REQUEST, "The request body is malformed.";
    /// The client's body stopped coming.
    BodyTimeout = "body_timeout", REQUEST_TIMEOUT, "The request body did not arrive in time.";
    /// No rule and no default backend.
    NoRoute = "no_route", SERVICE_UNAVAILABLE, "No server is available to handle this request.";
    /// The address is not admitted to this service (allowIp, denyIp).
    AddressDenied = "address_denied", FORBIDDEN, "Your address is not allowed here.";
    /// The address is not admitted at all (PORTICO_ALLOW_IP, PORTICO_DENY_IP).
    AddressDeniedEverywhere = "address_denied_everywhere", FORBIDDEN, "Your address is not allowed here.";
    /// allowedMethods or deniedMethods.
    MethodDenied = "method_denied", FORBIDDEN, "The method is not allowed here.";
    /// denyHttp.
    HttpDenied = "http_denied", FORBIDDEN, "Plain HTTP is not allowed here.";
    /// No login, or a wrong one.
    Unauthorized = "unauthorized", UNAUTHORIZED, "You need a valid user and password to access this content.";
    /// Too many logins are waiting to be checked.
    AuthBusy = "auth_busy", SERVICE_UNAVAILABLE, "Too many logins are being checked.";
    /// The upstream's name has no address.
    UpstreamUnresolved = "upstream_unresolved", SERVICE_UNAVAILABLE, "The service has no address.";
    /// Connection refused or unreachable.
    UpstreamUnreachable = "upstream_unreachable", SERVICE_UNAVAILABLE, "The service cannot be reached.";
    /// The connect took too long.
    UpstreamConnectTimeout = "upstream_connect_timeout", SERVICE_UNAVAILABLE, "The service cannot be reached in time.";
    /// Active checks found no task that answers.
    UpstreamDown = "upstream_down", SERVICE_UNAVAILABLE, "The service is not healthy.";
    /// maxRequests and maxQueue.
    QueueFull = "queue_full", SERVICE_UNAVAILABLE, "The service has too many requests.";
    /// timeoutQueue.
    QueueTimeout = "queue_timeout", SERVICE_UNAVAILABLE, "The service has had too many requests for too long.";
    /// No answer in time.
    UpstreamTimeout = "upstream_timeout", GATEWAY_TIMEOUT, "The service did not answer in time.";
    /// An answer that is not HTTP, or none.
    UpstreamInvalid = "upstream_invalid", BAD_GATEWAY, "The service gave an invalid answer.";
    /// The rewritten path is not a path.
    RewriteInvalid = "rewrite_invalid", BAD_GATEWAY, "The rewritten path is invalid.";
    /// The connection does not begin with the PROXY header that it must have; nothing is answered.
    ProxyHeaderInvalid = "proxy_header_invalid", BAD_REQUEST, "";
    /// It ended before a byte of one arrived; nothing is answered.
    ProxyHeaderMissing = "proxy_header_missing", BAD_REQUEST, "";
    /// It did not arrive in time; nothing is answered.
    ProxyHeaderTimeout = "proxy_header_timeout", REQUEST_TIMEOUT, "";
    /// No service wants the connection; nothing is answered.
    NoStreamRoute = "no_stream_route", SERVICE_UNAVAILABLE, "";
    /// The ClientHello did not arrive in time, or the connection ended before it; nothing is answered.
    HelloTimeout = "hello_timeout", REQUEST_TIMEOUT, "";
    /// Too many client connections; nothing is answered.
    ConnectionsMax = "connections_max", SERVICE_UNAVAILABLE, "";
    /// verifyClientSsl, and no certificate of an authority in CA_FILE.
    ClientCertMissing = "client_cert_missing", FORBIDDEN, "A client certificate is needed here.";
    /// The TLS handshake failed; TLS has answered.
    TlsFailed = "tls_failed", BAD_REQUEST, "";
    /// It took too long; nothing is answered.
    TlsTimeout = "tls_timeout", REQUEST_TIMEOUT, "";
    /// HTTP/2: too many frames without a request; the connection is cut.
    FrameFlood = "h2_frame_flood", TOO_MANY_REQUESTS, "";
    /// HTTP/2: too many streams were reset; the connection is cut.
    ResetFlood = "h2_reset_flood", TOO_MANY_REQUESTS, "";
    /// HTTP/2: a frame that ends the connection, with GOAWAY.
    FrameInvalid = "h2_frame_invalid", BAD_REQUEST, "";
    /// HTTP/2: a request that is malformed, or whose head is too large; its stream is reset.
    StreamInvalid = "h2_stream_invalid", BAD_REQUEST, "";
    /// HTTP/2: more requests at a time than were allowed; the stream is reset, and the client may ask again.
    StreamRefused = "h2_stream_refused", SERVICE_UNAVAILABLE, "";
    /// accept(2) failed; nothing is answered.
    AcceptFailed = "accept_failed", SERVICE_UNAVAILABLE, "";
    /// The client reset its connection or its stream before it was answered to the end; nobody is left to answer.
    ClientLeft = "client_left", SERVICE_UNAVAILABLE, "";
    /// The client stopped reading its answer; the connection is cut.
    ClientStalled = "client_stalled", REQUEST_TIMEOUT, "";
}

impl Refusal {
    /// The page that the client sees.
    pub fn page(self) -> String {
        let status = self.status();
        let (code, reason) = (status.as_u16(), status.canonical_reason().unwrap_or_default());
        format!(
            "<html><head><title>{code} {reason}</title></head><body><h1>{code} {reason}</h1>\n{}\n</body></html>\n",
            self.text()
        )
    }
}
