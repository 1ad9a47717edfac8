// SPDX-License-Identifier: MIT OR Apache-2.0
//! HAProxy's crt-list: which certificate files there are, in their order, and the names that each is for.

use std::path::PathBuf;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The file, absolute.
    pub file: PathBuf,
    /// Names in lower case; those of the certificate if empty.
    filters: Vec<String>,
    /// Names that it is not for.
    except: Vec<String>,
}

impl Line {
    /// The names that the certificate is for, of which its own are `names`.
    pub fn names(&self, names: &[String]) -> Vec<String> {
        let list = if self.filters.is_empty() {
            names
        } else {
            &self.filters
        };
        list.iter()
            .filter(|name| !self.except.contains(name))
            .cloned()
            .collect()
    }
}

/// Reads a list. Options of a line would change what TLS demands of its clients, so they are an error.
pub fn parse(text: &str) -> Result<Vec<Line>, String> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(line).collect()
}

fn line(text: &str) -> Result<Line, String> {
    let mut words = text.split_whitespace();
    let file = PathBuf::from(words.next().unwrap_or_default());
    let name = file.display().to_string();
    if !file.is_absolute() {
        return Err(format!("`{name}` is not an absolute path"));
    }
    let (mut filters, mut except) = (Vec::new(), Vec::new());
    for word in words {
        if word.starts_with('[') {
            return Err(format!(
                "`{name}`: options in brackets are not supported; SSL_BIND_OPTIONS is for all"
            ));
        }
        match word.strip_prefix('!') {
            Some(name) => except.push(name.to_ascii_lowercase()),
            None => filters.push(word.to_ascii_lowercase()),
        }
    }
    Ok(Line {
        file,
        filters,
        except,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_replace_the_names_and_exceptions_take_away() {
        let lines = parse("# c\n\n/a\n/b X.org *.y.org !z.y.org\n/c !own").unwrap();
        let own = ["own".to_owned(), "other".to_owned()];
        assert_eq!(lines[0].names(&own), own);
        assert_eq!(lines[1].names(&own), ["x.org", "*.y.org"]);
        assert_eq!(lines[2].names(&own), ["other"]);
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        assert!(parse("a.pem").unwrap_err().contains("a.pem"));
        assert!(parse("/a [alpn h2] x").unwrap_err().contains("/a"));
    }
}
