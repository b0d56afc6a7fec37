//! Matrix products of f32 activations with weights in any format.

use crate::gguf::GgmlType;

/// A weight matrix prepared once at load for the machine's best kernel.
#[derive(Debug)]
pub struct PackedMatrix {}

impl PackedMatrix {
    /// Packs `rows × columns` weights whose bytes are in ggml's row layout.
    ///
    /// # Errors
    /// A format that no kernel knows, named.
    pub fn pack(
        ggml_type: GgmlType,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<Self, crate::quant::formats::CodecError> {
        todo!("{ggml_type} {rows} {columns} {}", bytes.len())
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        todo!()
    }

    /// Input features.
    pub fn columns(&self) -> usize {
        todo!()
    }

    /// `output[t][r] = Σ_c inputs[t][c] · weights[r][c]` for `tokens` rows of inputs, on the
    /// current rayon pool. `inputs` is `tokens × columns`, `output` is `tokens × rows`, both
    /// row-major.
    pub fn multiply(&self, tokens: usize, inputs: &[f32], output: &mut [f32]) {
        todo!("{tokens} {} {}", inputs.len(), output.len())
    }
}
