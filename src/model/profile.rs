//! Where the time of forward passes goes, operation by operation.
//!
//! # What is counted
//! *Bytes* are those that the operation cannot do without, wherever they come from: weights as they
//! lie packed in memory, once for each call that reads them, and rows of the key-value cache, those
//! written once and those read once for each (sequence, key-value head), however many query heads
//! share them. Activations are not counted: they stay in the caches. The embedding counts the rows
//! that it looks up, in the file's format.
//!
//! *Arithmetic operations* are those of the definition, with a multiplication and an addition as two:
//! `2 · tokens · rows · columns` for a matrix product, `4 · head size` for each query head and key that it
//! sees (causal prefill leaves the others out). Norms, rotary embeddings, softmax and activations are not
//! counted; their time is.

use std::ops::AddAssign;
use std::time::Duration;

/// The steps of a forward pass, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Looking up and dequantizing the tokens' embeddings.
    Embedding,
    /// The norm before attention and the products that make queries, keys and values.
    QueryKeyValue,
    /// Norms of heads, rotary embedding, and writing keys and values to the cache.
    RotaryAndStore,
    /// Attention over the cache.
    Attention,
    /// The product after attention and the addition to the residual stream.
    AttentionOutput,
    /// The norm before the feed-forward network and its first products.
    GateUp,
    /// The activation, the down product and the addition to the residual stream.
    Down,
    /// The products that bring in the layers' own embeddings of the tokens.
    LayerEmbedding,
    /// The last norm and the output matrix.
    Output,
    /// Choosing the next tokens from the logits.
    Sampling,
    /// Everything else between the start and the end of a step: scheduling, allocation, copies.
    Rest,
}

impl Operation {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Embedding,
        Self::QueryKeyValue,
        Self::RotaryAndStore,
        Self::Attention,
        Self::AttentionOutput,
        Self::GateUp,
        Self::Down,
        Self::LayerEmbedding,
        Self::Output,
        Self::Sampling,
        Self::Rest,
    ];

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::QueryKeyValue => "norm, queries, keys, values",
            Self::RotaryAndStore => "rotary, cache write",
            Self::Attention => "attention",
            Self::AttentionOutput => "attention output",
            Self::GateUp => "norm, gate and up",
            Self::Down => "activation, down",
            Self::LayerEmbedding => "layer embedding",
            Self::Output => "norm, output",
            Self::Sampling => "sampling",
            Self::Rest => "rest",
        }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.name())
    }
}

/// What one operation has cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// How often it ran; once a layer and step for the operations of layers.
    pub calls: u64,
    /// Wall time.
    pub time: Duration,
    /// Bytes of weights and of the key-value cache, read and written.
    pub bytes: u64,
    /// Arithmetic operations, multiplications and additions counted alike.
    pub operations: u64,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.time += other.time;
        self.bytes += other.bytes;
        self.operations += other.operations;
    }
}

/// The costs of all operations, added up over any number of steps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    costs: [Cost; Operation::ALL.len()],
}

impl Profile {
    /// A profile with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one call of an operation; the module's documentation says what `bytes` and
    /// `operations` are. Allocates nothing.
    pub fn record(&mut self, operation: Operation, time: Duration, bytes: u64, operations: u64) {
        self.costs[operation as usize] += Cost { calls: 1, time, bytes, operations };
    }

    /// What an operation has cost.
    pub fn cost(&self, operation: Operation) -> Cost {
        self.costs[operation as usize]
    }

    /// The operations that ran and their costs, in the order of [`Operation::ALL`].
    pub fn costs(&self) -> impl Iterator<Item = (Operation, Cost)> {
        Operation::ALL.into_iter().zip(self.costs).filter(|(_, cost)| cost.calls > 0)
    }

    /// The costs of all operations together.
    pub fn total(&self) -> Cost {
        self.costs.iter().fold(Cost::default(), |mut total, &cost| {
            total += cost;
            total
        })
    }
}

impl AddAssign<&Profile> for Profile {
    fn add_assign(&mut self, other: &Self) {
        for (cost, &more) in self.costs.iter_mut().zip(&other.costs) {
            *cost += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_place_and_a_name_of_its_own() {
        let names: std::collections::HashSet<&str> =
            Operation::ALL.iter().map(|operation| operation.name()).collect();
        assert_eq!(names.len(), Operation::ALL.len());
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index);
        }
        assert_eq!(format!("{:>10}", Operation::Rest), "      rest");
    }

    #[test]
    fn costs_add_up_by_operation_and_over_profiles() {
        let milliseconds = Duration::from_millis;
        let mut profile = Profile::new();
        assert_eq!((profile.costs().count(), profile.total()), (0, Cost::default()));
        profile.record(Operation::Down, milliseconds(2), 10, 100);
        profile.record(Operation::Attention, milliseconds(5), 7, 70);
        profile.record(Operation::Down, milliseconds(3), 20, 200);
        let down = Cost { calls: 2, time: milliseconds(5), bytes: 30, operations: 300 };
        assert_eq!(profile.cost(Operation::Down), down);
        let order: Vec<Operation> = profile.costs().map(|(operation, _)| operation).collect();
        assert_eq!(order, [Operation::Attention, Operation::Down]);
        let total = Cost { calls: 3, time: milliseconds(10), bytes: 37, operations: 370 };
        assert_eq!(profile.total(), total);

        let mut twice = profile.clone();
        twice += &profile;
        assert_eq!(
            twice.cost(Operation::Down),
            Cost { calls: 4, time: milliseconds(10), bytes: 60, operations: 600 }
        );
        assert_eq!(twice.cost(Operation::Embedding), Cost::default());
    }
}
