//! `quantkit compare`.

use anyhow::{Result, bail};

use super::options::GlobalOptions;

/// Compare variants of a model in one report
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(super) fn run(_arguments: &Arguments, _global: &GlobalOptions) -> Result<()> {
    bail!("not built yet")
}
