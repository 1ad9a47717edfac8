// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask`: everything that a developer of Portico does besides writing it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod cases;
mod chaos;
mod cmd;
mod deb;
mod demo;
mod fuzz;
mod image;
mod lab;
mod licences;
mod paths;
mod progress;
mod setup;
mod signals;
mod test;
mod toolchain;
mod tour;
mod vm;

/// Portico's developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and the labs need (asks sudo for the parts that need root)
    Setup {
        /// Only say what is missing; exit code 3 if something is
        #[arg(long)]
        check: bool,
        /// Not what only `cargo xtask test` uses
        #[arg(long)]
        without_tests: bool,
    },
    /// The eBPF object and the static binaries target/release/portico and go-demo
    Build {
        /// Optimized (the default; --debug turns it off)
        #[arg(long, conflicts_with = "debug")]
        release: bool,
        /// Quick to compile, into target/debug
        #[arg(long)]
        debug: bool,
    },
    /// target/portico-image.tar, for `docker import`
    Image,
    /// target/portico_VERSION_ARCH.deb: the static binary, units for both services, their settings
    Deb(deb::Args),
    /// Three nodes on this machine to play with
    Lab {
        #[command(subcommand)]
        verb: lab::Verb,
    },
    /// What a deploy, a crash and a lost node cost, in failed requests
    Chaos(chaos::Args),
    /// The tour, step by step, on three nodes
    Demo(demo::Args),
    /// Feed parsers and the proxy with mutated inputs
    Fuzz(fuzz::Args),
    /// Everything that can be tested on this machine
    Test(test::Args),
    /// What IPVS, eBPF and userspace cost, measured side by side
    Bench(bench::Args),
    /// Debian's kernels in a virtual machine that has this machine's files
    Vm {
        #[command(subcommand)]
        verb: vm::Verb,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup { check, without_tests } => {
            let purpose = if without_tests {
                setup::For::Demo
            } else {
                setup::For::Everything
            };
            setup::run(purpose, check)
        }
        Verb::Build { release: _, debug } => build::run(!debug),
        Verb::Image => image::run(),
        Verb::Deb(args) => deb::run(&args),
        Verb::Lab { verb } => lab::run(&verb),
        Verb::Chaos(args) => chaos::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Vm { verb } => vm::run(&verb),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
