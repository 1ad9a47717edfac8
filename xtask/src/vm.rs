// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm`: Debian's kernels in a virtual machine whose root is this machine's, copy on write.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::ValueEnum;

use crate::{progress::step, signals};

mod fetch;
mod guest;
mod initramfs;
mod lines;
pub mod machine;
pub mod matrix;

pub use lines::Lines;
pub use machine::{Accelerator, Machine, Step, Stream};

/// Exit code when the machine lacks something (DESIGN.md, section 7).
const LACKS: u8 = 3;

/// A kernel of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// Debian 12's: no tcx, so tc programs are filters of the clsact qdisc
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's: tcx, and IPVS as a module
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    /// Oldest first.
    pub const ALL: [Kernel; 2] = [Kernel::V6_1, Kernel::V6_12];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::V6_1 => "6.1",
            Kernel::V6_12 => "6.12",
        }
    }

    /// The Debian release that it belongs to.
    fn suite(self) -> &'static str {
        match self {
            Kernel::V6_1 => "bookworm",
            Kernel::V6_12 => "trixie",
        }
    }

    /// What the kernel's package name begins with, so that another kernel of the same suite is not taken for it.
    fn package_prefix(self) -> String {
        format!("linux-image-{}.", self.name())
    }
}

/// Ends with the reason and the remedy.
#[derive(Debug)]
pub struct Lacks {
    pub what: String,
    pub how: String,
}

impl std::fmt::Display for Lacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what, self.how)
    }
}

impl std::error::Error for Lacks {}

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Boot a kernel and run a command in it, as root, in this folder
    ///
    /// The guest's root is this machine's root: everything that is installed or built here is there. What the
    /// command writes is kept in the guest's memory and gone afterwards, except below $PORTICO_VM_SHARE, which is
    /// --share of this machine. The exit code is the command's.
    Run {
        #[arg(long, value_enum, default_value = "6.12")]
        kernel: Kernel,
        #[command(flatten)]
        machine: MachineArgs,
        /// A folder of this machine that the command can write to
        #[arg(long, value_name = "DIR")]
        share: Option<PathBuf>,
        /// The guest's clock counts: each instruction takes 2^SHIFT nanoseconds. One processor, emulated; whatever is
        /// timed in there is a number of instructions
        #[arg(long, value_name = "SHIFT", value_parser = clap::value_parser!(u32).range(0..=10))]
        counted: Option<u32>,
        /// Give up and end the machine after this many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        deadline: u64,
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// The data plane's kernel tests and the embedded tour, on each kernel
    Test {
        /// Only this kernel (all by default)
        #[arg(long, value_enum)]
        kernel: Vec<Kernel>,
        #[command(flatten)]
        machine: MachineArgs,
    },
    /// Download a kernel and unpack it into the cache, without booting it
    Fetch {
        #[arg(long, value_enum)]
        kernel: Vec<Kernel>,
        /// Also when one is there: the archive may have a newer one
        #[arg(long)]
        refresh: bool,
    },
}

#[derive(Clone, clap::Args)]
pub struct MachineArgs {
    /// Who executes the guest's instructions
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accelerator,
    /// Memory of the guest in MiB; what it writes lies there too
    #[arg(long, default_value_t = 3072)]
    memory: u32,
    /// Processors of the guest
    #[arg(long, default_value_t = 2)]
    cpus: u32,
}

impl MachineArgs {
    fn machine(&self, kernel: Kernel) -> Machine {
        Machine {
            accelerator: self.accel,
            memory: self.memory,
            cpus: self.cpus,
            ..Machine::new(kernel)
        }
    }
}

/// Runs the verb.
pub fn run(verb: &Verb) -> Result<u8> {
    signals::install();
    let result = match verb {
        Verb::Run {
            kernel,
            machine,
            share,
            counted,
            deadline,
            command,
        } => {
            let mut machine = machine.machine(*kernel);
            machine.share.clone_from(share);
            machine.counted = *counted;
            one(&machine, command, Duration::from_secs(*deadline))
        }
        Verb::Test { kernel, machine } => matrix::run(&all_or(kernel), |kernel| machine.machine(kernel)),
        Verb::Fetch { kernel, refresh } => all_or(kernel).into_iter().try_fold(0, |code, kernel| {
            let tree = fetch::tree(kernel, *refresh)?;
            println!("{}: {} in {}", kernel.name(), tree.package, tree.folder.display());
            Ok(code)
        }),
    };
    lacking(result)
}

/// What is missing here is an exit code of its own.
pub fn lacking(result: Result<u8>) -> Result<u8> {
    match result {
        Err(error) if error.is::<Lacks>() => {
            eprintln!("xtask: {error:#}");
            Ok(LACKS)
        }
        result => result,
    }
}

/// What this needs of the machine and of the network, as one reason.
pub fn ready(kernel: Kernel) -> Result<(), Lacks> {
    let lack = |error: anyhow::Error| match error.downcast::<Lacks>() {
        Ok(lack) => lack,
        Err(error) => Lacks {
            what: format!("Linux {} cannot be had: {error:#}", kernel.name()),
            how: "the Debian archive must be reachable once".to_owned(),
        },
    };
    machine::require_qemu().map_err(lack)?;
    fetch::tree(kernel, false).map_err(lack).map(|_| ())
}

fn all_or(some: &[Kernel]) -> Vec<Kernel> {
    if some.is_empty() {
        Kernel::ALL.to_vec()
    } else {
        some.to_vec()
    }
}

/// One command; its output is this program's, its exit code as well.
fn one(machine: &Machine, command: &[String], deadline: Duration) -> Result<u8> {
    let start = Instant::now();
    let steps = [Step::new("command", command)];
    let ended = machine.run(&steps, deadline, &mut |_, stream, bytes| {
        // Whoever read our output may be gone; the command still runs to its end.
        let _ = match stream {
            Stream::Output => write(&mut std::io::stdout().lock(), bytes),
            Stream::Error => write(&mut std::io::stderr().lock(), bytes),
        };
    })?;
    step(format!(
        "Linux {} ran for {:.1} s",
        machine.kernel.name(),
        start.elapsed().as_secs_f64()
    ));
    ended.code(0)
}

fn write(to: &mut impl std::io::Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
