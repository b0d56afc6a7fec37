//! How a row of log-probabilities is written down: 16 bits a token, on a scale of the row's own.

/// Nats below the largest log-probability to which all smaller ones are raised.
const DEPTH: f32 = 16.0;

/// Bytes of the scale and the smallest log-probability, before the codes.
const HEAD_BYTES: usize = 8;

/// Bytes of a row: the two numbers, a code a token, and one more after an odd number of them.
pub(super) fn row_bytes(vocabulary: usize) -> usize {
    HEAD_BYTES + 2 * vocabulary.next_multiple_of(2)
}

/// Writes down the log-probabilities that the softmax of `logits` gives; `log_sum` is the logarithm
/// of the sum of their exponentials. Those within [`DEPTH`] of the largest are kept to within half a
/// step of the scale, which is at most 16 / 65535 / 2 = 1.2e-4.
///
/// # Panics
/// If `row` is not [`row_bytes`] long.
pub(super) fn encode_row(logits: &[f32], log_sum: f64, row: &mut [u8]) {
    assert_eq!(row.len(), row_bytes(logits.len()), "a row of this vocabulary");
    let (least, largest) =
        logits.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, largest), &logit| {
            (least.min(logit), largest.max(logit))
        });
    let least = least.max(largest - DEPTH);
    let scale = (largest - least) / f32::from(u16::MAX);
    let (head, codes) = row.split_at_mut(HEAD_BYTES);
    head[..4].copy_from_slice(&scale.to_le_bytes());
    head[4..].copy_from_slice(&((f64::from(least) - log_sum) as f32).to_le_bytes());
    let inverse = if scale.is_normal() { 1.0 / scale } else { 0.0 };
    for (&logit, code) in logits.iter().zip(codes.as_chunks_mut::<2>().0) {
        let steps = if logit > least { inverse * (logit - least) } else { 0.0 };
        *code = nearest(steps).to_le_bytes();
    }
    codes[2 * logits.len()..].fill(0);
}

/// The nearest integer of a value from 0 to 65535, the even one of two. Free of calls, so that a
/// loop over it is vectorised: adding 1.5·2²³ leaves the integer in the low bits.
fn nearest(value: f32) -> u16 {
    (value + 12_582_912.0).to_bits() as u16
}

/// A row as it lies in a file.
#[derive(Debug, Clone, Copy)]
pub struct CodedRow<'a> {
    scale: f32,
    least: f32,
    codes: &'a [[u8; 2]],
}

impl<'a> CodedRow<'a> {
    /// # Panics
    /// If `row` is not [`row_bytes`] long.
    pub(super) fn new(row: &'a [u8], vocabulary: usize) -> Self {
        assert_eq!(row.len(), row_bytes(vocabulary), "a row of this vocabulary");
        let (head, codes) = row.split_at(HEAD_BYTES);
        let number = |at: usize| f32::from_le_bytes([0, 1, 2, 3].map(|byte| head[at + byte]));
        Self { scale: number(0), least: number(4), codes: &codes.as_chunks().0[..vocabulary] }
    }

    /// The log-probability of a token.
    ///
    /// # Panics
    /// If the token lies outside the vocabulary.
    pub fn log_probability(&self, token: u32) -> f32 {
        self.value(self.codes[token as usize])
    }

    fn value(&self, code: [u8; 2]) -> f32 {
        self.scale * f32::from(u16::from_le_bytes(code)) + self.least
    }

    /// The log-probabilities of all tokens, in the place of what `values` held.
    pub fn decode_into(&self, values: &mut Vec<f32>) {
        values.clear();
        values.extend(self.codes.iter().map(|&code| self.value(code)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::elementwise::log_sum_exp;

    fn encoded(logits: &[f32]) -> Vec<u8> {
        let mut row = vec![0xAA; row_bytes(logits.len())];
        encode_row(logits, log_sum_exp(logits), &mut row);
        row
    }

    fn decoded(row: &[u8], vocabulary: usize) -> Vec<f32> {
        let mut values = vec![9.0];
        CodedRow::new(row, vocabulary).decode_into(&mut values);
        values
    }

    #[test]
    fn a_row_matches_one_made_by_hand() {
        // Probabilities 1/2, 1/4 and 1/4: the smallest log-probability is −ln 4, the scale
        // ln 2 / 65535.
        let row = encoded(&[2f32.ln(), 0.0, 0.0]);
        assert_eq!(row.len(), 16);
        let scale = std::f32::consts::LN_2 / 65535.0;
        assert_eq!(row[..4], scale.to_le_bytes());
        let least = f32::from_le_bytes(row[4..8].try_into().unwrap());
        assert!((least + 4f32.ln()).abs() < 1e-6, "{least}");
        assert_eq!(row[8..], [0xFF, 0xFF, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_far_below_the_largest_is_raised() {
        // 16 nats are 65535 steps: 4 nats below the largest is code 49151.25, 12 below 16383.75.
        let row = encoded(&[10.0, 6.0, -2.0, -6.0, -100.0, f32::NEG_INFINITY]);
        let codes: Vec<u16> =
            row[8..].as_chunks().0.iter().map(|&c| u16::from_le_bytes(c)).collect();
        assert_eq!(codes, [65535, 49151, 16384, 0, 0, 0]);
        let values = decoded(&row, 6);
        assert!((values[5] - values[0] + 16.0).abs() < 1e-5, "{values:?}");
    }

    #[test]
    fn equal_logits_have_no_scale() {
        let row = encoded(&[7.5; 5]);
        assert_eq!(row[..4], [0; 4]);
        assert_eq!(row[8..], [0; 12]);
        for value in decoded(&row, 5) {
            assert!((value + 5f32.ln()).abs() < 1e-6, "{value}");
        }
    }

    proptest! {
        /// Every log-probability comes back to within half a step, but for those 16 nats below the
        /// largest, which are raised to there; and the order of tokens is kept.
        #[test]
        fn log_probabilities_come_back(
            logits in vec(-40f32..40.0, 1..300),
            stretch in prop::sample::select(vec![1e-6f32, 0.01, 1.0]),
        ) {
            let logits: Vec<f32> = logits.into_iter().map(|logit| stretch * logit).collect();
            let log_sum = log_sum_exp(&logits);
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let least = logits.iter().copied().fold(f32::INFINITY, f32::min).max(largest - 16.0);
            let half_a_step = (largest - least) / 65535.0 / 2.0;
            let values = decoded(&encoded(&logits), logits.len());
            prop_assert_eq!(values.len(), logits.len());
            for (&logit, &value) in logits.iter().zip(&values) {
                let exact = f64::from(logit.max(least)) - log_sum;
                let error = (f64::from(value) - exact).abs();
                // Beside the step: the rounding of a log-probability to single precision.
                prop_assert!(error <= f64::from(half_a_step) * 1.01 + 8e-6, "{logit}: off by {error}");
            }
            for (a, b) in logits.iter().zip(&values) {
                for (c, d) in logits.iter().zip(&values) {
                    prop_assert!(a < c || b >= d);
                }
            }
        }
    }
}
