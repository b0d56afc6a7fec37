//! `quantkit generate`.

use anyhow::{Result, bail};

use super::options::GlobalOptions;

/// Generate text
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(super) fn run(_arguments: &Arguments, _global: &GlobalOptions) -> Result<()> {
    bail!("not built yet")
}
