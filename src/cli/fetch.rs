//! `quantkit fetch`.

use anyhow::{Result, bail};

use super::options::GlobalOptions;

/// Download a model or a question set
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(super) fn run(_arguments: &Arguments, _global: &GlobalOptions) -> Result<()> {
    bail!("not built yet")
}
