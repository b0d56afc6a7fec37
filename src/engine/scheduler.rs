//! Continuous batching: requests join and leave the running batch between steps.

use std::collections::VecDeque;

use serde::Serialize;

use super::{Engine, EngineError, Logits, LogitsFor, Sampler, Sampling, SequenceId, StepItem};
use crate::kernels::elementwise::has_nan;

/// A prompt to continue.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt's tokens; at least one.
    pub prompt: Vec<u32>,
    /// How many tokens to generate at most.
    pub max_new_tokens: usize,
    /// How to choose them.
    pub sampling: Sampling,
    /// Goes on past tokens that end a turn, to exactly `max_new_tokens`.
    pub ignore_end: bool,
}

/// New tokens that a sequence gets room for when it starts. More room follows as it grows, so that
/// a limit that no text will ever reach costs no memory: in huge pages, room is taken as a whole.
const FIRST_ROOM: usize = 1024;

/// A handle to a submitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

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
}

/// What a step brought about.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A request got its next token.
    Token {
        /// The request.
        request: RequestId,
        /// The token.
        token: u32,
        /// The bytes that it stands for; they need not be whole UTF-8 characters.
        bytes: Vec<u8>,
    },
    /// A request is complete and has left the batch.
    Finished {
        /// The request.
        request: RequestId,
        /// Why.
        reason: FinishReason,
    },
}

/// Limits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Sequences that run at once.
    pub max_batch: usize,
    /// Prompt tokens that one step may prefill, over all sequences. A smaller chunk lets running
    /// sequences decode more often while others prefill; a larger one prefills faster.
    pub prefill_chunk: usize,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self { max_batch: 8, prefill_chunk: 512 }
    }
}

/// Runs many requests through one engine.
///
/// Each step carries one decode token of every sequence that has finished its prompt, and up to
/// [`SchedulerOptions::prefill_chunk`] tokens of those that have not, first come first served.
#[derive(Debug)]
pub struct Scheduler {
    engine: Engine,
    options: SchedulerOptions,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    next_id: u64,
}

#[derive(Debug)]
struct Waiting {
    id: RequestId,
    request: Request,
    sampler: Sampler,
}

#[derive(Debug)]
struct Running {
    id: RequestId,
    request: Request,
    sampler: Sampler,
    sequence: SequenceId,
    prefilled: usize,
    generated: usize,
    /// The token to decode next; `None` while the prompt is not yet through.
    next: Option<u32>,
}

impl Scheduler {
    /// A scheduler with nothing to do. The engine may hold other sequences; they stay untouched.
    ///
    /// # Panics
    /// If a limit is 0.
    pub fn new(engine: Engine, options: SchedulerOptions) -> Self {
        assert!(options.max_batch > 0 && options.prefill_chunk > 0, "a limit of 0 runs nothing");
        Self { engine, options, waiting: VecDeque::new(), running: Vec::new(), next_id: 0 }
    }

    /// The engine that it runs.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Queues a request.
    ///
    /// # Errors
    /// An empty prompt, one longer than the context, or sampling options out of their range.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, EngineError> {
        self.engine.check_prompt(&request.prompt)?;
        let sampler = Sampler::new(request.sampling.clone(), &request.prompt)?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back(Waiting { id, request, sampler });
        Ok(id)
    }

    /// How many tokens of its prompt a running request has behind it; `None` if it waits or has
    /// finished.
    pub fn prompt_progress(&self, request: RequestId) -> Option<usize> {
        self.running.iter().find(|running| running.id == request).map(|running| running.prefilled)
    }

    /// Admits what the batch has room for, runs one step of the engine and reports what came of
    /// it, in the order in which the requests were admitted. Does nothing when idle.
    ///
    /// # Errors
    /// Those of [`Engine::step`]; the requests stay as they were. Logits that are not numbers; the
    /// requests cannot go on after that.
    pub fn step(&mut self) -> Result<Vec<Event>, EngineError> {
        self.admit();
        let shares = self.shares();
        if shares.is_empty() {
            return Ok(Vec::new());
        }
        let items: Vec<StepItem<'_>> =
            shares.iter().map(|share| self.running[share.index].item(share)).collect();
        let logits = self.engine.step(&items)?;
        if has_nan(logits.values()) {
            return Err(EngineError::Unusable(
                "the model's logits are not numbers; the model file may be damaged".to_string(),
            ));
        }
        let tokens: Vec<Option<u32>> = shares
            .iter()
            .enumerate()
            .map(|(item, share)| self.running[share.index].sample(logits.item(item)))
            .collect();
        let mut events = Vec::new();
        let mut finished = Vec::new();
        for (share, token) in shares.iter().zip(tokens) {
            if let Some(reason) = self.advance(share, token, &mut events) {
                finished.push((share.index, reason));
            }
        }
        for &(index, reason) in finished.iter().rev() {
            let running = self.running.remove(index);
            self.engine.end(running.sequence);
            let event = Event::Finished { request: running.id, reason };
            // Behind the request's own last token, which is what came before it.
            let after = events.iter().rposition(|event| event.request() == running.id);
            events.insert(after.map_or(0, |position| position + 1), event);
        }
        Ok(events)
    }

    fn admit(&mut self) {
        while self.running.len() < self.options.max_batch {
            let Some(Waiting { id, request, sampler }) = self.waiting.pop_front() else { return };
            let context = self.engine.context_length();
            let with_new = |tokens| request.prompt.len().saturating_add(tokens).min(context);
            let longest = with_new(request.max_new_tokens);
            let room = with_new(request.max_new_tokens.min(FIRST_ROOM));
            let sequence = self.engine.start_with_room(longest, room);
            let (prefilled, generated, next) = (0, 0, None);
            let running = Running { id, request, sampler, sequence, prefilled, generated, next };
            self.running.push(running);
        }
    }

    /// What each running sequence contributes to the next step.
    fn shares(&self) -> Vec<Share> {
        let mut budget = self.options.prefill_chunk;
        let mut shares = Vec::with_capacity(self.running.len());
        for (index, running) in self.running.iter().enumerate() {
            let left = running.request.prompt.len() - running.prefilled;
            if left == 0 {
                shares.push(Share { index, prompt_tokens: 0 });
            } else if budget > 0 {
                let prompt_tokens = left.min(budget);
                budget -= prompt_tokens;
                shares.push(Share { index, prompt_tokens });
            }
        }
        shares
    }

    /// Takes one sequence past a step; gives the reason if that was its last.
    fn advance(
        &mut self,
        share: &Share,
        token: Option<u32>,
        events: &mut Vec<Event>,
    ) -> Option<FinishReason> {
        let running = &mut self.running[share.index];
        running.prefilled += share.prompt_tokens;
        if running.prefilled < running.request.prompt.len() {
            return None;
        }
        // Only a request for no tokens at all gets none after its prompt.
        let Some(token) = token else { return Some(FinishReason::Length) };
        let vocabulary = self.engine.vocabulary();
        if !running.request.ignore_end && vocabulary.end_of_generation.contains(&token) {
            return Some(FinishReason::EndOfGeneration);
        }
        running.next = Some(token);
        running.generated += 1;
        events.push(Event::Token {
            request: running.id,
            token,
            bytes: vocabulary.token_bytes(token),
        });
        if running.generated == running.request.max_new_tokens {
            Some(FinishReason::Length)
        } else if self.engine.length(running.sequence) == self.engine.context_length() {
            Some(FinishReason::ContextFull)
        } else {
            None
        }
    }
}

/// A running sequence's part of a step: a decode token if `prompt_tokens` is 0.
struct Share {
    index: usize,
    prompt_tokens: usize,
}

impl Running {
    fn item(&self, share: &Share) -> StepItem<'_> {
        let tokens = match &self.next {
            Some(token) => std::slice::from_ref(token),
            None => &self.request.prompt[self.prefilled..self.prefilled + share.prompt_tokens],
        };
        let prompt_done = self.prefilled + share.prompt_tokens == self.request.prompt.len();
        let logits = if prompt_done { LogitsFor::Last } else { LogitsFor::None };
        StepItem { sequence: self.sequence, tokens, logits }
    }
}

impl Running {
    /// The next token, if the step gave logits and one is wanted.
    fn sample(&mut self, logits: Logits<'_>) -> Option<u32> {
        let wanted = logits.rows() > 0 && self.generated < self.request.max_new_tokens;
        wanted.then(|| self.sampler.sample(logits.row(0)))
    }
}

impl Event {
    /// The request that the event is about.
    pub fn request(&self) -> RequestId {
        match *self {
            Self::Token { request, .. } | Self::Finished { request, .. } => request,
        }
    }
}
