//! A search from end to end.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use serde_json::{Value, json};

use super::allocation::{self, Allocation, allocate};
use super::bench::{Bench, Task, Window};
use super::checks::{check_budget, check_context, check_files, check_importance, choices};
use super::coding::Coder;
use super::error::SearchError;
use super::estimates::losses;
use super::measurements::{Identity, Measurements, ModelRun, measurements_path};
use super::options::SearchOptions;
use super::report::{
    CurvePoint, ExcludedFormat, PlannedTensor, SearchReport, TensorAlternative, Variant,
};
use super::sizes::{Sizes, bytes_of};
use super::tensors::{Tensor, alternatives, candidates, matrices, smallest, update};
use crate::eval::EvalError;
use crate::eval::text::TextFile;
use crate::eval::text::divergence::Divergence;
use crate::eval::text::windows::TextWindows;
use crate::gguf::{self, GgmlType, GgufFile, TensorInfo};
use crate::kernels::attention::KvType;
use crate::model::Decoder;
use crate::quant::importance::Importance;
use crate::quant::plan::{Plan, PlannedModel, tensors_sha256};
use crate::quant::recipe::{Recipe, may_change};
use crate::support::hash::sha256_bytes;
use crate::support::input_file::{FileState, sha256_once};
use crate::support::interrupt::{self, Interrupted};
use crate::tokenizer::Vocabulary;

/// Rounds of measuring what was only estimated, after which estimates are taken as they are.
const MOST_ROUNDS: usize = 8;

/// Searches, writes the plan and returns what is known about it.
///
/// # Errors
/// See [`SearchError`]. Whatever was measured until then is kept beside the plan and used by the
/// next search.
pub fn search(options: &SearchOptions) -> Result<SearchReport, SearchError> {
    match run(options) {
        // A stop while a file is read comes as an error of the file.
        Err(SearchError::Io { .. } | SearchError::Eval(_) | SearchError::Input(_))
            if interrupt::requested() =>
        {
            Err(Interrupted.into())
        }
        result => result,
    }
}

fn run(options: &SearchOptions) -> Result<SearchReport, SearchError> {
    let started = Instant::now();
    let file = GgufFile::open(&options.model)?;
    check_files(options, &file)?;
    let (importance, importance_sha256) = read_importance(options)?.unzip();
    check_importance(&file, importance.as_ref(), options)?;
    let sizes = Sizes::of(&file, options, importance.as_ref())?;
    let budget = sizes.budget(options.budget)?;
    let matrices = matrices(&file, options, &sizes)?;
    check_budget(smallest(&matrices), &sizes, budget)?;
    let recipes = options.against.iter();
    let recipes = recipes.map(|&recipe| by_recipe(&file, recipe, importance.as_ref(), options));
    let recipes = recipes.collect::<Result<Vec<_>, _>>()?;

    let vocabulary = Vocabulary::from_metadata(file.metadata())
        .map_err(|error| SearchError::unusable(&options.model, &error.to_string()))?;
    let read = |path: &Path, limit| {
        let text = TextFile::read(path)?;
        let windows = TextWindows::of(&text, &vocabulary, options.context, limit)?;
        Ok::<_, EvalError>((windows, text.sha256().to_string()))
    };
    let (calibration, text_sha256) = read(&options.text, None)?;
    let held_out = options.held_out.as_ref();
    let held_out = held_out.map(|(path, limit)| read(path, *limit)).transpose()?;

    let model = gguf::identify(&file)?;
    let decoder = Decoder::load(file.clone(), &Device::Cpu, KvType::default())?;
    check_context(options, &decoder)?;
    let identity =
        Identity::new(model.sha256, text_sha256.clone(), options.context, importance_sha256);
    let path = measurements_path(&options.output);
    let mut measurements = Measurements::open(&path, identity, model.inputs, options.fresh)?;
    let texts = Texts {
        calibration: Text { windows: spread(&calibration, options.chunks), sha256: &text_sha256 },
        held_out: held_out
            .as_ref()
            .map(|(text, sha256)| Text { windows: spread(text, text.count()), sha256 }),
    };
    let windows = &texts.calibration.windows;

    let coder = Coder { file: &file, importance: importance.as_ref() };
    let mut tensors = candidates(&coder, matrices, &mut measurements)?;
    let mut bench = Bench { decoder, coder };
    let room = Room { file_bytes: budget, sizes };
    measure_probes(&mut bench, &mut tensors, windows, &mut measurements, &room)?;
    let allocation = settle(&mut bench, &mut tensors, windows, &mut measurements, &room)?;

    let search = Search { options, file: &file, room, tensors, allocation };
    search.write_plan(None)?;
    let variants = search.measure_variants(&mut bench, &texts, recipes, &mut measurements)?;
    search.write_plan(variants.first())?;
    Ok(search.report(&texts, variants, started))
}

/// The importance with the hash of the very file that was read.
fn read_importance(options: &SearchOptions) -> Result<Option<(Importance, String)>, SearchError> {
    let Some(path) = options.importance.as_deref() else { return Ok(None) };
    let found = FileState::at(path)?;
    let read = (Importance::read(path)?, sha256_once(path)?);
    found.check(path)?;
    Ok(Some(read))
}

/// At most `count` windows, as far from one another as the text allows.
fn spread(text: &TextWindows, count: usize) -> Vec<Window<'_>> {
    let all: Vec<Window<'_>> =
        text.iter().enumerate().map(|(index, tokens)| Window { index, tokens }).collect();
    let count = count.clamp(1, all.len());
    (0..count).map(|place| all[place * all.len() / count]).collect()
}

/// How large the file may be, and what it weighs besides the tensors that are chosen for.
struct Room {
    file_bytes: u64,
    sizes: Sizes,
}

impl Room {
    /// What is left for the tensors that are chosen for.
    fn tensor_bytes(&self) -> u64 {
        self.file_bytes - self.sizes.fixed
    }
}

/// Measures one format for every tensor, at about the bits that the budget allows on average, so
/// that most of what is chosen in the end has been measured then. Where a format turns out to be of
/// no use, another takes its place.
fn measure_probes(
    bench: &mut Bench<'_>,
    tensors: &mut [Tensor<'_>],
    windows: &[Window<'_>],
    measurements: &mut Measurements,
    room: &Room,
) -> Result<(), SearchError> {
    let weights: u64 = tensors.iter().map(|tensor| tensor.info.weights()).sum();
    let bits = room.tensor_bytes() as f64 * 8.0 / weights.max(1) as f64;
    loop {
        update(tensors, windows, measurements)?;
        let probes: Vec<Task<'_>> = tensors
            .iter()
            .filter_map(|tensor| Some((tensor, tensor.probe(bits)?)))
            .filter(|&(tensor, probe)| tensor.candidates[probe].measured.is_none())
            .map(|(tensor, probe)| tensor.task(probe))
            .collect();
        if probes.is_empty() {
            return Ok(());
        }
        bench.measure(&probes, windows, measurements, "Measuring")?;
    }
}

/// Allocates, measures what was chosen on an estimate, and so on until nothing is left to measure
/// or [`MOST_ROUNDS`] are over.
fn settle(
    bench: &mut Bench<'_>,
    tensors: &mut [Tensor<'_>],
    windows: &[Window<'_>],
    measurements: &mut Measurements,
    room: &Room,
) -> Result<Allocation, SearchError> {
    let mut round = 1;
    loop {
        let alternatives = alternatives(tensors);
        // Formats may have turned out to be of no use since it was checked before.
        check_budget(allocation::smallest(&alternatives), &room.sizes, room.file_bytes)?;
        let allocation = allocate(&alternatives, room.tensor_bytes())
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
        update(tensors, windows, measurements)?;
        round += 1;
    }
}

/// A text that the result is measured on.
struct Text<'a> {
    windows: Vec<Window<'a>>,
    /// Of the whole text.
    sha256: &'a str,
}

/// All of them.
struct Texts<'a> {
    calibration: Text<'a>,
    held_out: Option<Text<'a>>,
}

/// A search whose allocation is found.
struct Search<'a> {
    options: &'a SearchOptions,
    file: &'a GgufFile,
    room: Room,
    tensors: Vec<Tensor<'a>>,
    allocation: Allocation,
}

/// A name and the format of every tensor that may change.
type Assignment<'a> = (String, Vec<(&'a TensorInfo, GgmlType)>);

fn by_recipe<'a>(
    file: &'a GgufFile,
    recipe: &'static Recipe,
    importance: Option<&Importance>,
    options: &SearchOptions,
) -> Result<Assignment<'a>, SearchError> {
    let changing = choices(file, recipe, importance, options)?
        .into_iter()
        .filter(|choice| may_change(file.metadata(), choice.tensor))
        .map(|choice| (choice.tensor, choice.format));
    Ok((recipe.name.to_string(), changing.collect()))
}

impl<'a> Search<'a> {
    fn planned(&self) -> Assignment<'a> {
        let formats = self.tensors.iter().zip(&self.allocation.chosen);
        let formats =
            formats.map(|(tensor, &chosen)| (tensor.info, tensor.candidates[chosen].format));
        ("plan".to_string(), formats.collect())
    }

    fn file_bytes(&self, formats: &[(&TensorInfo, GgmlType)]) -> u64 {
        let padded =
            formats.iter().filter_map(|(tensor, format)| self.room.sizes.padded(tensor, *format));
        self.room.sizes.fixed + padded.sum::<u64>()
    }

    fn bits_per_weight(&self, formats: &[(&TensorInfo, GgmlType)]) -> f64 {
        let bytes = formats.iter().filter_map(|(tensor, format)| bytes_of(tensor, *format));
        let bytes = self.room.sizes.kept_bytes + bytes.sum::<u64>();
        bytes as f64 * 8.0 / self.room.sizes.weights.max(1) as f64
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

    /// The plan first. A recipe whose model gives no numbers is left out.
    fn measure_variants(
        &self,
        bench: &mut Bench<'_>,
        texts: &Texts<'_>,
        recipes: Vec<Assignment<'a>>,
        measurements: &mut Measurements,
    ) -> Result<Vec<Variant>, SearchError> {
        let mut variants = Vec::new();
        for assignment in std::iter::once(self.planned()).chain(recipes) {
            match self.measure_variant(bench, &assignment, texts, measurements)? {
                Some(variant) => variants.push(variant),
                None if variants.is_empty() => {
                    return Err(SearchError::Unusable(format!(
                        "{}: the model's logits are not numbers in the formats of this plan, \
                         although they are with each tensor's alone; leave out formats by --formats",
                        self.options.output.display()
                    )));
                }
                None => tracing::warn!(
                    "--against {}: left out, as the model's logits are not numbers in its formats",
                    assignment.0
                ),
            }
        }
        Ok(variants)
    }

    /// `None` where the logits are not numbers.
    fn measure_variant(
        &self,
        bench: &mut Bench<'_>,
        assignment: &Assignment<'a>,
        texts: &Texts<'_>,
        measurements: &mut Measurements,
    ) -> Result<Option<Variant>, SearchError> {
        let mut measure =
            |text: &Text<'_>| measure_assignment(bench, assignment, text, measurements);
        let Some(calibration) = measure(&texts.calibration)? else { return Ok(None) };
        let held_out = match &texts.held_out {
            None => None,
            Some(text) => match measure(text)? {
                None => return Ok(None),
                measured => measured,
            },
        };
        let (name, formats) = assignment;
        Ok(Some(Variant {
            name: name.clone(),
            file_bytes: self.file_bytes(formats),
            bits_per_weight: self.bits_per_weight(formats),
            predicted_kl: self.predicted(formats),
            calibration,
            held_out,
        }))
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
            "budget_bytes": self.room.file_bytes,
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

    fn report(&self, texts: &Texts<'_>, variants: Vec<Variant>, started: Instant) -> SearchReport {
        let curve = allocation::curve(&alternatives(&self.tensors)).into_iter();
        let curve = curve.map(|point| CurvePoint {
            file_bytes: self.room.sizes.fixed + point.bytes,
            predicted_kl: point.loss,
        });
        SearchReport {
            model: self.options.model.display().to_string(),
            plan: self.options.output.clone(),
            measurements: measurements_path(&self.options.output),
            importance: self.options.importance.clone(),
            budget_bytes: self.room.file_bytes,
            model_bytes: self.file.file_bytes(),
            chunks: texts.calibration.windows.len(),
            context: self.options.context,
            variants,
            tensors: self
                .tensors
                .iter()
                .zip(&self.allocation.chosen)
                .map(|(tensor, &chosen)| planned_tensor(tensor, chosen))
                .collect(),
            excluded: self.tensors.iter().flat_map(excluded_formats).collect(),
            curve: curve.collect(),
            seconds: started.elapsed().as_secs_f64(),
        }
    }
}

fn measure_assignment(
    bench: &mut Bench<'_>,
    (name, formats): &Assignment<'_>,
    Text { windows, sha256 }: &Text<'_>,
    measurements: &mut Measurements,
) -> Result<Option<Divergence>, SearchError> {
    let mut lines: Vec<String> =
        formats.iter().map(|(tensor, format)| format!("{} {format}\n", tensor.name)).collect();
    lines.sort_unstable();
    let run = ModelRun {
        assignment: sha256_bytes(lines.concat().as_bytes()),
        text_sha256: (*sha256).to_string(),
        windows: windows.iter().map(|window| window.index).collect(),
    };
    if let Some(known) = measurements.model(&run) {
        return Ok(Some(known.clone()));
    }
    let divergence = bench.measure_model(formats, windows, &format!("Checking {name}"))?;
    if let Some(divergence) = &divergence {
        measurements.add_model(run, divergence)?;
    }
    Ok(divergence)
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

fn excluded_formats(tensor: &Tensor<'_>) -> impl Iterator<Item = ExcludedFormat> {
    tensor
        .excluded
        .iter()
        .map(|format| ExcludedFormat { tensor: tensor.info.name.clone(), format: format.name() })
}

/// A JSON object without the entries that say nothing.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(entries) = &mut value {
        entries.retain(|_, value| !value.is_null());
    }
    value
}
