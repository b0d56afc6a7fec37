//! Whether an earlier reading of a text is the one that is asked for.

use std::fs;

use super::divergence::{self, Base, DivergenceOptions, DivergenceSummary};
use super::perplexity::{self, PerplexityOptions, PerplexitySummary};
use crate::support::finished::first_difference;

/// What a perplexity must have been measured with to be taken for a new one.
#[derive(Debug, Clone)]
pub struct WantedPerplexity<'a> {
    /// What is asked for.
    pub options: &'a PerplexityOptions,
    /// SHA-256 of the model file.
    pub model_sha256: String,
    /// SHA-256 of the text.
    pub text_sha256: String,
}

impl WantedPerplexity<'_> {
    /// The first thing that differs from what is wanted.
    pub fn mismatch(&self, found: &PerplexitySummary) -> Option<&'static str> {
        let PerplexityOptions { engine, context, stride, chunks, save_logits, .. } = self.options;
        let has_logits = save_logits.as_ref().is_none_or(|path| {
            fs::metadata(path).is_ok_and(|file| Some(file.len()) == found.logits_bytes)
        });
        let same_logits =
            found.logits == save_logits.as_ref().map(|path| path.display().to_string());
        first_difference(&[
            (found.schema_version == perplexity::SCHEMA_VERSION, "the record's version"),
            (found.build.is_current(), "the build of quantkit"),
            (found.model_sha256 == self.model_sha256, "the model file"),
            (found.text_sha256 == self.text_sha256, "the text"),
            (found.context == *context, "the windows' length"),
            (found.stride == *stride, "the stride"),
            (found.chunk_limit == *chunks, "the number of windows"),
            (found.device == engine.device.to_string(), "the device"),
            (found.kv_type == engine.kv_type_name(), "the key-value cache"),
            (found.activations == engine.activations.bits(), "the activations' bits"),
            (same_logits && has_logits, "the file of base logits"),
        ])
    }
}

/// What a divergence must have been measured with to be taken for a new one.
#[derive(Debug, Clone)]
pub struct WantedDivergence<'a> {
    /// What is asked for.
    pub options: &'a DivergenceOptions,
    /// SHA-256 of the base's file.
    pub base_sha256: String,
    /// SHA-256 of the text, unless the base holds it.
    pub text_sha256: Option<String>,
    /// SHA-256 of each variant's file.
    pub variants_sha256: Vec<String>,
}

impl WantedDivergence<'_> {
    /// The first thing that differs from what is wanted.
    pub fn mismatch(&self, found: &DivergenceSummary) -> Option<&'static str> {
        let DivergenceOptions { base, chunks, engine, .. } = self.options;
        let variants = found.variants.iter().map(|variant| &variant.model_sha256);
        // A file of base logits has the length of its windows in it.
        let same_context = match base {
            Base::Model { context, .. } => found.context == *context,
            Base::Logits(_) => true,
        };
        first_difference(&[
            (found.schema_version == divergence::SCHEMA_VERSION, "the record's version"),
            (found.build.is_current(), "the build of quantkit"),
            (found.base_sha256 == self.base_sha256, "the base"),
            (found.text_sha256 == self.text_sha256, "the text"),
            (variants.eq(&self.variants_sha256), "the variants"),
            (same_context, "the windows' length"),
            (found.chunk_limit == *chunks, "the number of windows"),
            (found.device == engine.device.to_string(), "the device"),
            (found.kv_type == engine.kv_type_name(), "the key-value cache"),
            (found.activations == engine.activations.bits(), "the activations' bits"),
        ])
    }
}
