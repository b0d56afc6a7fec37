//! What is found out before any long work.

use std::path::{Path, PathBuf};

use super::error::SearchError;
use super::measurements::{MEASUREMENTS_SUFFIX, measurements_path};
use super::options::SearchOptions;
use super::sizes::Sizes;
use crate::gguf::{GgufFile, TensorInfo};
use crate::model::Decoder;
use crate::quant::importance::Importance;
use crate::quant::recipe::Recipe;
use crate::quant::selection::{Choice, Selection, SelectionError};
use crate::quant::weighing;
use crate::support::atomic_file::check_writable;
use crate::support::same_file::is_same_place;
use crate::support::units;

/// Refuses outputs that cannot be written, or that would replace an input or one another.
pub(super) fn check_files(options: &SearchOptions, file: &GgufFile) -> Result<(), SearchError> {
    let measurements = measurements_path(&options.output);
    let outputs: Vec<&Path> = [options.output.as_path(), measurements.as_path()]
        .into_iter()
        .chain(options.later_outputs.iter().map(PathBuf::as_path))
        .collect();
    let others = [Some(&options.text), options.importance.as_ref()];
    let held_out = options.held_out.as_ref().map(|(path, _)| path);
    let inputs: Vec<&Path> = file
        .part_paths()
        .chain(others.into_iter().chain([held_out]).flatten().map(PathBuf::as_path))
        .chain(options.other_inputs.iter().map(PathBuf::as_path))
        .collect();
    for (place, output) in outputs.iter().enumerate() {
        check_writable(output)
            .map_err(|source| SearchError::Io { path: output.to_path_buf(), source })?;
        if output.to_string_lossy().ends_with(MEASUREMENTS_SUFFIX) && **output != *measurements {
            return Err(SearchError::unusable(
                output,
                "files of this name hold measurements; give another one",
            ));
        }
        if inputs.iter().any(|input| is_same_place(input, output)) {
            return Err(SearchError::unusable(output, "an output would replace this input"));
        }
        if outputs[..place].iter().any(|other| is_same_place(other, output)) {
            return Err(SearchError::unusable(
                output,
                "two outputs would go here; the measurements go beside the plan",
            ));
        }
    }
    Ok(())
}

/// Refuses importance of another model, or of too few tensors, as `quantize` does.
pub(super) fn check_importance(
    file: &GgufFile,
    importance: Option<&Importance>,
    options: &SearchOptions,
) -> Result<(), SearchError> {
    // Every matrix gets a format that heeds importance.
    let recipe = Recipe::from_name("Q4_0").expect("this recipe is always there");
    choices(file, recipe, importance, options).map(drop)
}

/// What the recipe has for every tensor.
///
/// # Errors
/// A recipe that does not know what to do with the model, or that cannot do without importance.
pub(super) fn choices<'a>(
    file: &'a GgufFile,
    recipe: &'static Recipe,
    importance: Option<&Importance>,
    options: &SearchOptions,
) -> Result<Vec<Choice<'a>>, SearchError> {
    let selection = Selection::recipe(recipe);
    let choices = selection.choose(file.metadata(), file.tensors(), importance.is_some()).map_err(
        |error| match error {
            SelectionError::OnlyPure { recipe } => SearchError::Unusable(format!(
                "there is nothing to compare with by --against {recipe}: it is one format for \
                     every matrix and no mixture of formats"
            )),
            other => SearchError::unusable(&options.model, &other.to_string()),
        },
    )?;
    weighing::check(&selection, &choices, importance, options.allow_partial_importance)
        .map_err(|error| SearchError::unusable(&options.model, &error.to_string()))?;
    Ok(choices)
}

/// Refuses tensors that hold the matrices of several experts: no such model can be run.
pub(super) fn check_experts(path: &Path, tensors: &[&TensorInfo]) -> Result<(), SearchError> {
    match tensors.iter().find(|tensor| tensor.dimensions.len() > 2) {
        None => Ok(()),
        Some(tensor) => {
            let problem = format!(
                "{} holds the matrices of several experts; quantkit cannot run such models yet, so \
                 nothing can be measured",
                tensor.name
            );
            Err(SearchError::unusable(path, &problem))
        }
    }
}

pub(super) fn check_context(options: &SearchOptions, decoder: &Decoder) -> Result<(), SearchError> {
    let longest = decoder.context();
    if options.context <= longest {
        return Ok(());
    }
    let problem = format!(
        "windows of {} tokens do not fit into the model's context of {longest}: lower --context",
        options.context
    );
    Err(SearchError::unusable(&options.model, &problem))
}

/// `smallest` is what the tensors that formats are chosen for take at least.
pub(super) fn check_budget(smallest: u64, sizes: &Sizes, budget: u64) -> Result<(), SearchError> {
    let smallest = sizes.fixed + smallest;
    if smallest <= budget {
        return Ok(());
    }
    let tensor_bytes = smallest - (sizes.fixed - sizes.kept_bytes);
    Err(SearchError::Unusable(format!(
        "the model cannot be made as small as {} ({}): with these formats the smallest file has {} \
         ({}, {:.2} bits per weight)",
        units::bytes(budget),
        units::count(budget),
        units::bytes(smallest),
        units::count(smallest),
        tensor_bytes as f64 * 8.0 / sizes.weights.max(1) as f64
    )))
}
