// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico service export` and `portico service import`.

mod plan;

use std::{
    fs::File,
    io::{Read, stdin},
    path::{Path, PathBuf},
};

use serde_json::{from_value, json};

use self::plan::plan;
use super::{
    super::{Exit, ask::Ask, print},
    ipvsadm,
};
use crate::providers::api::{Edit, STATE_BYTES_MAX, State};

/// Reasons that one message has; more are counted.
const SHOWN_MAX: usize = 50;

#[derive(clap::Args)]
pub(super) struct Export {
    /// Leave out what the format has no words for, and say so, instead of giving up
    #[arg(long)]
    skip: bool,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
pub(super) struct Import {
    /// The table; - is standard input
    #[arg(default_value = "-", value_name = "FILE")]
    file: PathBuf,
    /// Leave out the lines that cannot be carried over, and say so, instead of giving up
    #[arg(long)]
    skip: bool,
    #[command(flatten)]
    ask: Ask,
}

fn kept(ask: &Ask) -> Result<State, Exit> {
    from_value(ask.get("/v1/kept")?).map_err(|error| Exit::Failed(format!("/v1/kept: {error}")))
}

pub(super) fn export(export: &Export) -> Result<(), Exit> {
    let (lines, left_out) = ipvsadm::write(&kept(&export.ask)?);
    if !left_out.is_empty() && !export.skip {
        let why = listed(&left_out);
        return Err(Exit::Failed(format!(
            "not all of it can be said in this format (--skip leaves it out):{why}"
        )));
    }
    for text in &left_out {
        eprintln!("portico: left out: {text}");
    }
    if export.ask.json {
        let lines: Vec<&str> = lines.lines().collect();
        return print(&format!(
            "{:#}\n",
            json!({ "lines": lines, "left_out": left_out })
        ));
    }
    print(&lines)
}

pub(super) fn import(import: &Import) -> Result<(), Exit> {
    let text = read(&import.file)?;
    let kept = kept(&import.ask)?;
    let in_force = import.ask.get("/v1/services")?;
    let plan = plan(ipvsadm::read(&text), &kept, &in_force);
    let refused: Vec<String> = plan.refused.iter().map(ToString::to_string).collect();
    if !refused.is_empty() && !import.skip {
        let why = listed(&refused);
        return Err(Exit::Usage(format!(
            "not all of it can be carried over, and nothing has changed (--skip leaves it out):{why}"
        )));
    }
    for text in &refused {
        eprintln!("portico: left out: {text}");
    }
    for note in &plan.notes {
        eprintln!("portico: {note}");
    }
    if !import.ask.json {
        for remark in &plan.unchanged {
            print(&format!("{remark}\n"))?;
        }
    }
    import.ask.edit(&plan.edits, |edit, _| {
        let backends = match edit {
            Edit::AddService { spec, .. } => spec.backends.len(),
            _ => 0,
        };
        format!("service {}: added, {backends} backends", edit.service())
    })
}

fn listed(reasons: &[String]) -> String {
    let mut text: String = reasons
        .iter()
        .take(SHOWN_MAX)
        .map(|reason| format!("\n  {reason}"))
        .collect();
    if reasons.len() > SHOWN_MAX {
        text.push_str(&format!("\n  and {} more", reasons.len() - SHOWN_MAX));
    }
    text
}

fn read(path: &Path) -> Result<String, Exit> {
    let shown = path.display();
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(stdin())
    } else {
        Box::new(File::open(path).map_err(|error| Exit::Failed(format!("{shown}: {error}")))?)
    };
    let mut text = String::new();
    let mut limited = source.take(STATE_BYTES_MAX as u64 + 1);
    limited
        .read_to_string(&mut text)
        .map_err(|error| Exit::Failed(format!("{shown}: {error}")))?;
    if text.len() > STATE_BYTES_MAX {
        return Err(Exit::Usage(format!(
            "{shown}: more than {STATE_BYTES_MAX} bytes (api::STATE_BYTES_MAX)"
        )));
    }
    Ok(text)
}
