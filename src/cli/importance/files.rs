//! Importance files as the command line names and describes them.

use std::path::Path;

use crate::quant::importance::{ActivationSums, FileFormat};
use crate::support::units;

/// A format of importance files, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// GGUF: sums and counts
    Gguf,
    /// llama.cpp's legacy format: means only
    Dat,
}

impl Format {
    /// The wanted format, or the one that the file's name asks for.
    pub(super) fn of(wanted: Option<Self>, output: &Path) -> Self {
        let is_dat = output.extension().is_some_and(|extension| extension == "dat");
        wanted.unwrap_or(if is_dat { Self::Dat } else { Self::Gguf })
    }
}

impl From<Format> for FileFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Gguf => Self::Gguf,
            Format::Dat => Self::Dat,
        }
    }
}

/// `210 tensors, 8 chunks of 512 tokens`.
pub(super) fn content(sums: &ActivationSums) -> String {
    let tokens = match sums.chunk_tokens() {
        Some(tokens) => format!(" of {}", counted(tokens.into(), "token")),
        None => String::new(),
    };
    let tensors = counted(sums.tensors().len() as u64, "tensor");
    format!("{tensors}, {}{tokens}", counted(sums.chunks().into(), "chunk"))
}

/// `1 tensor`, `2,000 tensors`.
fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", units::count(number), if number == 1 { "" } else { "s" })
}
