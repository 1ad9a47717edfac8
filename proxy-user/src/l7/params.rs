// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a reconfigure query: the rules of the original, and nothing that depends on them being right.
//!
//! A query becomes a [`ServiceSpec`](super::spec::ServiceSpec) and a list of [`Problem`]s; the caller decides which of
//! its checks come before the problems, because the order of status codes is part of the contract. Every name that is
//! read stands in [`known`].

mod destination;
pub mod known;
mod reader;
mod service;

pub use reader::read_service;

/// A decoded query, in the order of the URL.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Params(pub Vec<(String, String)>);

/// A parameter whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name as it stood in the query.
    pub name: String,
    /// What is wrong, without the name.
    pub text: String,
    /// The value is right, and this machine cannot do it now.
    pub is_ours: bool,
}

impl Problem {
    /// A problem with a parameter.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Problem {
            name: name.into(),
            text: text.into(),
            is_ours: false,
        }
    }

    /// A right value that this machine cannot honour now.
    pub fn ours(name: impl Into<String>, text: impl Into<String>) -> Self {
        Problem {
            is_ours: true,
            ..Problem::new(name, text)
        }
    }

    /// Status of the answer.
    pub fn status(&self) -> hyper::StatusCode {
        match self.is_ours {
            true => hyper::StatusCode::INTERNAL_SERVER_ERROR,
            false => hyper::StatusCode::BAD_REQUEST,
        }
    }
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
        let form = form_urlencoded::parse(body)
            .into_owned()
            .filter(|(name, _)| known::is_scalar(name));
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

    /// Takes a service-wide scalar away.
    pub fn unset(&mut self, name: &str) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// A service-wide boolean: Go's forms and `on`.
    pub fn flag(&self, name: &str) -> bool {
        self.scalar(name)
            .is_some_and(|value| go_bool(value) || value == "on")
    }

    /// The query again, with `distribute=false`, sorted by name as the original's fan-out sends it.
    pub fn for_sibling(&self) -> String {
        let mut pairs: Vec<(&str, &str)> = (self.0.iter())
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .filter(|(key, _)| !key.eq_ignore_ascii_case("distribute"))
            .chain([("distribute", "false")])
            .collect();
        // By name alone: of two values with one name the order counts.
        pairs.sort_by_key(|(key, _)| *key);
        let mut out = form_urlencoded::Serializer::new(String::new());
        for (key, value) in pairs {
            out.append_pair(key, value);
        }
        out.finish()
    }
}

/// Go's forms of true.
pub fn go_bool(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
