//! Importance and the model whose columns it is to weigh: whether they belong together, and what a
//! quantized file says of it.

use super::formats::heeds_importance;
use super::importance::Importance;
use super::recipe::Role;
use super::selection::{Choice, Selection, listed};
use crate::gguf::{GgmlType, Metadata, TensorInfo, Value};

/// llama.cpp keeps this many bytes of a text that goes into the metadata this way.
const MAX_TEXT_BYTES: usize = 127;

/// Why a model cannot be quantized with the importance that is given, or without any.
#[derive(Debug, thiserror::Error)]
pub enum WeighingError {
    /// The result would be garbage.
    #[error(
        "{name} needs importance: {tensor} as {format} would be garbage without; give \
         --importance FILE with {tensor} in it (quantkit importance makes such files)"
    )]
    Needed {
        /// What the selection is called.
        name: String,
        /// A tensor.
        tensor: String,
        /// Its format.
        format: GgmlType,
    },
    /// The importance is that of matrices with other numbers of columns.
    #[error("{file}: importance of another model: {tensors}")]
    OtherModel {
        /// The importance file.
        file: String,
        /// Tensors, with the numbers found and expected.
        tensors: String,
    },
    /// There is no importance for some tensors.
    #[error(
        "{file}: no importance for {tensors}; collect it anew, or say \
         --allow-partial-importance to quantize these tensors without"
    )]
    Missing {
        /// The importance file.
        file: String,
        /// The tensors.
        tensors: String,
    },
}

/// Checks that the importance is the model's and that no tensor goes without that needs it or,
/// unless `allow_partial`, that could use it. The embedding and the output matrix are seldom
/// measured and may always go without.
///
/// # Errors
/// See [`WeighingError`].
pub fn check(
    selection: &Selection,
    choices: &[Choice],
    importance: Option<&Importance>,
    allow_partial: bool,
) -> Result<(), WeighingError> {
    if let Some(importance) = importance {
        check_sizes(choices, importance)?;
    }
    let is_known = |tensor: &TensorInfo| of_tensor(importance, tensor).is_some();
    if let Some(choice) =
        coded(choices).find(|choice| selection.needs_importance(choice) && !is_known(choice.tensor))
    {
        return Err(WeighingError::Needed {
            name: selection.name().to_string(),
            tensor: choice.tensor.name.clone(),
            format: choice.format,
        });
    }
    let Some(importance) = importance.filter(|_| !allow_partial) else { return Ok(()) };
    let missing = coded(choices)
        .filter(|choice| heeds_importance(choice.format) && !is_known(choice.tensor))
        .map(|choice| choice.tensor.name.as_str())
        .filter(|name| !is_seldom_measured(name));
    match listed(missing) {
        None => Ok(()),
        Some(tensors) => Err(WeighingError::Missing { file: file_of(importance), tensors }),
    }
}

/// The importance of a tensor's columns, expert after expert: `columns × experts` numbers.
pub fn of_tensor<'a>(importance: Option<&'a Importance>, tensor: &TensorInfo) -> Option<&'a [f32]> {
    importance?.of(&tensor.name).filter(|numbers| Some(numbers.len()) == expected_numbers(tensor))
}

/// Records the importance in a file's metadata as llama-quantize does.
pub fn describe(importance: &Importance, metadata: &mut Metadata) {
    let text = |text: &str| Value::String(text[..text.floor_char_boundary(MAX_TEXT_BYTES)].into());
    let mut set = |key: &str, value: Value| {
        let key = format!("quantize.imatrix.{key}");
        metadata.remove(&key);
        metadata.set(key, value);
    };
    set("file", text(&file_of(importance)));
    if let Some(dataset) = importance.datasets().first() {
        set("dataset", text(dataset));
    }
    set("entries_count", Value::U32(importance.tensor_count().try_into().unwrap_or(u32::MAX)));
    if importance.chunks() > 0 {
        set("chunks_count", Value::U32(importance.chunks()));
    }
}

fn check_sizes(choices: &[Choice], importance: &Importance) -> Result<(), WeighingError> {
    let differences: Vec<String> = coded(choices)
        .filter(|choice| Role::of(&choice.tensor.name) != Role::TokenEmbedding)
        .filter_map(|Choice { tensor, .. }| {
            let found = importance.of(&tensor.name)?.len();
            let expected = expected_numbers(tensor).filter(|&expected| expected != found)?;
            Some(format!("{} takes {expected} numbers, found {found}", tensor.name))
        })
        .collect();
    match listed(differences.iter().map(String::as_str)) {
        None => Ok(()),
        Some(tensors) => Err(WeighingError::OtherModel { file: file_of(importance), tensors }),
    }
}

/// The tensors that are coded anew.
fn coded<'a>(choices: &'a [Choice<'a>]) -> impl Iterator<Item = &'a Choice<'a>> {
    choices.iter().filter(|choice| choice.format != choice.tensor.ggml_type)
}

/// Columns by matrices, of which a tensor of more than two dimensions holds several: experts as a
/// rule, in a third dimension. llama-quantize knows no fourth, which here counts like the third.
fn expected_numbers(tensor: &TensorInfo) -> Option<usize> {
    let mut matrices = tensor.dimensions.iter().skip(2);
    matrices.try_fold(tensor.columns(), |numbers, &count| {
        numbers.checked_mul(usize::try_from(count).ok()?)
    })
}

fn is_seldom_measured(name: &str) -> bool {
    matches!(Role::of(name), Role::Output | Role::TokenEmbedding)
}

fn file_of(importance: &Importance) -> String {
    importance.path().display().to_string()
}
