//! Perplexity and divergence of the variants on a text, beside their accuracy.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{TextSettings, VariantText};
use super::runs;
use super::work::{Model, Work, timed};
use super::{ReportError, Step};
use crate::eval::EvalError;
use crate::eval::divergence::{
    self, DivergenceOptions, DivergenceSummary, VariantDivergence, measure,
};
use crate::support::atomic_file::write_atomically;
use crate::support::hash::sha256_file_once;

/// What is kept of a variant in its directory.
const FILE_NAME: &str = "divergence.json";

/// The text that all variants read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextOptions {
    /// A text file in UTF-8.
    pub path: PathBuf,
    /// Tokens in a window.
    pub context: usize,
    /// At most this many windows.
    pub chunks: Option<usize>,
}

/// A variant's reading of the text beside the baseline's: the content of `divergence.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reading {
    /// The limit on the windows; `chunks` is how many there were.
    chunk_limit: Option<usize>,
    #[serde(flatten)]
    summary: DivergenceSummary,
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
        text_sha256: &sha256_file_once(&text.path)
            .map_err(|error| ReportError::io(&text.path, error))?,
        text,
        base_sha256: &models[baseline].sha256,
        device: &work.options.engine.device.to_string(),
        kv_type: work.options.engine.kv_type_name(),
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
        let ((), summary, _) = timed(&what, observe, || {
            let options = DivergenceOptions {
                base: models[baseline].path.clone(),
                variants: missing.iter().map(|&index| models[index].path.clone()).collect(),
                text: text.path.clone(),
                context: text.context,
                chunks: text.chunks,
                engine: work.options.engine,
            };
            Ok(((), measure(&options).map_err(in_terms_of_compare)?, false))
        })?;
        for (&index, variant) in missing.iter().zip(&summary.variants) {
            let own = DivergenceSummary { variants: vec![variant.clone()], ..summary.clone() };
            let reading = Reading { chunk_limit: text.chunks, summary: own };
            keep(&place(&models[index]), &reading)?;
            found[index] = Some((reading, false));
        }
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
    let summary = found.iter().flatten().map(|(reading, _)| &reading.summary).next();
    let settings = TextSettings {
        text: text.path.display().to_string(),
        text_sha256: summary.map_or(String::new(), |summary| summary.text_sha256.clone()),
        context: text.context,
        chunk_limit: text.chunks,
        chunks: summary.map_or(0, |summary| summary.chunks),
    };
    let variant = |(reading, reused): (Reading, bool)| {
        let VariantDivergence { divergence, .. } = reading.summary.variants.into_iter().next()?;
        Some(VariantText { reused, divergence })
    };
    TextResults { settings, variants: found.into_iter().map(|one| variant(one?)).collect() }
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
}

impl WantedReading<'_> {
    /// The first thing that differs from what is wanted of a variant.
    fn mismatch(&self, model_sha256: &str, found: &Reading) -> Option<&'static str> {
        let Reading { chunk_limit, summary } = found;
        let models: Vec<&str> =
            summary.variants.iter().map(|variant| variant.model_sha256.as_str()).collect();
        runs::first_difference(&[
            (summary.schema_version == divergence::SCHEMA_VERSION, "the record's version"),
            (summary.build.is_current(), "the build of quantkit"),
            (models == [model_sha256], "the model file"),
            (summary.base_sha256 == self.base_sha256, "the baseline's file"),
            (summary.text_sha256 == self.text_sha256, "the text"),
            (summary.context == self.text.context, "the windows' length"),
            (*chunk_limit == self.text.chunks, "the number of windows"),
            (summary.device == self.device, "the device"),
            (summary.kv_type == self.kv_type, "the key-value cache"),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Build;
    use crate::report::fixtures;

    #[test]
    fn a_reading_is_reused_only_for_the_same_text_and_models() {
        let text = TextOptions { path: PathBuf::from("text.txt"), context: 512, chunks: Some(4) };
        let summary = DivergenceSummary {
            schema_version: divergence::SCHEMA_VERSION,
            quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
            build: Build::current(),
            base: "f16.gguf".to_string(),
            base_sha256: "base".to_string(),
            base_bytes: 2,
            text: "text.txt".to_string(),
            text_sha256: "text".to_string(),
            context: 512,
            chunks: 3,
            device: "cpu".to_string(),
            kv_type: "i16".to_string(),
            variants: vec![VariantDivergence {
                model: "q4.gguf".to_string(),
                model_sha256: "q4".to_string(),
                file_bytes: 1,
                divergence: fixtures::divergence(),
            }],
            seconds: 1.0,
        };
        let wanted = WantedReading {
            text_sha256: "text",
            text: &text,
            base_sha256: "base",
            device: "cpu",
            kv_type: "i16",
        };
        let reading = Reading { chunk_limit: Some(4), summary: summary.clone() };
        assert_eq!(wanted.mismatch("q4", &reading), None);
        assert_eq!(wanted.mismatch("q5", &reading), Some("the model file"));
        let of = |summary| Reading { chunk_limit: Some(4), summary };
        let cases = [
            ("the text", of(DivergenceSummary { text_sha256: "x".into(), ..summary.clone() })),
            (
                "the baseline's file",
                of(DivergenceSummary { base_sha256: "x".into(), ..summary.clone() }),
            ),
            ("the windows' length", of(DivergenceSummary { context: 64, ..summary.clone() })),
            (
                "the key-value cache",
                of(DivergenceSummary { kv_type: "i8".into(), ..summary.clone() }),
            ),
            ("the number of windows", Reading { chunk_limit: None, summary }),
        ];
        for (what, found) in cases {
            assert_eq!(wanted.mismatch("q4", &found), Some(what));
        }
        let json = serde_json::to_string(&reading).unwrap();
        assert_eq!(serde_json::from_str::<Reading>(&json).unwrap(), reading);
    }
}
