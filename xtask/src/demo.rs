#[derive(clap::Args)]
pub struct Args {}
pub fn run(_: &Args) -> anyhow::Result<u8> {
    Ok(1)
}
