// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts of the go-demo stand-in that do no I/O.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Documents that the database keeps; a PUT of a new name beyond this is refused.
pub const DOCUMENTS_MAX: usize = 10_000;

/// The database: names and documents, in memory.
#[derive(Clone, Default)]
pub struct Store {
    documents: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Store {
    /// Answers one line: `PUT name document` or `GET name` → `OK [document]`, `NONE` or `ERR why`.
    pub fn answer(&self, line: &str) -> String {
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        let mut words = line.splitn(3, ' ');
        match (
            words.next(),
            words.next().filter(|name| !name.is_empty()),
            words.next(),
        ) {
            (Some("PUT"), Some(name), document) => {
                if documents.len() >= DOCUMENTS_MAX && !documents.contains_key(name) {
                    return "ERR full".to_owned();
                }
                let document = document.unwrap_or_default().to_owned();
                documents.insert(name.to_owned(), document.clone());
                format!("OK {document}")
            }
            (Some("GET"), Some(name), None) => documents
                .get(name)
                .map_or_else(|| "NONE".to_owned(), |document| format!("OK {document}")),
            _ => "ERR not GET name or PUT name document".to_owned(),
        }
    }
}

/// The first address of an X-Forwarded-For value: the client, as the first proxy saw it.
pub fn leftmost(forwarded_for: &str) -> Option<&str> {
    forwarded_for
        .split(',')
        .next()
        .map(str::trim)
        .filter(|address| !address.is_empty())
}

/// The raw value of a query parameter.
pub fn query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        pair.split_once('=')
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value)
    })
}

/// Undoes percent-encoding (RFC 3986 section 2.1); a broken escape stays as it is.
pub fn percent_decode(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = escape
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// What `/demo/person` answers.
pub fn json_person(name: &str, document: &str) -> String {
    format!("{}\n", serde_json::json!({ "Name": name, "Document": document }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_person_is_found_and_another_is_not() {
        let store = Store::default();
        assert_eq!(store.answer("PUT ada first programmer"), "OK first programmer");
        assert_eq!(store.answer("GET ada"), "OK first programmer");
        assert_eq!(store.answer("GET bob"), "NONE");
    }

    #[test]
    fn a_wrong_line_is_an_error_and_stores_nothing() {
        let store = Store::default();
        for line in ["", "GET", "GET ", "PUT", "DEL ada", "GET ada x"] {
            assert!(store.answer(line).starts_with("ERR"), "{line:?}");
        }
        assert_eq!(store.answer("GET ada"), "NONE");
    }

    #[test]
    fn the_client_is_the_leftmost_forwarded_address() {
        assert_eq!(leftmost("192.168.99.10, 10.0.1.3"), Some("192.168.99.10"));
        assert_eq!(leftmost(" 10.0.0.1 "), Some("10.0.0.1"));
        assert_eq!(leftmost(""), None);
    }

    #[test]
    fn query_values_are_decoded() {
        assert_eq!(
            query_value("a=1&name=%41da", "name")
                .map(percent_decode)
                .as_deref(),
            Some("Ada")
        );
        assert_eq!(query_value("a=1", "name"), None);
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%zz"), "%zz");
    }
}
