//! What a file weighs in this or that format.

use super::error::SearchError;
use super::options::{Budget, SearchOptions};
use crate::gguf::{GgmlType, GgufFile, TensorInfo};
use crate::quant::importance::Importance;
use crate::quant::pipeline::{QuantizeError, Request, preview};
use crate::quant::recipe::{Recipe, may_change};
use crate::quant::selection::Selection;

/// What the file weighs besides the tensors that are chosen for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Bytes of everything else: header, norms, padding of these.
    pub(super) fixed: u64,
    /// Bytes of the tensors that stay as they are, and all weights: for bits a weight.
    pub(super) kept_bytes: u64,
    pub(super) weights: u64,
    alignment: u64,
}

impl Sizes {
    /// Asks the pipeline how large a file it would write.
    pub(super) fn of(
        file: &GgufFile,
        options: &SearchOptions,
        importance: Option<&Importance>,
    ) -> Result<Self, SearchError> {
        let recipe = Recipe::from_name("F16").expect("this recipe is always there");
        let selection = Selection::recipe(recipe);
        let request = Request { importance, ..Request::new(&options.output, &selection) };
        let whole = preview(file, &request).map_err(not_quantized)?;
        let alignment = file.alignment();
        let (mut fixed, mut kept_bytes) = (whole.file_bytes, 0);
        for report in &whole.tensors {
            let tensor = file.tensor(&report.name).expect("the preview is of this file");
            if may_change(file.metadata(), tensor) {
                fixed -= report.new_bytes.next_multiple_of(alignment);
            } else {
                kept_bytes += report.new_bytes;
            }
        }
        Ok(Self { fixed, kept_bytes, weights: whole.weights, alignment })
    }

    /// Bytes of a tensor in a format, padding included; `None` where its rows do not allow it.
    pub(super) fn padded(&self, tensor: &TensorInfo, format: GgmlType) -> Option<u64> {
        Some(bytes_of(tensor, format)?.next_multiple_of(self.alignment))
    }

    /// The most bytes that the file may have.
    pub(super) fn budget(&self, budget: Budget) -> Result<u64, SearchError> {
        match budget {
            Budget::FileBytes(bytes) => Ok(bytes),
            Budget::BitsPerWeight(bits) if bits.is_finite() && bits > 0.0 => {
                let tensors = (bits * self.weights as f64 / 8.0) as u64;
                Ok((self.fixed - self.kept_bytes).saturating_add(tensors))
            }
            Budget::BitsPerWeight(bits) => Err(SearchError::Unusable(format!(
                "expected a number of bits per weight above 0, found {bits}"
            ))),
        }
    }
}

/// Refuses a model that has been quantized before: what another quantization loses would be found
/// smaller than it is.
fn not_quantized(error: QuantizeError) -> SearchError {
    match error {
        QuantizeError::AlreadyQuantized { path, tensor, ggml_type } => SearchError::unusable(
            &path,
            &format!(
                "already quantized ({tensor} is {ggml_type}); a search starts from the model in \
                 F32, F16 or BF16"
            ),
        ),
        other => other.into(),
    }
}

/// Bytes of a tensor in a format; `None` where its rows do not allow it.
pub(super) fn bytes_of(tensor: &TensorInfo, format: GgmlType) -> Option<u64> {
    Some(format.row_bytes(tensor.columns())? as u64 * tensor.rows() as u64)
}
