//! `quantkit mmlu-eval`.

use anyhow::{Result, bail};

use super::options::GlobalOptions;

/// Score a model on multiple-choice questions
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(super) fn run(_arguments: &Arguments, _global: &GlobalOptions) -> Result<()> {
    bail!("not built yet")
}
