// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of deny.toml that needs neither cargo-deny nor the network: every crate's licence is allowed, it comes
//! from crates.io, and nobody asks for any version at all.

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::{build, cmd, paths};

#[derive(Deserialize)]
struct Deny {
    licenses: Licences,
    graph: Graph,
}

#[derive(Deserialize)]
struct Licences {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    allow: Vec<String>,
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// None: of this workspace.
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    req: String,
    source: Option<String>,
}

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks every crate that Portico is built from.
pub fn check() -> Result<()> {
    let file = paths::root().join("deny.toml");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let deny: Deny = toml::from_str(&text).context("deny.toml")?;
    let mut wrong = Vec::new();
    for target in &deny.graph.targets {
        let mut command = build::cargo();
        command.args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            target,
        ]);
        let metadata: Metadata = serde_json::from_str(&cmd::text(&mut command)?)?;
        ensure!(!metadata.packages.is_empty(), "cargo metadata names no crates");
        for package in &metadata.packages {
            wrong.extend(faults(package, &deny.licenses));
        }
    }
    wrong.sort();
    wrong.dedup();
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

fn faults(package: &Package, licences: &Licences) -> Vec<String> {
    let id = format!("{} {}", package.name, package.version);
    let mut faults = Vec::new();
    let exceptions = licences
        .exceptions
        .iter()
        .filter(|exception| exception.name == package.name);
    let allowed: Vec<&str> = exceptions
        .flat_map(|exception| &exception.allow)
        .chain(&licences.allow)
        .map(String::as_str)
        .collect();
    match &package.license {
        None => faults.push(format!("{id}: names no licence")),
        Some(expression) => match Expression::parse(expression) {
            Ok(parsed) if parsed.is_met(&allowed) => {}
            Ok(_) => faults.push(format!("{id}: {expression} is not allowed by deny.toml")),
            Err(error) => faults.push(format!("{id}: {error:#}")),
        },
    }
    if let Some(source) = package.source.as_deref().filter(|source| *source != CRATES_IO) {
        faults.push(format!("{id}: comes from {source}"));
    }
    if package.source.is_none() {
        let wild = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.source.is_some() && dependency.req == "*");
        faults.extend(wild.map(|dependency| format!("{id}: takes any version of {}", dependency.name)));
    }
    faults
}

/// An SPDX licence expression; AND binds more tightly than OR.
enum Expression {
    Any(Vec<Expression>),
    All(Vec<Expression>),
    Licence(String),
}

impl Expression {
    fn parse(text: &str) -> Result<Expression> {
        // The old spelling: MIT/Apache-2.0.
        let spaced = text.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
        let parsed = Expression::any(&mut words).with_context(|| format!("cannot read licence `{text}`"))?;
        ensure!(words.is_empty(), "cannot read licence `{text}`");
        Ok(parsed)
    }

    fn any(words: &mut Vec<&str>) -> Result<Expression> {
        let mut parts = vec![Expression::all(words)?];
        while words.last() == Some(&"OR") {
            words.pop();
            parts.push(Expression::all(words)?);
        }
        Ok(Expression::Any(parts))
    }

    fn all(words: &mut Vec<&str>) -> Result<Expression> {
        let mut parts = vec![Expression::one(words)?];
        while words.last() == Some(&"AND") {
            words.pop();
            parts.push(Expression::one(words)?);
        }
        Ok(Expression::All(parts))
    }

    fn one(words: &mut Vec<&str>) -> Result<Expression> {
        match words.pop().context("it ends too early")? {
            "(" => {
                let inner = Expression::any(words)?;
                ensure!(words.pop() == Some(")"), "a parenthesis is not closed");
                Ok(inner)
            }
            word @ (")" | "AND" | "OR" | "WITH") => bail!("`{word}` where a licence should be"),
            licence if words.last() == Some(&"WITH") => {
                words.pop();
                let exception = words.pop().context("WITH what?")?;
                Ok(Expression::Licence(format!("{licence} WITH {exception}")))
            }
            licence => Ok(Expression::Licence(licence.to_owned())),
        }
    }

    fn is_met(&self, allowed: &[&str]) -> bool {
        match self {
            Expression::Any(parts) => parts.iter().any(|part| part.is_met(allowed)),
            Expression::All(parts) => parts.iter().all(|part| part.is_met(allowed)),
            Expression::Licence(licence) => allowed.contains(&licence.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(expression: &str, allowed: &[&str]) -> bool {
        Expression::parse(expression).unwrap().is_met(allowed)
    }

    #[test]
    fn licence_expressions_are_read_as_spdx_means_them() {
        assert!(met("MIT/Apache-2.0", &["MIT"]));
        assert!(met("Apache-2.0 / MIT", &["MIT"]));
        assert!(!met("MIT AND ISC", &["MIT"]));
        assert!(
            met("GPL-2.0-only AND ISC OR MIT", &["MIT"]),
            "AND binds more tightly"
        );
        assert!(!met("GPL-2.0-only AND (ISC OR MIT)", &["MIT"]));
        assert!(met(
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            &["Apache-2.0", "Unicode-3.0"]
        ));
        assert!(!met("Apache-2.0 WITH LLVM-exception", &["Apache-2.0"]));
        assert!(met(
            "Apache-2.0 WITH LLVM-exception",
            &["Apache-2.0 WITH LLVM-exception"]
        ));
        for broken in ["", "MIT OR", "(MIT", "MIT)", "MIT ISC", "AND MIT"] {
            assert!(Expression::parse(broken).is_err(), "{broken}");
        }
    }

    fn package(license: Option<&str>, source: Option<&str>, req: &str) -> Package {
        Package {
            name: "p".to_owned(),
            version: "1.0.0".to_owned(),
            license: license.map(str::to_owned),
            source: source.map(str::to_owned),
            dependencies: vec![Dependency {
                name: "q".to_owned(),
                req: req.to_owned(),
                source: Some(CRATES_IO.to_owned()),
            }],
        }
    }

    #[test]
    fn a_crate_is_refused_for_its_licence_its_source_and_a_wildcard() {
        let licences = Licences {
            allow: vec!["MIT".to_owned()],
            exceptions: vec![Exception {
                allow: vec!["GPL-2.0-only".to_owned()],
                name: "p".to_owned(),
            }],
        };
        let count = |package: Package| faults(&package, &licences).len();
        assert_eq!(count(package(Some("MIT"), Some(CRATES_IO), "*")), 0);
        assert_eq!(
            count(package(Some("GPL-2.0-only"), None, "^1")),
            0,
            "the exception is for it"
        );
        assert_eq!(count(package(Some("AGPL-3.0"), None, "^1")), 1);
        assert_eq!(count(package(None, None, "^1")), 1);
        assert_eq!(
            count(package(Some("MIT"), Some("git+https://example.com/p"), "^1")),
            1
        );
        assert_eq!(count(package(Some("MIT"), None, "*")), 1);
    }
}
