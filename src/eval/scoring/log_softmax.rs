//! Log-probabilities from logits.

/// The logarithm of the sum of the exponentials of `logits`: subtracted from a token's logit, it
/// gives the natural logarithm of the probability that the softmax gives to that token.
///
/// Exponentials are taken in f32 relative to the largest logit, to within 2e-7, and summed in f64.
/// A row with a NaN gives a NaN.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = maximum(logits);
    let sum: f64 = logits.chunks(BLOCK).map(|block| sum_of_exponentials(block, largest)).sum();
    f64::from(largest) + sum.ln()
}

/// The mean of `logits − others` under the probabilities that the softmax of `logits` gives to the
/// tokens.
///
/// Sums are taken as in [`log_sum_exp`]. A NaN gives a NaN.
///
/// # Panics
/// If the rows are not of one length.
pub fn mean_difference(logits: &[f32], others: &[f32]) -> f64 {
    let largest = maximum(logits);
    let (total, sum) =
        weighted_differences(logits, others, 0.0, |logit| exponential(logit - largest));
    sum / total
}

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
    log_sum: f64,
) -> (f64, f64) {
    // The logits of probable tokens are near the logarithm of the sum: without it, little is lost in
    // single precision.
    let shift = log_sum as f32;
    let weight = |value: f32| if value <= floor { 0.0 } else { exponential(value) };
    let (total, sum) = weighted_differences(log_probabilities, logits, shift, weight);
    (sum + (log_sum - f64::from(shift)) * total, total)
}

/// The sum of the weights of `values`, and that of weight · (value − (other − shift)).
#[inline]
fn weighted_differences(
    values: &[f32],
    others: &[f32],
    shift: f32,
    weight: impl Fn(f32) -> f32,
) -> (f64, f64) {
    assert_eq!(values.len(), others.len(), "both rows have one vocabulary");
    let (mut total, mut sum) = (0f64, 0f64);
    for (values, others) in values.chunks(BLOCK).zip(others.chunks(BLOCK)) {
        let (mut weights, mut products) = ([0f32; LANES], [0f32; LANES]);
        let ((chunks, rest), (others, others_rest)) =
            (values.as_chunks::<LANES>(), others.as_chunks::<LANES>());
        for (chunk, others) in chunks.iter().zip(others) {
            for lane in 0..LANES {
                let weight = weight(chunk[lane]);
                weights[lane] += weight;
                products[lane] += weight * (chunk[lane] - (others[lane] - shift));
            }
        }
        for (&value, &other) in rest.iter().zip(others_rest) {
            let weight = weight(value);
            weights[0] += weight;
            products[0] += weight * (value - (other - shift));
        }
        total += weights.into_iter().map(f64::from).sum::<f64>();
        sum += products.into_iter().map(f64::from).sum::<f64>();
    }
    (total, sum)
}

/// Values whose exponentials are summed in f32 before the sum goes to f64.
const BLOCK: usize = 1024;
/// Independent sums or maxima, so that the compiler can keep them in vector registers.
const LANES: usize = 16;

fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

fn sum_of_exponentials(block: &[f32], largest: f32) -> f64 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += exponential(value - largest);
        }
    }
    let rest: f64 = rest.iter().map(|&value| f64::from(exponential(value - largest))).sum();
    lanes.iter().copied().map(f64::from).sum::<f64>() + rest
}

/// `e^x` for `x` ≤ 0 without branches or calls, so that a loop over it is vectorised.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; `e^r` is its Taylor polynomial of degree 7 (error below
/// 1e-8), and 2^n is made from its exponent bits.
#[inline]
fn exponential(x: f32) -> f32 {
    // Adding 1.5·2²³ leaves the nearest integer in the low bits of the significand.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few enough bits that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Below, the result is under 1e-37 and would leave the range of the exponent.
    let x = if x < -86.0 { -86.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut power = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        power = power * r + coefficient;
    }
    // A product and not a sum of exponent bits, so that a NaN stays one.
    power * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
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
    fn exponentials_are_good_to_the_last_bits() {
        for step in 0..86_000 {
            let x = -(step as f32) / 1000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exponential(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "e^{x} is off by {error}");
        }
        assert_eq!(exponential(0.0), 1.0);
        assert!(exponential(-1000.0) < 1e-37);
        assert!(exponential(f32::NEG_INFINITY) < 1e-37);
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
