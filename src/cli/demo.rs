//! `quantkit demo`.

use anyhow::{Result, bail};

use super::options::GlobalOptions;

/// Run the whole job on a small model
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(super) fn run(_arguments: &Arguments, _global: &GlobalOptions) -> Result<()> {
    bail!("not built yet")
}
