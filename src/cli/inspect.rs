//! `quantkit inspect`.

use anyhow::{Result, bail};

use super::options::GlobalOptions;

/// Show what is in a GGUF or safetensors file
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(super) fn run(_arguments: &Arguments, _global: &GlobalOptions) -> Result<()> {
    bail!("not built yet")
}
