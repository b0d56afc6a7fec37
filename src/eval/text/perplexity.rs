//! Perplexity on a text, by the procedures of llama.cpp's `llama-perplexity`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::base_logits::BaseLogitsWriter;
use super::text_file::TextFile;
use super::window_journal::{Reading, WindowJournal, WindowJournalOptions};
use super::window_run::{Steps, WindowRun, load_for_windows, sections};
use super::windows::TextWindows;
use crate::engine::{Build, Engine, EngineError, EngineOptions};
use crate::eval::EvalError;
use crate::eval::statistics::Mean;
use crate::gguf::{self, GgufFile};
use crate::kernels::elementwise::log_sum_exp;
use crate::support::atomic_file::check_writable;
use crate::support::interrupt;
use crate::support::progress::{Progress, Unit};
use crate::tokenizer::Vocabulary;

/// Version of [`PerplexitySummary`]'s fields.
pub const SCHEMA_VERSION: u32 = 1;

/// What to measure.
#[derive(Debug, Clone)]
pub struct PerplexityOptions {
    /// The GGUF model.
    pub model: PathBuf,
    /// The text, in UTF-8.
    pub text: PathBuf,
    /// Tokens in a window.
    pub context: usize,
    /// Windows begin so many tokens one after the other, and the last so many of each are scored; if
    /// none, windows follow one another, and their second halves are scored.
    pub stride: Option<usize>,
    /// At most this many windows.
    pub chunks: Option<usize>,
    /// Where to write llama.cpp's file of base logits. Windows that overlap have none.
    pub save_logits: Option<PathBuf>,
    /// Where to keep what has been read, so that a reading that was stopped goes on. One that writes
    /// a file of base logits cannot.
    pub journal: Option<WindowJournalOptions>,
    /// Where and how the model runs.
    pub engine: EngineOptions,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PerplexitySummary {
    /// Version of this record's fields.
    pub schema_version: u32,
    /// Version of quantkit.
    pub quantkit_version: String,
    /// The build that ran.
    pub build: Build,
    /// The model's path as given.
    pub model: String,
    /// SHA-256 of its file; of a split model, of its parts' hashes in order.
    pub model_sha256: String,
    /// Bytes of its file, or of all its parts.
    pub model_bytes: u64,
    /// The text's path as given.
    pub text: String,
    /// SHA-256 of the text.
    pub text_sha256: String,
    /// Tokens in a window.
    pub context: usize,
    /// Tokens from one window's beginning to the next one's, where windows overlap.
    pub stride: Option<usize>,
    /// At most this many windows.
    pub chunk_limit: Option<usize>,
    /// Windows scored.
    pub chunks: usize,
    /// Scored positions.
    pub positions: usize,
    /// Where the model ran.
    pub device: String,
    /// Elements of the key-value cache: `i16`, `i8` or `f16`.
    pub kv_type: String,
    /// Bits that activations are rounded to in products with quantized weights: 8 or 16.
    pub activations: u8,
    /// exp of the mean negative log-probability of the text's own next token.
    pub perplexity: f64,
    /// Its standard error, taking positions as independent.
    pub standard_error: f64,
    /// The mean negative log-probability itself, in nats.
    pub negative_log_probability: Mean,
    /// The file of base logits, if one was written.
    pub logits: Option<String>,
    /// Bytes of that file.
    pub logits_bytes: Option<u64>,
    /// Wall time of the scoring, loading excluded; where the reading was stopped, from then on.
    pub seconds: f64,
    /// Tokens of the windows a second in that time.
    pub tokens_per_second: f64,
}

/// Runs the model over the text.
///
/// # Errors
/// A model or text that cannot be read, a text too short, windows longer than the model's context, a
/// file that cannot be written, a journal of another reading, Ctrl-C. No file of base logits is then
/// written.
pub fn measure(options: &PerplexityOptions) -> Result<PerplexitySummary, EvalError> {
    if let Some(path) = &options.save_logits {
        check_writable(path).map_err(in_file(path))?;
    }
    let model = GgufFile::open(&options.model).map_err(EngineError::from)?;
    let identity = gguf::identify(&model)?;
    let text = TextFile::read(&options.text)?;
    let mut engine = load_for_windows(model, options.engine, options.context)?;
    let windows = cut_windows(&text, options, engine.vocabulary())?;

    let inputs = identity.inputs.clone();
    let mut journal = WindowJournal::open(journal_options(options), inputs, || Reading {
        models_sha256: vec![identity.sha256.clone()],
        text_sha256: text.sha256().to_string(),
        context: options.context,
        stride: options.stride,
        windows: windows.count(),
        device: options.engine.device.to_string(),
        kv_type: options.engine.kv_type_name().to_string(),
        activations: options.engine.activations.bits(),
    })?;

    let started = Instant::now();
    let read_before = journal.done;
    let logits_bytes = run_windows(&mut engine, &windows, options, &mut journal)?;
    let surprises = journal.values;
    let seconds = started.elapsed().as_secs_f64();

    let mean = Mean::of(surprises.iter().copied());
    let Mean { mean: perplexity, standard_error } = mean.exp();
    Ok(PerplexitySummary {
        schema_version: SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        build: Build::current(),
        model: options.model.display().to_string(),
        model_sha256: identity.sha256,
        model_bytes: identity.bytes,
        text: options.text.display().to_string(),
        text_sha256: text.sha256().to_string(),
        context: options.context,
        stride: options.stride,
        chunk_limit: options.chunks,
        chunks: windows.count(),
        positions: surprises.len(),
        device: options.engine.device.to_string(),
        kv_type: options.engine.kv_type_name().to_string(),
        activations: options.engine.activations.bits(),
        perplexity,
        standard_error,
        negative_log_probability: mean,
        logits: options.save_logits.as_ref().map(|path| path.display().to_string()),
        logits_bytes,
        seconds,
        tokens_per_second: ((windows.count() - read_before) * windows.length()) as f64 / seconds,
    })
}

fn in_file(path: &Path) -> impl Fn(io::Error) -> EvalError {
    move |source| EvalError::io(path, source)
}

fn cut_windows(
    text: &TextFile,
    options: &PerplexityOptions,
    vocabulary: &Vocabulary,
) -> Result<TextWindows, EvalError> {
    let PerplexityOptions { context, chunks, .. } = options;
    match options.stride {
        None => TextWindows::of(text, vocabulary, *context, *chunks),
        Some(_) if options.save_logits.is_some() => Err(EvalError::Unusable(
            "llama.cpp's file of base logits does not hold windows that overlap: leave out --stride \
             or --save-logits"
                .to_string(),
        )),
        Some(stride) => TextWindows::of_strided(text, vocabulary, *context, stride, *chunks),
    }
}

/// A file of base logits has no beginning that a reading could go on from.
fn journal_options(options: &PerplexityOptions) -> Option<&WindowJournalOptions> {
    options.journal.as_ref().filter(|_| options.save_logits.is_none())
}

/// Brings −ln of the probability of the next token at every scored position into the journal; gives
/// the bytes of the file that was written.
fn run_windows(
    engine: &mut Engine,
    windows: &TextWindows,
    options: &PerplexityOptions,
    journal: &mut WindowJournal<f64>,
) -> Result<Option<u64>, EvalError> {
    let vocabulary = engine.vocabulary().size;
    let mut file = match &options.save_logits {
        Some(path) => {
            let writer = BaseLogitsWriter::create(path, windows, vocabulary);
            Some((path, writer.map_err(in_file(path))?))
        }
        None => None,
    };
    let mut sum: f64 = journal.values.iter().sum();
    let mut run = WindowRun::new(engine, windows);
    let progress = Progress::new("Reading", windows.count() as u64, Unit::Items("windows"));
    progress.set(journal.done as u64);
    for section in sections(windows, journal.done) {
        let mut surprises = Vec::with_capacity(section.len() * windows.scored().len());
        for step in Steps::new(windows, section.clone(), vocabulary) {
            interrupt::check()?;
            let logits = run.step(&step)?;
            let scored = surprises.len();
            surprises.par_extend(logits.par_chunks(vocabulary).zip(&step.next).map(surprise));
            sum += surprises[scored..].iter().sum::<f64>();
            if !sum.is_finite() {
                return Err(EvalError::Unusable(format!(
                    "{}: the logits are not numbers; the file may be damaged",
                    options.model.display()
                )));
            }
            if let Some((path, file)) = &mut file {
                file.write_rows(logits).map_err(in_file(path))?;
            }
            progress.advance(step.finished as u64);
            let positions = journal.values.len() + surprises.len();
            if positions > 0 {
                progress.message(format!("PPL {:.4}", (sum / positions as f64).exp()));
            }
        }
        journal.append(section, surprises)?;
    }
    progress.finish();
    file.map(|(path, file)| file.finish().map_err(in_file(path))).transpose()
}

fn surprise((logits, &next): (&[f32], &u32)) -> f64 {
    log_sum_exp(logits) - f64::from(logits[next as usize])
}
