//! Run records → tables, plots and pages.
//!
//! `compare` brings every variant's results up to date (reusing what is still valid), compares
//! them with the baseline, and writes `report.html`, `report.md`, `compare.json` and
//! `questions.parquet`.

#[cfg(test)]
mod fixtures;
mod flips;
mod page;
mod plots;
mod questions;
mod record;
mod runs;
pub mod search_plot;
mod sizes;
pub mod tables;
mod words;

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use crate::bench::{self, BenchError, BenchOptions, BenchSummary, Workload};
use crate::engine::EngineOptions;
use crate::eval::paired::{Answer, Paired};
use crate::eval::question_set::QuestionSet;
use crate::eval::statistics::intervals;
use crate::eval::statistics::reliability::Reliability;
use crate::eval::{self, Earlier, EvalError, EvalOptions, EvalSummary, Protocol, Score};
use crate::gguf::{self, GgufError};
use crate::support::atomic_file::{self, write_atomically};
use crate::support::interrupt;
use crate::support::machine::Machine;
use flips::Flips;
use questions::QuestionResult;
pub use record::{Comparison, EvaluationSettings, SCHEMA_VERSION, Speed, SpeedRatio, Variant};
use runs::{Naming, WantedBench, WantedEvaluation};
pub use sizes::{ModelSize, TypeShare};

/// What to compare, and where the results go.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// The GGUF models.
    pub models: Vec<PathBuf>,
    /// The model that the others are compared with; it joins the models if it is not among them.
    pub baseline: PathBuf,
    /// The question set: a Parquet file, or a directory with its splits.
    pub set: PathBuf,
    /// How to ask.
    pub protocol: Protocol,
    /// Examples before each question.
    pub shots: usize,
    /// At most this many questions.
    pub limit: Option<usize>,
    /// At most this many questions, those that llama.cpp's `--multiple-choice-tasks` draws.
    pub limit_seeded: Option<usize>,
    /// Only rows 0, K, 2K, …
    pub every: usize,
    /// Only these subjects; all when empty.
    pub subjects: Vec<String>,
    /// The load of the benchmark; none is run when absent.
    pub workload: Option<Workload>,
    /// Where and how the model runs.
    pub engine: EngineOptions,
    /// Measure everything anew.
    pub fresh: bool,
    /// Directory for the report; each variant's own results go into a directory in it.
    pub output: PathBuf,
    /// What the reader should know about the models, as sentences.
    pub notes: Vec<String>,
    /// Commands that repeat the comparison.
    pub commands: Vec<String>,
}

/// A finished part of the work.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What was done: `mmlu-eval model.Q4_0`.
    pub what: String,
    /// Whether an earlier result was still valid.
    pub reused: bool,
    /// How long it took.
    pub seconds: f64,
}

/// An error of a comparison.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The options or the results cannot be used; the text says what to do.
    #[error("{0}")]
    Unusable(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A model file cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// An evaluation failed.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A benchmark failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// A page could not be made.
    #[error("the report's page cannot be made: {0}")]
    Page(#[from] minijinja::Error),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] interrupt::Interrupted),
}

impl ReportError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}

/// Runs what is missing, compares, and writes the report. `observe` is told of each finished step.
///
/// # Errors
/// A model or set that cannot be used, a failed evaluation or benchmark, an output directory that
/// cannot be written, an interruption. What was measured until then stays and is reused.
pub fn compare(
    options: &CompareOptions,
    observe: &mut dyn FnMut(&Step),
) -> Result<Comparison, ReportError> {
    let models = hashed_models(options)?;
    let baseline = position(&models, &options.baseline)?;
    let names = runs::name_models(&models);
    let settings = EvaluationSettings {
        set: options.set.display().to_string(),
        set_sha256: QuestionSet::find(&options.set)?.sha256()?,
        protocol: options.protocol,
        shots: if options.protocol.takes_shots() { options.shots } else { 0 },
        limit: options.limit,
        limit_seeded: options.limit_seeded,
        every: options.every,
        subjects: options.subjects.clone(),
    };
    // A file that is no model is found out before hours are spent on the others.
    let sizes =
        models.iter().map(|(path, _)| ModelSize::of(path)).collect::<Result<Vec<_>, _>>()?;
    check_writable(&options.output)?;
    let work = Work { options, settings: &settings, machine: Machine::detect() };
    let mut measured = Vec::new();
    for (((path, hash), naming), size) in models.iter().zip(&names).zip(sizes) {
        measured.push(work.measure(path, hash, naming, size, observe)?);
    }
    let variants = against_baseline(measured, baseline)?;
    let comparison = work.comparison(&variants, &names[baseline].label);
    let questions = QuestionSet::find(&options.set)?.test_questions()?;
    let flips = Flips::of(&variants, baseline, &questions);
    write(&comparison, &variants, &flips, &options.output)?;
    Ok(comparison)
}

/// Finds out before anything is measured whether the report can be written.
fn check_writable(output: &Path) -> Result<(), ReportError> {
    let path = output.join("report.html");
    atomic_file::check_writable(&path).map_err(|error| ReportError::io(&path, error))
}

/// The models with their hashes, each file once, the baseline among them.
fn hashed_models(options: &CompareOptions) -> Result<Vec<(PathBuf, String)>, ReportError> {
    let mut seen = Vec::new();
    let mut models = Vec::new();
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
        let hash = gguf::identify(path).map_err(|error| ReportError::io(path, error))?.sha256;
        models.push((path.clone(), hash));
    }
    Ok(models)
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

fn position(models: &[(PathBuf, String)], wanted: &Path) -> Result<usize, ReportError> {
    let paths: Vec<PathBuf> = models.iter().map(|(path, _)| path.clone()).collect();
    Ok(position_of(&paths, wanted)?.expect("the baseline is among the models"))
}

/// One variant's own results.
#[derive(Debug)]
struct Measured {
    variant: Variant,
    questions: Vec<QuestionResult>,
}

struct Work<'a> {
    options: &'a CompareOptions,
    settings: &'a EvaluationSettings,
    machine: Machine,
}

impl Work<'_> {
    fn measure(
        &self,
        path: &Path,
        hash: &str,
        naming: &Naming,
        size: ModelSize,
        observe: &mut dyn FnMut(&Step),
    ) -> Result<Measured, ReportError> {
        let directory = self.options.output.join(&naming.directory);
        let (evaluation, questions, evaluation_reused) =
            timed(&format!("mmlu-eval {}", naming.label), observe, || {
                self.evaluation(path, hash, &directory)
            })?;
        let speed = match &self.options.workload {
            None => None,
            Some(workload) => {
                let (summary, (), reused) =
                    timed(&format!("bench {}", naming.label), observe, || {
                        self.benchmark(path, hash, workload, &directory)
                    })?;
                Some(Speed {
                    reused,
                    load_seconds: summary.load_seconds,
                    load_average_before: summary.load_average_before,
                    levels: summary.levels,
                    ratios: Vec::new(),
                })
            }
        };
        let Score { correct, questions: asked, .. } = &evaluation.overall;
        let variant = Variant {
            label: naming.label.clone(),
            model: path.display().to_string(),
            model_sha256: hash.to_string(),
            directory: naming.directory.clone(),
            size,
            times_smaller: 1.0,
            accuracy_interval: intervals::wilson(*correct, *asked),
            evaluation,
            evaluation_reused,
            reliability: reliability(&questions),
            paired: None,
            speed,
        };
        Ok(Measured { variant, questions })
    }

    fn evaluation(
        &self,
        model: &Path,
        model_sha256: &str,
        directory: &Path,
    ) -> Result<(EvalSummary, Vec<QuestionResult>, bool), ReportError> {
        let device = self.options.engine.device.to_string();
        let wanted = WantedEvaluation {
            model_sha256,
            settings: self.settings,
            device: &device,
            kv_type: self.options.engine.kv_type_name(),
        };
        let questions = directory.join("questions.parquet");
        if !self.options.fresh {
            let earlier =
                runs::read_valid(&directory.join("summary.json"), |found| wanted.mismatch(found));
            if let Some((summary, results)) = earlier.and_then(|s| with_questions(s, &questions)) {
                return Ok((summary, results, true));
            }
        }
        let summary = eval::evaluate(&EvalOptions {
            model: model.to_path_buf(),
            set: self.options.set.clone(),
            protocol: self.options.protocol,
            shots: self.options.shots,
            limit: self.options.limit,
            limit_seeded: self.options.limit_seeded,
            every: self.options.every,
            subjects: self.options.subjects.clone(),
            shard: None,
            cache_bytes: eval::DEFAULT_CACHE_BYTES,
            earlier: if self.options.fresh { Earlier::Discard } else { Earlier::ResumeIfSame },
            command: self.options.commands.join(" && "),
            output: directory.to_path_buf(),
            engine: self.options.engine,
        })?;
        Ok((summary, questions::read(&questions)?, false))
    }

    fn benchmark(
        &self,
        model: &Path,
        model_sha256: &str,
        workload: &Workload,
        directory: &Path,
    ) -> Result<(BenchSummary, (), bool), ReportError> {
        let device = self.options.engine.device.to_string();
        let wanted = WantedBench {
            model_sha256,
            workload,
            device: &device,
            kv_type: self.options.engine.kv_type_name(),
            threads: rayon::current_num_threads(),
            machine: &self.machine,
        };
        if !self.options.fresh {
            let earlier =
                runs::read_valid(&directory.join("bench.json"), |found| wanted.mismatch(found));
            if let Some(summary) = earlier {
                return Ok((summary, (), true));
            }
        }
        let summary = bench::run(&BenchOptions {
            model: model.to_path_buf(),
            workload: workload.clone(),
            output: directory.to_path_buf(),
            engine: self.options.engine,
        })?;
        Ok((summary, (), false))
    }

    fn comparison(&self, measured: &[Measured], baseline: &str) -> Comparison {
        let variants: Vec<Variant> = measured.iter().map(|m| m.variant.clone()).collect();
        let mut comparison = Comparison {
            schema_version: SCHEMA_VERSION,
            quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
            created: words::utc_minute(SystemTime::now()),
            title: words::title(&variants),
            baseline: baseline.to_string(),
            machine: self.machine.clone(),
            device: self.options.engine.device.to_string(),
            kv_type: self.options.engine.kv_type_name().to_string(),
            threads: rayon::current_num_threads(),
            evaluation: self.settings.clone(),
            workload: self.options.workload.clone(),
            headline: Vec::new(),
            caveats: Vec::new(),
            commands: self.options.commands.clone(),
            variants,
        };
        comparison.headline = words::headline(&comparison);
        comparison.caveats = self.options.notes.clone();
        comparison.caveats.extend(words::caveats(&comparison));
        comparison
    }
}

/// How well the model's confidence tells how often it is right.
fn reliability(questions: &[QuestionResult]) -> Option<Reliability> {
    let answers = questions.iter().map(QuestionResult::answer);
    Reliability::of(answers.map(|answer| (answer.confidence(), answer.correct())))
}

/// An earlier summary with its questions' results, where they are there and belong to it.
fn with_questions(
    summary: EvalSummary,
    questions: &Path,
) -> Option<(EvalSummary, Vec<QuestionResult>)> {
    match questions::read(questions) {
        Ok(results) if questions::agree(&results, &summary) => Some((summary, results)),
        Ok(_) => {
            tracing::info!("{} is not reused: it is of another run", questions.display());
            None
        }
        Err(error) => {
            tracing::info!("not reused: {error}");
            None
        }
    }
}

/// Runs one part of the work and tells the observer how long it took.
fn timed<A, B>(
    what: &str,
    observe: &mut dyn FnMut(&Step),
    work: impl FnOnce() -> Result<(A, B, bool), ReportError>,
) -> Result<(A, B, bool), ReportError> {
    let started = Instant::now();
    let (first, second, reused) = work()?;
    let seconds = started.elapsed().as_secs_f64();
    observe(&Step { what: what.to_string(), reused, seconds });
    Ok((first, second, reused))
}

/// Fills in what depends on the baseline.
fn against_baseline(
    mut measured: Vec<Measured>,
    baseline: usize,
) -> Result<Vec<Measured>, ReportError> {
    let file_bytes = measured[baseline].variant.size.file_bytes;
    let levels = measured[baseline].variant.speed.as_ref().map(|speed| speed.levels.clone());
    let reference = measured[baseline].questions.clone();
    let reference: Vec<Answer<'_>> = reference.iter().map(QuestionResult::answer).collect();
    for index in 0..measured.len() {
        if !questions::same_questions(&measured[baseline].questions, &measured[index].questions) {
            return Err(ReportError::Unusable(format!(
                "{} and {} were asked different questions; repeat with --fresh",
                measured[baseline].variant.label, measured[index].variant.label
            )));
        }
        let Measured { variant, questions } = &mut measured[index];
        variant.times_smaller = record::ratio(file_bytes as f64, variant.size.file_bytes as f64);
        if index != baseline {
            let answers: Vec<Answer<'_>> = questions.iter().map(QuestionResult::answer).collect();
            variant.paired = Paired::of(&reference, &answers);
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
