// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fields that a proxy must not pass on, and edits that a service asks for.

use hyper::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};

mod expression;

pub use expression::Facts;
use expression::{Expression, Fetches};

use super::secret;

/// What RFC 9110 §7.6.1 calls hop-by-hop. Transfer-Encoding too: the framing of the next hop is written by the proxy,
/// never copied.
static HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Removes the fields that Connection names, and those that are always for one hop.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // One look at the names there are costs less than a search for each of these, which are rare.
    let mut found = [false; HOP_BY_HOP.len()];
    for name in headers.keys() {
        let at = match name.as_str() {
            "connection" => 0,
            "transfer-encoding" => 1,
            "te" => 2,
            "upgrade" => 3,
            "proxy-authorization" => 4,
            "keep-alive" => 5,
            "proxy-connection" => 6,
            _ => continue,
        };
        found[at] = true;
    }
    if found[0] {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            // The end-to-end fields that a sender must not be able to take away by naming them.
            .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for (name, _) in HOP_BY_HOP.iter().zip(found).filter(|(_, found)| *found) {
        headers.remove(name);
    }
}

/// Whether a comma-separated field has a token, in any case.
pub fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

/// Puts the parts of Cookie that HTTP/2 may send apart into one field again (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut parts = headers.get_all(header::COOKIE).iter();
    if parts.next().is_none() || parts.next().is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    // The parts were valid values, and so are a semicolon and a space.
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Appends the client's address to X-Forwarded-For, in one field whatever the client sent.
pub fn append_forwarded_for(headers: &mut HeaderMap, client: &HeaderValue) {
    const NAME: HeaderName = HeaderName::from_static("x-forwarded-for");
    let name = match headers.entry(NAME) {
        Entry::Vacant(entry) => {
            entry.insert(client.clone());
            return;
        }
        Entry::Occupied(_) => NAME,
    };
    let mut joined = Vec::new();
    for value in headers.get_all(&name) {
        joined.extend_from_slice(value.as_bytes());
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(client.as_bytes());
    // The parts were valid values, and so are a comma and a space.
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, value);
    }
}

/// Additions, replacements and deletions of fields, in the original's order: add, set, delete.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    add: Vec<(HeaderName, Expression)>,
    set: Vec<(HeaderName, Expression)>,
    delete: Vec<HeaderName>,
}

impl HeaderEdits {
    /// Reads the three lists for requests. An error says what is wrong with which of them (0, 1 or 2).
    pub fn of_request(add: &[String], set: &[String], delete: &[String]) -> Result<Self, (usize, String)> {
        HeaderEdits::parse(add, set, delete, expression::REQUEST)
    }

    /// The same for answers.
    pub fn of_response(add: &[String], set: &[String], delete: &[String]) -> Result<Self, (usize, String)> {
        HeaderEdits::parse(add, set, delete, expression::RESPONSE)
    }

    fn parse(
        add: &[String],
        set: &[String],
        delete: &[String],
        fetches: Fetches,
    ) -> Result<Self, (usize, String)> {
        let pairs = |which: usize, items: &[String]| -> Result<Vec<_>, (usize, String)> {
            items
                .iter()
                .map(|item| {
                    pair(item, fetches).map_err(|text| {
                        // An error quotes what it is about.
                        let is_shown = secret::shown_rules(items).iter().any(|shown| shown == item);
                        let hidden = "the value of a field that is not shown cannot be used";
                        (which, if is_shown { text } else { hidden.to_owned() })
                    })
                })
                .collect()
        };
        Ok(HeaderEdits {
            add: pairs(0, add)?,
            set: pairs(1, set)?,
            delete: delete
                .iter()
                .map(|item| field_name(item.trim()))
                .collect::<Result<_, _>>()
                .map_err(|t| (2, t))?,
        })
    }

    /// Applies them.
    pub fn apply(&self, headers: &mut HeaderMap, facts: &Facts<'_>) {
        for (name, expression) in &self.add {
            if let Some(value) = expression.value(headers, facts) {
                headers.append(name.clone(), value);
            }
        }
        for (name, expression) in &self.set {
            if let Some(value) = expression.value(headers, facts) {
                headers.insert(name.clone(), value);
            }
        }
        for name in &self.delete {
            headers.remove(name);
        }
    }
}

/// Reads `Name value [if …]`.
fn pair(item: &str, fetches: Fetches) -> Result<(HeaderName, Expression), String> {
    let item = item.trim();
    let (name, value) = item
        .split_once(char::is_whitespace)
        .ok_or_else(|| format!("`{item}` is not `Name value`"))?;
    Ok((field_name(name)?, Expression::parse(value, fetches)?))
}

fn field_name(text: &str) -> Result<HeaderName, String> {
    let name =
        HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is not a field name"))?;
    let is_framing = [
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
    ]
    .contains(&name);
    match is_framing {
        true => Err(format!("`{text}` belongs to the connection and cannot be edited")),
        false => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn fields_of_the_connection_are_stripped() {
        let mut headers = map(&[
            ("connection", "X-Secret, keep-alive"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "Chunked"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("host", "a"),
            ("x-kept", "1"),
        ]);
        headers.append(header::CONNECTION, HeaderValue::from_static("Host"));
        strip_hop_by_hop(&mut headers);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-kept"]);
    }

    #[test]
    fn the_client_is_appended_to_what_it_sent() {
        let client = HeaderValue::from_static("192.0.2.1");
        let mut headers = HeaderMap::new();
        append_forwarded_for(&mut headers, &client);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
        let mut headers = map(&[("x-forwarded-for", "10.0.0.1")]);
        headers.append("x-forwarded-for", HeaderValue::from_static("10.0.0.2"));
        append_forwarded_for(&mut headers, &client);
        assert_eq!(
            headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(),
            ["10.0.0.1, 10.0.0.2, 192.0.2.1"]
        );
    }

    #[test]
    fn edits_are_made_in_their_order_and_framing_is_not_edited() {
        let facts = Facts {
            client: "192.0.2.1:5".parse().unwrap(),
            port: 80,
            is_tls: false,
            user: b"",
        };
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let edits = HeaderEdits::of_request(
            &list(&["X-A 2", "X-B b if { ssl_fc }"]),
            &list(&["X-C was-%[hdr(X-A)]", "X-D d unless { ssl_fc }"]),
            &list(&["X-A"]),
        );
        let mut headers = map(&[("x-a", "1"), ("x-d", "old")]);
        edits.unwrap().apply(&mut headers, &facts);
        assert_eq!(headers, map(&[("x-c", "was-2"), ("x-d", "d")]));
        for text in ["X-A", "X:A b", "Content-Length 5", "X-A %[date]"] {
            assert!(
                HeaderEdits::of_request(&list(&[text]), &[], &[]).is_err(),
                "{text}"
            );
        }
        assert_eq!(
            HeaderEdits::of_response(&[], &[], &list(&["Transfer-Encoding"]))
                .unwrap_err()
                .0,
            2
        );
    }
}
