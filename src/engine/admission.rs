//! What a request must fit in before it waits for anything.

use super::{EngineError, Request, Sampler};
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

impl From<Refusal> for EngineError {
    fn from(refusal: Refusal) -> Self {
        Self::Unusable(refusal.to_string())
    }
}

/// The limits that a request must keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admission {
    /// Tokens of a sequence at most, prompt and output together.
    pub context: usize,
    /// Bytes of keys and values that all running requests may need.
    pub memory_bytes: u64,
    /// Bytes of one token's keys and values.
    pub bytes_per_token: u64,
    /// Tokens that the model knows.
    pub vocabulary: usize,
}

impl Admission {
    /// Checks a request, and gives the sampler that it asks for.
    ///
    /// # Errors
    /// Why it can never be served.
    pub fn check(&self, request: &Request) -> Result<Sampler, Refusal> {
        let tokens = request.prompt.len();
        if tokens == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        if tokens > self.context {
            return Err(Refusal::TooLong { tokens, context: self.context });
        }
        let vocabulary = self.vocabulary;
        if let Some(&token) = request.prompt.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Refusal::UnknownToken { token, vocabulary });
        }
        let needed = self.bytes(request);
        if needed > self.memory_bytes {
            return Err(Refusal::NoMemory { needed, available: self.memory_bytes });
        }
        Sampler::new(request.sampling.clone(), &request.prompt)
            .map_err(|error| Refusal::Sampling(error.to_string()))
    }

    /// The length that a request's sequence may come to have.
    pub fn longest(&self, request: &Request) -> usize {
        request.prompt.len().saturating_add(request.max_new_tokens).min(self.context)
    }

    /// Bytes that its keys and values may come to take.
    pub fn bytes(&self, request: &Request) -> u64 {
        (self.longest(request) as u64).saturating_mul(self.bytes_per_token)
    }

    /// How many tokens a prompt of so many can be continued by, at most.
    pub fn room_behind(&self, prompt_tokens: usize) -> usize {
        let fitting = self.memory_bytes.checked_div(self.bytes_per_token).unwrap_or(u64::MAX);
        let most = self.context.min(usize::try_from(fitting).unwrap_or(usize::MAX));
        most.saturating_sub(prompt_tokens)
    }
}
