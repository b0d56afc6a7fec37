//! Formats from a plan, which is exact: it fits the model or it is refused.

use std::collections::HashSet;

use super::{Choice, Reason, SelectionError, in_writing_order};
use crate::gguf::{Metadata, TensorInfo};
use crate::quant::formats::can_quantize;
use crate::quant::plan::{Plan, tensors_sha256};
use crate::quant::recipe::may_change;

/// How many tensors an error names.
const NAMED: usize = 5;

/// Takes every tensor's format from the plan. Norms and other tensors that no recipe changes may be
/// missing there; they stay as they are.
pub(super) fn choose<'a>(
    plan: &Plan,
    metadata: &Metadata,
    tensors: &'a [TensorInfo],
) -> Result<Vec<Choice<'a>>, SelectionError> {
    check_model(plan, metadata, tensors)?;
    in_writing_order(tensors)
        .into_iter()
        .map(|tensor| match plan.format_of(&tensor.name) {
            None => Ok(Choice { tensor, format: tensor.ggml_type, reason: Reason::Kept }),
            Some(format) if format == tensor.ggml_type => {
                Ok(Choice { tensor, format, reason: Reason::Plan })
            }
            Some(format) if !may_change(metadata, tensor) => Err(SelectionError::NotToBeChanged {
                tensor: tensor.name.clone(),
                format,
                found: tensor.ggml_type,
            }),
            Some(format) if !can_quantize(format) => {
                Err(SelectionError::Unwritable { tensor: tensor.name.clone(), format })
            }
            Some(format) if !tensor.columns().is_multiple_of(format.block_size()) => {
                Err(SelectionError::Ragged {
                    tensor: tensor.name.clone(),
                    columns: tensor.columns(),
                    format,
                    asked_by: "the plan",
                })
            }
            Some(format) => Ok(Choice { tensor, format, reason: Reason::Plan }),
        })
        .collect()
}

fn check_model(
    plan: &Plan,
    metadata: &Metadata,
    tensors: &[TensorInfo],
) -> Result<(), SelectionError> {
    let architecture = metadata.string("general.architecture").unwrap_or_default();
    if plan.model.architecture != architecture {
        return Err(SelectionError::OtherArchitecture {
            planned: plan.model.architecture.clone(),
            found: architecture.to_string(),
        });
    }
    let known: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let planned = plan.tensors().iter().map(|(name, _)| name.as_str());
    let unknown = planned.filter(|name| !known.contains(name));
    if let Some(names) = listed(unknown) {
        return Err(SelectionError::NotInModel { names });
    }
    let is_forgotten = |tensor: &&TensorInfo| {
        may_change(metadata, tensor) && plan.format_of(&tensor.name).is_none()
    };
    let forgotten = tensors.iter().filter(is_forgotten).map(|tensor| tensor.name.as_str());
    if let Some(names) = listed(forgotten) {
        return Err(SelectionError::NotInPlan { names });
    }
    match &plan.model.tensors_sha256 {
        Some(planned) if *planned != tensors_sha256(tensors) => Err(SelectionError::OtherShapes),
        _ => Ok(()),
    }
}

/// The first few names and how many more there are, unless there is none.
pub(in crate::quant) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<&str> = names.collect();
    let shown = names[..names.len().min(NAMED)].join(", ");
    match names.len() {
        0 => None,
        count if count <= NAMED => Some(shown),
        count => Some(format!("{shown} and {} more", count - NAMED)),
    }
}
