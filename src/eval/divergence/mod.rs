//! How far a variant's predictions are from those of the model that it was made from.
//!
//! The procedure is that of llama.cpp's `llama-perplexity --kl-divergence`: windows of the text, of
//! which the second half is scored. Both models run side by side, a few positions at a time, so
//! that no logits are kept.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::EvalError;
use super::log_softmax::{log_sum_exp, mean_difference};
use super::text_windows::{TextWindows, first_scored};
use crate::engine::{Build, Engine, EngineError, EngineOptions, LogitsFor, StepItem};
use crate::gguf::{self, GgufFile, ModelIdentity};
use crate::support::hash::sha256_file_once;
use crate::support::interrupt;
use crate::support::progress::{Progress, Unit};

/// Version of [`DivergenceSummary`]'s fields.
pub const SCHEMA_VERSION: u32 = 1;

/// About how many tokens a step holds.
const STEP_TOKENS: usize = 512;
/// At most about this many bytes of logits come out of a step of one model.
const STEP_LOGITS_BYTES: usize = 64 << 20;

/// What to compare.
#[derive(Debug, Clone)]
pub struct DivergenceOptions {
    /// The model that the others are compared with: usually F16.
    pub base: PathBuf,
    /// Models with the same vocabulary.
    pub variants: Vec<PathBuf>,
    /// The text, in UTF-8.
    pub text: PathBuf,
    /// Tokens in a window.
    pub context: usize,
    /// At most this many windows.
    pub chunks: Option<usize>,
    /// Where and how the model runs.
    pub engine: EngineOptions,
}

/// A mean with its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error, taking positions as independent; 0 for fewer than two.
    pub standard_error: f64,
}

impl Mean {
    /// Of all values.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / count.max(1.0);
        let squares: f64 = values.map(|value| (value - mean) * (value - mean)).sum();
        let variance = if count < 2.0 { 0.0 } else { squares / (count - 1.0) };
        Self { mean, standard_error: (variance / count.max(1.0)).sqrt() }
    }
}

/// The divergence of a variant over all scored positions. Logarithms are natural.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Scored positions.
    pub positions: usize,
    /// KL(base ‖ variant), in nats.
    pub kl: Mean,
    /// Its median.
    pub kl_median: f64,
    /// Its 90th percentile.
    pub kl_p90: f64,
    /// Its 99th percentile.
    pub kl_p99: f64,
    /// Its maximum.
    pub kl_maximum: f64,
    /// Share of positions at which both find the same token most likely.
    pub same_top: Mean,
    /// exp of the mean negative log-probability that the base gives to the text's own next token.
    pub base_perplexity: f64,
    /// The same of the variant.
    pub perplexity: f64,
    /// ln(variant's perplexity / base's).
    pub log_perplexity_ratio: Mean,
}

/// One variant's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// SHA-256 of its file; of a split model, of its parts' hashes in order.
    pub base_sha256: String,
    /// Bytes of its file, or of all its parts.
    pub base_bytes: u64,
    /// The text's path as given.
    pub text: String,
    /// SHA-256 of the text.
    pub text_sha256: String,
    /// Tokens in a window.
    pub context: usize,
    /// Windows scored.
    pub chunks: usize,
    /// Where the models ran.
    pub device: String,
    /// Elements of the key-value cache: `i16`, `i8` or `f16`.
    pub kv_type: String,
    /// In the order given.
    pub variants: Vec<VariantDivergence>,
    /// Wall time of the scoring, loading excluded.
    pub seconds: f64,
}

/// What two models say at one position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PositionDivergence {
    /// KL(base ‖ variant), in nats.
    pub kl: f64,
    /// Whether both find the same token most likely.
    pub same_top: bool,
    /// −ln of the probability that the base gives to the next token.
    pub base_surprise: f64,
    /// The same of the variant.
    pub surprise: f64,
}

impl PositionDivergence {
    /// Compares two rows of logits; `next` is the token that the text goes on with.
    ///
    /// With z and z′ the logits and p the base's probabilities, KL = Σ p (z − z′) − ln Σ eᶻ +
    /// ln Σ eᶻ′: for equal rows exactly 0, and otherwise to within about 2e-7.
    ///
    /// # Panics
    /// If the rows are not of one length, or `next` lies outside them.
    pub fn of(base: &[f32], variant: &[f32], next: u32) -> Self {
        let (base_sum, variant_sum) = (log_sum_exp(base), log_sum_exp(variant));
        let kl = mean_difference(base, variant) - base_sum + variant_sum;
        let next = next as usize;
        Self {
            // Rounding may leave a hair below 0. A NaN stays one.
            kl: if kl < 0.0 { 0.0 } else { kl },
            same_top: first_largest(base) == first_largest(variant),
            base_surprise: base_sum - f64::from(base[next]),
            surprise: variant_sum - f64::from(variant[next]),
        }
    }
}

fn first_largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = index;
        }
    }
    best
}

/// The divergence at each row of logits of a window's scored positions. `next` are the tokens that
/// follow them.
pub fn compare_rows(base: &[f32], variant: &[f32], next: &[u32]) -> Vec<PositionDivergence> {
    let width = base.len() / next.len().max(1);
    base.par_chunks(width)
        .zip(variant.par_chunks(width))
        .zip(next)
        .map(|((base, variant), &next)| PositionDivergence::of(base, variant, next))
        .collect()
}

impl Divergence {
    /// Sums positions up.
    ///
    /// # Errors
    /// No position at all, or a figure that is no number.
    pub fn of(positions: &[PositionDivergence]) -> Result<Self, EvalError> {
        if positions.is_empty() || positions.iter().any(|position| !position.is_finite()) {
            return Err(EvalError::Unusable(
                "the logits are not numbers; one of the model files may be damaged".to_string(),
            ));
        }
        let mut sorted: Vec<f64> = positions.iter().map(|position| position.kl).collect();
        sorted.sort_by(f64::total_cmp);
        let mean = |value: fn(&PositionDivergence) -> f64| Mean::of(positions.iter().map(value));
        Ok(Self {
            positions: positions.len(),
            kl: mean(|position| position.kl),
            kl_median: percentile(&sorted, 0.5),
            kl_p90: percentile(&sorted, 0.9),
            kl_p99: percentile(&sorted, 0.99),
            kl_maximum: percentile(&sorted, 1.0),
            same_top: mean(|position| f64::from(u8::from(position.same_top))),
            base_perplexity: mean(|position| position.base_surprise).mean.exp(),
            perplexity: mean(|position| position.surprise).mean.exp(),
            log_perplexity_ratio: mean(|position| position.surprise - position.base_surprise),
        })
    }
}

impl PositionDivergence {
    fn is_finite(&self) -> bool {
        [self.kl, self.base_surprise, self.surprise].into_iter().all(f64::is_finite)
    }
}

/// The value below which `share` of sorted values lie, interpolated between neighbours.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor())
}

/// Runs all models over the text, side by side.
///
/// # Errors
/// Models or a text that cannot be read, models that do not share a vocabulary, windows longer than
/// a model's context, Ctrl-C.
pub fn measure(options: &DivergenceOptions) -> Result<DivergenceSummary, EvalError> {
    let ModelIdentity { sha256: base_sha256, bytes: base_bytes } = identify(&options.base)?;
    let text_sha256 = sha256_file_once(&options.text).map_err(in_file(&options.text))?;
    let identities = options.variants.iter().map(|path| identify(path));
    let identities = identities.collect::<Result<Vec<_>, _>>()?;
    check_vocabularies(options)?;
    let mut base = load(&options.base, options)?;
    let windows =
        TextWindows::read(&options.text, base.vocabulary(), options.context, options.chunks)?;
    let variants = options.variants.iter().map(|path| load(path, options));
    let mut variants = variants.collect::<Result<Vec<_>, _>>()?;

    let started = Instant::now();
    let positions = run_windows(&mut base, &mut variants, &windows)?;
    let seconds = started.elapsed().as_secs_f64();

    let variants = options.variants.iter().zip(identities).zip(positions).map(
        |((path, identity), positions)| {
            let model = path.display().to_string();
            let divergence = Divergence::of(&positions)
                .map_err(|error| EvalError::Unusable(format!("{model}: {error}")))?;
            let ModelIdentity { sha256: model_sha256, bytes: file_bytes } = identity;
            Ok(VariantDivergence { model, model_sha256, file_bytes, divergence })
        },
    );
    Ok(DivergenceSummary {
        schema_version: SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        build: Build::current(),
        base: options.base.display().to_string(),
        base_sha256,
        base_bytes,
        text: options.text.display().to_string(),
        text_sha256,
        context: options.context,
        chunks: windows.count(),
        device: options.engine.device.to_string(),
        kv_type: options.engine.kv_type_name().to_string(),
        variants: variants.collect::<Result<_, EvalError>>()?,
        seconds,
    })
}

fn identify(path: &Path) -> Result<ModelIdentity, EvalError> {
    gguf::identify(path).map_err(in_file(path))
}

fn in_file(path: &Path) -> impl Fn(io::Error) -> EvalError {
    move |source| EvalError::Io { path: path.display().to_string(), source }
}

fn load(path: &Path, options: &DivergenceOptions) -> Result<Engine, EvalError> {
    let engine = Engine::load(path, options.engine)?;
    if options.context > engine.context_length() {
        return Err(EvalError::Unusable(format!(
            "{}: windows of {} tokens do not fit into the model's context of {}: lower --context",
            path.display(),
            options.context,
            engine.context_length()
        )));
    }
    Ok(engine)
}

/// Sees to it that the same token has the same number everywhere.
fn check_vocabularies(options: &DivergenceOptions) -> Result<(), EvalError> {
    let open = |path: &PathBuf| GgufFile::open(path).map_err(EngineError::from);
    let base = open(&options.base)?;
    for path in &options.variants {
        let variant = open(path)?;
        let tokens = |file: &'_ GgufFile| {
            file.metadata().strings("tokenizer.ggml.tokens").map(<[String]>::to_vec)
        };
        if tokens(&base) != tokens(&variant) {
            return Err(EvalError::Unusable(format!(
                "{}: its vocabulary is another than that of {}; only variants of one model can be \
                 compared",
                path.display(),
                options.base.display()
            )));
        }
    }
    Ok(())
}

/// Every variant's divergence at every scored position of every window.
fn run_windows(
    base: &mut Engine,
    variants: &mut [Engine],
    windows: &TextWindows,
) -> Result<Vec<Vec<PositionDivergence>>, EvalError> {
    let mut positions = vec![Vec::new(); variants.len()];
    let progress = Progress::new("Comparing", windows.count() as u64, Unit::Items("windows"));
    for window in windows.iter() {
        interrupt::check()?;
        let mut base = Run::start(base, window.len());
        let mut variants: Vec<Run<'_>> =
            variants.iter_mut().map(|variant| Run::start(variant, window.len())).collect();
        for (piece, scored) in pieces(window, base.engine.vocabulary().size) {
            let expected = base.step(&window[piece.clone()], scored)?;
            for (variant, positions) in variants.iter_mut().zip(&mut positions) {
                interrupt::check()?;
                let found = variant.step(&window[piece.clone()], scored)?;
                if scored {
                    let next = &window[piece.start + 1..=piece.end];
                    positions.extend(compare_rows(expected, found, next));
                }
            }
        }
        progress.advance(1);
    }
    progress.finish();
    Ok(positions)
}

/// The parts in which a window goes through a model, and whether they are scored.
fn pieces(
    window: &[u32],
    vocabulary: usize,
) -> impl Iterator<Item = (std::ops::Range<usize>, bool)> {
    let (first, end) = (first_scored(window.len()), window.len() - 1);
    let scored_tokens =
        (STEP_LOGITS_BYTES / (vocabulary.max(1) * size_of::<f32>())).clamp(1, STEP_TOKENS);
    let split = |from: usize, to: usize, step: usize| {
        (from..to).step_by(step).map(move |start| start..(start + step).min(to))
    };
    let unscored = split(0, first, STEP_TOKENS).map(|piece| (piece, false));
    unscored.chain(split(first, end, scored_tokens).map(|piece| (piece, true)))
}

/// A window on its way through one model. The sequence ends with it.
struct Run<'a> {
    engine: &'a mut Engine,
    sequence: crate::engine::SequenceId,
}

impl<'a> Run<'a> {
    fn start(engine: &'a mut Engine, tokens: usize) -> Self {
        let sequence = engine.start(tokens);
        Self { engine, sequence }
    }

    /// The logits of all tokens, or nothing.
    fn step(&mut self, tokens: &[u32], scored: bool) -> Result<&[f32], EngineError> {
        let logits = if scored { LogitsFor::All } else { LogitsFor::None };
        let items = [StepItem { sequence: self.sequence, tokens, logits }];
        Ok(self.engine.step(&items)?.values())
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.engine.end(self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_matches_a_calculation_by_hand() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4).
        let logits = |probabilities: [f32; 3], shift: f32| probabilities.map(|p| p.ln() + shift);
        let (base, variant) = (logits([0.5, 0.25, 0.25], 3.0), logits([0.25, 0.5, 0.25], -7.0));
        let found = PositionDivergence::of(&base, &variant, 2);
        // 1/2 ln 2 + 1/4 ln 1/2 + 0 = 1/4 ln 2
        assert!((found.kl - 0.25 * 2f64.ln()).abs() < 1e-6, "{found:?}");
        assert!(!found.same_top);
        assert!((found.base_surprise - 4f64.ln()).abs() < 1e-6);
        assert!((found.surprise - 4f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn equal_rows_do_not_diverge_at_all() {
        let row: Vec<f32> = (0..5000).map(|index| (index * 31 % 97) as f32 / 7.0).collect();
        let found = PositionDivergence::of(&row, &row, 17);
        assert_eq!((found.kl, found.same_top), (0.0, true));
        assert_eq!(found.surprise, found.base_surprise);
    }

    fn position(kl: f64, same_top: bool) -> PositionDivergence {
        PositionDivergence { kl, same_top, base_surprise: 1.0, surprise: 1.0 + kl }
    }

    #[test]
    fn statistics_match_a_calculation_by_hand() {
        let positions = [0.4, 0.1, 0.2, 0.3, 0.0].map(|kl| position(kl, kl < 0.25));
        let all = Divergence::of(&positions).unwrap();
        let close = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
        };
        close(all.kl.mean, 0.2);
        // Σ (x − 0.2)² / 4 = 0.025; / 5 = 0.005
        close(all.kl.standard_error, 0.005f64.sqrt());
        close(all.kl_median, 0.2);
        close(all.kl_p90, 0.36);
        close(all.kl_maximum, 0.4);
        close(all.same_top.mean, 0.6);
        close(all.base_perplexity, 1f64.exp());
        close(all.perplexity, 1.2f64.exp());
        close(all.log_perplexity_ratio.mean, 0.2);
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        let row = [0.0, 1.0];
        let damaged = PositionDivergence::of(&row, &[0.0, f32::NAN], 0);
        assert!(Divergence::of(&[position(0.1, true), damaged]).is_err());
        assert!(Divergence::of(&[]).is_err());
    }

    #[test]
    fn a_window_goes_through_in_pieces_that_leave_out_nothing() {
        for (length, vocabulary) in [(4, 10), (512, 49_152), (513, 300_000), (3000, 1 << 26)] {
            let window = vec![0; length];
            let all: Vec<_> = pieces(&window, vocabulary).collect();
            let mut next = 0;
            for (piece, scored) in &all {
                assert_eq!(piece.start, next);
                assert!(piece.end > piece.start);
                assert_eq!(*scored, piece.start >= first_scored(length));
                next = piece.end;
            }
            assert_eq!(next, length - 1);
        }
    }
}
