//! How far a variant's predictions are from those of the model that it was made from.
//!
//! The procedure is that of llama.cpp's `llama-perplexity --kl-divergence`: windows of the text, of
//! which the second half is scored. Both models run side by side, a few positions at a time, so
//! that no logits are kept; or the base has left its predictions in llama.cpp's file for them.

mod base;
mod figures;
mod position;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::window_journal::{Reading, WindowJournal, WindowJournalOptions};
use super::window_run::{Step, Steps, WindowRun, load_for_windows, sections};
use super::windows::TextWindows;
use crate::engine::{Build, Engine, EngineError, EngineOptions};
use crate::eval::EvalError;
use crate::gguf::{self, GgufFile, ModelIdentity};
use crate::support::interrupt;
use crate::support::progress::{Progress, Unit};
pub use base::{Base, BaseKind};
use base::{BaseRun, OpenBase};

use figures::check_finite;
pub use figures::{Distribution, Divergence, DivergenceDetails};
pub use position::{PositionDivergence, compare_rows};

/// Version of [`DivergenceSummary`]'s fields.
pub const SCHEMA_VERSION: u32 = 1;

/// What to compare.
#[derive(Debug, Clone)]
pub struct DivergenceOptions {
    /// What with.
    pub base: Base,
    /// Models with the same vocabulary.
    pub variants: Vec<PathBuf>,
    /// At most this many windows.
    pub chunks: Option<usize>,
    /// Where to keep what has been compared, so that a comparison that was stopped goes on.
    pub journal: Option<WindowJournalOptions>,
    /// Where and how the model runs.
    pub engine: EngineOptions,
}

/// One variant's result. It is read by way of a JSON value: serde cannot read flattened numbers, as a
/// dependency has serde_json keep them as they are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub struct VariantDivergence {
    /// Its path as given.
    pub model: String,
    /// SHA-256 of its file; of a split model, of its parts' hashes in order.
    pub model_sha256: String,
    /// Bytes of its file, or of all its parts.
    pub file_bytes: u64,
    /// Its divergence.
    #[serde(flatten)]
    pub divergence: Divergence,
    /// More figures of it.
    #[serde(flatten)]
    pub details: DivergenceDetails,
}

impl TryFrom<serde_json::Value> for VariantDivergence {
    type Error = serde_json::Error;

    fn try_from(value: serde_json::Value) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct File {
            model: String,
            model_sha256: String,
            file_bytes: u64,
        }
        let File { model, model_sha256, file_bytes } = File::deserialize(&value)?;
        let divergence = Divergence::deserialize(&value)?;
        let details = DivergenceDetails::deserialize(&value)?;
        Ok(Self { model, model_sha256, file_bytes, divergence, details })
    }
}

/// The result for all variants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DivergenceSummary {
    /// Version of this record's fields.
    pub schema_version: u32,
    /// Version of quantkit.
    pub quantkit_version: String,
    /// The build that ran.
    pub build: Build,
    /// The base's path as given.
    pub base: String,
    /// What kind of file that is.
    pub base_kind: BaseKind,
    /// SHA-256 of the file; of a split model, of its parts' hashes in order.
    pub base_sha256: String,
    /// Bytes of the file, or of all its parts.
    pub base_bytes: u64,
    /// The text's path as given; none where the base is a file of logits.
    pub text: Option<String>,
    /// SHA-256 of the text.
    pub text_sha256: Option<String>,
    /// Tokens in a window.
    pub context: usize,
    /// At most this many windows.
    pub chunk_limit: Option<usize>,
    /// Windows scored.
    pub chunks: usize,
    /// Where the models ran.
    pub device: String,
    /// Elements of the key-value cache: `i16`, `i8` or `f16`.
    pub kv_type: String,
    /// Bits that activations are rounded to in products with quantized weights: 8 or 16.
    pub activations: u8,
    /// In the order given.
    pub variants: Vec<VariantDivergence>,
    /// Wall time of the scoring, loading excluded; where the comparison was stopped, from then on.
    pub seconds: f64,
}

/// Runs all models over the text, side by side.
///
/// # Errors
/// Models, a text or a file of logits that cannot be read, models that do not share a vocabulary,
/// windows longer than a model's context, a journal of another comparison, Ctrl-C.
pub fn measure(options: &DivergenceOptions) -> Result<DivergenceSummary, EvalError> {
    let base = OpenBase::open(&options.base)?;
    let variants = options.variants.iter().map(|path| GgufFile::open(path));
    let variants = variants.collect::<Result<Vec<_>, _>>().map_err(EngineError::from)?;
    check_vocabularies(base.model().into_iter().chain(&variants))?;
    let base_identity = base.identify()?;
    let identities = variants.iter().map(gguf::identify).collect::<Result<Vec<_>, _>>()?;
    let mut base = base.load(options.engine)?;
    let text_sha256 = base.text().map(|text| text.sha256().to_string());
    let context = base.context();
    let load = |model: GgufFile| load_for_windows(model, options.engine, context);
    let mut variants = variants.into_iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let windows = base.windows(&variants, options.chunks)?;

    let inputs = identities.iter().fold(base_identity.inputs, |all, one| all.and(&one.inputs));
    let mut journal = WindowJournal::open(options.journal.as_ref(), inputs, || Reading {
        models_sha256: std::iter::once(&base_identity.sha256)
            .chain(identities.iter().map(|identity| &identity.sha256))
            .cloned()
            .collect(),
        // A file of base logits holds its text.
        text_sha256: text_sha256.clone().unwrap_or_default(),
        context,
        stride: None,
        windows: windows.count(),
        device: options.engine.device.to_string(),
        kv_type: options.engine.kv_type_name().to_string(),
        activations: options.engine.activations.bits(),
    })?;

    let started = Instant::now();
    let base_run = base.run(&windows, journal.done);
    run_windows(base_run, &mut variants, &windows, options, &mut journal)?;
    let seconds = started.elapsed().as_secs_f64();

    let count = options.variants.len();
    let variants =
        options.variants.iter().zip(identities).enumerate().map(|(index, (path, identity))| {
            let positions: Vec<PositionDivergence> =
                journal.values.iter().skip(index).step_by(count).copied().collect();
            let divergence =
                Divergence::of(&positions).map_err(|error| of_variant(path, &error))?;
            let details = DivergenceDetails::of(&positions);
            let ModelIdentity { sha256: model_sha256, bytes: file_bytes, .. } = identity;
            let model = path.display().to_string();
            Ok(VariantDivergence { model, model_sha256, file_bytes, divergence, details })
        });
    Ok(DivergenceSummary {
        schema_version: SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        build: Build::current(),
        base: options.base.path().display().to_string(),
        base_kind: options.base.kind(),
        base_sha256: base_identity.sha256,
        base_bytes: base_identity.bytes,
        text: options.base.text().map(|path| path.display().to_string()),
        text_sha256,
        context,
        chunk_limit: options.chunks,
        chunks: windows.count(),
        device: options.engine.device.to_string(),
        kv_type: options.engine.kv_type_name().to_string(),
        activations: options.engine.activations.bits(),
        variants: variants.collect::<Result<_, EvalError>>()?,
        seconds,
    })
}

/// Sees to it that the same token has the same number everywhere.
fn check_vocabularies<'a>(mut models: impl Iterator<Item = &'a GgufFile>) -> Result<(), EvalError> {
    let tokens = |model: &'a GgufFile| model.metadata().strings("tokenizer.ggml.tokens");
    let Some(first) = models.next() else { return Ok(()) };
    match models.find(|model| tokens(model) != tokens(first)) {
        None => Ok(()),
        Some(other) => Err(EvalError::Unusable(format!(
            "{}: its vocabulary is another than that of {}; only variants of one model can be \
             compared",
            other.path().display(),
            first.path().display()
        ))),
    }
}

fn of_variant(path: &Path, error: &EvalError) -> EvalError {
    EvalError::unusable(path, error)
}

/// Brings every variant's divergence at every scored position of every window into the journal: at
/// each position one variant after the other.
fn run_windows(
    mut base: BaseRun<'_>,
    variants: &mut [Engine],
    windows: &TextWindows,
    options: &DivergenceOptions,
    journal: &mut WindowJournal<PositionDivergence>,
) -> Result<(), EvalError> {
    let vocabulary = variants.first().map_or(0, |variant| variant.vocabulary().size);
    let mut variants: Vec<WindowRun<'_>> =
        variants.iter_mut().map(|variant| WindowRun::new(variant, windows)).collect();
    let progress = Progress::new("Comparing", windows.count() as u64, Unit::Items("windows"));
    progress.set(journal.done as u64);
    for section in sections(windows, journal.done) {
        let mut positions = Vec::new();
        for step in Steps::new(windows, section.clone(), vocabulary) {
            let compared = compare_step(&mut base, &mut variants, &step, options)?;
            positions.extend(
                (0..step.next.len()).flat_map(|row| compared.iter().map(move |of| of[row])),
            );
            progress.advance(step.finished as u64);
        }
        journal.append(section, positions)?;
    }
    progress.finish();
    Ok(())
}

/// For each variant its divergence at each scored position of a step.
fn compare_step(
    base: &mut BaseRun<'_>,
    variants: &mut [WindowRun<'_>],
    step: &Step,
    options: &DivergenceOptions,
) -> Result<Vec<Vec<PositionDivergence>>, EvalError> {
    interrupt::check()?;
    let expected = base.step(step)?;
    let compare = |(variant, path): (&mut WindowRun<'_>, &PathBuf)| {
        interrupt::check()?;
        let positions = expected.compare(variant.step(step)?, &step.next)?;
        check_finite(&positions).map_err(|error| of_variant(path, &error))?;
        Ok(positions)
    };
    variants.iter_mut().zip(&options.variants).map(compare).collect()
}
