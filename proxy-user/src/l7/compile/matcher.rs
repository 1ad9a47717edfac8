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
    let one = |value: &str| {
        let text: Box<str> = value.into();
        Ok(match path_type {
            "" | "path_beg" => PathPattern::Begins(text),
            "path" => PathPattern::Equals(text),
            "path_end" => PathPattern::Ends(text),
            "path_sub" => PathPattern::Contains(text),
            "path_dir" => PathPattern::Segments(text),
            "path_reg" => PathPattern::Regex(regex(value).map_err(|text| Problem::new(parameter, text))?),
            other => {
                let known = "path, path_beg, path_end, path_sub, path_dir, path_reg";
                return Err(Problem::new(
                    "pathType",
                    format!("`{other}` is not one of {known}"),
                ));
            }
        })
    };
    words(values).map(one).collect()
}
