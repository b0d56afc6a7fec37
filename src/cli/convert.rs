//! `quantkit convert`.

use anyhow::{Result, bail};

use super::options::GlobalOptions;

/// Turn a Hugging Face directory into a GGUF file
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(super) fn run(_arguments: &Arguments, _global: &GlobalOptions) -> Result<()> {
    bail!("not built yet")
}
