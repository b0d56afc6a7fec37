//! How tokens are chosen where a request does not say.

use crate::engine::Sampling;

/// What the server was told at its start. What it was not told, each protocol has its own default for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingDefaults {
    /// [`Sampling::temperature`].
    pub temperature: Option<f32>,
    /// [`Sampling::top_k`].
    pub top_k: Option<usize>,
    /// [`Sampling::top_p`].
    pub top_p: Option<f32>,
    /// [`Sampling::min_p`].
    pub min_p: Option<f32>,
    /// [`Sampling::typical_p`].
    pub typical_p: Option<f32>,
    /// [`Sampling::repeat_penalty`].
    pub repeat_penalty: Option<f32>,
    /// [`Sampling::repeat_window`].
    pub repeat_window: Option<usize>,
    /// [`Sampling::presence_penalty`].
    pub presence_penalty: Option<f32>,
    /// [`Sampling::frequency_penalty`].
    pub frequency_penalty: Option<f32>,
    /// [`Sampling::seed`]; a new one for each request if absent.
    pub seed: Option<u64>,
}

impl SamplingDefaults {
    /// A protocol's defaults, with those that the server was told in their place.
    pub fn over(&self, base: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            typical_p: self.typical_p.unwrap_or(base.typical_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(base.repeat_penalty),
            repeat_window: self.repeat_window.unwrap_or(base.repeat_window),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            seed: self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>())),
            ..base
        }
    }
}
