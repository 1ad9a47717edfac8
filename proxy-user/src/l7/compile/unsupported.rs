// SPDX-License-Identifier: MIT OR Apache-2.0
//! What would change behaviour and is not built is refused by name instead of ignored.

use crate::l7::params::Problem;
use crate::l7::snippets;
use crate::l7::spec::ServiceSpec;

const TEMPLATE: &str = "templates of HAProxy's configuration are not read; say what they say with parameters \
                        such as servicePath, serviceDomain, setReqHeader, reqPathSearchReplace and outboundHostname";

/// The first parameter that cannot be honoured.
pub fn refuse(spec: &ServiceSpec) -> Result<(), Problem> {
    if !spec.backend_extra.is_empty() {
        let lines: Vec<&str> = spec.backend_extra.lines().collect();
        return Err(Problem::new("backendExtra", snippets::refusal(&lines)));
    }
    let templates = [
        ("templateBePath", &spec.template_be_path),
        ("templateFePath", &spec.template_fe_path),
    ];
    if let Some((name, _)) = templates.iter().find(|(_, path)| !path.is_empty()) {
        return Err(Problem::new(*name, TEMPLATE));
    }
    let is_known = |mode: &str| matches!(mode, "" | "http" | "tcp" | "sni");
    match spec.service_dest.iter().all(|dest| is_known(&dest.req_mode)) {
        true => Ok(()),
        false => Err(Problem::new("reqMode", "is not supported yet")),
    }
}
