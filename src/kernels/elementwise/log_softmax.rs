//! Log-probabilities from logits: sums over a row, in an order that no instruction set changes.

mod specification;

use crate::kernels::dispatch::for_each_instruction_set;

for_each_instruction_set! {
    /// The logarithm of the sum of the exponentials of `logits`: subtracted from a token's logit, it
    /// gives the natural logarithm of the probability that the softmax gives to that token.
    ///
    /// Exponentials are taken in f32 relative to the largest logit, to within 2e-7, and summed in f64.
    /// A row with a NaN gives a NaN.
    pub fn log_sum_exp(logits: &[f32]) -> f64 {
        specification::log_sum_exp(logits)
    }
}

for_each_instruction_set! {
    /// The mean of `logits − others` under the probabilities that the softmax of `logits` gives to the
    /// tokens.
    ///
    /// Sums are taken as in [`log_sum_exp`]. A NaN gives a NaN.
    ///
    /// # Panics
    /// If the rows are not of one length.
    pub fn mean_difference(logits: &[f32], others: &[f32]) -> f64 {
        specification::mean_difference(logits, others)
    }
}

for_each_instruction_set! {
    /// The Kullback-Leibler divergence of the distribution that the softmax of `logits` gives from one
    /// whose log-probabilities are known, in nats, over the tokens with log-probabilities above `floor`;
    /// and the sum of their probabilities. `log_sum` is [`log_sum_exp`] of the logits.
    ///
    /// Sums are taken as in [`log_sum_exp`]. A NaN gives a NaN.
    ///
    /// # Panics
    /// If the rows are not of one length.
    pub fn divergence_above(
        floor: f32,
        log_probabilities: &[f32],
        logits: &[f32],
        log_sum: f64
    ) -> (f64, f64) {
        specification::divergence_above(floor, log_probabilities, logits, log_sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(logits: &[f32]) -> f64 {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).sum();
        f64::from(largest) + sum.ln()
    }

    #[test]
    fn sums_match_plain_f64() {
        // Lengths around the lane and block sizes, values from a fixed congruential sequence.
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 * 40.0 - 25.0
        };
        for length in [1, 2, 15, 16, 17, 1023, 1024, 1025, 49_152] {
            let logits: Vec<f32> = (0..length).map(|_| next()).collect();
            let error = log_sum_exp(&logits) - reference(&logits);
            assert!(error.abs() < 1e-6, "{length} logits: off by {error}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_specification() {
        let mut state = 9u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 * 60.0 - 30.0
        };
        for length in [0_usize, 1, 15, 16, 17, 1023, 1024, 1025, 2500, 49_152] {
            let mut logits: Vec<f32> = (0..length).map(|_| next()).collect();
            let mut others: Vec<f32> = (0..length).map(|_| next()).collect();
            for damage in [None, Some(f32::NEG_INFINITY), Some(f32::NAN)] {
                if let (Some(value), Some(place)) = (damage, length.checked_sub(3)) {
                    (logits[place / 2], others[place]) = (value, value);
                }
                let log_sum = log_sum_exp(&logits);
                let same = |found: f64, expected: f64, what: &str| {
                    let same = found.to_bits() == expected.to_bits()
                        || found.is_nan() && expected.is_nan();
                    assert!(same, "{what} of {length} with {damage:?}: {found}, not {expected}");
                };
                same(log_sum, specification::log_sum_exp(&logits), "log-sum");
                same(
                    mean_difference(&logits, &others),
                    specification::mean_difference(&logits, &others),
                    "difference",
                );
                for floor in [-16.0, 3.0] {
                    let found = divergence_above(floor, &others, &logits, log_sum);
                    let expected =
                        specification::divergence_above(floor, &others, &logits, log_sum);
                    same(found.0, expected.0, "divergence");
                    same(found.1, expected.1, "probability");
                }
            }
        }
    }

    #[test]
    fn equal_logits_share_the_probability() {
        let error = 7.5 - log_sum_exp(&[7.5; 1000]) + 1000f64.ln();
        assert!(error.abs() < 1e-6, "{error}");
    }

    #[test]
    fn mean_differences_match_plain_f64() {
        let logits: Vec<f32> = (0..3001).map(|index| (index * 37 % 101) as f32 / 9.0).collect();
        let others: Vec<f32> = (0..3001).map(|index| (index * 11 % 17) as f32 - 5.0).collect();
        let sum = reference(&logits);
        let difference = |(&x, &y): (&f32, &f32)| (f64::from(x) - sum).exp() * f64::from(x - y);
        let mean: f64 = logits.iter().zip(&others).map(difference).sum();
        let error = mean_difference(&logits, &others) - mean;
        assert!(error.abs() < 1e-5, "off by {error}");
        assert_eq!(mean_difference(&logits, &logits), 0.0);
        assert!(mean_difference(&[1.0, 2.0], &[1.0, f32::NAN]).is_nan());
    }

    #[test]
    fn divergences_match_plain_f64() {
        let logits: Vec<f32> = (0..3001).map(|index| (index * 11 % 17) as f32 + 20.0).collect();
        let others: Vec<f32> = (0..3001).map(|index| (index * 37 % 101) as f32 / 9.0).collect();
        let sum = reference(&others);
        let known: Vec<f32> = others.iter().map(|&x| (f64::from(x) - sum) as f32).collect();
        let log_sum = log_sum_exp(&logits);
        let exact = |floor: f32| {
            let above = known.iter().zip(&logits).filter(|&(&x, _)| x > floor);
            above.fold((0.0, 0.0), |(kl, total), (&x, &z)| {
                let (x, z) = (f64::from(x), f64::from(z));
                (kl + x.exp() * (x - z + log_sum), total + x.exp())
            })
        };
        for floor in [-100.0, -9.0] {
            let (found, expected) =
                (divergence_above(floor, &known, &logits, log_sum), exact(floor));
            assert!((found.0 - expected.0).abs() < 1e-5, "{found:?} instead of {expected:?}");
            assert!((found.1 - expected.1).abs() < 1e-6, "{found:?} instead of {expected:?}");
        }
        assert!(divergence_above(-16.0, &[0.0, f32::NAN], &[1.0, 2.0], 2.0).0.is_nan());
    }

    #[test]
    fn a_nan_is_not_hidden() {
        let mut logits = [0.0f32; 100];
        logits[40] = f32::NAN;
        assert!(log_sum_exp(&logits).is_nan());
    }
}
