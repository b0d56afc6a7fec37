//! The functions in plain Rust, as they are compiled for each instruction set: what they compute, and
//! in which order.

use crate::kernels::elementwise::exponential::exponential_in_range;

/// See [`super::log_sum_exp`].
#[inline(always)]
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = maximum(logits);
    let sum: f64 = logits.chunks(BLOCK).map(|block| sum_of_exponentials(block, largest)).sum();
    f64::from(largest) + sum.ln()
}

/// See [`super::mean_difference`].
#[inline(always)]
pub(super) fn mean_difference(logits: &[f32], others: &[f32]) -> f64 {
    let largest = maximum(logits);
    let (total, sum) =
        weighted_differences(logits, others, 0.0, |logit| exponential(logit - largest));
    sum / total
}

/// See [`super::divergence_above`].
#[inline(always)]
pub(super) fn divergence_above(
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
#[inline(always)]
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

#[inline(always)]
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

#[inline(always)]
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

/// `e^x` for `x` ≤ 0; below −86, where it is under 1e-37, that of −86.
#[inline(always)]
fn exponential(x: f32) -> f32 {
    exponential_in_range(if x < -86.0 { -86.0 } else { x })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
