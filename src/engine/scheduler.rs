//! Continuous batching: requests join and leave the running batch between steps.

use std::collections::VecDeque;

use rayon::prelude::*;

use super::admission::{Admission, Refusal};
use super::prefix_cache::{Kept, PrefixCache, SHORTEST_SHARED, common};
use super::{
    EndToken, Engine, Event, FinishReason, Logits, LogitsFor, Probabilities, Progress, Request,
    RequestId, Sampler, SequenceId, StepItem, Watch,
};
use crate::kernels::elementwise::has_nan;

/// New tokens that a sequence gets room for when it starts. More room follows as it grows, so that
/// a limit that no text will ever reach costs no memory: in huge pages, room is taken as a whole.
const FIRST_ROOM: usize = 1024;

/// At most about this many bytes of logits come out of a step for one prompt.
const PROMPT_LOGITS_BYTES: usize = 128 << 20;

/// Limits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Sequences that run at once.
    pub max_batch: usize,
    /// Prompt tokens that one step may prefill, over all sequences. A smaller chunk lets running
    /// sequences decode more often while others prefill; a larger one prefills faster.
    pub prefill_chunk: usize,
    /// Tokens of a sequence at most; the model's context is a limit too.
    pub context: usize,
    /// Bytes of keys and values of finished sequences that are kept for prompts that begin like them.
    pub cache_bytes: u64,
    /// Bytes of keys and values that all requests that run at once may come to need. One that does
    /// not fit beside the others waits for them.
    pub memory_bytes: u64,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            max_batch: 8,
            prefill_chunk: 512,
            context: usize::MAX,
            cache_bytes: 0,
            memory_bytes: u64::MAX,
        }
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
    admission: Admission,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    cache: PrefixCache,
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
    /// The prompt, then what was generated.
    tokens: Vec<u32>,
    prefilled: usize,
    cached: usize,
    is_long: bool,
    /// What its keys and values may come to need.
    bytes: u64,
}

/// Where a new sequence finds its beginning computed.
#[derive(Debug, Clone, Copy)]
enum Beginning {
    Kept(usize),
    Running(usize),
}

/// A running sequence's part of a step: a decode token if `prompt_tokens` is 0.
struct Share {
    index: usize,
    prompt_tokens: usize,
}

/// What a step gave to one sequence.
enum Outcome {
    Computed { prompt: Vec<Probabilities>, next: Option<(u32, Option<Probabilities>)> },
    Failed(String),
}

/// How a sequence leaves the batch.
enum Ending {
    Finished(FinishReason),
    Ended(EndToken),
    Failed(String),
}

impl Scheduler {
    /// A scheduler with nothing to do. The engine may hold other sequences; they stay untouched.
    ///
    /// # Panics
    /// If a limit on the batch is 0.
    pub fn new(engine: Engine, options: SchedulerOptions) -> Self {
        assert!(options.max_batch > 0 && options.prefill_chunk > 0, "a limit of 0 runs nothing");
        let cache = PrefixCache::new(options.cache_bytes);
        let (waiting, running) = (VecDeque::new(), Vec::new());
        let admission = Admission {
            context: options.context.min(engine.context_length()),
            memory_bytes: options.memory_bytes,
            bytes_per_token: engine.cache_bytes_per_token() as u64,
            vocabulary: engine.vocabulary().size,
        };
        Self { engine, options, admission, waiting, running, cache, next_id: 0 }
    }

    /// The engine that it runs.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Tokens of a sequence at most.
    pub fn context(&self) -> usize {
        self.admission.context
    }

    /// What its requests must fit in.
    pub(super) fn admission(&self) -> Admission {
        self.admission
    }

    /// Queues a request.
    ///
    /// # Errors
    /// Why it can never run.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Refusal> {
        let sampler = self.admission.check(&request)?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back(Waiting { id, request, sampler });
        Ok(id)
    }

    /// Ends a request without an event; false if it has ended already.
    pub fn cancel(&mut self, request: RequestId) -> bool {
        let waiting = self.waiting.len();
        self.waiting.retain(|waiting| waiting.id != request);
        if let Some(index) = self.running.iter().position(|running| running.id == request) {
            self.leave(index, true);
            return true;
        }
        self.waiting.len() < waiting
    }

    /// The running requests, in the order in which they were admitted.
    pub fn running(&self) -> impl ExactSizeIterator<Item = Progress> {
        self.running.iter().map(Running::progress)
    }

    /// How many requests wait for room in the batch.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many tokens of its prompt a running request has behind it; `None` if it waits or has
    /// finished.
    pub fn prompt_progress(&self, request: RequestId) -> Option<usize> {
        self.running.iter().find(|running| running.id == request).map(|running| running.prefilled)
    }

    /// Sequences that are kept for prompts that begin like them, and the bytes that they take.
    pub fn kept(&self) -> (usize, u64) {
        (self.cache.len(), self.cache.bytes())
    }

    /// Bytes of the memory that the running requests' keys and values lie in; and those that the running
    /// and the kept sequences hold together. Memory comes in pieces with room for what is to follow. A
    /// piece that several sequences share counts once.
    pub fn held_bytes(&self) -> (u64, u64) {
        let running = self.running.iter();
        let pieces = running.flat_map(|running| self.engine.memory_of(running.sequence));
        let mut pieces: Vec<(usize, u64)> = pieces.collect();
        pieces.sort_unstable();
        pieces.dedup();
        let sum = |pieces: &[(usize, u64)]| pieces.iter().map(|&(_, bytes)| bytes).sum::<u64>();
        let held = sum(&pieces);
        pieces.retain(|&(piece, _)| !self.cache.holds(piece));
        (held, self.cache.bytes() + sum(&pieces))
    }

    /// Bytes that the running requests' keys and values may come to need.
    pub fn reserved_bytes(&self) -> u64 {
        self.running.iter().map(|running| running.bytes).sum()
    }

    /// Admits what the batch has room for, runs one step of the engine and reports what came of
    /// it, in the order in which the requests were admitted. Does nothing when idle.
    ///
    /// A request whose step fails, or whose logits are not numbers, ends with [`Event::Failed`]; the
    /// others go on.
    pub fn step(&mut self) -> Vec<Event> {
        self.admit();
        let shares = self.shares();
        let outcomes = self.run(&shares);
        let mut events = Vec::new();
        let mut over = Vec::new();
        for (share, outcome) in shares.iter().zip(outcomes) {
            if let Some(ending) = self.advance(share, outcome, &mut events) {
                over.push((share.index, ending));
            }
        }
        for (index, ending) in over.into_iter().rev() {
            let progress = self.running[index].progress();
            let request = progress.request;
            self.leave(index, !matches!(ending, Ending::Failed(_)));
            let event = match ending {
                Ending::Finished(reason) => {
                    Event::Finished { request, reason, end: None, progress }
                }
                Ending::Ended(end) => {
                    let reason = FinishReason::EndOfGeneration;
                    Event::Finished { request, reason, end: Some(end), progress }
                }
                Ending::Failed(error) => Event::Failed { request, error, progress },
            };
            // Behind the request's own last event, which is what came before it.
            let after = events.iter().rposition(|event: &Event| event.request() == request);
            events.insert(after.map_or(0, |position| position + 1), event);
        }
        events
    }

    /// Takes a sequence out of the batch. What it has computed is kept for others if `is_sound`.
    fn leave(&mut self, index: usize, is_sound: bool) {
        let Running { mut tokens, sequence, request, is_long, .. } = self.running.remove(index);
        if is_sound && request.use_cache {
            tokens.truncate(self.engine.length(sequence));
            self.cache.keep(&mut self.engine, Kept::new(tokens, sequence, is_long));
        } else {
            self.engine.end(sequence);
        }
    }

    fn is_long(&self, request: &Request) -> bool {
        let longest = self.admission.longest(request);
        self.engine.original_context().is_some_and(|most| longest > most)
    }

    /// Admits waiting requests, first come first served. One whose prompt another is about to compute
    /// lets later ones pass.
    fn admit(&mut self) {
        let mut index = 0;
        while self.running.len() < self.options.max_batch && index < self.waiting.len() {
            let request = &self.waiting[index].request;
            let bytes = self.admission.bytes(request);
            if self.reserved_bytes().saturating_add(bytes) > self.options.memory_bytes {
                return;
            }
            let found = self.beginning(request);
            if self.is_about_to_be_computed(request, found.map_or(0, |(_, length)| length)) {
                index += 1;
                continue;
            }
            let Some(waiting) = self.waiting.remove(index) else { return };
            self.start(waiting, found, bytes);
        }
    }

    fn start(&mut self, waiting: Waiting, found: Option<(Beginning, usize)>, bytes: u64) {
        let Waiting { id, request, sampler } = waiting;
        let (longest, is_long) = (self.admission.longest(&request), self.is_long(&request));
        let prompt = request.prompt.len();
        let room = prompt.saturating_add(request.max_new_tokens.min(FIRST_ROOM)).min(longest);
        let engine = &mut self.engine;
        let (sequence, cached) = match found {
            None => (engine.start_with_room(longest, room), 0),
            Some((Beginning::Kept(index), length)) => {
                (self.cache.begin(engine, (index, length), room - length), length)
            }
            Some((Beginning::Running(index), length)) => {
                let parent = self.running[index].sequence;
                (engine.fork_at(parent, length, room - length), length)
            }
        };
        let mut tokens = Vec::with_capacity(room);
        tokens.extend_from_slice(&request.prompt);
        let prefilled = cached;
        let running =
            Running { id, request, sampler, sequence, tokens, prefilled, cached, is_long, bytes };
        self.running.push(running);
    }

    /// The longest beginning of a prompt that is computed already. At least one token is left, whose
    /// logits are needed.
    fn beginning(&self, request: &Request) -> Option<(Beginning, usize)> {
        let prompt = self.reusable(request)?;
        let is_long = self.is_long(request);
        let kept = self.cache.longest(prompt, is_long);
        let kept = kept.map(|(index, length)| (Beginning::Kept(index), length));
        let running = self.running.iter().enumerate().filter(|(_, r)| r.is_long == is_long);
        let running = running.map(|(index, running)| {
            let computed = &running.tokens[..self.engine.length(running.sequence)];
            (Beginning::Running(index), common(computed, prompt))
        });
        // Of equals the kept one, which is the last: no running sequence has to be cut for it.
        let longest = running.chain(kept).max_by_key(|&(_, length)| length);
        longest.filter(|&(_, length)| length >= SHORTEST_SHARED)
    }

    /// The part of a prompt that may be taken from elsewhere.
    fn reusable<'a>(&self, request: &'a Request) -> Option<&'a [u32]> {
        let may = self.cache.is_on() && request.may_reuse();
        may.then(|| request.reusable())
    }

    /// Whether a running request will soon have computed more of a prompt than the `there` tokens that
    /// are computed now.
    fn is_about_to_be_computed(&self, request: &Request, there: usize) -> bool {
        let Some(prompt) = self.reusable(request) else { return false };
        let is_long = self.is_long(request);
        self.running.iter().any(|running| {
            running.is_long == is_long
                && running.prefilled < running.request.prompt.len()
                && common(&running.request.prompt, prompt) >= there + SHORTEST_SHARED
        })
    }

    /// What each running sequence contributes to the next step.
    fn shares(&self) -> Vec<Share> {
        let mut budget = self.options.prefill_chunk;
        let row_bytes = self.engine.vocabulary().size.max(1) * size_of::<f32>();
        let most_rows = (PROMPT_LOGITS_BYTES / row_bytes).max(1);
        let mut shares = Vec::with_capacity(self.running.len());
        for (index, running) in self.running.iter().enumerate() {
            let left = running.request.prompt.len() - running.prefilled;
            if left == 0 {
                shares.push(Share { index, prompt_tokens: 0 });
            } else if budget > 0 {
                let request = &running.request;
                let gives_rows =
                    request.prompt_log_probabilities.is_some() || request.watch.is_some();
                let most = if gives_rows { most_rows } else { usize::MAX };
                let prompt_tokens = left.min(budget).min(most);
                budget -= prompt_tokens;
                shares.push(Share { index, prompt_tokens });
            }
        }
        shares
    }

    /// Runs a step. Where it fails as a whole, each sequence runs alone, so that only those fail that
    /// are to blame.
    fn run(&mut self, shares: &[Share]) -> Vec<Outcome> {
        if shares.is_empty() {
            return Vec::new();
        }
        let items: Vec<StepItem<'_>> =
            shares.iter().map(|share| self.running[share.index].item(share)).collect();
        let error = match self.engine.step(&items) {
            Ok(logits) => {
                let outcomes = shares.iter().enumerate().map(|(item, share)| {
                    self.running[share.index].outcome(share, logits.item(item))
                });
                return outcomes.collect();
            }
            Err(error) => error,
        };
        match shares {
            [_] => vec![Outcome::Failed(error.to_string())],
            _ => shares.iter().flat_map(|share| self.run(std::slice::from_ref(share))).collect(),
        }
    }

    /// Takes one sequence past a step; says how it ends if that was its last.
    fn advance(
        &mut self,
        share: &Share,
        outcome: Outcome,
        events: &mut Vec<Event>,
    ) -> Option<Ending> {
        let context = self.context();
        let running = &mut self.running[share.index];
        let request = running.id;
        let (prompt, next) = match outcome {
            Outcome::Failed(error) => return Some(Ending::Failed(error)),
            Outcome::Computed { prompt, next } => (prompt, next),
        };
        running.prefilled += share.prompt_tokens;
        if !prompt.is_empty() {
            events.push(Event::PromptProbabilities { request, tokens: prompt });
        }
        if running.prefilled < running.request.prompt.len() {
            return None;
        }
        // Only a request for no tokens at all gets none after its prompt.
        let Some((token, probabilities)) = next else {
            return Some(Ending::Finished(FinishReason::Length));
        };
        let vocabulary = self.engine.vocabulary();
        if !running.request.ignore_end && vocabulary.end_of_generation.contains(&token) {
            return Some(Ending::Ended(EndToken { token, probabilities }));
        }
        running.tokens.push(token);
        let bytes = vocabulary.token_bytes(token);
        events.push(Event::Token { request, token, bytes, probabilities });
        if running.generated() == running.request.max_new_tokens {
            Some(Ending::Finished(FinishReason::Length))
        } else if self.engine.length(running.sequence) >= context {
            Some(Ending::Finished(FinishReason::ContextFull))
        } else {
            None
        }
    }
}

impl Running {
    fn generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    fn progress(&self) -> Progress {
        Progress {
            request: self.id,
            prompt_tokens: self.request.prompt.len(),
            prompt_done: self.prefilled,
            cached_tokens: self.cached,
            generated: self.generated(),
        }
    }

    fn ends_prompt(&self, share: &Share) -> bool {
        self.prefilled + share.prompt_tokens == self.request.prompt.len()
    }

    fn item(&self, share: &Share) -> StepItem<'_> {
        let tokens = match share.prompt_tokens {
            0 => &self.tokens[self.tokens.len() - 1..],
            count => &self.tokens[self.prefilled..self.prefilled + count],
        };
        let after = self.prefilled + share.prompt_tokens;
        let watches = self.request.watch.as_ref().is_some_and(|watch| after >= watch.from);
        let asks_for_prompt = self.request.prompt_log_probabilities.is_some() || watches;
        let logits = match share.prompt_tokens {
            0 => LogitsFor::Last,
            _ if asks_for_prompt => LogitsFor::All,
            _ if self.ends_prompt(share) => LogitsFor::Last,
            _ => LogitsFor::None,
        };
        StepItem { sequence: self.sequence, tokens, logits }
    }

    /// What comes of a step's logits.
    fn outcome(&mut self, share: &Share, logits: Logits<'_>) -> Outcome {
        if has_nan(logits.values) {
            let problem = "the model's logits are not numbers; the model file may be damaged";
            return Outcome::Failed(problem.to_string());
        }
        let prompt = match self.request.prompt_log_probabilities {
            Some(top) => self.prompt_probabilities(share, logits, top),
            None => Vec::new(),
        };
        if let Some(watch) = &self.request.watch {
            self.show(share, logits, watch);
        }
        let wanted = self.ends_prompt(share) && self.generated() < self.request.max_new_tokens;
        let next = wanted.then(|| {
            let row = logits.row(logits.rows() - 1);
            let token = self.sampler.sample(row);
            let told =
                self.request.log_probabilities.map(|top| match self.request.after_sampling {
                    true => self.sampler.drawn(token, top),
                    false => Probabilities::of(row, token, top),
                });
            (token, told)
        });
        Outcome::Computed { prompt, next }
    }

    /// Shows the rows of a prompt's logits that are wanted.
    fn show(&self, share: &Share, logits: Logits<'_>, watch: &Watch) {
        let positions = self.prefilled + 1..=self.prefilled + share.prompt_tokens;
        let wanted = watch.from..self.request.prompt.len();
        let rows = positions.enumerate().filter(|(_, position)| wanted.contains(position));
        let rows: Vec<(usize, usize)> = rows.collect();
        rows.par_iter().for_each(|&(row, position)| watch.watcher.see(position, logits.row(row)));
    }

    /// Each row of logits is about the token that follows.
    fn prompt_probabilities(
        &self,
        share: &Share,
        logits: Logits<'_>,
        top: usize,
    ) -> Vec<Probabilities> {
        let following = &self.request.prompt[self.prefilled..];
        let following = &following[..(share.prompt_tokens + 1).min(following.len())];
        let following = following.get(1..).unwrap_or_default();
        let of = |(row, &token): (usize, &u32)| Probabilities::of(logits.row(row), token, top);
        following.par_iter().enumerate().map(of).collect()
    }
}
