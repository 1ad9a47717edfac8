// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values and conditions of header rules: the part of HAProxy's language that people use.
//!
//! A value is text with `%[src]`, `%[src_port]`, `%[dst_port]`, `%[ssl_fc]`, `%[env(NAME)]`, the field of the message
//! that is edited, `%[hdr(NAME)]`, and in requests who has logged in, `%[http_auth_group(LIST)]`. Behind it may stand
//! `if` or `unless` and conditions in braces, all of which must hold: `ssl_fc`, `dst_port N…`, `src PREFIX…`, and
//! `hdr(NAME)` with the ways to compare of [`compare`].

use std::fmt::Write as _;
use std::net::SocketAddr;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

mod compare;

use compare::{Asked, Comparison};

use super::field_name;
use crate::l7::prefixes::PrefixSet;

/// What expressions can ask about a connection.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The client.
    pub client: SocketAddr,
    /// The listener's port.
    pub port: u16,
    /// The client speaks TLS.
    pub is_tls: bool,
    /// Who has logged in; empty when nobody had to.
    pub user: &'a [u8],
}

/// Whose fields `hdr` reads: names of the fetch.
pub(super) type Fetches = &'static [&'static str];
/// Of a request.
pub(super) const REQUEST: Fetches = &["hdr", "req.hdr", "req.fhdr"];
/// Of an answer.
pub(super) const RESPONSE: Fetches = &["hdr", "res.hdr", "res.fhdr"];

/// A value of a field, and when it counts.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    value: Value,
    conditions: Vec<Condition>,
    /// `unless`.
    is_negated: bool,
}

#[derive(Clone, Debug)]
enum Value {
    Fixed(HeaderValue),
    Pieces(Vec<Piece>),
}

#[derive(Clone, Debug)]
enum Piece {
    Text(Box<str>),
    Source,
    SourcePort,
    Port,
    Tls,
    User,
    Field(HeaderName),
}

#[derive(Clone, Debug)]
struct Condition {
    test: Test,
    is_negated: bool,
}

#[derive(Clone, Debug)]
enum Test {
    Tls,
    Port(Vec<u16>),
    Source(PrefixSet),
    Found(HeaderName),
    Compared(FieldOf, Comparison),
}

/// A field, and whether each item of its lists has a value of its own (`hdr`) or the whole of it (`fhdr`).
#[derive(Clone, Debug)]
struct FieldOf {
    name: HeaderName,
    has_items: bool,
}

impl Expression {
    /// Reads what stands behind the name of a field.
    pub fn parse(text: &str, fetches: Fetches) -> Result<Self, String> {
        let mut words = words(text);
        let end = words
            .iter()
            .skip(1)
            .position(|word| word == "if" || word == "unless");
        let (is_negated, conditions) = match end.map(|at| at + 1) {
            None => (false, Vec::new()),
            Some(at) => {
                let rest = words.split_off(at);
                (rest[0] == "unless", conditions(&rest[1..], fetches)?)
            }
        };
        Ok(Expression {
            value: Value::parse(&words.join(" "), fetches)?,
            conditions,
            is_negated,
        })
    }

    /// The value for this message; none when the condition does not hold, or the value cannot stand in a field.
    pub fn value(&self, headers: &HeaderMap, facts: &Facts<'_>) -> Option<HeaderValue> {
        let holds = self
            .conditions
            .iter()
            .all(|condition| condition.holds(headers, facts));
        if holds == self.is_negated {
            return None;
        }
        match &self.value {
            Value::Fixed(value) => Some(value.clone()),
            Value::Pieces(pieces) => {
                let mut out = Vec::new();
                pieces
                    .iter()
                    .for_each(|piece| piece.append(&mut out, headers, facts));
                HeaderValue::from_bytes(&out).ok()
            }
        }
    }
}

impl Value {
    fn parse(text: &str, fetches: Fetches) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let (mut plain, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("%[") {
            let (fetch, behind) = after
                .split_once(']')
                .ok_or_else(|| format!("`{text}` has `%[` without `]`"))?;
            plain.push_str(before);
            rest = behind;
            let piece = match fetch.trim() {
                "src" => Piece::Source,
                "src_port" => Piece::SourcePort,
                "dst_port" => Piece::Port,
                "ssl_fc" => Piece::Tls,
                fetch => match (argument(fetch, &["env"]), argument(fetch, fetches)) {
                    // Fixed for as long as the process runs.
                    (Some(name), _) => {
                        refuse_secret(name)?;
                        plain.push_str(&std::env::var(name).unwrap_or_default());
                        continue;
                    }
                    (_, Some(name)) => Piece::Field(field(name)?),
                    _ if fetches == REQUEST && argument(fetch, &["http_auth_group"]).is_some() => Piece::User,
                    _ => {
                        let user = if fetches == REQUEST {
                            ", http_auth_group(LIST)"
                        } else {
                            ""
                        };
                        return Err(format!(
                            "`%[{fetch}]` is not one of src, src_port, dst_port, ssl_fc, env(NAME), {}(NAME){user}",
                            fetches.join("(NAME), ")
                        ));
                    }
                },
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
            }
            pieces.push(piece);
        }
        plain.push_str(rest);
        let fixed = HeaderValue::from_str(&plain)
            .map_err(|_| format!("`{text}` has a value that no field can have"))?;
        if pieces.is_empty() {
            return Ok(Value::Fixed(fixed));
        }
        pieces.push(Piece::Text(plain.into()));
        Ok(Value::Pieces(pieces))
    }
}

impl Piece {
    fn append(&self, out: &mut Vec<u8>, headers: &HeaderMap, facts: &Facts<'_>) {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = match self {
            Piece::Text(fixed) => write!(text, "{fixed}"),
            Piece::Source => write!(text, "{}", facts.client.ip().to_canonical()),
            Piece::SourcePort => write!(text, "{}", facts.client.port()),
            Piece::Port => write!(text, "{}", facts.port),
            Piece::Tls => write!(text, "{}", u8::from(facts.is_tls)),
            Piece::User => return out.extend_from_slice(facts.user),
            // The last one, as HAProxy's fetch without an index.
            Piece::Field(name) => {
                let last = headers.get_all(name).iter().next_back();
                return out.extend_from_slice(last.map_or(&b""[..], HeaderValue::as_bytes));
            }
        };
        out.extend_from_slice(text.as_bytes());
    }
}

impl Condition {
    fn holds(&self, headers: &HeaderMap, facts: &Facts<'_>) -> bool {
        let holds = match &self.test {
            Test::Tls => facts.is_tls,
            Test::Port(ports) => ports.contains(&facts.port),
            Test::Source(prefixes) => prefixes.contains(facts.client.ip()),
            Test::Found(name) => headers.contains_key(name),
            Test::Compared(field, comparison) => headers.get_all(&field.name).iter().any(|value| {
                let value = value.as_bytes();
                let mut items = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                comparison.holds(value) || field.has_items && items.any(|item| comparison.holds(item))
            }),
        };
        holds != self.is_negated
    }
}

/// Words between blanks; quotes and backslashes as in HAProxy.
fn words(text: &str) -> Vec<String> {
    let (mut found, mut word) = (Vec::new(), None::<String>);
    let (mut quote, mut chars) = (None, text.chars());
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (mark, Some(open)) if mark == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (space, None) if space.is_whitespace() => found.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    found.extend(word);
    found
}

fn conditions(words: &[String], fetches: Fetches) -> Result<Vec<Condition>, String> {
    let mut found = Vec::new();
    let mut rest = words;
    while let [first, ..] = rest {
        let is_negated = first.starts_with('!');
        let opens = first == "{" || first == "!{";
        let close = rest.iter().position(|word| word == "}");
        let (true, Some(close)) = (opens, close) else {
            return Err(format!(
                "the condition `{}` is not in braces, such as `{{ ssl_fc }}`",
                words.join(" ")
            ));
        };
        let test = test(&rest[1..close], fetches)?;
        found.push(Condition { test, is_negated });
        rest = &rest[close + 1..];
    }
    match found.is_empty() {
        true => Err("has no condition behind `if` or `unless`".into()),
        false => Ok(found),
    }
}

fn test(words: &[String], fetches: Fetches) -> Result<Test, String> {
    let unknown = || {
        let text = words.join(" ");
        let known =
            "ssl_fc, dst_port, src and hdr(NAME), also as hdr_beg, hdr_end, hdr_sub, hdr_dom, hdr_reg";
        let native =
            "paths, methods and agents are servicePath.N, allowedMethods.N, userAgent.N of a destination";
        format!("the condition `{text}` is not supported: there are {known}; {native}")
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [fetch, values @ ..] = &words[..] else {
        return Err("has an empty condition".into());
    };
    match (*fetch, values) {
        ("ssl_fc", []) => Ok(Test::Tls),
        ("dst_port", [_, ..]) => {
            let ports: Result<_, _> = values.iter().map(|port| port.parse()).collect();
            ports.map(Test::Port).map_err(|_| unknown())
        }
        ("src", [_, ..]) => PrefixSet::parse(values.iter().copied()).map(Test::Source),
        (fetch, values) => {
            let (function, rest) = fetch.split_once('(').ok_or_else(unknown)?;
            let (function, ending) = compare::ending(function);
            if !fetches.contains(&function) {
                return Err(unknown());
            }
            let name = field(rest.strip_suffix(')').ok_or_else(unknown)?.trim())?;
            Ok(match Asked::parse(ending, values)? {
                Asked::Found => Test::Found(name),
                Asked::Value(comparison) => {
                    let has_items = !function.ends_with("fhdr");
                    Test::Compared(FieldOf { name, has_items }, comparison)
                }
            })
        }
    }
}

/// Whoever may configure a service must not be able to read the proxy's own passwords with it.
fn refuse_secret(variable: &str) -> Result<(), String> {
    const PARTS: [&str; 5] = ["USERS", "PASS", "TOKEN", "SECRET", "KEY"];
    let name = variable.to_ascii_uppercase();
    match PARTS.iter().any(|part| name.contains(part)) {
        true => Err(format!("`%[env({variable})]` could be a password")),
        false => Ok(()),
    }
}

/// What stands in the parentheses of one of these functions.
fn argument<'a>(fetch: &'a str, functions: &[&str]) -> Option<&'a str> {
    let (function, argument) = fetch.trim().strip_suffix(')')?.split_once('(')?;
    functions.contains(&function).then_some(argument.trim())
}

fn field(name: &str) -> Result<HeaderName, String> {
    field_name(name).or_else(|_| {
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not a field name"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value for a client 192.0.2.1:5 at port 443 with TLS, and a field `X-In: a`, `X-In: b`.
    fn value(text: &str) -> Result<Option<String>, String> {
        let mut headers = HeaderMap::new();
        for value in ["a", "b"] {
            headers.append("x-in", HeaderValue::from_static(value));
        }
        let facts = Facts {
            client: "[::ffff:192.0.2.1]:5".parse().unwrap(),
            port: 443,
            is_tls: true,
            user: b"me",
        };
        headers.append("x-list", HeaderValue::from_static("Anna, www.Acme.com:80"));
        let value = Expression::parse(text, REQUEST)?.value(&headers, &facts);
        Ok(value.map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn values_are_text_and_what_the_connection_knows() {
        for (text, want) in [
            ("b", "b"),
            ("\"b  c\"", "b  c"),
            ("b\\ c", "b c"),
            ("b  c", "b c"),
            ("'q\"q'", "q\"q"),
            ("%[src]", "192.0.2.1"),
            ("a-%[ src_port ]-%[dst_port]%[ssl_fc]", "a-5-4431"),
            ("\"p %[hdr(X-In)] %[req.hdr(X-None)]|\"", "p b |"),
            ("if", "if"),
            ("x%[env(CARGO_PKG_NAME)]", "xproxy-user"),
            ("100%", "100%"),
            ("%[http_auth_group(defaultUsers)]", "me"),
        ] {
            assert_eq!(value(text).unwrap().as_deref(), Some(want), "{text}");
        }
    }

    #[test]
    fn conditions_decide_whether_a_value_counts() {
        for (condition, want) in [
            ("if { ssl_fc }", true),
            ("unless { ssl_fc }", false),
            ("if !{ ssl_fc }", false),
            ("if { dst_port 80 443 }", true),
            ("if { src 192.0.2.0/24 }", true),
            ("if { src 10.0.0.0/8 }", false),
            ("if { hdr(X-In) -m found }", true),
            ("if { hdr(X-In) a }", true),
            ("if { hdr(X-In) c }", false),
            ("if { hdr(X-In) -m str c b }", true),
            ("if { hdr(X-List) Anna }", true),
            ("if { hdr(X-List) anna }", false),
            ("if { hdr(X-List) -i anna }", true),
            ("if { req.fhdr(X-List) Anna }", false),
            ("if { req.fhdr_beg(X-List) Anna }", true),
            ("if { hdr_beg(X-List) www }", true),
            ("if { hdr_beg(X-List) cme }", false),
            ("if { hdr_end(X-List) :80 }", true),
            ("if { hdr_end(X-List) -- -80 :80 }", true),
            ("if { hdr_sub(X-List) acme }", false),
            ("if { hdr_sub(X-List) -i acme }", true),
            ("if { hdr(X-List) -i -m sub acme }", true),
            ("if { hdr_dom(X-List) Acme.com }", true),
            ("if { hdr_dom(X-List) -i acme }", true),
            ("if { hdr_dom(X-List) cme.com }", false),
            ("if { hdr_reg(X-List) ^A.{2}a$ }", true),
            ("if { hdr_reg(X-List) -i ^WWW\\.(acme|other)\\. }", true),
            ("if { hdr_reg(X-List) ^WWW }", false),
            ("if { hdr_sub(X-None) a }", false),
            ("if { ssl_fc } { dst_port 80 }", false),
            ("if { ssl_fc } !{ dst_port 80 }", true),
            ("unless { ssl_fc } { dst_port 80 }", true),
        ] {
            let got = value(&format!("v {condition}")).unwrap();
            assert_eq!(got.is_some(), want, "{condition}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "%[date]",
            "%[src",
            "%[env(USERS)]",
            "%[env(stats_pass)]",
            "%[res.hdr(a)]",
            "v if",
            "v if is_acl",
            "v if { ssl_fc",
            "v if { path /a }",
            "%[http_auth_group]",
            "v if { path_beg /a }",
            "v if { hdr(X) -m ip 10.0.0.1 }",
            "v if { hdr(X) -f file }",
            "v if { hdr_beg(X) }",
            "v if { hdr_beg(X) -m found }",
            "v if { hdr_reg(X) ( }",
            "v if { hdr_cnt(X) 1 }",
            "v if { res.hdr_beg(X) a }",
            "v if { src nowhere }",
            "v if { ssl_fc } or { ssl_fc }",
            "v if { }",
            "a\u{1}b",
        ] {
            assert!(value(text).is_err(), "{text}");
        }
        assert!(Expression::parse("%[res.hdr(a)]", RESPONSE).is_ok());
        assert!(Expression::parse("v if { res.hdr_beg(a) b }", RESPONSE).is_ok());
        assert!(Expression::parse("%[http_auth_group(a)]", RESPONSE).is_err());
        let error = value("v if { path_beg /a }").unwrap_err();
        assert!(error.contains("servicePath.N"), "{error}");
    }
}
