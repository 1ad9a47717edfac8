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
    let given = [("serviceCert", !spec.service_cert.is_empty())];
    let of_destinations = spec.service_dest.iter().flat_map(|dest| {
        [
            (
                "reqMode",
                !matches!(dest.req_mode.as_str(), "" | "http" | "tcp" | "sni"),
            ),
            ("verifyClientSsl", dest.verify_client_ssl),
        ]
    });
    match given
        .into_iter()
        .chain(of_destinations)
        .find(|(_, is_given)| *is_given)
    {
        Some((name, _)) => Err(Problem::new(name, "is not supported yet")),
        None => Ok(()),
    }
}
