// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path rewriting: `reqPathSearchReplace` and its deprecated pair.

use std::borrow::Cow;

use regex::Regex;

use super::limits;

/// One rule: the first match (or all, with the flag `g`) is replaced.
#[derive(Clone, Debug)]
pub struct Rewrite {
    search: Regex,
    replace: String,
    all: bool,
}

impl Rewrite {
    /// A rule from its parts; `replace` refers to groups as `\1`.
    pub fn new(search: &str, replace: &str, all: bool) -> Result<Self, String> {
        let search = regex(search)?;
        Ok(Rewrite {
            search,
            replace: groups(replace),
            all,
        })
    }

    /// Reads `search,replace[,flags]:search,replace…`. A separator after a backslash belongs to the expression.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        let mut rules = Vec::new();
        for rule in split(text, ':') {
            let parts: Vec<&str> = split(rule, ',').collect();
            match parts[..] {
                [search, replace] => rules.push(Rewrite::new(search, replace, false)?),
                [search, replace, flags] => rules.push(Rewrite::new(search, replace, flags.contains('g'))?),
                _ => return Err(format!("`{rule}` is not `search,replace`")),
            }
        }
        Ok(rules)
    }

    /// The path after this rule.
    pub fn apply<'a>(&self, path: &'a str) -> Cow<'a, str> {
        if self.all {
            self.search.replace_all(path, &*self.replace)
        } else {
            self.search.replace(path, &*self.replace)
        }
    }
}

/// Compiles an expression within the size limit; linear time is the crate's promise.
pub fn regex(text: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(text)
        .size_limit(limits::REGEX_BYTES_MAX)
        .build()
        .map_err(|error| error.to_string())
}

/// `\1` is HAProxy's reference to a group, `$` has no meaning there.
fn groups(replace: &str) -> String {
    let mut out = String::with_capacity(replace.len());
    let mut chars = replace.chars();
    while let Some(char) = chars.next() {
        match char {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                Some('$') => out.push_str("$$"),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out
}

fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |char: char| {
        let cut = char == separator && !escaped;
        escaped = char == '\\' && !escaped;
        cut
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &str, path: &str, want: &str) {
        let rules = Rewrite::parse_all(rules).expect(rules);
        let got = rules
            .iter()
            .fold(path.to_owned(), |path, rule| rule.apply(&path).into_owned());
        assert_eq!(got, want);
    }

    #[test]
    fn rules_are_applied_in_order_to_the_previous_result() {
        check("/something/,/else/", "/something/a", "/else/a");
        check("/a/,/b/:/b/,/c/", "/a/x", "/c/x");
        check("a,b", "/aaa", "/baa");
        check("a,b,g", "/aaa", "/bbb");
        check("^/api/(.*)$,/\\1", "/api/x+y", "/x+y");
        check("/a\\:b,/$1", "/a:b", "/$1");
        check("^/demo,", "/demo/x", "/x");
    }

    #[test]
    fn wrong_rules_are_refused() {
        assert!(Rewrite::parse_all("onlysearch").is_err());
        assert!(Rewrite::parse_all("(,x").is_err());
    }
}
