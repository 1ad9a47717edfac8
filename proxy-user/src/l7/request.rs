// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of a request, top to bottom: accept, parse, route, policy, upstream, response, log.
//!
//! Every way out is a [`Refusal`] with a name and a counter, or the upstream's own answer. The parents decide here;
//! the pieces they ask (router, pool, header edits) know nothing of each other.

use std::borrow::Cow;
use std::cell::Cell;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use super::access_log::Record;
use super::auth::Denied;
use super::body::{ClientBody, Gate, Outgoing, Progress, RequestEnd, Side, ToUpstream};
use super::clock::{self, Alarm};
use super::compile::Policy;
use super::compress::{Encoder, Wish};
use super::conn::ConnState;
use super::domain::without_port;
use super::forwarded::Hop;
use super::headers::{Facts, has_token, join_cookies, strip_hop_by_hop};
use super::limits;
use super::proxy_protocol::Peers;
use super::refusal::Refusal;
use super::router::{FrontRedirect, RedirectWhen, Route, Rule, Subject};
use super::stats::InProgress;
use super::stats::page::{self, Wanted};
use super::tls::Handshake;
use super::tunnel;
use super::upstream::response::ResponseBody;
use super::upstream::send::{Call, Reply, Rest};
use super::upstream::{self, Upstream};
use super::worker::Worker;

// ---- accept ----

/// The connection that a request came on.
pub struct Client {
    worker: Rc<Worker>,
    peers: Peers,
    /// The address as X-Forwarded-For has it.
    forwarded_for: HeaderValue,
    /// What was agreed on, if it came over TLS.
    tls: Option<Handshake>,
    /// The phases of the connection.
    pub state: Arc<ConnState>,
}

impl Client {
    /// What is known when a connection is accepted.
    pub fn new(worker: Rc<Worker>, peers: Peers, tls: Option<Handshake>, state: Arc<ConnState>) -> Self {
        let text = peers.client.ip().to_canonical().to_string();
        let forwarded_for =
            HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Client {
            worker,
            peers,
            forwarded_for,
            tls,
            state,
        }
    }

    /// Who is asking: the other end of the connection, or whom a trusted proxy names. Everything else that was said of
    /// the way is removed unless it is believed.
    fn ask(&self, headers: &mut HeaderMap) -> IpAddr {
        let forwarding = &self.worker.shared.settings.forwarding;
        forwarding.receive(self.peers.client.ip(), headers)
    }

    /// Tells the service which way the request took.
    fn tell(&self, headers: &mut HeaderMap, host: &str) {
        let hop = Hop {
            peer: self.peers.client.ip(),
            peer_value: &self.forwarded_for,
            host,
            port: self.peers.local.port(),
            is_tls: self.tls.is_some(),
        };
        self.worker.shared.settings.forwarding.send(headers, &hop);
    }

    /// What header rules can ask. TLS is not terminated yet.
    fn facts<'a>(&self, user: &'a [u8]) -> Facts<'a> {
        Facts {
            client: self.peers.client,
            port: self.peers.local.port(),
            is_tls: self.tls.is_some(),
            user,
        }
    }
}

/// Answers one request. Of HTTP/1.1, whoever has the connection says that it began.
pub async fn handle(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Outgoing>, Infallible> {
    if client.state.is_h2() {
        client.state.request_began();
    }
    let worker = &client.worker;
    let log = (worker.shared.settings.access_log.as_ref()).map(|log| {
        Box::new(Record::new(
            log,
            worker,
            client.peers.client,
            client.peers.local.port(),
            &request,
        ))
    });
    let mut end = RequestEnd {
        conn: client.state.clone(),
        log,
        backend: None,
        cut_by: Some(Side::Client),
    };
    let is_old = request.version() == Version::HTTP_10;
    let response = match forward(&client, request, &mut end).await {
        Ok(Answer::Upstream(mut parts, mut body, encoder)) => {
            note(&mut end, parts.status);
            // HTTP/1.0 has no chunks: such an answer ends with the connection, and a broken one with a reset.
            let ends_with_connection = is_old && body.size_hint().exact().is_none();
            if ends_with_connection {
                // What keeps hyper from promising a keep-alive that it cannot give.
                parts.version = Version::HTTP_10;
            }
            client.state.ends_with_connection(ends_with_connection);
            if encoder.is_none() {
                body.passes_to(&client.state);
            }
            let body = Outgoing::upstream(body, encoder.map(|encoder| *encoder), end);
            Response::from_parts(parts, body)
        }
        Ok(Answer::Own(parts)) => {
            note(&mut end, parts.status);
            Response::from_parts(parts, Outgoing::full(Bytes::new(), end))
        }
        Ok(Answer::Page(page)) => {
            note(&mut end, page.status());
            page.map(|body| Outgoing::full(body, end))
        }
        Ok(Answer::Challenge(challenge)) => {
            let mut response = refuse(&client, Refusal::Unauthorized, end);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            response
        }
        Err(refusal) => refuse(&client, refusal, end),
    };
    client.state.answer_begins();
    client.worker.counters.responded(response.status());
    response.body().responded(response.status());
    Ok(response)
}

/// What a request came to.
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one")]
enum Answer {
    Upstream(hyper::http::response::Parts, ResponseBody, Option<Box<Encoder>>),
    /// A redirect or the answer to an upgrade: no body.
    Own(hyper::http::response::Parts),
    /// The statistics page.
    Page(Box<Response<Bytes>>),
    /// 401 with this challenge.
    Challenge(HeaderValue),
}

async fn forward(
    client: &Rc<Client>,
    mut request: Request<Incoming>,
    end: &mut RequestEnd,
) -> Result<Answer, Refusal> {
    let worker = &client.worker;
    let asking = client.ask(request.headers_mut());
    if let Some(log) = &mut end.log
        && log.client.ip() != asking
    {
        log.client = SocketAddr::new(asking, 0);
    }
    if !worker.shared.settings.addresses.admits(asking) {
        return Err(Refusal::AddressDeniedEverywhere);
    }
    let host = parse(&request)?.into_owned();
    if let Some(stats) = &worker.shared.settings.stats
        && let Some(answer) = Box::pin(statistics(client, stats, &mut request)).await?
    {
        return Ok(answer);
    }
    let rules = worker.rules();
    let subject = Subject {
        path: request.uri().path(),
        host: &host,
        headers: request.headers(),
        port: client.peers.local.port(),
        is_tls: client.tls.is_some(),
    };
    let rule = match rules.route(&subject) {
        Route::Forward(_, rule) => rule,
        Route::Redirect(redirect) => return front_redirect(redirect, &host, request.uri()),
        Route::None => return Err(Refusal::NoRoute),
    };
    if let Some(log) = &mut end.log {
        log.backend = Some((rule.stats.name.to_string(), rule.stats.server.to_string()));
    }
    end.backend = Some(worker.in_progress(&rule.stats));
    if !rule.policy.addresses.admits(asking) {
        return Err(Refusal::AddressDenied);
    }
    if let Some(redirect) = apply_policy(&rule.policy, &host, client, &mut request)? {
        return Ok(redirect);
    }
    let mut user = Vec::new();
    if !rule.policy.auth.is_empty() {
        let check = worker.guard.check(&rule.policy.auth, request.headers_mut());
        user = match Box::pin(check).await {
            Ok(user) => user,
            Err(Denied::Challenge(challenge)) => return Ok(Answer::Challenge(challenge)),
            Err(Denied::Refused(refusal)) => return Err(refusal),
        };
    }
    if let Some(name) = &worker.shared.settings.request_id {
        let id = identify(worker, name, request.headers_mut());
        if let Some(log) = &mut end.log {
            log.identified(&id);
        }
    }
    let upgrade = take_upgrade(&mut request);
    let wish = rule.policy.compression.as_ref().and_then(|c| c.wish(&request));
    client.state.knows_early(request.version() == Version::HTTP_11);
    let (parts, body) = request.into_parts();
    let head = upstream_head(parts, &rule.policy, &rule.upstream, &host, client, &user)?;
    let backend = end.backend.as_ref();
    let reply = send(client, rule, head, &host, upgrade.as_ref(), body, backend).await?;
    respond(client, reply, rule, upgrade, wish)
}

/// The statistics page, if the request is for it.
async fn statistics(
    client: &Client,
    stats: &page::Settings,
    request: &mut Request<Incoming>,
) -> Result<Option<Answer>, Refusal> {
    let worker = &client.worker;
    let wanted = stats.wanted(client.peers.local.port(), target(request.uri()));
    match wanted {
        Wanted::Other => return Ok(None),
        Wanted::Nothing => return Err(Refusal::NoRoute),
        Wanted::Page | Wanted::Csv => {}
    }
    match worker
        .guard
        .check(stats.credentials.as_slice(), request.headers_mut())
        .await
    {
        Ok(_) => {}
        Err(Denied::Challenge(challenge)) => return Ok(Some(Answer::Challenge(challenge))),
        Err(Denied::Refused(refusal)) => return Err(refusal),
    }
    let (headers, body) = page::render(&wanted, &worker.shared.view.rows());
    let mut response = Response::new(body.into());
    *response.headers_mut() = headers;
    Ok(Some(Answer::Page(Box::new(response))))
}

// ---- parse ----

/// Checks target and Host, and returns the host that the request is for; empty for HTTP/1.0 without one.
fn parse(request: &Request<Incoming>) -> Result<Cow<'_, str>, Refusal> {
    let (uri, headers) = (request.uri(), request.headers());
    if !is_plain_or_chunked(headers) {
        return Err(Refusal::CodingInvalid);
    }
    if request.method() == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    if uri.path_and_query().map_or(0, |target| target.as_str().len()) > limits::URI_BYTES_MAX {
        return Err(Refusal::UriTooLong);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::HostDuplicate);
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(Refusal::HostMissing);
    }
    let host = host
        .map(|value| value.to_str().map_err(|_| Refusal::HostInvalid))
        .transpose()?;
    if host.is_some_and(|host| !is_host(host)) {
        return Err(Refusal::HostInvalid);
    }
    match (uri.scheme_str(), uri.authority()) {
        (None, None) if uri.path() == "*" && request.method() != Method::OPTIONS => {
            Err(Refusal::TargetInvalid)
        }
        (None, None) if uri.path().starts_with('/') || uri.path() == "*" => {
            Ok(Cow::Borrowed(host.unwrap_or_default()))
        }
        // RFC 9112 §3.2.2: the authority of an absolute target replaces Host.
        (Some("http" | "https"), Some(authority)) if is_host(authority.as_str()) => {
            Ok(Cow::Borrowed(authority.as_str()))
        }
        _ => Err(Refusal::TargetInvalid),
    }
}

/// Whether Transfer-Encoding is absent or says `chunked` once. hyper takes it when `chunked` comes last, but it is not
/// passed on: a coding before it would be lost, and a second `chunked` is read by others in other ways.
fn is_plain_or_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

/// What a registered name may have in it (RFC 3986 §3.2.2).
const IS_OF_NAME: [bool; 256] = {
    let others = b"-._~%!$&'()*+;=";
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// A name or address with an optional port, and nothing that another parser could read otherwise.
fn is_host(host: &str) -> bool {
    let name = without_port(host.as_bytes());
    let port = &host.as_bytes()[name.len()..];
    let is_port = port.is_empty()
        || port.len() > 1
            && port[1..].iter().all(u8::is_ascii_digit)
            && host[name.len() + 1..].parse::<u16>().is_ok();
    let is_name = match name {
        [] => false,
        [b'[', inner @ .., b']'] => {
            std::str::from_utf8(inner).is_ok_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok())
        }
        name => name.iter().all(|&byte| IS_OF_NAME[usize::from(byte)]),
    };
    is_name && is_port
}

// ---- route ----

fn front_redirect(redirect: &FrontRedirect, host: &str, uri: &Uri) -> Result<Answer, Refusal> {
    let location = match &redirect.when {
        RedirectWhen::Domain { to, .. } => format!("http://{to}{}", target(uri)),
        RedirectWhen::ForwardedProto { .. } => https_location(host, uri)?,
    };
    redirect_to(redirect.status, &location)
}

// ---- policy ----

/// Redirects, refuses or lets through, in the original's order: a redirect beats a 403.
fn apply_policy(
    policy: &Policy,
    host: &str,
    client: &Client,
    request: &mut Request<Incoming>,
) -> Result<Option<Answer>, Refusal> {
    let is_tls = client.tls.is_some();
    if let Some(status) = policy.https_redirect.filter(|_| !is_tls) {
        return redirect_to(status, &https_location(host, request.uri())?).map(Some);
    }
    if policy.needs_client_certificate && !client.tls.is_some_and(|tls| tls.is_verified) {
        return Err(Refusal::ClientCertMissing);
    }
    let method = request.method().as_str();
    let is_listed = |list: &[Box<str>]| list.iter().any(|entry| **entry == *method);
    if !policy.allowed_methods.is_empty() && !is_listed(&policy.allowed_methods)
        || is_listed(&policy.denied_methods)
    {
        return Err(Refusal::MethodDenied);
    }
    if policy.deny_http && !is_tls {
        return Err(Refusal::HttpDenied);
    }
    Ok(None)
}

fn https_location(host: &str, uri: &Uri) -> Result<String, Refusal> {
    match host {
        "" => Err(Refusal::HostMissing),
        host => Ok(format!("https://{host}{}", target(uri))),
    }
}

fn redirect_to(status: u16, location: &str) -> Result<Answer, Refusal> {
    let location = HeaderValue::from_str(location).map_err(|_| Refusal::TargetInvalid)?;
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    parts.headers.insert(header::LOCATION, location);
    Ok(Answer::Own(parts))
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// The request's id: the client's if it has one that can be logged, else a new one for the service to see.
fn identify(worker: &Worker, name: &HeaderName, headers: &mut HeaderMap) -> String {
    let given = headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(given) = given.filter(|id| !id.is_empty() && id.len() <= limits::REQUEST_ID_BYTES_MAX) {
        return given.to_owned();
    }
    let words: [u32; 4] = std::array::from_fn(|_| worker.random());
    let id = words.map(|word| format!("{word:08x}")).concat();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(name, value);
    }
    id
}

// ---- upstream ----

/// An upgrade that the client asks for: the protocol, and its side of the connection.
struct Upgrade {
    protocol: HeaderValue,
    client: OnUpgrade,
}

fn take_upgrade(request: &mut Request<Incoming>) -> Option<Upgrade> {
    let asks =
        request.version() == Version::HTTP_11 && has_token(request.headers(), header::CONNECTION, "upgrade");
    let protocol = request.headers().get(header::UPGRADE).filter(|_| asks)?.clone();
    // Cleartext HTTP/2 by upgrade is obsolete (RFC 9113 §3.1) and would bypass every check made here.
    if has_token(request.headers(), header::UPGRADE, "h2c") {
        return None;
    }
    Some(Upgrade {
        protocol,
        client: hyper::upgrade::on(request),
    })
}

/// The head as the upstream gets it, but for what belongs to a connection.
fn upstream_head(
    mut parts: Parts,
    policy: &Policy,
    upstream: &Upstream,
    host: &str,
    client: &Client,
    user: &[u8],
) -> Result<Parts, Refusal> {
    let takes_trailers = has_token(&parts.headers, header::TE, "trailers");
    let headers = &mut parts.headers;
    strip_hop_by_hop(headers);
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if parts.version == Version::HTTP_10 {
        // It means nothing there (RFC 9110 §10.1.1), and its body would be held back for an answer.
        headers.remove(header::EXPECT);
    }
    if parts.uri.authority().is_some() || !headers.contains_key(header::HOST) {
        let host = if host.is_empty() {
            &upstream.target.host
        } else {
            host
        };
        headers.insert(
            header::HOST,
            HeaderValue::from_str(host).map_err(|_| Refusal::HostInvalid)?,
        );
    }
    client.tell(headers, host);
    if parts.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    policy.request_headers.apply(headers, &client.facts(user));

    if !policy.rewrites.is_empty() || parts.uri.authority().is_some() {
        parts.uri = rewritten(&parts.uri, policy)?;
    }
    parts.version = Version::HTTP_11;
    Ok(parts)
}

/// The target in origin-form, its path rewritten. The query is untouched.
fn rewritten(uri: &Uri, policy: &Policy) -> Result<Uri, Refusal> {
    let mut path = Cow::Borrowed(uri.path());
    for rewrite in &policy.rewrites {
        path = Cow::Owned(rewrite.apply(&path).into_owned());
    }
    let slash = if path.starts_with('/') || path == "*" {
        ""
    } else {
        "/"
    };
    let target = match uri.query() {
        Some(query) => format!("{slash}{path}?{query}"),
        None => format!("{slash}{path}"),
    };
    let target = PathAndQuery::try_from(target).map_err(|_| Refusal::RewriteInvalid)?;
    Ok(Uri::from(target))
}

/// Sends the request to a task of the service.
async fn send(
    client: &Rc<Client>,
    rule: &Rule,
    head: Parts,
    host: &str,
    upgrade: Option<&Upgrade>,
    body: Incoming,
    backend: Option<&InProgress>,
) -> Result<Reply, Refusal> {
    let worker = &client.worker;
    let (mut body_to_send, mut progress, mut opener) = (ToUpstream::Empty, None, None);
    if !body.is_end_stream() {
        let shared = Rc::new(Progress {
            last: Cell::new(clock::recent()),
            awaits_client: Cell::new(false),
            failed: Cell::new(None),
        });
        let gate = expects_continue(&head).then(Gate::new);
        let (gate, opens) = gate.map_or((None, None), |(gate, opens)| (Some(gate), Some(opens)));
        opener = opens;
        progress = Some(shared.clone());
        body_to_send = ToUpstream::Client(ClientBody {
            gate,
            inner: body,
            progress: shared,
            timeout: worker.shared.settings.timeouts.client,
            alarm: Alarm::default(),
            waits_since: None,
            count: backend.map(InProgress::bytes_in),
            conn: client.state.clone(),
            has_ended: false,
        });
    }
    let mut call = Call {
        worker,
        head,
        host,
        upgrade: upgrade.map(|upgrade| &upgrade.protocol),
        body: Some(body_to_send),
        progress,
        opener,
        peers: client.peers,
        keep_alive: rule.policy.keep_alive,
        timeout: rule.policy.timeout_server,
        early: &|status, headers| client.state.early_answer(status, headers),
        backend,
    };
    upstream::send::send(&worker.group(&rule.upstream), &mut call).await
}

/// With `Expect: 100-continue` the body is held back until the upstream asks for it (RFC 9110 §10.1.1).
///
/// hyper asks the client when somebody reads the body, so an upstream that refuses spares the client the upload.
fn expects_continue(head: &Parts) -> bool {
    head.headers
        .get(header::EXPECT)
        .is_some_and(|expects| expects.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

// ---- response ----

fn respond(
    client: &Rc<Client>,
    reply: Reply,
    rule: &Rule,
    upgrade: Option<Upgrade>,
    wish: Option<Wish>,
) -> Result<Answer, Refusal> {
    let Reply {
        mut parts,
        rest,
        session,
    } = reply;
    let protocol = parts.headers.get(header::UPGRADE).cloned();
    clean_response(&mut parts.headers, &rule.policy, client);
    if let (Some(token), Some(sticky)) = (session, &rule.upstream.target.sticky) {
        sticky.set(&mut parts.headers, token, client.tls.is_some());
    }
    parts.version = Version::HTTP_11;
    match (rest, upgrade) {
        (Rest::Body(body), _) => {
            let encoder = match (&rule.policy.compression, wish) {
                (Some(compression), Some(wish)) if !body.is_end_stream() => compression
                    .begin(wish, &mut parts, &client.worker.encoders)
                    .map(Box::new),
                _ => None,
            };
            Ok(Answer::Upstream(parts, body, encoder))
        }
        (Rest::Tunnel(stream, read, held), Some(upgrade)) => {
            let protocol = protocol.unwrap_or(upgrade.protocol);
            parts.headers.remove(header::CONTENT_LENGTH);
            parts
                .headers
                .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, protocol);
            let worker = client.worker.clone();
            worker.counters.upgrades.up();
            let open = worker.open();
            let idle = rule.policy.timeout_tunnel;
            let state = client.state.clone();
            tokio::task::spawn_local(async move {
                let _held = (open, held);
                state.becomes_tunnel();
                tunnel::run(upgrade.client, stream, read, idle).await;
            });
            Ok(Answer::Own(parts))
        }
        (Rest::Tunnel(..), None) => Err(Refusal::UpstreamInvalid),
    }
}

fn clean_response(headers: &mut HeaderMap, policy: &Policy, client: &Client) {
    strip_hop_by_hop(headers);
    policy.response_headers.apply(headers, &client.facts(b""));
}

fn refuse(client: &Client, refusal: Refusal, mut end: RequestEnd) -> Response<Outgoing> {
    client.worker.counters.refused(refusal);
    if let Some(backend) = &end.backend {
        backend.refused(refusal);
    }
    note(&mut end, refusal.status());
    if let Some(log) = &mut end.log {
        log.refusal = Some(refusal);
    }
    let page = client.worker.shared.settings.error_pages.page(refusal);
    let mut response = Response::new(Outgoing::full(page.body, end));
    *response.status_mut() = page.status;
    *response.headers_mut() = page.headers;
    let headers = response.headers_mut();
    if matches!(refusal, Refusal::QueueFull | Refusal::QueueTimeout) {
        headers.insert(
            header::RETRY_AFTER,
            HeaderValue::from(limits::RETRY_AFTER_SECONDS),
        );
    }
    // After a malformed request nobody knows where the next one begins, and behind a CONNECT a client may have sent what
    // it meant for the tunnel.
    let is_lost = matches!(
        refusal.status(),
        StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT
    );
    if (is_lost || matches!(refusal, Refusal::Connect)) && !client.state.is_h2() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

// ---- log ----

fn note(end: &mut RequestEnd, status: StatusCode) {
    if let Some(log) = &mut end.log {
        log.answered(status);
    }
}

#[cfg(test)]
mod tests {
    use super::is_host;

    #[test]
    fn a_host_is_a_name_or_address_with_an_optional_port() {
        for host in ["a", "a.b", "a:80", "[::1]", "[::1]:80", "127.0.0.1:8080", "a_b"] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "", ":80", "a/b", "u@a", "a,b", "a b", "a:b", "a:80:80", "a:", "a:99999", "[::1", "[x]", "a#",
            "a?", "a:+1",
        ] {
            assert!(!is_host(host), "{host}");
        }
    }
}
