//! Perplexity and divergence of the variants on a text, beside their accuracy.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::record::{TextSettings, VariantText};
use super::runs;
use super::work::{Model, Work, timed};
use super::{ReportError, Step, TextOptions};
use crate::engine::Build;
use crate::eval::text::divergence::{
    self, Base, Divergence, DivergenceOptions, DivergenceSummary, VariantDivergence, measure,
};
use crate::eval::{EvalError, WindowJournalOptions};
use crate::support::atomic_file::write_atomically;
use crate::support::finished::first_difference;
use crate::support::input_file::sha256_once;

/// What is kept of a variant in its directory.
const FILE_NAME: &str = "divergence.json";
/// What an interrupted reading of several variants has so far, in the output directory.
const JOURNAL_NAME: &str = "divergence.journal.jsonl";

/// A variant's reading of the text beside the baseline's: the content of `divergence.json`. It is one
/// variant of a [`DivergenceSummary`], so that each can be reused without the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reading {
    /// Version of [`Divergence`]'s fields.
    schema_version: u32,
    /// Version of quantkit.
    quantkit_version: String,
    /// The build that ran.
    build: Build,
    /// SHA-256 of the baseline.
    base_sha256: String,
    /// SHA-256 of the variant.
    model_sha256: String,
    /// SHA-256 of the text.
    text_sha256: String,
    /// Tokens in a window.
    context: usize,
    /// At most this many windows.
    chunk_limit: Option<usize>,
    /// Windows that were read.
    chunks: usize,
    /// Where the models ran.
    device: String,
    /// Elements of the key-value cache.
    kv_type: String,
    /// Bits that activations are rounded to.
    activations: u8,
    /// What was found.
    divergence: Divergence,
}

impl Reading {
    fn of(summary: &DivergenceSummary, variant: &VariantDivergence, text_sha256: &str) -> Self {
        Self {
            schema_version: summary.schema_version,
            quantkit_version: summary.quantkit_version.clone(),
            build: summary.build.clone(),
            base_sha256: summary.base_sha256.clone(),
            model_sha256: variant.model_sha256.clone(),
            text_sha256: text_sha256.to_string(),
            context: summary.context,
            chunk_limit: summary.chunk_limit,
            chunks: summary.chunks,
            device: summary.device.clone(),
            kv_type: summary.kv_type.clone(),
            activations: summary.activations,
            divergence: variant.divergence.clone(),
        }
    }
}

/// What was found on the text: its settings, and for each model its divergence from the baseline.
#[derive(Debug, Clone)]
pub(super) struct TextResults {
    pub settings: TextSettings,
    /// `None` for the baseline.
    pub variants: Vec<Option<VariantText>>,
}

/// Brings all variants' readings up to date. Those that are missing are made side by side, so that
/// the baseline reads the text once.
///
/// # Errors
/// A text that cannot be read or is too short, models that do not share a vocabulary or whose
/// context is shorter than a window; an interruption.
pub(super) fn read_text(
    work: &Work<'_>,
    text: &TextOptions,
    models: &[Model],
    baseline: usize,
    observe: &mut dyn FnMut(&Step),
) -> Result<TextResults, ReportError> {
    let wanted = WantedReading {
        text_sha256: &sha256_once(&text.path)?,
        text,
        base_sha256: &models[baseline].sha256,
        device: &work.options.engine.device.to_string(),
        kv_type: work.options.engine.kv_type_name(),
        activations: work.options.engine.activations.bits(),
    };
    let place = |model: &Model| work.options.output.join(&model.naming.directory).join(FILE_NAME);
    let mut found: Vec<Option<(Reading, bool)>> = vec![None; models.len()];
    let mut missing = Vec::new();
    for (index, model) in models.iter().enumerate().filter(|(index, _)| *index != baseline) {
        let earlier = (!work.options.fresh)
            .then(|| runs::read_valid(&place(model), |found| wanted.mismatch(&model.sha256, found)))
            .flatten();
        match earlier {
            Some(reading) => {
                let what = format!("divergence {}", model.naming.label);
                observe(&Step { what, reused: true, seconds: 0.0 });
                found[index] = Some((reading, true));
            }
            None => missing.push(index),
        }
    }
    if !missing.is_empty() {
        let labels: Vec<&str> =
            missing.iter().map(|&index| models[index].naming.label.as_str()).collect();
        let what = format!("divergence {}", labels.join(", "));
        let journal = WindowJournalOptions {
            path: work.options.output.join(JOURNAL_NAME),
            earlier: work.options.earlier(),
        };
        let ((), summary, _) = timed(&what, observe, || {
            let options = DivergenceOptions {
                base: Base::Model {
                    model: models[baseline].path.clone(),
                    text: text.path.clone(),
                    context: text.context,
                },
                variants: missing.iter().map(|&index| models[index].path.clone()).collect(),
                chunks: text.chunks,
                journal: Some(journal.clone()),
                engine: work.options.engine,
            };
            Ok(((), measure(&options).map_err(in_terms_of_compare)?, false))
        })?;
        let measured_text = summary.text_sha256.as_deref().unwrap_or_default();
        runs::check_same(&text.path, wanted.text_sha256, measured_text)?;
        runs::check_same(&models[baseline].path, wanted.base_sha256, &summary.base_sha256)?;
        for (&index, variant) in missing.iter().zip(&summary.variants) {
            runs::check_same(&models[index].path, &models[index].sha256, &variant.model_sha256)?;
            let reading = Reading::of(&summary, variant, wanted.text_sha256);
            keep(&place(&models[index]), &reading)?;
            found[index] = Some((reading, false));
        }
        journal.remove()?;
    }
    Ok(results(found, text))
}

fn keep(path: &Path, reading: &Reading) -> Result<(), ReportError> {
    serde_json::to_vec_pretty(reading)
        .map_err(std::io::Error::from)
        .and_then(|json| write_atomically(path, &json))
        .map_err(|error| ReportError::io(path, error))
}

fn results(found: Vec<Option<(Reading, bool)>>, text: &TextOptions) -> TextResults {
    let any = found.iter().flatten().map(|(reading, _)| reading).next();
    let settings = TextSettings {
        text: text.path.display().to_string(),
        text_sha256: any.map_or(String::new(), |reading| reading.text_sha256.clone()),
        context: text.context,
        chunk_limit: text.chunks,
        chunks: any.map_or(0, |reading| reading.chunks),
    };
    let variant =
        |(reading, reused): (Reading, bool)| VariantText { reused, divergence: reading.divergence };
    TextResults { settings, variants: found.into_iter().map(|one| one.map(variant)).collect() }
}

/// `divergence` calls `--context` what `compare` calls `--text-context`.
fn in_terms_of_compare(error: EvalError) -> EvalError {
    match error {
        EvalError::Unusable(problem) => {
            EvalError::Unusable(problem.replace("--context", "--text-context"))
        }
        other => other,
    }
}

/// What a reading must have been made with to be reused.
struct WantedReading<'a> {
    text_sha256: &'a str,
    text: &'a TextOptions,
    base_sha256: &'a str,
    device: &'a str,
    kv_type: &'a str,
    activations: u8,
}

impl WantedReading<'_> {
    /// The first thing that differs from what is wanted of a variant.
    fn mismatch(&self, model_sha256: &str, found: &Reading) -> Option<&'static str> {
        first_difference(&[
            (found.schema_version == divergence::SCHEMA_VERSION, "the record's version"),
            (found.build.is_current(), "the build of quantkit"),
            (found.model_sha256 == model_sha256, "the model file"),
            (found.base_sha256 == self.base_sha256, "the baseline's file"),
            (found.text_sha256 == self.text_sha256, "the text"),
            (found.context == self.text.context, "the windows' length"),
            (found.chunk_limit == self.text.chunks, "the number of windows"),
            (found.device == self.device, "the device"),
            (found.kv_type == self.kv_type, "the key-value cache"),
            (found.activations == self.activations, "the activations' bits"),
        ])
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::report::fixtures;

    #[test]
    fn a_reading_is_reused_only_for_the_same_text_and_models() {
        let text = TextOptions { path: PathBuf::from("text.txt"), context: 512, chunks: Some(4) };
        let reading = Reading {
            schema_version: divergence::SCHEMA_VERSION,
            quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
            build: Build::current(),
            base_sha256: "base".to_string(),
            model_sha256: "q4".to_string(),
            text_sha256: "text".to_string(),
            context: 512,
            chunk_limit: Some(4),
            chunks: 3,
            device: "cpu".to_string(),
            kv_type: "i16".to_string(),
            activations: 8,
            divergence: fixtures::divergence(),
        };
        let wanted = WantedReading {
            text_sha256: "text",
            text: &text,
            base_sha256: "base",
            device: "cpu",
            kv_type: "i16",
            activations: 8,
        };
        assert_eq!(wanted.mismatch("q4", &reading), None);
        assert_eq!(wanted.mismatch("q5", &reading), Some("the model file"));
        let other = Build { executable_sha256: Some("0".repeat(64)), ..Build::current() };
        let cases = [
            ("the build of quantkit", Reading { build: other, ..reading.clone() }),
            ("the text", Reading { text_sha256: "x".into(), ..reading.clone() }),
            ("the baseline's file", Reading { base_sha256: "x".into(), ..reading.clone() }),
            ("the windows' length", Reading { context: 64, ..reading.clone() }),
            ("the number of windows", Reading { chunk_limit: None, ..reading.clone() }),
            ("the key-value cache", Reading { kv_type: "i8".into(), ..reading.clone() }),
            ("the activations' bits", Reading { activations: 16, ..reading.clone() }),
        ];
        for (what, found) in cases {
            assert_eq!(wanted.mismatch("q4", &found), Some(what));
        }
        let json = serde_json::to_string(&reading).unwrap();
        assert_eq!(serde_json::from_str::<Reading>(&json).unwrap(), reading);
    }
}
