// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fuzz`: mutated inputs for longer than the moment that the tests give them.

use std::{process::Command, time::Duration};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{cmd, progress::step};

#[derive(clap::Args)]
pub struct Args {
    /// For how long each
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Only this one (all by default)
    #[arg(value_enum)]
    target: Option<Target>,
}

/// What is fed with mutations; the seeds of each are in tests/fuzz/seeds.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Target {
    /// Bytes of a connection to the whole proxy
    #[value(name = "head")]
    RequestHead,
    /// Queries of the reconfigure API
    Query,
    /// The PROXY protocol, both versions
    #[value(name = "proxy_header")]
    ProxyHeader,
    /// The server name of a ClientHello
    #[value(name = "hello")]
    ClientHello,
    /// What a name server answers
    Dns,
    /// Services as an engine lists them
    Labels,
    /// Frames of HTTP/2 to the whole proxy
    #[value(name = "h2")]
    Frames,
    /// PEM files with a certificate and its key
    #[value(name = "pem")]
    Certificates,
}

impl Target {
    fn test(self) -> &'static str {
        match self {
            Target::RequestHead => "request_head",
            Target::Query => "query",
            Target::ProxyHeader => "proxy_header",
            Target::ClientHello => "client_hello",
            Target::Dns => "dns",
            Target::Labels => "labels",
            Target::Frames => "frames",
            Target::Certificates => "certificates",
        }
    }
}

/// What is started around the mutations, and the seeds, which are all run however long they take.
const BESIDE: Duration = Duration::from_secs(60);

/// Runs the verb.
pub fn run(args: &Args) -> Result<u8> {
    let targets = args
        .target
        .as_ref()
        .map_or(Target::value_variants(), std::slice::from_ref);
    // First and apart, so that its time is not taken for that of the mutations.
    step("building the tests of proxy-user");
    cmd::run(tests().arg("--no-run"))?;
    let mut failed = Vec::new();
    for target in targets {
        let name = target.test();
        step(format!("fuzz {name} for {} s", args.seconds));
        let mut command = tests();
        command.args([
            "--",
            "--exact",
            "--nocapture",
            &format!("l7::tests::fuzz::{name}"),
        ]);
        command.env("PORTICO_FUZZ_SECONDS", args.seconds.to_string());
        let limit = Duration::from_secs(args.seconds) + BESIDE;
        if let Err(error) = cmd::run_within(&mut command, limit) {
            step(format!("{name}: {error:#}"));
            failed.push(name);
        }
    }
    match failed.as_slice() {
        [] => Ok(0),
        names => bail!("failed: {}", names.join(", ")),
    }
}

fn tests() -> Command {
    let mut command = cmd::host(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command.args(["test", "--package", "proxy-user", "--lib"]);
    command
}
