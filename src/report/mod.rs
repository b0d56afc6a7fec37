//! Run records → tables, plots and pages.
//!
//! `compare` brings every variant's results up to date (reusing what is still valid), compares
//! them with the baseline, and writes `report.html`, `report.md`, `compare.json` and
//! `questions.parquet`.

mod error;
#[cfg(test)]
mod fixtures;
mod flips;
mod options;
mod page;
pub mod paired_tables;
mod plots;
mod questions;
mod record;
mod runs;
pub mod search_plot;
mod sizes;
pub mod tables;
mod text;
mod words;
mod work;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::eval::questions::QuestionSet;
use crate::eval::run::question_results::{QuestionResult, in_both};
use crate::eval::statistics::paired::{Answer, Paired};
use crate::gguf::{self, GgufFile};
use crate::support::atomic_file::{self, write_atomically};
use crate::support::interrupt;
use crate::support::machine::Machine;
pub use error::ReportError;
use flips::Flips;
pub use options::{CompareOptions, Step, TextOptions};
pub use record::{
    Comparison, EvaluationSettings, SCHEMA_VERSION, Speed, SpeedRatio, TextSettings, Variant,
    VariantText,
};
pub use sizes::{ModelSize, TypeShare};
use work::{Measured, Model, Work};

/// Runs what is missing, compares, and writes the report. `observe` is told of each finished step.
///
/// # Errors
/// A model or set that cannot be used, a failed evaluation or benchmark, an output directory that
/// cannot be written, an interruption. What was measured until then stays and is reused.
pub fn compare(
    options: &CompareOptions,
    observe: &mut dyn FnMut(&Step),
) -> Result<Comparison, ReportError> {
    let models = open_models(options)?;
    let baseline = position(&models, &options.baseline)?;
    if options.text.is_some() && models.len() < 2 {
        let problem = "--text compares variants with the baseline: give another model beside it, \
                       or leave --text out";
        return Err(ReportError::Unusable(problem.to_string()));
    }
    let set = QuestionSet::find(&options.set)?;
    let settings = EvaluationSettings {
        set: options.set.display().to_string(),
        set_sha256: set.sha256()?,
        protocol: options.protocol,
        shots: if options.protocol.takes_shots() { options.shots } else { 0 },
        limit: options.limit,
        limit_seeded: options.limit_seeded,
        every: options.every,
        subjects: options.subjects.clone(),
    };
    check_writable(&options.output)?;
    let work = Work { options, settings: &settings, machine: Machine::detect() };
    // The text comes first: what may be wrong with it shows at once.
    let text = options.text.as_ref();
    let text =
        text.map(|text| text::read_text(&work, text, &models, baseline, observe)).transpose()?;
    let mut measured = Vec::new();
    for (index, model) in models.iter().enumerate() {
        let text = text.as_ref().and_then(|text| text.variants[index].clone());
        measured.push(work.measure(model, text, observe)?);
    }
    let variants = against_baseline(measured, baseline)?;
    let text = text.map(|text| text.settings);
    let comparison = comparison(&work, text, &variants, &models[baseline].naming.label);
    let flips = Flips::of(&variants, baseline, &set.test_questions()?);
    write(&comparison, &variants, &flips, &options.output)?;
    Ok(comparison)
}

/// The record of a comparison, with its sentences.
fn comparison(
    work: &Work<'_>,
    text: Option<TextSettings>,
    measured: &[Measured],
    baseline: &str,
) -> Comparison {
    let Work { options, settings, machine } = work;
    let variants: Vec<Variant> = measured.iter().map(|m| m.variant.clone()).collect();
    let mut comparison = Comparison {
        schema_version: SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        created: words::utc_minute(SystemTime::now()),
        title: words::title(&variants),
        baseline: baseline.to_string(),
        machine: machine.clone(),
        device: options.engine.device.to_string(),
        kv_type: options.engine.kv_type_name().to_string(),
        threads: rayon::current_num_threads(),
        evaluation: (*settings).clone(),
        text,
        workload: options.workload.clone(),
        headline: Vec::new(),
        caveats: Vec::new(),
        commands: options.commands.clone(),
        variants,
    };
    comparison.headline = words::headline(&comparison);
    comparison.caveats = options.notes.clone();
    comparison.caveats.extend(words::caveats(&comparison));
    comparison
}

/// Finds out before anything is measured whether the report can be written.
fn check_writable(output: &Path) -> Result<(), ReportError> {
    let path = output.join("report.html");
    atomic_file::check_writable(&path).map_err(|error| ReportError::io(&path, error))
}

/// The models with their hashes and names, each file once, the baseline among them. A file that is no
/// model is found out here, before hours are spent on the others.
fn open_models(options: &CompareOptions) -> Result<Vec<Model>, ReportError> {
    let mut seen = Vec::new();
    let (mut files, mut sizes) = (Vec::new(), Vec::new());
    let named = options.models.iter();
    let baseline_is_new = position_of(&options.models, &options.baseline)?.is_none();
    let extra = baseline_is_new.then_some(&options.baseline);
    for path in extra.into_iter().chain(named) {
        interrupt::check()?;
        let place = canonical(path)?;
        if seen.contains(&place) {
            let problem = format!("{}: is given twice; give each model once", path.display());
            return Err(ReportError::Unusable(problem));
        }
        seen.push(place);
        let file = GgufFile::open(path)?;
        files.push((path.clone(), gguf::identify(&file)?.sha256));
        sizes.push(ModelSize::of(&file));
    }
    let names = runs::name_models(&files);
    let models = files.into_iter().zip(names).zip(sizes);
    let models =
        models.map(|(((path, sha256), naming), size)| Model { path, sha256, naming, size });
    Ok(models.collect())
}

fn canonical(path: &Path) -> Result<PathBuf, ReportError> {
    path.canonicalize().map_err(|error| ReportError::io(path, error))
}

fn position_of(models: &[PathBuf], wanted: &Path) -> Result<Option<usize>, ReportError> {
    let wanted = canonical(wanted)?;
    for (index, model) in models.iter().enumerate() {
        if canonical(model)? == wanted {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

fn position(models: &[Model], wanted: &Path) -> Result<usize, ReportError> {
    let paths: Vec<PathBuf> = models.iter().map(|model| model.path.clone()).collect();
    Ok(position_of(&paths, wanted)?.expect("the baseline is among the models"))
}

/// Fills in what depends on the baseline.
fn against_baseline(
    mut measured: Vec<Measured>,
    baseline: usize,
) -> Result<Vec<Measured>, ReportError> {
    let file_bytes = measured[baseline].variant.size.file_bytes;
    let levels = measured[baseline].variant.speed.as_ref().map(|speed| speed.levels.clone());
    let reference = measured[baseline].questions.clone();
    let label = measured[baseline].variant.label.clone();
    for (index, Measured { variant, questions }) in measured.iter_mut().enumerate() {
        variant.times_smaller = record::ratio(file_bytes as f64, variant.size.file_bytes as f64);
        if index != baseline {
            let pairs = in_both(&reference, questions);
            if let Some((other, _)) = pairs.iter().find(|(left, right)| left.answer != right.answer)
            {
                return Err(ReportError::Unusable(format!(
                    "{label} and {} were asked different questions in row {}; repeat with --fresh",
                    variant.label, other.row
                )));
            }
            let (before, after): (Vec<Answer<'_>>, Vec<Answer<'_>>) =
                pairs.iter().map(|(left, right)| (left.answer(), right.answer())).unzip();
            variant.paired = Paired::of(&before, &after);
        }
        if let (Some(speed), Some(levels)) = (&mut variant.speed, &levels) {
            speed.ratios = speed
                .levels
                .iter()
                .zip(levels)
                .map(|(own, other)| SpeedRatio::of(own, other))
                .collect();
        }
    }
    Ok(measured)
}

/// Writes the report's files; `report.html` last, as it is what says that all is there.
fn write(
    comparison: &Comparison,
    measured: &[Measured],
    flips: &Flips,
    output: &Path,
) -> Result<(), ReportError> {
    let put = |name: &str, bytes: &[u8]| {
        let path = output.join(name);
        write_atomically(&path, bytes).map_err(|error| ReportError::io(&path, error))
    };
    let joined: Vec<(&str, &[QuestionResult])> =
        measured.iter().map(|m| (m.variant.label.as_str(), m.questions.as_slice())).collect();
    questions::write_joined(&output.join("questions.parquet"), &joined)?;
    let json = serde_json::to_vec_pretty(comparison)
        .map_err(|error| ReportError::io(&output.join("compare.json"), error.into()))?;
    put("compare.json", &json)?;
    put("report.md", page::markdown(comparison)?.as_bytes())?;
    put("report.html", page::html(comparison, flips)?.as_bytes())
}
