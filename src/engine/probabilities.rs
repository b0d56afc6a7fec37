//! What the model itself thought of a token, before any sampler changed it.

use std::cmp::Ordering;

use crate::kernels::elementwise::log_sum_exp;

/// More tokens than this are found by sorting rather than by looking at each once.
const FEW: usize = 64;

/// A token's log-probability, and the tokens that were likeliest in its place. All logarithms are
/// natural ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Probabilities {
    /// The token.
    pub token: u32,
    /// Its log-probability.
    pub log_probability: f64,
    /// 1 for the likeliest token, 2 for the next.
    pub rank: usize,
    /// As many as were asked for, the likeliest first.
    pub top: Vec<(u32, f64)>,
}

impl Probabilities {
    /// Those of `token` and of the `top` likeliest, by a row of logits.
    ///
    /// # Panics
    /// If the row has no such token.
    pub(super) fn of(row: &[f32], token: u32, top: usize) -> Self {
        let normalizer = log_sum_exp(row);
        let own = row[token as usize];
        let likeliest = likeliest(row, top);
        Self {
            token,
            log_probability: f64::from(own) - normalizer,
            rank: 1 + row.iter().filter(|&&logit| logit > own).count(),
            top: likeliest
                .into_iter()
                .map(|(token, logit)| (token, f64::from(logit) - normalizer))
                .collect(),
        }
    }
}

/// The largest logits with their tokens, in falling order; of equals, the first.
fn likeliest(row: &[f32], count: usize) -> Vec<(u32, f32)> {
    let count = count.min(row.len());
    if count > FEW {
        let falling = |a: &(u32, f32), b: &(u32, f32)| {
            b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
        };
        let mut all: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
        all.select_nth_unstable_by(count - 1, falling);
        all.truncate(count);
        all.sort_unstable_by(falling);
        return all;
    }
    let mut found: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (token, &logit) in (0..).zip(row) {
        if found.len() == count && found.last().is_none_or(|last| logit <= last.1) {
            continue;
        }
        let place = found.partition_point(|other| other.1 >= logit);
        found.insert(place, (token, logit));
        found.truncate(count);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_are_in_order_however_many_are_asked_for() {
        let row: Vec<f32> = (0..500).map(|index| ((index * 37) % 97) as f32).collect();
        let mut sorted: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for count in [0, 1, 5, 64, 65, 499, 500, 900] {
            assert_eq!(likeliest(&row, count), sorted[..count.min(500)], "{count}");
        }
    }

    #[test]
    fn a_token_has_its_probability_and_its_rank() {
        let row = [0.5f32, 0.2, 0.3].map(f32::ln);
        let told = Probabilities::of(&row, 1, 2);
        assert!((told.log_probability - 0.2f64.ln()).abs() < 1e-6);
        assert_eq!((told.rank, told.token), (3, 1));
        assert_eq!(told.top.iter().map(|top| top.0).collect::<Vec<_>>(), [0, 2]);
        assert!((told.top[0].1 - 0.5f64.ln()).abs() < 1e-6);
    }
}
