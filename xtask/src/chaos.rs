// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask chaos`: how many requests a deploy, a crash and a lost node cost.
//!
//! A lab stands, a load runs on every way to go-demo ([`site::lanes`]), and one event after the other happens. The
//! load tries no request twice, so what fails is counted, and each event has limits that it must keep
//! ([`verdict`]).

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{
    build, cmd,
    lab::{self, Engine, Lab, PREPARED, down},
    progress::step,
    setup, signals,
};

mod client;
mod events;
mod load;
pub mod site;
mod verdict;

pub use events::{Event, Pace};
use load::Load;
use verdict::Row;

#[derive(clap::Args)]
#[command(after_help = "\
The load is 100 requests a second in all, through the proxy (:80/demo/hello) and go-demo's own published port by \
every node, and to go-demo's VIP from a task on every node, each with a connection that is kept and with one per \
request. A request that fails is counted and not tried again.

GAP is the longest time in which one of these ways had no answer, SLOW the slowest answer, KNOWN the time until the \
providers of the other nodes knew of a lost node, OWN what failed of the ways through it.

Exit code 0 only if every limit holds.")]
pub struct Args {
    /// Who runs the tasks
    #[arg(long, value_enum, default_value = "embedded")]
    engine: Engine,
    /// Only these events (all by default)
    #[arg(long, value_enum, value_name = "EVENT")]
    only: Vec<Event>,
    /// As `cargo xtask test` does it: less of everything, in about a minute
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
    /// How long the agents are killed
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// The table as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<u8> {
    if std::env::var_os(PREPARED).is_none() {
        let code = setup::run(setup::For::Demo, false)?;
        if code != 0 {
            return Ok(code);
        }
        build::binaries()?;
    }
    if !cmd::is_root() {
        let words: Vec<String> = std::env::args().skip(1).collect();
        return cmd::again_as_root(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    lab::refuse_second()?;
    signals::install();
    let rows = all(args);
    signals::uninterrupted(|| down::down(None))?;
    let rows = rows?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", verdict::table(&rows));
    }
    Ok(u8::from(!rows.iter().all(Row::holds)))
}

/// Makes the lab and lets everything happen.
fn all(args: &Args) -> Result<Vec<Row>> {
    let mut lab = Lab::up(args.engine, false)?;
    if let Err(error) = site::create(&mut lab) {
        eprintln!("{}", lab.diagnose());
        return Err(error);
    }
    let wanted = |event: &Event| args.only.is_empty() || args.only.contains(event);
    let pace = match args.quick {
        true => Pace::SHORT,
        false => Pace::whole(Duration::from_secs(args.seconds)),
    };
    let mut rows = Vec::new();
    for event in Event::ALL.into_iter().filter(wanted) {
        match one(&mut lab, event, pace) {
            Ok(row) => {
                eprint!("{}", verdict::table(std::slice::from_ref(&row)));
                if !row.holds() && rows.iter().all(Row::holds) {
                    eprintln!("{}", lab.diagnose());
                }
                rows.push(row);
            }
            Err(error) => {
                eprintln!("{}", lab.diagnose());
                return Err(error);
            }
        }
    }
    Ok(rows)
}

/// One event under load.
fn one(lab: &mut Lab, event: Event, pace: Pace) -> Result<Row> {
    signals::check()?;
    step(format!("event: {}", event.name()));
    let lanes = site::lanes(lab)?;
    let load = Load::start(&lanes)?;
    let loss = event.happen(lab, &load, pace)?;
    let records = load.end()?;
    Ok(Row::of(event, &lanes, &records, loss))
}

/// One event on a lab that has [`site::go_demo`] with its replicas; an error with the table if a limit is missed.
pub fn check(lab: &mut Lab, event: Event, pace: Pace) -> Result<()> {
    let row = one(lab, event, pace)?;
    if !row.holds() {
        bail!("{}", verdict::table(&[row]));
    }
    Ok(())
}
