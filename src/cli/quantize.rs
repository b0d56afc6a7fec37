//! `quantkit quantize`.

use anyhow::{Result, bail};

use super::options::GlobalOptions;

/// Quantize a GGUF file
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(super) fn run(_arguments: &Arguments, _global: &GlobalOptions) -> Result<()> {
    bail!("not built yet")
}
