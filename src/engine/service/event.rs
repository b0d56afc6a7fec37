//! What a service tells of a request.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use crate::engine::{EndToken, FinishReason, Probabilities};
use crate::support::units;

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many requests wait already; later there may be room.
    #[error("{waiting} requests wait already: try again later")]
    QueueFull {
        /// Requests that wait for room in the batch.
        waiting: usize,
    },
    /// A prompt without a token.
    #[error("the prompt is empty: it has no token")]
    EmptyPrompt,
    /// A prompt that does not fit in the context.
    #[error("the prompt has {tokens} tokens and exceeds the available context size of {context}")]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that the context holds.
        context: usize,
    },
    /// A token that the model does not have.
    #[error("the token {token} is outside the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// How many tokens there are.
        vocabulary: usize,
    },
    /// Sampling options out of their range.
    #[error("{0}")]
    Sampling(String),
    /// The keys and values would never fit in memory.
    #[error(
        "prompt and output would need {} for keys and values, and there are {}: ask for fewer \
         tokens", units::bytes(*needed), units::bytes(*available)
    )]
    NoMemory {
        /// Bytes for the prompt and all new tokens.
        needed: u64,
        /// Bytes that there are for all requests.
        available: u64,
    },
    /// The service is about to end.
    #[error("the server is shutting down")]
    Closing,
}

/// Where the events of a request go.
pub trait EventSink: Send {
    /// Takes an event, without blocking; false if nobody listens any more, which cancels the request.
    fn send(&mut self, event: ServiceEvent) -> bool;
}

impl<F: FnMut(ServiceEvent) -> bool + Send> EventSink for F {
    fn send(&mut self, event: ServiceEvent) -> bool {
        self(event)
    }
}

/// Is told what happens to all requests of a service, on the engine's thread. It must not block.
pub trait Observer: Debug + Send + Sync {
    /// A request has an event; `timings` are those so far.
    fn event(&self, event: &ServiceEvent, timings: &Timings);
    /// A request was cancelled before its end.
    fn cancelled(&self, timings: &Timings);
    /// A request was not taken.
    fn refused(&self, refusal: &Refusal);
}

/// What happened to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum ServiceEvent {
    /// It has joined the batch.
    Started {
        /// Tokens of its prompt that an earlier request had computed.
        cached_tokens: usize,
        /// When it did: the step that is over now was its first.
        started: Instant,
    },
    /// More of its prompt is computed.
    Prompt {
        /// Tokens of the prompt that are behind it, cached ones included.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The next tokens of the prompt that have their log-probabilities, where they were asked for.
    PromptProbabilities(Vec<Probabilities>),
    /// The next new token.
    Token {
        /// The token.
        token: u32,
        /// The bytes that it stands for; they need not be whole UTF-8 characters.
        bytes: Vec<u8>,
        /// What the model thought of it, where that was asked for.
        probabilities: Option<Probabilities>,
    },
    /// It is complete: the last event.
    Finished(Finish),
    /// It cannot go on: the last event.
    Failed {
        /// What is wrong.
        error: String,
    },
}

impl ServiceEvent {
    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Finished(_) | Self::Failed { .. })
    }
}

/// A complete request.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// The token that ended the turn, if one did.
    pub end: Option<EndToken>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that an earlier request had computed.
    pub cached_tokens: usize,
    /// New tokens, without the one that ended the turn.
    pub generated: usize,
    /// When what happened.
    pub timings: Timings,
}

/// When what happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// It was submitted.
    pub submitted: Instant,
    /// It joined the batch.
    pub started: Option<Instant>,
    /// Its prompt was through: the first token was there, if one was asked for.
    pub first: Option<Instant>,
    /// The token before the last one was there.
    pub before_last: Option<Instant>,
    /// The last token so far was there, or the prompt through.
    pub last: Option<Instant>,
}

impl Timings {
    /// Nothing but submitted.
    pub fn new(submitted: Instant) -> Self {
        Self { submitted, started: None, first: None, before_last: None, last: None }
    }

    /// From the start to the first token: what the prompt took.
    pub fn prompt(&self) -> Duration {
        between(self.started, self.first)
    }

    /// From the first token to the last.
    pub fn generation(&self) -> Duration {
        between(self.first, self.last)
    }

    /// From submission to the start: what was waited for room in the batch.
    pub fn queue(&self) -> Duration {
        between(Some(self.submitted), self.started)
    }

    /// From submission to the first token.
    pub fn to_first(&self) -> Option<Duration> {
        Some(self.first?.saturating_duration_since(self.submitted))
    }

    /// Between the last two tokens.
    pub fn between_tokens(&self) -> Option<Duration> {
        Some(self.last?.saturating_duration_since(self.before_last?))
    }
}

fn between(from: Option<Instant>, to: Option<Instant>) -> Duration {
    match (from, to) {
        (Some(from), Some(to)) => to.saturating_duration_since(from),
        _ => Duration::ZERO,
    }
}
