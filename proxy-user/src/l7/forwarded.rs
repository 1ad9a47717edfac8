// SPDX-License-Identifier: MIT OR Apache-2.0
//! X-Forwarded-* and Forwarded (RFC 7239): what is believed of them, and what the service is told.
//!
//! Without a list of trusted proxies they are passed on as they come, with the client appended, as the original does;
//! nobody is believed. With a list, what others send is removed, and behind a trusted proxy the client is the last
//! address that is not a trusted proxy's: the one that a proxy of ours has seen itself.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use hyper::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::headers::append_forwarded_for;
use super::prefixes::PrefixSet;

const X_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The operator's choice.
#[derive(Clone, Debug, Default)]
pub struct Forwarding {
    /// Proxies that are believed. None: nobody, and nothing is removed.
    pub trusted: Option<PrefixSet>,
    /// What services are told.
    pub fields: Fields,
}

/// The fields that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// X-Forwarded-For.
    pub x_for: bool,
    /// X-Forwarded-Proto also without TLS.
    pub x_proto: bool,
    /// X-Forwarded-Host.
    pub x_host: bool,
    /// X-Forwarded-Port.
    pub x_port: bool,
    /// Forwarded.
    pub forwarded: bool,
}

impl Default for Fields {
    /// The original's.
    fn default() -> Self {
        Fields {
            x_for: true,
            x_proto: false,
            x_host: false,
            x_port: false,
            forwarded: false,
        }
    }
}

impl Fields {
    /// Reads a list of `for`, `proto`, `host`, `port`, `forwarded`, or `none`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut fields = Fields {
            x_for: false,
            ..Fields::default()
        };
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "for" => fields.x_for = true,
                "proto" => fields.x_proto = true,
                "host" => fields.x_host = true,
                "port" => fields.x_port = true,
                "forwarded" => fields.forwarded = true,
                "none" => {}
                other => {
                    return Err(format!(
                        "`{other}` is not one of for, proto, host, port, forwarded, none"
                    ));
                }
            }
        }
        Ok(fields)
    }
}

/// What is known of a request's last hop.
pub struct Hop<'a> {
    /// Who is connected.
    pub peer: IpAddr,
    /// The same as X-Forwarded-For has it.
    pub peer_value: &'a HeaderValue,
    /// Host of the request; may be empty.
    pub host: &'a str,
    /// Port that the client used.
    pub port: u16,
    /// Whether it came with TLS.
    pub is_tls: bool,
}

impl Forwarding {
    /// Removes what is not believed, and says who the client is.
    pub fn receive(&self, peer: IpAddr, headers: &mut HeaderMap) -> IpAddr {
        let Some(trusted) = &self.trusted else {
            return peer;
        };
        if !trusted.contains(peer) {
            for name in [X_FOR, X_PROTO, X_HOST, X_PORT, X_REAL_IP, FORWARDED] {
                headers.remove(name);
            }
            return peer;
        }
        let mut client = peer;
        for address in addresses(headers).into_iter().rev() {
            let Some(address) = address else { break };
            client = address;
            if !trusted.contains(address) {
                break;
            }
        }
        client
    }

    /// Tells the service.
    pub fn send(&self, headers: &mut HeaderMap, hop: &Hop<'_>) {
        let proto = if hop.is_tls { "https" } else { "http" };
        if self.fields.x_for {
            append_forwarded_for(headers, hop.peer_value);
        }
        if hop.is_tls || self.fields.x_proto {
            // The original adds to what is there when it came with TLS; a proxy before us knows better what the client
            // used, and says so in the value that comes first.
            if hop.is_tls {
                headers.append(X_PROTO, HeaderValue::from_static("https"));
            } else if !headers.contains_key(X_PROTO) {
                headers.insert(X_PROTO, HeaderValue::from_static(proto));
            }
        }
        if self.fields.x_host && !hop.host.is_empty() && !headers.contains_key(X_HOST) {
            insert(headers, X_HOST, hop.host);
        }
        if self.fields.x_port && !headers.contains_key(X_PORT) {
            headers.insert(X_PORT, hop.port.into());
        }
        if self.fields.forwarded {
            let mut element = format!("for={};proto={proto}", node(hop.peer));
            if !hop.host.is_empty() {
                // A host has no quote and no backslash; it was checked.
                element = format!("{element};host=\"{}\"", hop.host);
            }
            let before: Vec<Cow<'_, str>> = (headers.get_all(FORWARDED).iter())
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            let whole = before.iter().map(AsRef::as_ref).chain([element.as_str()]);
            let whole = whole.collect::<Vec<_>>().join(", ");
            insert(headers, FORWARDED, &whole);
        }
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // What is no value is left out: it was made of values.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// An address as RFC 7239 writes it.
fn node(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("\"[{ip}]\""),
    }
}

/// The addresses that X-Forwarded-For names in their order, or Forwarded if that is not there. None for what is none.
fn addresses(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let items = |name: HeaderName| {
        let values = headers.get_all(name).into_iter();
        values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
    };
    if headers.contains_key(X_FOR) {
        return items(X_FOR).map(address).collect();
    }
    items(FORWARDED)
        .map(|element| {
            let pair = |pair: &[u8]| {
                let (name, value) = pair.split_at_checked(4)?;
                name.eq_ignore_ascii_case(b"for=").then_some(value.to_vec())
            };
            let value = element
                .split(|byte| *byte == b';')
                .find_map(|text| pair(text.trim_ascii()))?;
            let value = value
                .strip_prefix(b"\"")
                .and_then(|v| v.strip_suffix(b"\""))
                .unwrap_or(&value);
            address(value)
        })
        .collect()
}

/// An address, perhaps with a port or brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(socket.ip());
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn trusting(prefixes: &str) -> Forwarding {
        Forwarding {
            trusted: Some(PrefixSet::parse(prefixes.split(' ')).unwrap()),
            fields: Fields::parse("for,proto,host,port,forwarded").unwrap(),
        }
    }

    fn received(forwarding: &Forwarding, peer: &str, fields: &[(&'static str, &'static str)]) -> String {
        let ip = forwarding.receive(peer.parse().unwrap(), &mut map(fields));
        ip.to_string()
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let ours = trusting("10.0.0.0/8 2001:db8::/32");
        for (fields, want) in [
            (&[][..], "10.0.0.1"),
            (&[("x-forwarded-for", "192.0.2.1")][..], "192.0.2.1"),
            (
                &[("x-forwarded-for", "1.1.1.1, 192.0.2.1, 10.0.0.2")],
                "192.0.2.1",
            ),
            (
                &[
                    ("x-forwarded-for", "1.1.1.1"),
                    ("x-forwarded-for", "192.0.2.1:80"),
                ],
                "192.0.2.1",
            ),
            (&[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
            (&[("x-forwarded-for", "unknown, 10.0.0.2")], "10.0.0.2"),
            (&[("x-forwarded-for", "1.1.1.1, _hidden")], "10.0.0.1"),
            (
                &[("forwarded", "for=192.0.2.1;proto=https, For=\"[2001:db8::1]:5\"")],
                "192.0.2.1",
            ),
            (&[("forwarded", "proto=https")], "10.0.0.1"),
            (
                &[("x-forwarded-for", "[2001:db9::1]"), ("forwarded", "for=1.1.1.1")],
                "2001:db9::1",
            ),
        ] {
            assert_eq!(received(&ours, "10.0.0.1", fields), want, "{fields:?}");
        }
        let forged = &[("x-forwarded-for", "10.9.9.9")];
        assert_eq!(received(&ours, "192.0.2.7", forged), "192.0.2.7");
        assert_eq!(received(&Forwarding::default(), "10.0.0.1", forged), "10.0.0.1");
    }

    #[test]
    fn what_a_stranger_says_is_removed_only_where_proxies_are_named() {
        let fields = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-port", "1"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("accept", "*/*"),
        ];
        let stranger = "192.0.2.1".parse().unwrap();
        let mut headers = map(&fields);
        trusting("10.0.0.0/8").receive(stranger, &mut headers);
        assert_eq!(headers, map(&[("accept", "*/*")]));
        let mut headers = map(&fields);
        Forwarding::default().receive(stranger, &mut headers);
        assert_eq!(headers, map(&fields));
    }

    fn sent(fields: &str, is_tls: bool, before: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let forwarding = Forwarding {
            trusted: None,
            fields: Fields::parse(fields).unwrap(),
        };
        let mut headers = map(before);
        let hop = Hop {
            peer: "2001:db8::1".parse().unwrap(),
            peer_value: &HeaderValue::from_static("2001:db8::1"),
            host: "acme.com:81",
            port: 81,
            is_tls,
        };
        forwarding.send(&mut headers, &hop);
        let pairs = headers
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned()));
        pairs.collect()
    }

    #[test]
    fn services_are_told_what_was_chosen() {
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()
        };
        assert_eq!(
            sent("for", false, &[]),
            owned(&[("x-forwarded-for", "2001:db8::1")])
        );
        assert_eq!(sent("none", true, &[]), owned(&[("x-forwarded-proto", "https")]));
        assert_eq!(
            sent("proto,host,port,forwarded", false, &[]),
            owned(&[
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "acme.com:81"),
                ("x-forwarded-port", "81"),
                (
                    "forwarded",
                    "for=\"[2001:db8::1]\";proto=http;host=\"acme.com:81\""
                ),
            ])
        );
        // A proxy before us has said what the client used.
        let before = [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a"),
            ("forwarded", "for=1.1.1.1"),
        ];
        assert_eq!(
            sent("proto,host,forwarded", false, &before),
            owned(&[
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "a"),
                (
                    "forwarded",
                    "for=1.1.1.1, for=\"[2001:db8::1]\";proto=http;host=\"acme.com:81\""
                ),
            ])
        );
        assert!(Fields::parse("for,x").is_err());
    }
}
