// SPDX-License-Identifier: MIT OR Apache-2.0
//! Services in variables of the proxy: `DFP_SERVICE_*` and `DFP_SERVICE_1_*`, `DFP_SERVICE_2_*`, …
//!
//! A variable's name is its parameter's in capitals: `SERVICE_PATH` is servicePath. Every parameter may be said so,
//! also those that the original does not read here. A destination with a number needs a path or a domain, and a port;
//! it takes nothing from the one without a number but OUTBOUND_HOSTNAME, and that one stays a destination beside it.

use super::params::known::{PARAMETERS, Parameter, Scope};
use super::params::{Params, Problem, read_service};
use super::settings::ServiceDefaults;
use super::spec::{DestSpec, ServiceSpec};

/// Highest number of a destination.
const INDEX_MAX: u32 = 10;

/// A service and the prefix of its variables.
#[derive(Clone, Debug)]
pub struct Service {
    /// `DFP_SERVICE`, or `DFP_SERVICE_1`.
    pub prefix: String,
    /// The service-wide part and the destination without a number, as a query would have them.
    pub params: Params,
    /// All of it.
    pub spec: ServiceSpec,
}

impl Service {
    /// The variable that stands for a parameter in a problem.
    pub fn variable(&self, parameter: &str) -> String {
        let (name, number) = match parameter.split_once('.') {
            Some((name, number)) => (name, format!("_{number}")),
            None => (parameter, String::new()),
        };
        format!("{}_{}{number}", self.prefix, capitals(name))
    }
}

/// Reads all of them. An error names the variable.
pub fn services(
    get: &dyn Fn(&str) -> Option<String>,
    defaults: &ServiceDefaults,
    protocol: &str,
) -> Result<Vec<Service>, String> {
    let mut reader = Reader {
        get,
        // The original splits at commas here whatever SEPARATOR says.
        defaults: ServiceDefaults {
            separator: ",".into(),
            ..defaults.clone()
        },
        protocol,
        found: Vec::new(),
    };
    reader.read("DFP_SERVICE")?;
    for number in 1.. {
        if !reader.read(&format!("DFP_SERVICE_{number}"))? {
            break;
        }
    }
    Ok(reader.found)
}

struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    defaults: ServiceDefaults,
    protocol: &'a str,
    found: Vec<Service>,
}

impl Reader<'_> {
    fn value(&self, name: &str) -> Option<String> {
        (self.get)(name).filter(|value| !value.is_empty())
    }

    /// Reads the service of a prefix; false when there is none.
    fn read(&mut self, prefix: &str) -> Result<bool, String> {
        if self.value(&format!("{prefix}_SERVICE_NAME")).is_none() {
            return Ok(false);
        }
        let params = self.params(prefix, "", |_| true);
        let (spec, problems) = read_service(&params, &self.defaults);
        let mut service = Service {
            prefix: prefix.into(),
            params,
            spec,
        };
        if let Some(problem) = problems.first() {
            return Err(said(&service, problem));
        }
        let has_plain = ["PATH", "DOMAIN"]
            .iter()
            .any(|what| self.value(&format!("{prefix}_SERVICE_{what}")).is_some())
            || self.value(&format!("{prefix}_PORT")).is_some();
        if !has_plain {
            service.spec.service_dest.clear();
        }
        for index in 1..=INDEX_MAX {
            match self.destination(&service, index)? {
                Some(dest) => service.spec.service_dest.push(dest),
                None => break,
            }
        }
        check(&service)?;
        self.found.push(service);
        Ok(true)
    }

    fn destination(&self, service: &Service, index: u32) -> Result<Option<DestSpec>, String> {
        let prefix = &service.prefix;
        let has = |name: &str| self.value(&format!("{prefix}_{name}_{index}")).is_some();
        if !has("PORT") || !has("SERVICE_PATH") && !has("SERVICE_DOMAIN") {
            return Ok(None);
        }
        let mut params = self.params(prefix, &format!("_{index}"), |known| {
            known.scope == Scope::Destination
        });
        if params.first("outboundHostname").is_none()
            && let Some(host) = service.params.first("outboundHostname")
        {
            params.0.push(("outboundHostname".into(), host.into()));
        }
        let (spec, problems) = read_service(&params, &self.defaults);
        if let Some(problem) = problems.first() {
            let name = format!("{}.{index}", problem.name);
            return Err(said(service, &Problem::new(name, problem.text.clone())));
        }
        let dest = spec.service_dest.into_iter().next();
        Ok(dest.map(|dest| DestSpec { index, ..dest }))
    }

    fn params(&self, prefix: &str, suffix: &str, wanted: impl Fn(&Parameter) -> bool) -> Params {
        let mut pairs = Vec::new();
        for known in PARAMETERS.iter().filter(|known| wanted(known)) {
            let Some(value) = self.value(&format!("{prefix}_{}{suffix}", capitals(known.name))) else {
                continue;
            };
            match known.name {
                // Each replica has the variables itself.
                "distribute" => {}
                // A service that is configured here is wanted.
                "replicas" if value == "0" => {}
                name => pairs.push((name.to_owned(), value)),
            }
        }
        if !self.protocol.is_empty() && !pairs.iter().any(|(name, _)| name == "reqMode") {
            pairs.push(("reqMode".into(), self.protocol.into()));
        }
        Params(pairs)
    }
}

fn said(service: &Service, problem: &Problem) -> String {
    format!("{}: {}", service.variable(&problem.name), problem.text)
}

/// What reconfigure would answer with 400 or 409.
fn check(service: &Service) -> Result<(), String> {
    let lacks = |parameter: &str| Err(format!("{} is missing", service.variable(parameter)));
    let Some(first) = service.spec.service_dest.first() else {
        return lacks("servicePath");
    };
    let is_http = first.req_mode == "http";
    if is_http && first.paths().is_empty() {
        return lacks("servicePath");
    }
    if first.port.is_empty() && (!is_http || first.https_port == 0) {
        return lacks("port");
    }
    if !is_http && first.src_port == 0 {
        return lacks("srcPort");
    }
    Ok(())
}

/// `servicePath` is `SERVICE_PATH`.
pub fn capitals(parameter: &str) -> String {
    let mut out = String::with_capacity(parameter.len() + 4);
    for char in parameter.chars() {
        if char.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(char.to_ascii_uppercase());
    }
    out
}

#[cfg(test)]
mod tests;
