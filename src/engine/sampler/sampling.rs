//! How tokens are chosen.

use crate::engine::EngineError;

/// How tokens are chosen. The default is greedy: always the most likely token.
///
/// First, biases are added and penalties taken off. Then the filters act in their order. By default the
/// temperature comes last: the others see the probabilities before it flattens or sharpens them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits before the draw; 0 chooses the most likely token.
    pub temperature: f32,
    /// Keeps the K most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely tokens whose probabilities first reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Keeps the tokens of the most typical surprise whose probabilities first exceed this sum; 1 keeps all.
    pub typical_p: f32,
    /// The filters that act, in this order. Without a temperature among them, it is 1, unless
    /// [`Sampling::temperature`] is 0.
    pub order: Vec<Filter>,
    /// Makes tokens of the last [`Sampling::repeat_window`] less likely; 1 does nothing.
    pub repeat_penalty: f32,
    /// How many of the last tokens the repeat penalty looks at, the prompt's included.
    pub repeat_window: usize,
    /// Taken off the logit of each token that was generated before; 0 does nothing.
    pub presence_penalty: f32,
    /// Taken off a token's logit for each time that it was generated before; 0 does nothing.
    pub frequency_penalty: f32,
    /// The presence and frequency penalties count what the repeat penalty looks at, in place of all that
    /// was generated.
    pub counts_recent: bool,
    /// Added to the logits of tokens; −∞ forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws: the same seed and logits give the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            order: Filter::ALL.to_vec(),
            repeat_penalty: 1.0,
            repeat_window: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            counts_recent: false,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Checks that every figure lies in its range.
    ///
    /// # Errors
    /// The first one that does not, with its range.
    pub fn check(&self) -> Result<(), EngineError> {
        let rules = [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 or more"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and up to 1"),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            ("typical-p", self.typical_p, (0.0..=1.0).contains(&self.typical_p), "from 0 to 1"),
            ("repeat-penalty", self.repeat_penalty, self.repeat_penalty > 0.0, "above 0"),
            ("presence-penalty", self.presence_penalty, true, "a number"),
            ("frequency-penalty", self.frequency_penalty, true, "a number"),
        ];
        for (name, value, in_range, range) in rules {
            if !in_range || !value.is_finite() {
                return Err(EngineError::Unusable(format!("{name} must be {range}, not {value}")));
            }
        }
        match self.logit_bias.iter().find(|(_, bias)| bias.is_nan()) {
            Some((token, _)) => Err(EngineError::Unusable(format!(
                "logit-bias must be a number, not that of the token {token}"
            ))),
            None => Ok(()),
        }
    }

    /// Whether the likeliest token is taken as it is.
    pub(super) fn is_plain(&self) -> bool {
        self.temperature == 0.0
            && self.repeat_penalty == 1.0
            && !self.counts()
            && self.logit_bias.is_empty()
    }

    /// Whether it matters which tokens came before, the prompt's included.
    pub(super) fn looks_back(&self) -> bool {
        self.repeat_penalty != 1.0 || self.counts() && self.counts_recent
    }

    /// Whether it matters how often a token came.
    pub(super) fn counts(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// A step between the logits and the draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// [`Sampling::top_k`].
    TopK,
    /// [`Sampling::typical_p`].
    Typical,
    /// [`Sampling::top_p`].
    TopP,
    /// [`Sampling::min_p`].
    MinP,
    /// [`Sampling::temperature`].
    Temperature,
}

impl Filter {
    /// All of them, in the order that is usual.
    pub const ALL: [Self; 5] =
        [Self::TopK, Self::Typical, Self::TopP, Self::MinP, Self::Temperature];
}
