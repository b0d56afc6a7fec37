//! The tensors that formats are chosen for, and what is known about each format of theirs.

use std::collections::BTreeSet;

use super::allocation::Alternative;
use super::bench::{Task, Window};
use super::checks::check_experts;
use super::coding::Coder;
use super::error::SearchError;
use super::estimates::{Candidate, losses, undominated};
use super::measurements::Measurements;
use super::options::SearchOptions;
use super::sizes::Sizes;
use crate::gguf::{GgmlType, GgufFile, TensorInfo};
use crate::quant::formats::CodecError;
use crate::quant::pipeline::QuantizeError;
use crate::quant::recipe::may_change;
use crate::quant::selection::Rule;
use crate::support::interrupt;
use crate::support::progress::{Progress, Unit};

/// The least squared error that is measured first, as a share of the tensor's largest: what is next
/// to nothing drowns in the rounding of the model's arithmetic.
const LEAST_PROBED: f64 = 1e-3;
/// How many times the largest squared error measured another may be for its loss to be taken as an
/// estimate only.
const FARTHEST_ESTIMATE: f64 = 30.0;

/// A tensor that a format is chosen for.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub(super) info: &'a TensorInfo,
    /// In every format at hand that its rows allow.
    pub(super) all: Vec<Candidate>,
    /// Those that can be the best at some size, from small to large; what is chosen from.
    pub(super) candidates: Vec<Candidate>,
    /// Formats that are of no use: its weights are too large, or the logits are not numbers then.
    pub(super) excluded: Vec<GgmlType>,
    pub(super) fixed: bool,
}

/// A tensor that may change, and what it may become.
#[derive(Debug)]
pub(super) struct Matrix<'a> {
    info: &'a TensorInfo,
    /// Formats with the bytes that it takes in them.
    formats: Vec<(GgmlType, u64)>,
    fixed: bool,
}

impl Tensor<'_> {
    /// Takes over what has been measured.
    fn update(
        &mut self,
        measurements: &Measurements,
        windows: &[usize],
    ) -> Result<(), SearchError> {
        let pair = |format: GgmlType| (self.info.name.clone(), format);
        let (excluded, mut all): (Vec<_>, Vec<_>) = std::mem::take(&mut self.all)
            .into_iter()
            .partition(|candidate| measurements.is_excluded(&pair(candidate.format)));
        for candidate in &mut all {
            candidate.measured = measurements.divergence(&pair(candidate.format), windows);
            if candidate.squared_error == 0.0 {
                candidate.measured = Some(0.0);
            }
        }
        self.excluded.extend(excluded.into_iter().map(|candidate| candidate.format));
        self.candidates = undominated(all.clone());
        self.all = all;
        if self.candidates.is_empty() {
            let names: Vec<&str> = self.excluded.iter().map(|format| format.name()).collect();
            return Err(SearchError::Unusable(format!(
                "{}: no format is left for it, as {} cannot hold it or the model's logits are not \
                 numbers then; allow another by --keep or --formats",
                self.info.name,
                names.join(" and ")
            )));
        }
        Ok(())
    }

    /// The candidate to measure first: the one whose bits are next to `bits` a weight, of those that
    /// lose enough for others to be estimated from it. `None` where none loses anything.
    pub(super) fn probe(&self, bits: f64) -> Option<usize> {
        let largest = self.candidates.first()?.squared_error;
        let distance =
            |index: &usize| (self.candidates[*index].format.bits_per_weight() - bits).abs();
        (0..self.candidates.len())
            .filter(|&index| self.candidates[index].squared_error > largest * LEAST_PROBED)
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
    }

    /// The candidate below a chosen one, where what it loses was estimated from formats that lose
    /// so much less that it could be far off.
    pub(super) fn doubtful(&self, chosen: usize) -> Option<usize> {
        let below = chosen.checked_sub(1)?;
        let measured = self.candidates.iter().filter(|candidate| candidate.measured.is_some());
        let largest = measured.map(|candidate| candidate.squared_error).fold(0.0, f64::max);
        let candidate = &self.candidates[below];
        let is_far = candidate.squared_error > largest * FARTHEST_ESTIMATE;
        (candidate.measured.is_none() && is_far).then_some(below)
    }

    /// The measurement of one of its candidates.
    pub(super) fn task(&self, candidate: usize) -> Task<'_> {
        Task { tensor: self.info, format: self.candidates[candidate].format }
    }
}

/// The tensors that may change.
pub(super) fn matrices<'a>(
    file: &'a GgufFile,
    options: &SearchOptions,
    sizes: &Sizes,
) -> Result<Vec<Matrix<'a>>, SearchError> {
    let changing: Vec<&TensorInfo> =
        file.tensors().iter().filter(|tensor| may_change(file.metadata(), tensor)).collect();
    check_rules(&options.keep, &changing)?;
    check_experts(file.path(), &changing)?;
    let matrix = |info: &'a TensorInfo| {
        let rule = options.keep.iter().find(|rule| rule.pattern.matches(&info.name));
        let formats = formats_of(info, rule, &options.formats, sizes)?;
        Ok(Matrix { info, formats, fixed: rule.is_some() })
    };
    changing.into_iter().map(matrix).collect()
}

/// The bytes that the smallest formats take.
pub(super) fn smallest(matrices: &[Matrix<'_>]) -> u64 {
    let smallest = |matrix: &Matrix<'_>| matrix.formats.iter().map(|&(_, bytes)| bytes).min();
    matrices.iter().filter_map(smallest).sum()
}

/// The tensors with their squared errors in every format.
pub(super) fn candidates<'a>(
    coder: &Coder<'a>,
    matrices: Vec<Matrix<'a>>,
    measurements: &mut Measurements,
) -> Result<Vec<Tensor<'a>>, SearchError> {
    let total = matrices.iter().map(|matrix| matrix.info.weights()).sum();
    let progress = Progress::new("Coding", total, Unit::Items("weights"));
    let mut tensors = Vec::with_capacity(matrices.len());
    for Matrix { info, formats, fixed } in matrices {
        progress.message(info.name.clone());
        let errors = squared_errors(coder, info, &formats, measurements)?;
        let all: Vec<Candidate> = formats
            .into_iter()
            .zip(errors)
            .map(|((format, bytes), squared_error)| Candidate {
                format,
                bytes,
                squared_error,
                measured: None,
            })
            .collect();
        let candidates = undominated(all.clone());
        tensors.push(Tensor { info, all, candidates, excluded: Vec::new(), fixed });
        progress.advance(info.weights());
    }
    progress.finish();
    Ok(tensors)
}

/// Refuses a rule that names nothing: it has a typing error in all likelihood.
fn check_rules(rules: &[Rule], tensors: &[&TensorInfo]) -> Result<(), SearchError> {
    let is_idle = |rule: &&Rule| !tensors.iter().any(|tensor| rule.pattern.matches(&tensor.name));
    match rules.iter().find(is_idle) {
        None => Ok(()),
        Some(rule) => Err(SearchError::Unusable(format!(
            "--keep {}={} matches none of the model's matrices (quantkit inspect lists them)",
            rule.pattern, rule.format
        ))),
    }
}

/// The formats that a tensor may have, with their bytes: the one that a rule gives it, or its own
/// and those of `wanted` that its rows allow.
fn formats_of(
    tensor: &TensorInfo,
    rule: Option<&Rule>,
    wanted: &[GgmlType],
    sizes: &Sizes,
) -> Result<Vec<(GgmlType, u64)>, SearchError> {
    let formats = match rule {
        Some(rule) => BTreeSet::from([rule.format]),
        None => wanted.iter().copied().chain([tensor.ggml_type]).collect(),
    };
    let formats: Vec<(GgmlType, u64)> = formats
        .into_iter()
        .filter_map(|format| Some((format, sizes.padded(tensor, format)?)))
        .collect();
    match rule {
        Some(rule) if formats.is_empty() => Err(SearchError::Unusable(format!(
            "{} has rows of {} weights, which is not a multiple of the block size of the type \
             that --keep {}={} asks for",
            tensor.name,
            tensor.columns(),
            rule.pattern,
            rule.format
        ))),
        _ => Ok(formats),
    }
}

/// Whether the weights are too large for the format, though not for others.
fn is_too_large(error: &SearchError) -> bool {
    let SearchError::Quantize(QuantizeError::Tensor { source, .. }) = error else { return false };
    matches!(source, CodecError::TooLarge { .. })
}

/// Infinity where the format is of no use.
fn squared_errors(
    coder: &Coder<'_>,
    tensor: &TensorInfo,
    formats: &[(GgmlType, u64)],
    measurements: &mut Measurements,
) -> Result<Vec<f64>, SearchError> {
    let (mut errors, mut new) = (Vec::new(), Vec::new());
    for &(format, _) in formats {
        let pair = (tensor.name.clone(), format);
        if measurements.is_excluded(&pair) {
            errors.push(f64::INFINITY);
            continue;
        }
        let error = match measurements.squared_error(&pair) {
            Some(known) => known,
            None => {
                interrupt::check()?;
                match coder.squared_error(tensor, format) {
                    Err(error) if is_too_large(&error) => {
                        measurements.exclude(&pair)?;
                        f64::INFINITY
                    }
                    result => {
                        let error = result?;
                        new.push((format, error));
                        error
                    }
                }
            }
        };
        errors.push(error);
    }
    if !new.is_empty() {
        measurements.add_squared_errors(&tensor.name, &new)?;
    }
    Ok(errors)
}

/// What is chosen from: for each tensor, the bytes and the losses of its candidates.
pub(super) fn alternatives(tensors: &[Tensor<'_>]) -> Vec<Vec<Alternative>> {
    tensors.iter().map(|tensor| losses(&tensor.candidates)).collect()
}

/// Takes over what has been measured on the windows.
pub(super) fn update(
    tensors: &mut [Tensor<'_>],
    windows: &[Window<'_>],
    measurements: &Measurements,
) -> Result<(), SearchError> {
    let windows: Vec<usize> = windows.iter().map(|window| window.index).collect();
    tensors.iter_mut().try_for_each(|tensor| tensor.update(measurements, &windows))
}

#[cfg(test)]
mod tests {
    use super::super::measurements::Identity;
    use super::*;
    use crate::support::input_file::Inputs;

    fn info() -> TensorInfo {
        TensorInfo {
            name: "blk.0.ffn_up.weight".to_string(),
            dimensions: vec![256, 4],
            ggml_type: GgmlType::F16,
            offset: 0,
        }
    }

    /// A tensor with these candidates: format, squared error, measured or not.
    fn tensor<'a>(info: &'a TensorInfo, candidates: &[(GgmlType, f64, bool)]) -> Tensor<'a> {
        let candidate = |&(format, squared_error, is_measured): &(GgmlType, f64, bool)| Candidate {
            format,
            bytes: info.weights() / format.block_size() as u64 * format.block_bytes() as u64,
            squared_error,
            measured: is_measured.then_some(squared_error),
        };
        let all: Vec<Candidate> = candidates.iter().map(candidate).collect();
        Tensor {
            info,
            candidates: undominated(all.clone()),
            all,
            excluded: Vec::new(),
            fixed: false,
        }
    }

    #[test]
    fn the_probe_is_near_the_wanted_bits_and_not_next_to_lossless() {
        let info = info();
        let usual = [(GgmlType::Q4_0, 3.0, false), (GgmlType::Q5_0, 0.7, false)];
        let usual = tensor(&info, &[&usual[..], &[(GgmlType::Q8_0, 0.01, false)]].concat());
        assert_eq!([4.0, 5.9, 9.0].map(|bits| usual.probe(bits)), [Some(0), Some(1), Some(2)]);
        let exact = [(GgmlType::Q5_0, 0.7, false), (GgmlType::Q5_1, 1e-5, false)];
        assert_eq!(tensor(&info, &exact).probe(6.0), Some(0));
        assert_eq!(tensor(&info, &[(GgmlType::F16, 0.0, true)]).probe(6.0), None);
    }

    #[test]
    fn a_format_of_no_use_makes_room_for_others() {
        let info = info();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plan.measurements.jsonl");
        let identity = Identity::new("model".to_string(), "text".to_string(), 512, None);
        let mut measurements =
            Measurements::open(&path, identity, Inputs::default(), false).unwrap();
        // Q4_1 is no choice while Q4_0 is smaller and better.
        let formats = [(GgmlType::Q4_0, 2.0, false), (GgmlType::Q4_1, 3.0, false)];
        let mut tensor = tensor(&info, &formats);
        let of = |tensor: &Tensor<'_>| -> Vec<GgmlType> {
            tensor.candidates.iter().map(|candidate| candidate.format).collect()
        };
        assert_eq!(of(&tensor), [GgmlType::Q4_0]);
        measurements.exclude(&(info.name.clone(), GgmlType::Q4_0)).unwrap();
        tensor.update(&measurements, &[0]).unwrap();
        assert_eq!(of(&tensor), [GgmlType::Q4_1]);
        assert_eq!(tensor.excluded, [GgmlType::Q4_0]);
        measurements.exclude(&(info.name.clone(), GgmlType::Q4_1)).unwrap();
        let error = tensor.update(&measurements, &[0]).unwrap_err().to_string();
        assert!(error.contains("blk.0.ffn_up.weight: no format is left"), "{error}");
    }

    #[test]
    fn estimates_far_above_the_measurements_are_doubted() {
        let info = info();
        let exact = [(GgmlType::Q5_0, 0.7, false), (GgmlType::Q5_1, 1e-5, true)];
        assert_eq!(tensor(&info, &exact).doubtful(1), Some(0));
        assert_eq!(tensor(&info, &exact).doubtful(0), None);
        let near = [(GgmlType::Q4_0, 3.0, false), (GgmlType::Q5_0, 0.7, true)];
        assert_eq!(tensor(&info, &near).doubtful(1), None);
        let known = [(GgmlType::Q5_0, 0.7, true), (GgmlType::Q5_1, 1e-5, true)];
        assert_eq!(tensor(&info, &known).doubtful(1), None);
    }
}
