//! An unfinished collection: what it has so far is kept beside the output, under a name of its own,
//! with a small file that says what it is made from, so that only the same run goes on from there.
//! Both are gone when the collection is complete.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::files::Format;
use crate::eval::text::TextFile;
use crate::gguf::ModelIdentity;
use crate::quant::importance::{ActivationSums, FileFormat, ImportanceError};
use crate::support::atomic_file::write_atomically;
use crate::support::download::beside;
use crate::support::regular_file::read_regular;

/// What has to be the same for the sums to be of one run. The texts' names and the length of a
/// chunk are in the importance file itself.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct CalibrationRun {
    model_sha256: String,
    text_sha256: Vec<String>,
    first_chunk: u32,
    process_output: bool,
}

impl CalibrationRun {
    pub(super) fn of(
        model: &ModelIdentity,
        texts: &[TextFile],
        first_chunk: u32,
        process_output: bool,
    ) -> Self {
        Self {
            model_sha256: model.sha256.clone(),
            text_sha256: texts.iter().map(|text| text.sha256().to_string()).collect(),
            first_chunk,
            process_output,
        }
    }

    /// Begins to keep what this run collects, in the place of what another one has left.
    pub(super) fn begin(&self, output: &Path) -> Result<(), ImportanceError> {
        // Without sums the record is of no use, so that at no time there are those of another run.
        remove(output);
        let path = record_path(output);
        serde_json::to_vec_pretty(self)
            .map_err(std::io::Error::from)
            .and_then(|text| write_atomically(&path, &text))
            .map_err(|source| ImportanceError::Io { path, source })
    }

    /// Checks that a run like this has left what is unfinished.
    fn check_continues(&self, output: &Path) -> Result<()> {
        let path = record_path(output);
        let text = read_regular(&path).with_context(|| path.display().to_string())?;
        let earlier: Self = serde_json::from_slice(&text).with_context(|| {
            format!("{}: no record of a collection; leave out --resume", path.display())
        })?;
        match self.difference(&earlier) {
            None => Ok(()),
            Some(difference) => bail!(
                "{} cannot be continued: {difference}; repeat the command that began it, or leave \
                 out --resume to collect anew",
                unfinished_path(output).display()
            ),
        }
    }

    /// What this run goes on from: what is unfinished, or else a finished collection, which may be
    /// continued with more chunks.
    pub(super) fn earlier_sums(&self, output: &Path, format: Format) -> Result<Option<Earlier>> {
        let unfinished = unfinished_path(output);
        if unfinished.exists() {
            self.check_continues(output)?;
            let sums = ActivationSums::read(&unfinished)?;
            return Ok(Some(Earlier { sums, path: unfinished }));
        }
        if !output.exists() {
            return Ok(None);
        }
        if format == Format::Dat {
            bail!(
                "--resume: {} is complete, and a .dat file holds means, not the sums to go on from; \
                 collect to GGUF, and turn that into .dat with `quantkit importance merge FILE.gguf \
                 --output FILE.dat`",
                output.display()
            );
        }
        tracing::warn!(
            "{}: this collection was complete, so that nothing tells whether it is of the same model \
             and the same chunks",
            output.display()
        );
        Ok(Some(Earlier { sums: ActivationSums::read(output)?, path: output.to_path_buf() }))
    }

    fn difference(&self, earlier: &Self) -> Option<String> {
        if self.model_sha256 != earlier.model_sha256 {
            Some("it was collected with another model".to_string())
        } else if self.text_sha256 != earlier.text_sha256 {
            Some("the text has changed since".to_string())
        } else if self.first_chunk != earlier.first_chunk {
            let (now, then) = (self.first_chunk, earlier.first_chunk);
            Some(format!("it was collected with --from-chunk {then}, not {now}"))
        } else if self.process_output != earlier.process_output {
            let (with, without) = ("with --process-output", "without --process-output");
            Some(format!(
                "it was collected {}",
                if earlier.process_output { with } else { without }
            ))
        } else {
            None
        }
    }
}

/// What a run goes on from.
pub(super) struct Earlier {
    pub(super) sums: ActivationSums,
    /// The file that holds them.
    pub(super) path: PathBuf,
}

/// Keeps what has been collected so far. It is GGUF whatever the output will be, as only that holds sums.
pub(super) fn keep(sums: &ActivationSums, output: &Path) -> Result<(), ImportanceError> {
    sums.write(&unfinished_path(output), FileFormat::Gguf)
}

/// Removes what is unfinished, the sums first.
pub(super) fn remove(output: &Path) {
    for path in [unfinished_path(output), record_path(output)] {
        // A record that stays does no harm: without sums nobody reads it.
        let _ = std::fs::remove_file(path);
    }
}

/// Where what is unfinished is kept.
pub(super) fn unfinished_path(output: &Path) -> PathBuf {
    beside(output, "unfinished")
}

fn record_path(output: &Path) -> PathBuf {
    beside(output, "run.json")
}
