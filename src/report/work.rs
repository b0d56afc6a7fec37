//! What is measured of each model of a comparison, and what of it is there already.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::record::{EvaluationSettings, Speed, Variant, VariantText};
use super::runs::{self, Naming, WantedEvaluation};
use super::sizes::ModelSize;
use super::{CompareOptions, ReportError, Step};
use crate::bench::{self, BenchOptions, BenchSummary, WantedBench, Workload};
use crate::eval::run::question_results::{self, QuestionResult};
use crate::eval::statistics::intervals;
use crate::eval::{self, EvalOptions, EvalSummary, Evaluated, Score};
use crate::support::machine::Machine;

/// One variant's own results.
#[derive(Debug)]
pub(super) struct Measured {
    pub variant: Variant,
    pub questions: Vec<QuestionResult>,
}

/// A model that is compared.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub path: PathBuf,
    /// SHA-256 of its file.
    pub sha256: String,
    pub naming: Naming,
    pub size: ModelSize,
}

/// What is measured of every model, and how.
pub(super) struct Work<'a> {
    pub options: &'a CompareOptions,
    pub settings: &'a EvaluationSettings,
    pub machine: Machine,
}

impl Work<'_> {
    /// Brings a model's scores and speeds up to date. `text` is what was found on a text.
    pub fn measure(
        &self,
        model: &Model,
        text: Option<VariantText>,
        observe: &mut dyn FnMut(&Step),
    ) -> Result<Measured, ReportError> {
        let Model { path, sha256: hash, naming, size } = model;
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
            model_sha256: hash.clone(),
            directory: naming.directory.clone(),
            size: size.clone(),
            times_smaller: 1.0,
            accuracy_interval: intervals::wilson(*correct, *asked),
            evaluation,
            evaluation_reused,
            text,
            reliability: question_results::reliability(&questions),
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
            activations: self.options.engine.activations.bits(),
        };
        if !self.options.fresh {
            let earlier =
                runs::read_valid(&directory.join("summary.json"), |found| wanted.mismatch(found));
            if let Some((summary, results)) = earlier.and_then(|s| with_questions(s, directory)) {
                return Ok((summary, results, true));
            }
        }
        let Evaluated { summary, .. } = eval::evaluate(&EvalOptions {
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
            earlier: self.options.earlier(),
            baseline: None,
            command: self.options.commands.join(" && "),
            output: directory.to_path_buf(),
            engine: self.options.engine,
        })?;
        runs::check_same(model, model_sha256, &summary.model_sha256)?;
        runs::check_same(&self.options.set, &self.settings.set_sha256, &summary.set_sha256)?;
        let questions = eval::read_questions(directory, &summary)?;
        Ok((summary, questions, false))
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
            activations: self.options.engine.activations.bits(),
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
        runs::check_same(model, model_sha256, &summary.model_sha256)?;
        Ok((summary, (), false))
    }
}

/// An earlier summary with its questions' results, where they are there and belong to it.
fn with_questions(
    summary: EvalSummary,
    directory: &Path,
) -> Option<(EvalSummary, Vec<QuestionResult>)> {
    match eval::read_questions(directory, &summary) {
        Ok(results) => Some((summary, results)),
        Err(error) => {
            tracing::info!("not reused: {error}");
            None
        }
    }
}

/// Runs one part of the work and tells the observer how long it took.
pub(super) fn timed<A, B>(
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
