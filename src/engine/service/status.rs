//! What a service does at a moment, and what it has done so far.

use std::time::Duration;

/// A snapshot of a service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    /// The requests that run, in the order in which they started.
    pub slots: Vec<Slot>,
    /// Requests that wait for room in the batch.
    pub waiting: usize,
    /// Bytes that the running requests' keys and values may come to need.
    pub reserved_bytes: u64,
    /// Tokens whose keys and values the running requests hold.
    pub held_tokens: usize,
    /// Bytes of the memory that those lie in. It comes in pieces with room for what is to follow.
    pub running_bytes: u64,
    /// Finished sequences that are kept for prompts that begin like them.
    pub kept_sequences: usize,
    /// Bytes of the memory that those lie in, a piece that several share once.
    pub kept_bytes: u64,
    /// Bytes of the memory of all keys and values. Less than the sum of the two where running requests
    /// share pieces with kept sequences.
    pub held_bytes: u64,
    /// Whether it takes no more requests.
    pub is_closed: bool,
    /// What it has done.
    pub totals: Totals,
}

/// A running request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The number of its ticket.
    pub id: u64,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Those of them that are computed, cached ones included.
    pub prompt_done: usize,
    /// Those of them that an earlier request had computed.
    pub cached_tokens: usize,
    /// Tokens that it has generated.
    pub generated: usize,
    /// Tokens that it was asked for, at most.
    pub max_new_tokens: usize,
}

/// Counts that only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that have joined the batch.
    pub started: u64,
    /// Requests that are complete.
    pub finished: u64,
    /// Requests that could not go on.
    pub failed: u64,
    /// Requests that nobody listened to any more.
    pub cancelled: u64,
    /// Steps of the engine.
    pub steps: u64,
    /// Requests in those steps, all together.
    pub busy: u64,
    /// Tokens of the longest sequence so far.
    pub longest: u64,
    /// Tokens of prompts that were computed.
    pub prompt_tokens: u64,
    /// Tokens of prompts that earlier requests had computed.
    pub cached_tokens: u64,
    /// Requests with such tokens.
    pub cache_hits: u64,
    /// Tokens of prompts that might have been found computed: those of requests that may look.
    pub cache_queries: u64,
    /// New tokens.
    pub generated: u64,
    /// Time in steps that computed a prompt.
    pub prompt_time: Duration,
    /// Time in steps that only generated.
    pub generation_time: Duration,
}
