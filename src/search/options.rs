//! What is searched for, and with what.

use std::path::PathBuf;

use crate::gguf::GgmlType;
use crate::quant::formats;
use crate::quant::recipe::Recipe;
use crate::quant::selection::Rule;

/// What the model may weigh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Bytes of the whole file.
    FileBytes(u64),
    /// Bits of tensor data for each weight.
    BitsPerWeight(f64),
}

/// What to search for, and with what.
#[derive(Debug, Clone)]
pub struct SearchOptions {
    /// The GGUF model in F32, F16 or BF16.
    pub model: PathBuf,
    /// The calibration text.
    pub text: PathBuf,
    /// Tokens in a window.
    pub context: usize,
    /// Windows of the text to measure on, spread over it.
    pub chunks: usize,
    /// What the result may weigh.
    pub budget: Budget,
    /// Formats to choose from.
    pub formats: Vec<GgmlType>,
    /// Tensors whose format is given; the first rule that names one counts.
    pub keep: Vec<Rule>,
    /// How much each column of a matrix matters, for the formats that heed it.
    pub importance: Option<PathBuf>,
    /// Whether tensors of unknown importance may be coded without it.
    pub allow_partial_importance: bool,
    /// Where the plan goes; the measurements go beside it.
    pub output: PathBuf,
    /// Recipes to compare the result with.
    pub against: Vec<&'static Recipe>,
    /// A text to compare on that nothing is fitted to, and at most how many of its windows.
    pub held_out: Option<(PathBuf, Option<usize>)>,
    /// Whether to forget earlier measurements.
    pub fresh: bool,
    /// Files that will be written by the result, and that must not replace others.
    pub later_outputs: Vec<PathBuf>,
    /// Files that have been read besides and must not be replaced.
    pub other_inputs: Vec<PathBuf>,
}

/// The formats that a search chooses from by default: all that are quantized. The model's own
/// format is always among a tensor's alternatives.
pub fn default_formats() -> Vec<GgmlType> {
    formats::known()
        .filter(|&format| format.block_size() > 1 && formats::can_quantize(format))
        .collect()
}
