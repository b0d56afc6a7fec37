//! Activations of feed-forward layers, alone or as the gate of another projection.

use std::f32::consts::FRAC_1_SQRT_2;

use super::exponential::exponential;
use crate::kernels::dispatch::for_each_instruction_set;

/// What a feed-forward layer does to each element between its projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`: Elfwing et al., "Sigmoid-Weighted Linear Units for Neural Network Function
    /// Approximation in Reinforcement Learning" (2017). As a gate it makes SwiGLU.
    Silu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))`, the approximation that Hendrycks and Gimpel
    /// give in "Gaussian Error Linear Units" (2016).
    GeluTanh,
    /// `x/2 · (1 + erf(x/√2))`, their definition.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`: So et al., "Primer: Searching for Efficient Transformers for Language
    /// Modeling" (2021).
    ReluSquared,
}

for_each_instruction_set! {
    /// `output = activation(input)` for a row. NaN stays NaN. The two GELUs are within 6e-7 of their
    /// formulas; at ∞ they are ∞, at −∞ they are 0 to within 1e-28.
    pub fn activate_row(activation: Activation, input: &[f32], output: &mut [f32]) {
        let pairs = output.iter_mut().zip(input);
        match activation {
            Activation::Silu => pairs.for_each(|(output, &x)| *output = silu(x)),
            Activation::GeluTanh => pairs.for_each(|(output, &x)| *output = gelu_tanh(x)),
            Activation::GeluErf => pairs.for_each(|(output, &x)| *output = gelu_erf(x)),
            Activation::Relu => pairs.for_each(|(output, &x)| *output = relu(x)),
            Activation::ReluSquared => pairs.for_each(|(output, &x)| *output = relu_squared(x)),
        }
    }
}

for_each_instruction_set! {
    /// `output = activation(gate) · up` for a row: the gated units of Shazeer, "GLU Variants Improve
    /// Transformer" (2020).
    pub fn gate_row(activation: Activation, gate: &[f32], up: &[f32], output: &mut [f32]) {
        let triples = output.iter_mut().zip(gate).zip(up);
        match activation {
            Activation::Silu => triples.for_each(|((output, &x), up)| *output = silu(x) * up),
            Activation::GeluTanh => {
                triples.for_each(|((output, &x), up)| *output = gelu_tanh(x) * up);
            }
            Activation::GeluErf => {
                triples.for_each(|((output, &x), up)| *output = gelu_erf(x) * up);
            }
            Activation::Relu => triples.for_each(|((output, &x), up)| *output = relu(x) * up),
            Activation::ReluSquared => {
                triples.for_each(|((output, &x), up)| *output = relu_squared(x) * up);
            }
        }
    }
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exponential(-x))
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    // Unlike `max`, it keeps NaN.
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn relu_squared(x: f32) -> f32 {
    relu(x) * relu(x)
}

/// Magnitude from which on the Gaussian units are 0 or x in f32.
const GELU_ENDS: f32 = 12.0;

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    /// 2 · √(2/π).
    const FACTOR: f32 = 2.0 * FRAC_1_SQRT_2 * std::f32::consts::FRAC_2_SQRT_PI;
    // (1 + tanh u) / 2 = 1 / (1 + e^−2u).
    let x = x.clamp(-GELU_ENDS, f32::INFINITY);
    x / (1.0 + exponential(-FACTOR * (x + 0.044_715 * x * x * x)))
}

/// `max(x, 0) − |x| · Q(|x|)`, where Q is the Gaussian's upper tail: it has no difference of nearly
/// equal numbers.
#[inline(always)]
fn gelu_erf(x: f32) -> f32 {
    /// Q by formula 7.1.26 of Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964),
    /// which is within 7.5e-8: the factors of t⁵ to t, halved, and the one within t.
    const TAIL: [f32; 5] = [0.530_702_7, -0.726_576, 0.710_706_9, -0.142_248_37, 0.127_414_8];
    const P: f32 = 0.327_591_1;
    let magnitude = x.abs().clamp(0.0, GELU_ENDS);
    let t = 1.0 / (1.0 + P * FRAC_1_SQRT_2 * magnitude);
    let polynomial = TAIL.iter().fold(0.0, |sum, factor| (sum + factor) * t);
    let tail = polynomial * exponential(-0.5 * magnitude * magnitude);
    (if x > 0.0 { x } else { 0.0 }) - magnitude * tail
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Activation; 5] = [
        Activation::Silu,
        Activation::GeluTanh,
        Activation::GeluErf,
        Activation::Relu,
        Activation::ReluSquared,
    ];

    /// The error function in f64: its Taylor series, and the continued fraction of its complement
    /// where that would lose digits.
    fn erf(x: f64) -> f64 {
        let factor = 2.0 / std::f64::consts::PI.sqrt();
        if x < 0.0 {
            return -erf(-x);
        }
        if x < 3.0 {
            let mut term = x;
            let mut sum = x;
            for n in 1..120 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return factor * sum;
        }
        let fraction = (1..60).rev().fold(x, |rest, n| x + f64::from(n) / 2.0 / rest);
        1.0 - factor / 2.0 * (-x * x).exp() / fraction
    }

    /// The definitions, in f64.
    fn expected(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::GeluErf => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            Activation::Relu => x.max(0.0),
            Activation::ReluSquared => x.max(0.0).powi(2),
        }
    }

    fn activated(activation: Activation, x: f32) -> f32 {
        let mut output = [0.0];
        activate_row(activation, &[x], &mut output);
        output[0]
    }

    #[test]
    fn the_error_function_of_this_test_is_the_known_one() {
        // From tables.
        for (x, known) in [(0.5, 0.520_499_877_813), (2.0, 0.995_322_265_019)] {
            assert!((erf(x) - known).abs() < 1e-12);
        }
        assert!((1.0 - erf(3.5) - 7.430_983_723e-7).abs() < 1e-15);
        assert!((erf(3.0 - 1e-9) - erf(3.0 + 1e-9)).abs() < 1e-12);
    }

    #[test]
    fn activations_are_within_their_bounds() {
        // Odd, so that there is a rest behind whole registers.
        let input: Vec<f32> = (-160_000..=160_000).map(|step| step as f32 * 1.25e-4).collect();
        let up: Vec<f32> = (0..input.len()).map(|i| ((i % 17) as f32 - 8.0) * 0.125).collect();
        for activation in ALL {
            let [mut alone, mut gated] = [(); 2].map(|()| vec![f32::NAN; input.len()]);
            activate_row(activation, &input, &mut alone);
            gate_row(activation, &input, &up, &mut gated);
            for (index, &x) in input.iter().enumerate() {
                let expected = expected(activation, f64::from(x));
                let error = (f64::from(alone[index]) - expected).abs();
                let bound = match activation {
                    Activation::GeluTanh | Activation::GeluErf => 6e-7,
                    _ => 5e-7 * expected.abs(),
                };
                assert!(error <= bound, "{activation:?} of {x}: off by {error:e}");
                assert_eq!(gated[index], alone[index] * up[index], "{activation:?} of {x}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_activated_too() {
        for activation in ALL {
            assert!(activated(activation, f32::NAN).is_nan(), "{activation:?}");
            for large in [f32::INFINITY, 1e18] {
                let expected =
                    if activation == Activation::ReluSquared { large * large } else { large };
                assert_eq!(activated(activation, large), expected, "{activation:?}");
            }
        }
        for activation in &ALL[1..] {
            for large in [f32::NEG_INFINITY, f32::MIN, -1e18] {
                let limit = activated(*activation, large);
                assert!(limit.abs() < 1e-28, "{activation:?} of {large}: {limit}");
            }
        }
    }
}
