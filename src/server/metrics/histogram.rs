//! Counts by size, without locks: the engine's thread adds, whoever scrapes reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many values were at most as large as each of some limits.
#[derive(Debug)]
pub struct Histogram {
    limits: Vec<f64>,
    /// A count for each limit, of values above the limit before; and one of the values above all.
    counts: Vec<AtomicU64>,
    /// The bits of the sum of all values.
    sum: AtomicU64,
}

/// What a histogram held at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Each limit with the count of values up to it.
    pub buckets: Vec<(f64, u64)>,
    /// Of all values.
    pub count: u64,
    /// Of all values.
    pub sum: f64,
}

impl Histogram {
    /// An empty one. The limits rise.
    pub fn new(limits: &[f64]) -> Self {
        let counts = (0..=limits.len()).map(|_| AtomicU64::new(0)).collect();
        Self { limits: limits.to_vec(), counts, sum: AtomicU64::new(0.0f64.to_bits()) }
    }

    /// Counts a value.
    pub fn observe(&self, value: f64) {
        let bucket = self.limits.partition_point(|&limit| limit < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// What it holds. The count is that of the buckets even if values come meanwhile.
    pub fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let mut add = |counted: &AtomicU64| {
            count += counted.load(Ordering::Relaxed);
            count
        };
        let buckets = self.limits.iter().zip(&self.counts);
        let buckets = buckets.map(|(&limit, counted)| (limit, add(counted))).collect();
        let count = self.counts.last().map_or(0, &mut add);
        Snapshot { buckets, count, sum: f64::from_bits(self.sum.load(Ordering::Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_every_bucket_that_it_fits_in() {
        let histogram = Histogram::new(&[0.5, 1.0, 2.0]);
        for value in [0.25, 0.5, 0.75, 2.0, 3.0, 4.0] {
            histogram.observe(value);
        }
        let Snapshot { buckets, count, sum } = histogram.snapshot();
        assert_eq!(buckets, [(0.5, 2), (1.0, 3), (2.0, 4)]);
        assert_eq!((count, sum), (6, 10.5));
    }

    #[test]
    fn threads_lose_nothing() {
        let histogram = Histogram::new(&[1.0]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| histogram.observe(0.5)));
            }
        });
        assert_eq!(
            histogram.snapshot(),
            Snapshot { buckets: vec![(1.0, 4000)], count: 4000, sum: 2000.0 }
        );
    }
}
