// SPDX-License-Identifier: MIT OR Apache-2.0
//! A text that must not reach an answer or a log.

use serde::{Serialize, Serializer};

/// What stands in answers for a password or a key.
pub const REDACTED: &str = "(redacted)";

/// A password. Whoever prints or serialises it gets [`REDACTED`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

/// Whether a field with this name usually has a secret in it.
pub fn is_in(field: &str) -> bool {
    const PARTS: [&str; 8] = [
        "authorization",
        "cookie",
        "token",
        "secret",
        "passw",
        "api-key",
        "apikey",
        "credential",
    ];
    let field = field.to_ascii_lowercase();
    PARTS.iter().any(|part| field.contains(part)) || field.split('-').any(|word| word == "auth")
}

/// A header rule, `Name value`, as it may be shown.
pub fn shown_rule(rule: &str) -> String {
    match rule.trim().split_once(char::is_whitespace) {
        Some((name, _)) if is_in(name) => format!("{name} {REDACTED}"),
        _ => rule.to_owned(),
    }
}

/// Header rules as they may be shown. What follows a secret may be a part of it that had a separator in it.
pub fn shown_rules(rules: &[String]) -> Vec<String> {
    let mut is_behind = false;
    let shown = rules
        .iter()
        .map(|rule| match rule.trim().split_once(char::is_whitespace) {
            None if is_behind => REDACTED.to_owned(),
            pair => {
                is_behind = pair.is_some_and(|(name, _)| is_in(name));
                shown_rule(rule)
            }
        });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_telling_fields_are_not_shown() {
        let rules = [
            "X-A b",
            "Authorization Basic YTpi",
            "c2Vj",
            "X-Author me",
            "X-Auth-Token t if { ssl_fc }",
        ];
        let shown = shown_rules(&rules.map(String::from));
        let hidden = [
            "X-A b",
            "Authorization (redacted)",
            "(redacted)",
            "X-Author me",
            "X-Auth-Token (redacted)",
        ];
        assert_eq!(shown, hidden);
        for (name, want) in [
            ("Cookie", true),
            ("X-Api-Key", true),
            ("Host", false),
            ("X-Authority", false),
        ] {
            assert_eq!(is_in(name), want, "{name}");
        }
    }
}
