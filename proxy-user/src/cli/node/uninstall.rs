// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico node --uninstall`: the machine as it was.

use std::{io, os::unix::net::UnixStream, path::Path};

use serde_json::json;

use crate::{
    cli::{Exit, print},
    kernel::uninstall::{Places, Thing, find, remove},
};

/// What is left of `portico node`'s flags.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "uninstall-flags")]
pub(super) struct Args {
    /// Remove everything that agents have left on this machine (programs, maps, tunnel device, what they made in
    /// IPVS), and end; the agent must not run
    #[arg(long)]
    pub(super) uninstall: bool,
    /// With --uninstall: say what would be removed, and remove nothing
    #[arg(long, requires = "uninstall")]
    dry_run: bool,
    /// With --uninstall: the state directory too, with the services that the operator's verbs have made
    #[arg(long, requires = "uninstall")]
    purge: bool,
    /// With --uninstall: print JSON
    #[arg(long, requires = "uninstall")]
    json: bool,
}

impl Args {
    pub(super) fn run(&self, bpffs: &Path, state: &Path, socket: &Path) -> Result<(), Exit> {
        if answers(socket) {
            return Err(Exit::Failed(format!(
                "an agent is running on {}: stop it first (systemctl stop portico-node, or end its process)",
                socket.display()
            )));
        }
        let places = Places {
            bpffs: bpffs.into(),
            state: state.into(),
            socket: socket.into(),
            purge: self.purge,
        };
        let found =
            find(&places).map_err(|error| Exit::Failed(format!("what is there cannot be read: {error}")))?;
        let mut failed: Vec<(Thing, String)> = Vec::new();
        let mut done: Vec<Thing> = Vec::new();
        for thing in found {
            let result = if self.dry_run {
                Ok(())
            } else {
                remove(&places, &thing)
            };
            match result {
                Ok(()) => done.push(thing),
                Err(error) => failed.push((thing, error.to_string())),
            }
        }
        self.tell(&places, &done, &failed)?;
        match &failed[..] {
            [] => Ok(()),
            _ => {
                let lines = failed.iter().map(|(thing, why)| format!("\n  {thing}: {why}"));
                Err(Exit::Failed(format!("not removed:{}", lines.collect::<String>())))
            }
        }
    }

    fn tell(&self, places: &Places, done: &[Thing], failed: &[(Thing, String)]) -> Result<(), Exit> {
        let kept = !self.purge && places.state.is_dir();
        if self.json {
            let failed: Vec<_> = failed
                .iter()
                .map(|(thing, why)| json!({ "thing": thing, "error": why }))
                .collect();
            let told = json!({
                "dry_run": self.dry_run,
                "removed": done,
                "failed": failed,
                "state_kept": kept.then_some(&places.state),
            });
            return print(&format!("{told:#}\n"));
        }
        let word = if self.dry_run { "would remove" } else { "removed" };
        let mut text: String = done.iter().map(|thing| format!("{word} {thing}\n")).collect();
        if done.is_empty() && failed.is_empty() {
            text += "nothing of Portico's is here\n";
        }
        if kept {
            text += &format!(
                "{} stays: what the operator's verbs have said (--purge removes it)\n",
                places.state.display()
            );
        }
        print(&text)
    }
}

/// Accepted, or too busy to: somebody is there.
fn answers(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn while_an_agent_answers_nothing_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let (state, socket) = (folder.path().join("state"), folder.path().join("node.sock"));
        std::fs::create_dir(&state).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let args = Args {
            uninstall: true,
            dry_run: false,
            purge: true,
            json: false,
        };
        let refused = args.run(folder.path(), &state, &socket).unwrap_err();
        assert!(refused.to_string().contains("an agent is running"), "{refused}");
        assert!(state.exists());
        drop(listener);
        assert!(!answers(&socket), "what a killed agent left");
    }
}
