//! A run while it is under way: what is done, what is left, and how it becomes the final files.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::assemble::{Totals, assemble};
use super::baseline::Baseline;
use super::comparison::RunComparison;
use super::journal::{self, Entry, Header};
use super::options::EvalOptions;
use super::question_results::QuestionResult;
use super::record::{Part, SCHEMA_VERSION, Settings};
use super::results::Results;
use super::summary::{EvalSummary, Unscored};
use crate::engine::Build;
use crate::eval::EvalError;
use crate::eval::asking::Protocol;
use crate::eval::line_journal::{Earlier, LineJournal};
use crate::eval::questions::Question;
use crate::eval::scoring::{Reading, Scored};
use crate::storage::{Mirror, Output};
use crate::support::atomic_file::check_writable;
use crate::support::calendar::utc_second;
use crate::support::finished::is_new;
use crate::support::input_file::Inputs;
use crate::support::progress::{Progress, Unit};
use crate::support::units;

/// What a run has found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluated {
    /// The content of `summary.json`.
    #[serde(flatten)]
    pub summary: EvalSummary,
    /// The content of `comparison.json`; absent without a baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<RunComparison>,
    /// Whether this is an earlier run, which was not scored again.
    #[serde(skip_serializing_if = "is_new")]
    pub reused: bool,
}

/// A run that is under way.
#[derive(Debug)]
pub(super) struct Session<'a> {
    options: &'a EvalOptions,
    output: Output,
    journal: LineJournal,
    mirror: Option<Mirror>,
    header: Header,
    /// What is read while the run is under way, which must not change.
    inputs: Inputs,
    questions: BTreeMap<usize, &'a Question>,
    entries: Vec<Entry>,
    done: BTreeSet<usize>,
    progress: Progress,
    last: Instant,
}

impl<'a> Session<'a> {
    /// Finds out before long work whether the results can be written.
    pub fn check_output(output: &Output) -> Result<(), EvalError> {
        let path = output.directory().join("summary.json");
        check_writable(&path).map_err(|source| EvalError::io(&path, source))
    }

    /// Finds out before a model is loaded whether the journal that may be there is of this run. One
    /// that is in storage is brought here.
    pub fn check_journal(
        options: &EvalOptions,
        output: &Output,
        settings: &Settings,
    ) -> Result<(), EvalError> {
        if options.earlier != Earlier::Discard {
            output.bring(journal::FILE_NAME)?;
        }
        match options.earlier {
            Earlier::Resume => journal::check(output.directory(), &new_header(settings.clone(), 0))
                .map_err(|error| at_address(output, error)),
            Earlier::ResumeIfSame | Earlier::Discard => Ok(()),
        }
    }

    /// Begins a run of these questions, or goes on with it. `inputs` are read while it is under way.
    pub fn open(
        options: &'a EvalOptions,
        output: Output,
        settings: Settings,
        inputs: Inputs,
        questions: impl Iterator<Item = &'a Question>,
    ) -> Result<Self, EvalError> {
        let questions: BTreeMap<usize, &Question> =
            questions.map(|question| (question.row, question)).collect();
        let directory = output.directory();
        let (journal, header, mut entries) =
            journal::open(directory, new_header(settings, questions.len()), options.earlier)
                .map_err(|error| at_address(&output, error))?;
        let mut done = BTreeSet::new();
        // On a file system without locks two processes may have scored the same question.
        for entry in &mut entries {
            entry.questions.retain(|scored| done.insert(scored.row));
        }
        if let Some(row) = done.iter().find(|row| !questions.contains_key(row)) {
            return Err(EvalError::Unusable(format!(
                "{}: its journal has row {row}, which is not asked: throw it away with --overwrite",
                options.output.display()
            )));
        }
        let mirror = output.mirror(journal::FILE_NAME)?;
        let total = questions.len();
        tracing::info!("{}: {total} questions, {} done", options.set.display(), done.len());
        let progress = Progress::new("Scoring", total as u64, Unit::Items("questions"));
        progress.set(done.len() as u64);
        let last = Instant::now();
        Ok(Self {
            options,
            output,
            journal,
            mirror,
            header,
            inputs,
            questions,
            entries,
            done,
            progress,
            last,
        })
    }

    /// Whether the question of a row has its result.
    pub fn is_done(&self, row: usize) -> bool {
        self.done.contains(&row)
    }

    /// Keeps the results of some questions; they are on the disk when this returns. A question that
    /// has its result already keeps that.
    ///
    /// # Errors
    /// An input that has changed, a journal that cannot be written.
    pub fn append(
        &mut self,
        mut questions: Vec<Scored>,
        tokens_run: u64,
        tokens_naive: u64,
    ) -> Result<(), EvalError> {
        self.inputs.check()?;
        questions.retain(|scored| !self.done.contains(&scored.row));
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        let entry = Entry { questions, tokens_run, tokens_naive, seconds };
        self.journal.append(&entry)?;
        self.done.extend(entry.questions.iter().map(|scored| scored.row));
        self.progress.advance(entry.questions.len() as u64);
        self.entries.push(entry);
        Ok(())
    }

    /// Why there is no result, if no question at all could be scored.
    pub fn nothing_scored(&self) -> Option<String> {
        let all = || self.entries.iter().flat_map(|entry| &entry.questions);
        if all().any(|scored| scored.unscored.is_none()) {
            return None;
        }
        let first = all().min_by_key(|scored| scored.row)?;
        let (count, row, reason) = (self.done.len(), first.row, first.unscored.as_deref()?);
        Some(format!(
            "none of {count} questions could be scored, row {row} for this reason: {reason}"
        ))
    }

    /// Compares with the baseline, if there is one, and writes the final files, after which the
    /// journal goes.
    pub fn finish(self, baseline: Option<&Baseline>) -> Result<Evaluated, EvalError> {
        self.progress.finish();
        self.inputs.check()?;
        let protocol = self.header.settings.protocol;
        let mut totals = Totals::default();
        let (mut questions, mut unscored) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            totals.add(entry);
            for scored in &entry.questions {
                let Some(question) = self.questions.get(&scored.row) else { continue };
                match &scored.unscored {
                    None => questions.push(to_result(question, scored, protocol)),
                    Some(reason) => unscored.push(Unscored {
                        row: scored.row,
                        subject: question.subject.clone(),
                        reason: reason.clone(),
                    }),
                }
            }
        }
        let shard = self.header.settings.shard;
        let part = Part {
            questions: questions.len() + unscored.len(),
            seconds: totals.seconds,
            ..Part::of_this_process(&self.options.command, &self.header.started, shard)
        };
        let results = assemble(self.header.settings, vec![part], questions, unscored, totals);
        let comparison = baseline.and_then(|baseline| against(baseline, self.options, &results));
        if let Some(mirror) = self.mirror {
            mirror.stop()?;
        }
        results.write(&self.output, comparison.as_ref())?;
        self.journal.remove()?;
        self.output.remove(journal::FILE_NAME);
        self.output.close();
        warn_of_long_questions(&results);
        Ok(Evaluated { summary: results.summary, comparison, reused: false })
    }
}

/// An error about a file in the directory here, with the address that the file goes to.
fn at_address(output: &Output, error: EvalError) -> EvalError {
    match output.address() {
        Some(address) => EvalError::Unusable(format!("{address}: {error}")),
        None => error,
    }
}

/// Compares a run with its baseline, and warns of what cannot be compared.
pub(super) fn against(
    baseline: &Baseline,
    options: &EvalOptions,
    results: &Results,
) -> Option<RunComparison> {
    let comparison = baseline.compare(&options.output, results);
    match &comparison {
        None => tracing::warn!("nothing is compared with the baseline: no question was scored"),
        Some(RunComparison { left_out, .. }) if !left_out.is_empty() => tracing::warn!(
            "{} questions are left out of the comparison, as only one of the two runs has scored \
             them ({}; left_out in comparison.json)",
            left_out.len(),
            units::rows(left_out)
        ),
        Some(_) => {}
    }
    comparison
}

fn new_header(settings: Settings, total: usize) -> Header {
    Header {
        schema_version: SCHEMA_VERSION,
        build: Build::current(),
        started: utc_second(SystemTime::now()),
        total,
        settings,
    }
}

fn to_result(question: &Question, scored: &Scored, protocol: Protocol) -> QuestionResult {
    let Reading { log_probabilities, prediction, others } =
        Reading::of(protocol, question, &scored.sums, &scored.choice_tokens);
    QuestionResult {
        row: question.row,
        id: question.id.clone(),
        subject: question.subject.clone(),
        prediction,
        log_probabilities,
        others,
        answer: question.answer,
        context_tokens: scored.context_tokens,
        choice_tokens: scored.choice_tokens.clone(),
        dropped_tokens: scored.dropped_tokens,
    }
}

fn warn_of_long_questions(results: &Results) {
    let cut: Vec<usize> = results
        .questions
        .iter()
        .filter(|result| result.dropped_tokens > 0)
        .map(|result| result.row)
        .collect();
    if !cut.is_empty() {
        tracing::warn!(
            "{} questions were longer than the model's context and lost their left end ({}; \
             dropped_tokens in questions.parquet); fewer --shots would help",
            cut.len(),
            units::rows(&cut)
        );
    }
    let unscored: Vec<usize> = results.summary.unscored.iter().map(|one| one.row).collect();
    if !unscored.is_empty() {
        tracing::warn!(
            "{} questions could not be scored and are left out of every figure ({}; unscored in summary.json)",
            unscored.len(),
            units::rows(&unscored)
        );
    }
}
