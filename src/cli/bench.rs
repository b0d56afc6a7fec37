//! `quantkit bench`.

use anyhow::{Result, bail};

use super::options::GlobalOptions;

/// Measure speed under concurrent load
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(super) fn run(_arguments: &Arguments, _global: &GlobalOptions) -> Result<()> {
    bail!("not built yet")
}
