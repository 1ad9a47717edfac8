// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all verbs that speak with the agent share: the flags, the question, and the exit code of its answer.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::Exit;
use crate::{
    providers::api::Edit,
    unix_http::{self, Error},
};

/// Where the agent listens unless told otherwise.
pub const SOCKET: &str = "/run/portico/node.sock";

/// Flags of every verb that asks the agent.
#[derive(clap::Args, Clone, Debug)]
pub struct Ask {
    /// Unix socket of the agent
    #[arg(long, value_name = "PATH", env = "PORTICO_SOCKET", default_value = SOCKET)]
    pub socket: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Ask {
    /// Asks the agent.
    pub fn get(&self, path: &str) -> Result<Value, Exit> {
        exchange(path, unix_http::get(&self.socket, path))
    }

    /// Sends something to the agent.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Exit> {
        let body = Bytes::from(body.to_string());
        exchange(path, unix_http::post(&self.socket, path, body))
    }

    /// Lets the agent do all edits or none, and prints what became of them: one line for each, made by `told`
    /// from whether it changed anything.
    pub fn edit(&self, edits: &[Edit], told: impl Fn(&Edit, bool) -> String) -> Result<(), Exit> {
        let answer = self.post("/v1/edits", &json!(edits))?;
        if self.json {
            super::print(&format!("{answer:#}\n"))?;
        } else {
            let changed = answer["changed"].as_array().into_iter().flatten();
            for (edit, changed) in edits.iter().zip(changed) {
                super::print(&format!("{}\n", told(edit, *changed == true)))?;
            }
        }
        let refused = answer["refused"].as_array().map_or(&[][..], Vec::as_slice);
        if !refused.is_empty() {
            let texts: Vec<&str> = refused.iter().filter_map(Value::as_str).collect();
            return Err(Exit::Failed(format!(
                "kept, but not in force: {}",
                texts.join("; ")
            )));
        }
        if answer["in_force"] != true {
            return Err(Exit::Failed(
                "kept, but not in force yet; `portico status` shows what it waits for".into(),
            ));
        }
        Ok(())
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

fn exchange(path: &str, question: impl Future<Output = Result<Bytes, Error>>) -> Result<Value, Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::Failed(format!("runtime: {error}")))?;
    let body = runtime.block_on(question).map_err(exit)?;
    serde_json::from_slice(&body).map_err(|error| Exit::Failed(format!("{path}: {error}")))
}

/// What the operator asked for wrongly is exit code 2, what the agent could not do 1, no agent 3.
pub(super) fn exit(error: Error) -> Exit {
    match error {
        Error::Connect { .. } => Exit::Lacks {
            what: format!("no agent answers: {error}"),
            how: "start it (portico node), name its socket with --socket, or use an account that may open it"
                .into(),
        },
        Error::Refused { status, message, .. } => {
            let body: Value = serde_json::from_str(&message).unwrap_or_default();
            let text = body["error"].as_str().unwrap_or(&message).to_owned();
            let asked_wrongly = [
                StatusCode::BAD_REQUEST,
                StatusCode::NOT_FOUND,
                StatusCode::CONFLICT,
            ];
            if asked_wrongly.contains(&status) {
                Exit::Usage(text)
            } else {
                Exit::Failed(text)
            }
        }
        error => Exit::Failed(error.to_string()),
    }
}

/// A JSON value as one cell.
pub fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
