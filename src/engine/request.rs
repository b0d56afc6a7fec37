//! What a scheduler is asked for, and what it tells.

use std::fmt::Debug;
use std::sync::Arc;

use serde::Serialize;

use super::{Probabilities, Sampling};

/// Sees the logits themselves, on the engine's threads. It must not block.
pub trait LogitsWatcher: Debug + Send + Sync {
    /// What the model expects in place of the prompt's token at `position`, by all tokens before it. The
    /// positions come in any order, each once.
    fn see(&self, position: usize, logits: &[f32]);
}

/// Shows the logits about a prompt's last tokens.
#[derive(Debug, Clone)]
pub struct Watch {
    /// The first position that is shown. The token at 0 follows nothing, so there are no logits for it.
    pub from: usize,
    /// Who sees them.
    pub watcher: Arc<dyn LogitsWatcher>,
}

/// A prompt to continue.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt's tokens; at least one.
    pub prompt: Vec<u32>,
    /// How many tokens to generate at most; with none, the prompt is read and that is all.
    pub max_new_tokens: usize,
    /// How to choose them.
    pub sampling: Sampling,
    /// Goes on past tokens that end a turn, to exactly `max_new_tokens`.
    pub ignore_end: bool,
    /// Tells each new token's log-probability, and those of so many likeliest tokens in its place.
    pub log_probabilities: Option<usize>,
    /// Tells the probabilities that the new token was drawn by, after all filters, in place of the model's own.
    pub after_sampling: bool,
    /// The model's log-probabilities of the tokens of the prompt, the first left out, which follows nothing.
    pub prompt_log_probabilities: Option<usize>,
    /// Shows the logits about the prompt's own tokens to somebody.
    pub watch: Option<Watch>,
    /// May begin with what an earlier sequence has computed, and leave what it computes to later ones.
    pub use_cache: bool,
}

impl Request {
    /// A request for the likeliest tokens, up to the end of the turn.
    pub fn new(prompt: Vec<u32>, max_new_tokens: usize) -> Self {
        Self {
            prompt,
            max_new_tokens,
            sampling: Sampling::default(),
            ignore_end: false,
            log_probabilities: None,
            after_sampling: false,
            prompt_log_probabilities: None,
            watch: None,
            use_cache: true,
        }
    }

    /// Whether it may begin with what an earlier sequence has computed: the log-probabilities of a prompt
    /// need all of its logits.
    pub(super) fn may_reuse(&self) -> bool {
        self.use_cache && self.prompt_log_probabilities.is_none()
    }

    /// The part of the prompt whose logits nobody wants, so that another sequence may have computed it.
    /// Those of the last token are always wanted.
    pub(super) fn reusable(&self) -> &[u32] {
        let last = self.prompt.len() - 1;
        let watched = self.watch.as_ref().map_or(last, |watch| watch.from.saturating_sub(1));
        &self.prompt[..last.min(watched)]
    }
}

/// A handle to a submitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(super) u64);

/// Why a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model gave a token that ends its turn; that token is not reported.
    EndOfGeneration,
    /// `max_new_tokens` were generated.
    Length,
    /// The context is full.
    ContextFull,
    /// Whoever asked had enough: see [`Ticket::finish`](super::Ticket::finish).
    Stopped,
}

/// The token that ended a turn. It is no part of the text.
#[derive(Debug, Clone, PartialEq)]
pub struct EndToken {
    /// The token.
    pub token: u32,
    /// What the model thought of it, where that was asked for.
    pub probabilities: Option<Probabilities>,
}

/// What a step brought about.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of a prompt's tokens have their log-probabilities: the next ones, in their order.
    PromptProbabilities {
        /// The request.
        request: RequestId,
        /// The tokens; never none.
        tokens: Vec<Probabilities>,
    },
    /// A request got its next token.
    Token {
        /// The request.
        request: RequestId,
        /// The token.
        token: u32,
        /// The bytes that it stands for; they need not be whole UTF-8 characters.
        bytes: Vec<u8>,
        /// What the model thought of it, where that was asked for.
        probabilities: Option<Probabilities>,
    },
    /// A request is complete and has left the batch.
    Finished {
        /// The request.
        request: RequestId,
        /// Why.
        reason: FinishReason,
        /// The token that ended the turn, if one did.
        end: Option<EndToken>,
        /// How far it came.
        progress: Progress,
    },
    /// A request cannot go on and has left the batch. The others go on.
    Failed {
        /// The request.
        request: RequestId,
        /// What is wrong.
        error: String,
        /// How far it came.
        progress: Progress,
    },
}

/// How far a running request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The request.
    pub request: RequestId,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that are behind it, cached ones included.
    pub prompt_done: usize,
    /// Tokens of the prompt that an earlier sequence had computed.
    pub cached_tokens: usize,
    /// Tokens that it has generated.
    pub generated: usize,
}

impl Event {
    /// The request that the event is about.
    pub fn request(&self) -> RequestId {
        match *self {
            Self::PromptProbabilities { request, .. }
            | Self::Token { request, .. }
            | Self::Finished { request, .. }
            | Self::Failed { request, .. } => request,
        }
    }
}
