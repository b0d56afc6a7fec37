//! A search from end to end.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use serde_json::{Value, json};

use super::allocation::{self, Allocation, allocate};
use super::bench::{Bench, Task, Window};
use super::coding::Coder;
use super::estimates::losses;
use super::measurements::{Identity, Measurements};
use super::sizes::{Sizes, bytes_of};
use super::tensors::{Tensor, alternatives, candidates, update};
use super::{
    CurvePoint, PlannedTensor, SearchError, SearchOptions, SearchReport, TensorAlternative, Variant,
};
use crate::convert::vocabulary::Vocabulary;
use crate::eval::divergence::Divergence;
use crate::eval::text_windows::TextWindows;
use crate::gguf::{GgmlType, GgufFile, TensorInfo};
use crate::model::Decoder;
use crate::quant::importance::Importance;
use crate::quant::plan::{Plan, PlannedModel, tensors_sha256};
use crate::quant::recipe::{Recipe, may_change};
use crate::quant::selection::Selection;
use crate::quant::weighing;
use crate::support::atomic_file::check_writable;
use crate::support::hash::{sha256_bytes, sha256_file_once};
use crate::support::units;

/// Rounds of measuring what was only estimated, after which estimates are taken as they are.
const MOST_ROUNDS: usize = 8;

/// Searches, writes the plan and returns what is known about it.
///
/// # Errors
/// See [`SearchError`]. Whatever was measured until then is kept beside the plan and used by the
/// next search.
pub fn search(options: &SearchOptions) -> Result<SearchReport, SearchError> {
    let started = Instant::now();
    check_output(options)?;
    let file = GgufFile::open(&options.model)?;
    let importance = options.importance.as_deref().map(Importance::read).transpose()?;
    check_importance(&file, importance.as_ref(), options)?;
    let sizes = Sizes::of(&file, options, importance.as_ref())?;
    let mut measurements = open_measurements(&file, options)?;
    let vocabulary = Vocabulary::from_metadata(file.metadata())
        .map_err(|error| unusable(&options.model, &error.to_string()))?;
    let text = TextWindows::read(&options.text, &vocabulary, options.context, None)?;
    let windows = spread(&text, options.chunks);

    let coder = Coder { file: &file, importance: importance.as_ref() };
    let mut tensors = candidates(&coder, options, &sizes, &mut measurements)?;
    let budget = sizes.budget(options.budget)?;
    check_budget(&tensors, &sizes, budget)?;

    let model = GgufFile::open(&options.model)?;
    let decoder = Decoder::load_separately(model, &Device::Cpu)?;
    check_context(options, &decoder)?;
    let mut bench = Bench { decoder, coder };
    let tensor_budget = budget - sizes.fixed;
    measure_probes(&mut bench, &mut tensors, &windows, &mut measurements, tensor_budget)?;
    let allocation = settle(&mut bench, &mut tensors, &windows, &mut measurements, tensor_budget)?;

    let search =
        Search { options, file: &file, sizes, tensors, allocation, budget, windows: windows.len() };
    search.write_plan(None)?;
    let variants = search.measure_variants(&mut bench, &windows, &vocabulary, &mut measurements)?;
    search.write_plan(variants.first())?;
    Ok(search.report(variants, started))
}

/// Where the measurements of a search lie: beside its plan.
pub fn measurements_path(plan: &Path) -> PathBuf {
    plan.with_extension("measurements.jsonl")
}

fn unusable(path: &Path, problem: &str) -> SearchError {
    SearchError::Unusable(format!("{}: {problem}", path.display()))
}

/// Refuses an output that cannot be written or would replace an input.
fn check_output(options: &SearchOptions) -> Result<(), SearchError> {
    let output = &options.output;
    check_writable(output).map_err(|source| SearchError::Io { path: output.clone(), source })?;
    let held_out = options.held_out.as_ref().map(|(path, _)| path);
    let inputs = [Some(&options.model), Some(&options.text), options.importance.as_ref(), held_out];
    for target in [output, &measurements_path(output)] {
        let Ok(target) = target.canonicalize() else { continue };
        let is_target = |input: &&PathBuf| input.canonicalize().is_ok_and(|input| input == target);
        if let Some(input) = inputs.into_iter().flatten().find(is_target) {
            return Err(unusable(input, "the plan or its measurements would replace this input"));
        }
    }
    Ok(())
}

/// Refuses importance of another model, or of too few tensors, as `quantize` does.
fn check_importance(
    file: &GgufFile,
    importance: Option<&Importance>,
    options: &SearchOptions,
) -> Result<(), SearchError> {
    // Every matrix gets a format that heeds importance.
    let recipe = Recipe::from_name("Q4_0").expect("this recipe is always there");
    let selection = Selection::recipe(recipe);
    let choices = selection
        .choose(file.metadata(), file.tensors(), importance.is_some())
        .map_err(|error| unusable(&options.model, &error.to_string()))?;
    weighing::check(&selection, &choices, importance, options.allow_partial_importance)
        .map_err(|error| unusable(&options.model, &error.to_string()))
}

fn open_measurements(
    file: &GgufFile,
    options: &SearchOptions,
) -> Result<Measurements, SearchError> {
    let hash = |path: &Path| {
        sha256_file_once(path)
            .map_err(|source| SearchError::Io { path: path.to_path_buf(), source })
    };
    let parts = file.part_paths().map(hash).collect::<Result<Vec<_>, _>>()?;
    let model =
        if parts.len() == 1 { parts.concat() } else { sha256_bytes(parts.concat().as_bytes()) };
    let identity = Identity::new(
        model,
        hash(&options.text)?,
        options.context,
        options.importance.as_deref().map(hash).transpose()?,
    );
    Measurements::open(&measurements_path(&options.output), &identity, options.fresh)
}

fn check_context(options: &SearchOptions, decoder: &Decoder) -> Result<(), SearchError> {
    let longest = decoder.config().context_length;
    if options.context <= longest {
        return Ok(());
    }
    let problem = format!(
        "windows of {} tokens do not fit into the model's context of {longest}: lower --context",
        options.context
    );
    Err(unusable(&options.model, &problem))
}

/// At most `count` windows, as far from one another as the text allows.
fn spread(text: &TextWindows, count: usize) -> Vec<Window<'_>> {
    let all: Vec<Window<'_>> =
        text.iter().enumerate().map(|(index, tokens)| Window { index, tokens }).collect();
    let count = count.clamp(1, all.len());
    (0..count).map(|place| all[place * all.len() / count]).collect()
}

fn check_budget(tensors: &[Tensor<'_>], sizes: &Sizes, budget: u64) -> Result<(), SearchError> {
    let smallest = sizes.fixed + allocation::smallest(&alternatives(tensors));
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

/// Measures one format for every tensor, at about the bits that the budget allows on average, so
/// that most of what is chosen in the end has been measured then.
fn measure_probes(
    bench: &mut Bench<'_>,
    tensors: &mut [Tensor<'_>],
    windows: &[Window<'_>],
    measurements: &mut Measurements,
    budget: u64,
) -> Result<(), SearchError> {
    let weights: u64 = tensors.iter().map(|tensor| tensor.info.weights()).sum();
    let bits = budget as f64 * 8.0 / weights.max(1) as f64;
    let probes: Vec<Task<'_>> = tensors
        .iter()
        .filter_map(|tensor| tensor.probe(bits).map(|index| tensor.task(index)))
        .collect();
    bench.measure(&probes, windows, measurements, "Measuring")?;
    drop(probes);
    update(tensors, windows, measurements);
    Ok(())
}

/// Allocates, measures what was chosen on an estimate, and so on until nothing is left to measure.
fn settle(
    bench: &mut Bench<'_>,
    tensors: &mut [Tensor<'_>],
    windows: &[Window<'_>],
    measurements: &mut Measurements,
    budget: u64,
) -> Result<Allocation, SearchError> {
    let mut round = 1;
    loop {
        let allocation = allocate(&alternatives(tensors), budget)
            .expect("the smallest alternatives were found to fit");
        let to_measure = |(tensor, &chosen): (&Tensor<'_>, &usize)| {
            let is_estimate = tensor.candidates[chosen].measured.is_none();
            if is_estimate { Some(chosen) } else { tensor.doubtful(chosen) }
        };
        let tasks: Vec<Task<'_>> = tensors
            .iter()
            .zip(&allocation.chosen)
            .filter_map(|pair| to_measure(pair).map(|candidate| pair.0.task(candidate)))
            .collect();
        tracing::info!(
            "round {round}: {} bytes, predicted KL {:.6}, {} of {} choices rest on estimates that \
             have to be measured",
            allocation.bytes,
            allocation.loss,
            tasks.len(),
            tensors.len()
        );
        if tasks.is_empty() || round > MOST_ROUNDS {
            return Ok(allocation);
        }
        bench.measure(&tasks, windows, measurements, &format!("Refining {round}"))?;
        drop(tasks);
        update(tensors, windows, measurements);
        round += 1;
    }
}

/// A search whose allocation is found.
struct Search<'a> {
    options: &'a SearchOptions,
    file: &'a GgufFile,
    sizes: Sizes,
    tensors: Vec<Tensor<'a>>,
    allocation: Allocation,
    budget: u64,
    windows: usize,
}

/// A name and the format of every tensor that may change.
type Assignment<'a> = (String, Vec<(&'a TensorInfo, GgmlType)>);

impl<'a> Search<'a> {
    fn planned(&self) -> Assignment<'a> {
        let formats = self.tensors.iter().zip(&self.allocation.chosen);
        let formats =
            formats.map(|(tensor, &chosen)| (tensor.info, tensor.candidates[chosen].format));
        ("plan".to_string(), formats.collect())
    }

    fn by_recipe(&self, recipe: &'static Recipe) -> Result<Assignment<'a>, SearchError> {
        let selection = Selection::recipe(recipe);
        let has_importance = self.options.importance.is_some();
        let choices = selection
            .choose(self.file.metadata(), self.file.tensors(), has_importance)
            .map_err(|error| unusable(&self.options.model, &error.to_string()))?;
        let changing = choices
            .into_iter()
            .filter(|choice| may_change(self.file.metadata(), choice.tensor))
            .map(|choice| (choice.tensor, choice.format));
        Ok((recipe.name.to_string(), changing.collect()))
    }

    fn file_bytes(&self, formats: &[(&TensorInfo, GgmlType)]) -> u64 {
        let padded =
            formats.iter().filter_map(|(tensor, format)| self.sizes.padded(tensor, *format));
        self.sizes.fixed + padded.sum::<u64>()
    }

    fn bits_per_weight(&self, formats: &[(&TensorInfo, GgmlType)]) -> f64 {
        let bytes = formats.iter().filter_map(|(tensor, format)| bytes_of(tensor, *format));
        let bytes = self.sizes.kept_bytes + bytes.sum::<u64>();
        bytes as f64 * 8.0 / self.sizes.weights.max(1) as f64
    }

    /// The sum of what the tensors lose alone.
    fn predicted(&self, formats: &[(&TensorInfo, GgmlType)]) -> Option<f64> {
        let loss = |(info, format): &(&TensorInfo, GgmlType)| {
            let tensor = self.tensors.iter().find(|tensor| tensor.info.name == info.name)?;
            let place = tensor.all.iter().position(|candidate| candidate.format == *format)?;
            Some(losses(&tensor.all)[place].loss)
        };
        formats.iter().map(loss).sum()
    }

    fn measure_variants(
        &self,
        bench: &mut Bench<'_>,
        windows: &[Window<'_>],
        vocabulary: &Vocabulary,
        measurements: &mut Measurements,
    ) -> Result<Vec<Variant>, SearchError> {
        let held_out = match &self.options.held_out {
            Some((path, limit)) => {
                let text = TextWindows::read(path, vocabulary, self.options.context, *limit)?;
                Some((path, text))
            }
            None => None,
        };
        let recipes = self.options.against.iter().map(|&recipe| self.by_recipe(recipe));
        let assignments = std::iter::once(Ok(self.planned())).chain(recipes);
        let mut variants = Vec::new();
        for assignment in assignments {
            let (name, formats) = assignment?;
            let mut measure = |text: &Path, windows: &[Window<'_>]| {
                self.measure_variant(bench, (&name, &formats), text, windows, measurements)
            };
            let calibration = measure(&self.options.text, windows)?;
            let held_out = match &held_out {
                Some((path, text)) => Some(measure(path, &spread(text, text.count()))?),
                None => None,
            };
            variants.push(Variant {
                file_bytes: self.file_bytes(&formats),
                bits_per_weight: self.bits_per_weight(&formats),
                predicted_kl: self.predicted(&formats),
                calibration,
                held_out,
                name,
            });
        }
        Ok(variants)
    }

    fn measure_variant(
        &self,
        bench: &mut Bench<'_>,
        (name, formats): (&str, &[(&TensorInfo, GgmlType)]),
        text: &Path,
        windows: &[Window<'_>],
        measurements: &mut Measurements,
    ) -> Result<Divergence, SearchError> {
        let mut lines: Vec<String> =
            formats.iter().map(|(tensor, format)| format!("{} {format}\n", tensor.name)).collect();
        lines.sort_unstable();
        let assignment = sha256_bytes(lines.concat().as_bytes());
        let text_sha256 = sha256_file_once(text)
            .map_err(|source| SearchError::Io { path: text.to_path_buf(), source })?;
        if let Some(known) = measurements.model(&assignment, &text_sha256, windows.len()) {
            return Ok(known.clone());
        }
        let divergence = bench.measure_model(formats, windows, &format!("Checking {name}"))?;
        measurements.add_model(&assignment, &text_sha256, windows.len(), &divergence)?;
        Ok(divergence)
    }

    /// Writes the plan with what is known about it.
    fn write_plan(&self, measured: Option<&Variant>) -> Result<(), SearchError> {
        let (_, formats) = self.planned();
        let architecture = self.file.metadata().string("general.architecture").unwrap_or_default();
        let model = PlannedModel {
            architecture: architecture.to_string(),
            tensors_sha256: Some(tensors_sha256(self.file.tensors())),
            ..PlannedModel::default()
        };
        let named = formats.iter().map(|(tensor, format)| (tensor.name.clone(), *format));
        let mut plan = Plan::new(model, named);
        let path = |path: &PathBuf| path.display().to_string();
        let search = json!({
            "quantkit_version": env!("CARGO_PKG_VERSION"),
            "model": path(&self.options.model),
            "text": path(&self.options.text),
            "importance": self.options.importance.as_ref().map(path),
            "budget_bytes": self.budget,
            "file_bytes": self.file_bytes(&formats),
            "bits_per_weight": self.bits_per_weight(&formats),
            "predicted_kl": self.allocation.loss,
            "measured_kl": measured.map(|variant| variant.calibration.kl.mean),
            "held_out_kl": measured
                .and_then(|variant| variant.held_out.as_ref())
                .map(|divergence| divergence.kl.mean),
        });
        plan.extra.insert("search".to_string(), without_nulls(search));
        Ok(plan.write(&self.options.output)?)
    }

    fn report(&self, variants: Vec<Variant>, started: Instant) -> SearchReport {
        let curve = allocation::curve(&alternatives(&self.tensors)).into_iter();
        let curve = curve.map(|point| CurvePoint {
            file_bytes: self.sizes.fixed + point.bytes,
            predicted_kl: point.loss,
        });
        SearchReport {
            model: self.options.model.display().to_string(),
            plan: self.options.output.clone(),
            measurements: measurements_path(&self.options.output),
            importance: self.options.importance.clone(),
            budget_bytes: self.budget,
            model_bytes: self.file.file_bytes(),
            chunks: self.windows,
            context: self.options.context,
            variants,
            tensors: self
                .tensors
                .iter()
                .zip(&self.allocation.chosen)
                .map(|(tensor, &chosen)| planned_tensor(tensor, chosen))
                .collect(),
            curve: curve.collect(),
            seconds: started.elapsed().as_secs_f64(),
        }
    }
}

fn planned_tensor(tensor: &Tensor<'_>, chosen: usize) -> PlannedTensor {
    let losses = losses(&tensor.candidates);
    let format = tensor.candidates[chosen].format;
    let alternatives =
        tensor.candidates.iter().zip(&losses).map(|(candidate, alternative)| TensorAlternative {
            format: candidate.format.name(),
            bytes: bytes_of(tensor.info, candidate.format).unwrap_or_default(),
            kl: alternative.loss,
            measured: candidate.measured.is_some(),
        });
    PlannedTensor {
        name: tensor.info.name.clone(),
        weights: tensor.info.weights(),
        format: format.name(),
        bytes: bytes_of(tensor.info, format).unwrap_or_default(),
        kl: losses[chosen].loss,
        fixed: tensor.fixed,
        alternatives: alternatives.collect(),
    }
}

/// A JSON object without the entries that say nothing.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(entries) = &mut value {
        entries.retain(|_, value| !value.is_null());
    }
    value
}
