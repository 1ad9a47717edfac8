// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the value of a field is compared: HAProxy's `-m` and the endings of its fetches that mean the same.

use regex::Regex;

use crate::l7::domain::labels_match;
use crate::l7::rewrite::regex;

/// What a condition asks of a value.
#[derive(Clone, Debug)]
pub struct Comparison {
    how: How,
    any_case: bool,
    wanted: Vec<Box<str>>,
    expressions: Vec<Regex>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Equals,
    Begins,
    Ends,
    Contains,
    Labels,
    Regex,
}

/// Endings of fetches, which are also the words behind `-m`.
const NAMES: [(&str, How); 6] = [
    ("str", How::Equals),
    ("beg", How::Begins),
    ("end", How::Ends),
    ("sub", How::Contains),
    ("dom", How::Labels),
    ("reg", How::Regex),
];

/// What stands behind the fetch.
#[derive(Clone, Debug)]
pub enum Asked {
    /// `-m found`.
    Found,
    /// Whether one of the values is as wanted.
    Value(Comparison),
}

/// Splits `hdr_beg` into the fetch and its ending.
pub fn ending(function: &str) -> (&str, Option<&str>) {
    match function.rsplit_once('_') {
        Some((fetch, name)) if NAMES.iter().any(|(known, _)| *known == name) => (fetch, Some(name)),
        _ => (function, None),
    }
}

impl Asked {
    /// Reads flags and values.
    pub fn parse(ending: Option<&str>, words: &[&str]) -> Result<Self, String> {
        let mut name = ending.unwrap_or("str");
        let (mut any_case, mut rest) = (false, words);
        loop {
            rest = match rest {
                ["-i", rest @ ..] => {
                    any_case = true;
                    rest
                }
                ["-m", "found"] if ending.is_none() => return Ok(Asked::Found),
                ["-m", given, rest @ ..] => {
                    name = given;
                    rest
                }
                ["--", rest @ ..] => break Self::compared(name, any_case, rest),
                [flag, ..] if flag.starts_with('-') => {
                    break Err(format!("the flag `{flag}` is not supported"));
                }
                values => break Self::compared(name, any_case, values),
            };
        }
    }

    fn compared(name: &str, any_case: bool, values: &[&str]) -> Result<Self, String> {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        let how = known.map(|(_, how)| *how).ok_or_else(|| {
            let names = NAMES.map(|(known, _)| known).join(", ");
            format!("`-m {name}` is not one of found, {names}")
        })?;
        if values.is_empty() {
            return Err("the condition has nothing to compare with".into());
        }
        let mut expressions = Vec::new();
        if how == How::Regex {
            for value in values {
                let flags = if any_case { "(?i)" } else { "" };
                expressions.push(regex(&format!("{flags}{value}"))?);
            }
        }
        Ok(Asked::Value(Comparison {
            how,
            any_case,
            wanted: values.iter().map(|value| (*value).into()).collect(),
            expressions,
        }))
    }
}

impl Comparison {
    /// Whether the value is as wanted.
    pub fn holds(&self, value: &[u8]) -> bool {
        if self.how == How::Regex {
            let text = String::from_utf8_lossy(value);
            return self.expressions.iter().any(|regex| regex.is_match(&text));
        }
        let same = |a: &[u8], b: &[u8]| match self.any_case {
            true => a.eq_ignore_ascii_case(b),
            false => a == b,
        };
        self.wanted.iter().any(|wanted| {
            let wanted = wanted.as_bytes();
            let Some(behind) = value.len().checked_sub(wanted.len()) else {
                return false;
            };
            match self.how {
                How::Begins => same(&value[..wanted.len()], wanted),
                How::Ends => same(&value[behind..], wanted),
                How::Contains => (0..=behind).any(|from| same(&value[from..from + wanted.len()], wanted)),
                How::Labels => labels_match(value, wanted, same),
                How::Equals | How::Regex => same(value, wanted),
            }
        })
    }
}
