//! What a GGUF file says about its decoder: its family's layers with the file's numbers.

use super::ModelError;
use crate::family::layer::Mixer;
use crate::family::rope::Divisors;
use crate::family::{Dimensions, Family, Frame, Layer, TensorSpec};
use crate::gguf::{GgufFile, TensorInfo};
use crate::quant::formats::dequantize_row;

/// The name of the token embedding.
pub(super) const EMBEDDING: &str = "token_embd.weight";

/// A decoder as data.
#[derive(Debug, Clone)]
pub struct DecoderSpec {
    /// Its family.
    pub family: &'static Family,
    /// Its numbers.
    pub dimensions: Dimensions,
    /// Everything outside the layers.
    pub frame: Frame,
    /// The layers, in order.
    pub layers: Vec<Layer>,
}

impl DecoderSpec {
    /// Reads the decoder's metadata, and checks that the file has all of its tensors and no others.
    ///
    /// # Errors
    /// An architecture that quantkit does not know; a key that is missing, of the wrong type, or makes no
    /// sense together with another; a tensor that is missing, misshapen or unknown.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, ModelError> {
        Self::read(file).map_err(|problem| ModelError::unsupported(file.path(), problem))
    }

    /// The length up to which a sequence is computed otherwise than a longer one; none in models that make
    /// no difference.
    pub fn original_context(&self) -> Option<usize> {
        self.layers.iter().find_map(|layer| {
            let Mixer::Attention(attention) = &layer.mixer;
            match attention.rope.as_ref()?.divisors {
                Divisors::BySequenceLength(longrope) => Some(longrope.original_context),
                Divisors::None | Divisors::Tensor(_) => None,
            }
        })
    }

    fn read(file: &GgufFile) -> Result<Self, String> {
        let family = Family::of_gguf(file.metadata())?;
        let vocabulary = file.tensor(EMBEDDING).map_or(0, TensorInfo::rows);
        let names = file.tensors().iter().map(|tensor| tensor.name.clone());
        let dimensions = Dimensions::read(family, file.metadata(), vocabulary, names)?;
        check_tensors(file, family, &dimensions)?;
        warn_of_keys(file, family, &dimensions);
        let layers = (0..dimensions.layers).map(|index| (family.layer)(&dimensions, index));
        Ok(Self {
            family,
            layers: layers.collect::<Result<_, _>>()?,
            frame: (family.frame)(&dimensions)?,
            dimensions,
        })
    }
}

/// The weights of a tensor, if the file has it.
pub(super) fn tensor_values(file: &GgufFile, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
    let Some(tensor) = file.tensor(name) else { return Ok(None) };
    let mut values = vec![0f32; tensor.columns() * tensor.rows()];
    dequantize_row(tensor.ggml_type, file.tensor_bytes(tensor), &mut values).map_err(|error| {
        ModelError::unsupported(file.path(), format!("the tensor {name}: {error}"))
    })?;
    Ok(Some(values))
}

fn warn_of_keys(file: &GgufFile, family: &Family, dimensions: &Dimensions) {
    let unknown: Vec<&str> = dimensions.unknown_keys(family).collect();
    if !unknown.is_empty() {
        tracing::warn!(
            "{}: quantkit does not know {}; if that changes what the model computes, the results are \
             wrong",
            file.path().display(),
            unknown.join(", ")
        );
    }
}

/// Checks that every tensor that the decoder needs is there and has the right shape, and that
/// there is none that it would leave out of the computation.
fn check_tensors(file: &GgufFile, family: &Family, dimensions: &Dimensions) -> Result<(), String> {
    let specs = (family.tensors)(dimensions);
    for spec in &specs {
        check_tensor(file, spec)?;
    }
    let names = specs.iter().map(|spec| spec.gguf.as_str());
    let known: std::collections::HashSet<&str> =
        names.chain(family.computed_names.iter().copied()).collect();
    match file.tensors().iter().find(|tensor| !known.contains(tensor.name.as_str())) {
        Some(stranger) => Err(format!(
            "a {} decoder of {} layers has no place for the tensor {:?}: the model computes \
             something that quantkit does not know",
            family.gguf, dimensions.layers, stranger.name
        )),
        None => Ok(()),
    }
}

fn check_tensor(file: &GgufFile, spec: &TensorSpec) -> Result<(), String> {
    let name = &spec.gguf;
    // A vector is one row.
    let (rows, columns) = match spec.shape[..] {
        [length] => (1, length),
        _ => (spec.row_count(), spec.row_length()),
    };
    match file.tensor(name) {
        None if !spec.optional => Err(format!("the tensor {name} is missing")),
        Some(tensor) if (tensor.columns(), tensor.rows()) != (columns, rows) => Err(format!(
            "the tensor {name} should have {rows} rows of {columns} weights by the metadata, but \
             has {} rows of {}",
            tensor.rows(),
            tensor.columns()
        )),
        _ => Ok(()),
    }
}
