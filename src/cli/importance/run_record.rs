//! What an unfinished collection was made from, in a small file beside it, so that only the same run
//! goes on from there. It is gone when the collection is complete.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::eval::text::TextFile;
use crate::gguf::ModelIdentity;
use crate::quant::importance::ImportanceError;
use crate::support::atomic_file::write_atomically;

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

    /// Puts the record beside the file that the run writes.
    pub(super) fn write(&self, output: &Path) -> Result<(), ImportanceError> {
        let path = record_path(output);
        serde_json::to_vec_pretty(self)
            .map_err(std::io::Error::from)
            .and_then(|text| write_atomically(&path, &text))
            .map_err(|source| ImportanceError::Io { path, source })
    }

    /// Checks that a run like this has left the output. Of a complete one there is no record, and
    /// what the importance file says has to do.
    pub(super) fn check_continues(&self, output: &Path) -> Result<()> {
        let path = record_path(output);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::warn!(
                    "{}: this collection was complete, so that nothing tells whether it is of the \
                     same model and the same chunks",
                    output.display()
                );
                return Ok(());
            }
            text => text.with_context(|| path.display().to_string())?,
        };
        let earlier: Self = serde_json::from_slice(&text).with_context(|| {
            format!("{}: no record of a collection; leave out --resume", path.display())
        })?;
        match self.difference(&earlier) {
            None => Ok(()),
            Some(difference) => bail!(
                "{} cannot be continued: {difference}; repeat the command that began it, or leave \
                 out --resume to collect anew",
                output.display()
            ),
        }
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

/// Removes the record, if there is one.
pub(super) fn remove(output: &Path) {
    // A record that stays does no harm: it says what the file was collected from.
    let _ = std::fs::remove_file(record_path(output));
}

fn record_path(output: &Path) -> PathBuf {
    let mut path = output.as_os_str().to_owned();
    path.push(".run.json");
    path.into()
}
