// SPDX-License-Identifier: MIT OR Apache-2.0
//! What closes the admin port.

use crate::l7::prefixes::PrefixSet;
use crate::l7::secret::Secret;
use crate::l7::tls::AdminTls;

/// Who may use the admin port. Empty lists ask nothing.
#[derive(Clone, Debug, Default)]
pub struct Admin {
    /// Bearer tokens. All are accepted, so that one can be replaced by another; the first is sent to siblings.
    pub tokens: Vec<Token>,
    /// Source addresses.
    pub allow: PrefixSet,
    /// TLS, and perhaps certificates of callers.
    pub tls: Option<AdminTls>,
}

impl Admin {
    /// Whether anybody may do anything.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty() && self.allow.is_empty() && !self.needs_certificate()
    }

    /// Whether callers must show a certificate.
    pub fn needs_certificate(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.needs_certificate)
    }

    /// In words, for status and log.
    pub fn describe(&self) -> String {
        if self.is_open() {
            return "open to everyone who can reach it".into();
        }
        let mut needs = Vec::new();
        if !self.tokens.is_empty() {
            needs.push("a bearer token".to_owned());
        }
        if !self.allow.is_empty() {
            needs.push("a source address that PORTICO_ADMIN_ALLOW names".to_owned());
        }
        if self.needs_certificate() {
            needs.push("a client certificate of an authority in PORTICO_ADMIN_CA_FILE".to_owned());
        }
        format!("closed without {}", needs.join(" and "))
    }
}

/// A bearer token, which nothing prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(Secret);

impl Token {
    /// A token; none of nothing.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        // It goes into a header, so it has no blanks or control characters.
        let is_token = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| Token(Secret::new(text)))
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

/// The tokens in a file: one on each line.
pub fn parse_tokens(text: &str) -> Result<Vec<Token>, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let tokens: Vec<Token> = lines
        .map(|line| Token::new(line).ok_or("a token has a blank or a character that is not ASCII in it"))
        .collect::<Result<_, _>>()?;
    match tokens.is_empty() {
        true => Err("there is no token in it".into()),
        false => Ok(tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stand_on_lines_and_are_never_shown() {
        let tokens = parse_tokens("one\n\n two \r\n").unwrap();
        assert_eq!(
            tokens.iter().map(Token::reveal).collect::<Vec<_>>(),
            ["one", "two"]
        );
        assert!(!format!("{tokens:?}").contains("one"));
        assert!(parse_tokens("").is_err() && parse_tokens("\n \n").is_err());
        assert!(parse_tokens("a b").is_err() && parse_tokens("ä").is_err());
    }
}
