//! `portico doctor`.
use super::Exit;

/// Flags of `portico doctor`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn run(_args: Args) -> Result<(), Exit> {
    Err(Exit::Failed("not built yet".into()))
}
