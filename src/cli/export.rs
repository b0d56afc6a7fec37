//! `quantkit export`.

use anyhow::{Result, bail};

use super::options::GlobalOptions;

/// Turn a GGUF file into a Hugging Face directory
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(super) fn run(_arguments: &Arguments, _global: &GlobalOptions) -> Result<()> {
    bail!("not built yet")
}
