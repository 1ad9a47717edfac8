// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a rule asks of a request: paths, domains, fields, port.

use hyper::header::HeaderName;

use super::Shared;
use crate::l7::domain::{DomainAlgo, DomainPattern};
use crate::l7::params::Problem;
use crate::l7::rewrite::regex;
use crate::l7::router::{Matcher, PathPattern};
use crate::l7::spec::DestSpec;

impl Shared<'_> {
    pub(super) fn matcher(&self, dest: &DestSpec, port: u16) -> Result<Matcher, Problem> {
        let user_agents = dest.user_agent.value.as_deref().unwrap_or_default();
        Ok(Matcher {
            paths: paths("servicePath", dest.paths(), &dest.path_type)?,
            excludes: paths(
                "servicePathExclude",
                dest.service_path_exclude.as_deref().unwrap_or_default(),
                &dest.path_type,
            )?,
            domains: domains("serviceDomain", dest.domains(), self.algo)?,
            headers: (dest.service_header.iter().flatten())
                .map(|(name, value)| match HeaderName::from_bytes(name.as_bytes()) {
                    Ok(name) => Ok((name, value.as_bytes().into())),
                    Err(_) => Err(Problem::new(
                        "serviceHeader",
                        format!("`{name}` is not a field name"),
                    )),
                })
                .collect::<Result<_, _>>()?,
            user_agents: user_agents.iter().map(|agent| agent.as_bytes().into()).collect(),
            port: (port != 0).then_some(port),
        })
    }
}

/// The patterns in a list. Blanks separate them as commas do, because the original writes them into a line of
/// HAProxy's; so an empty item is none, and cannot match everything.
pub(in crate::l7) fn words(values: &[String]) -> impl Iterator<Item = &str> {
    values.iter().flat_map(|value| value.split_whitespace())
}

pub(super) fn domains(
    parameter: &str,
    values: &[String],
    algo: DomainAlgo,
) -> Result<Vec<DomainPattern>, Problem> {
    let patterns: Vec<_> = words(values)
        .map(|domain| DomainPattern::new(domain, algo))
        .collect();
    // No pattern would mean every host.
    match patterns.is_empty() && !values.is_empty() {
        true => Err(Problem::new(parameter, "has no domain in it")),
        false => Ok(patterns),
    }
}

fn paths(parameter: &str, values: &[String], path_type: &str) -> Result<Vec<PathPattern>, Problem> {
    let (criterion, any_case) = criterion(path_type)?;
    let whole = |text: String| {
        let text = if any_case { format!("(?i:{text})") } else { text };
        regex(&text).map_err(|text| Problem::new(parameter, text))
    };
    let one = |value: &str| {
        let (text, quoted): (Box<str>, _) = (value.into(), regex::escape(value));
        Ok(match (criterion, any_case) {
            (Criterion::Begins, false) => PathPattern::Begins(text),
            (Criterion::Equals, false) => PathPattern::Equals(text),
            (Criterion::Ends, false) => PathPattern::Ends(text),
            (Criterion::Contains, false) => PathPattern::Contains(text),
            (Criterion::Segments, false) => PathPattern::Segments(text),
            (Criterion::Regex, _) => PathPattern::Regex(whole(value.to_owned())?),
            (Criterion::Begins, true) => PathPattern::Regex(whole(format!("^{quoted}"))?),
            (Criterion::Equals, true) => PathPattern::Regex(whole(format!("^{quoted}$"))?),
            (Criterion::Ends, true) => PathPattern::Regex(whole(format!("{quoted}$"))?),
            (Criterion::Contains, true) => PathPattern::Regex(whole(quoted)?),
            (Criterion::Segments, true) => {
                let quoted = regex::escape(value.trim_matches('/'));
                PathPattern::Regex(whole(format!("(?:^|/){quoted}(?:/|$)"))?)
            }
        })
    };
    words(values).map(one).collect()
}

/// How a path is compared.
#[derive(Clone, Copy)]
enum Criterion {
    Begins,
    Equals,
    Ends,
    Contains,
    Segments,
    Regex,
}

/// Reads HAProxy's criterion with its flags: `path_beg -i`, `path -m end`. Also whether case does not matter.
fn criterion(text: &str) -> Result<(Criterion, bool), Problem> {
    let wrong = || {
        let known = "path, path_beg, path_end, path_sub, path_dir, path_reg, with the flags -i and -m";
        Problem::new("pathType", format!("`{text}` is not one of {known}"))
    };
    let mut words = text.split_whitespace();
    let mut criterion = match words.next() {
        None | Some("path_beg") => Criterion::Begins,
        Some("path") => Criterion::Equals,
        Some("path_end") => Criterion::Ends,
        Some("path_sub") => Criterion::Contains,
        Some("path_dir") => Criterion::Segments,
        Some("path_reg") => Criterion::Regex,
        Some(_) => return Err(wrong()),
    };
    let mut any_case = false;
    while let Some(flag) = words.next() {
        match flag {
            "--" => {}
            "-i" => any_case = true,
            "-m" => {
                criterion = match words.next() {
                    Some("beg") => Criterion::Begins,
                    Some("str") => Criterion::Equals,
                    Some("end") => Criterion::Ends,
                    Some("sub") => Criterion::Contains,
                    Some("dir") => Criterion::Segments,
                    Some("reg") => Criterion::Regex,
                    _ => return Err(wrong()),
                }
            }
            _ => return Err(wrong()),
        }
    }
    Ok((criterion, any_case))
}
