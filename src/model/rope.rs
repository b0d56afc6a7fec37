//! Rotary position embedding: the angles by which pairs of elements turn.
//!
//! Su et al. 2021 (RoFormer); position interpolation: Chen et al. 2023; YaRN: Peng et al. 2023.
//! Frequency factors, one a pair, carry the llama 3 scaling in GGUF files.

use super::config::Config;

/// Which elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// Elements 2i and 2i + 1.
    Neighbours,
    /// Elements i and i + n/2.
    Halves,
}

/// How the embedding stretches beyond the context that the model was first trained for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// It does not.
    None,
    /// All positions are divided by a factor.
    Linear {
        /// New context over original context.
        factor: f64,
    },
    /// Slow pairs are interpolated, fast ones are kept, and those between are blended.
    Yarn {
        /// New context over original context.
        factor: f64,
        /// The context of the original training.
        original_context: usize,
        /// Multiplies the magnitude beyond YaRN's own `0.1 ln(factor) + 1`.
        attention_factor: f64,
        /// How much of the fast pairs' frequency is kept; 1 in the paper.
        extrapolation: f64,
        /// Pairs that turn at least this often over the original context are kept.
        beta_fast: f64,
        /// Pairs that turn at most this often over the original context are interpolated.
        beta_slow: f64,
    },
}

/// The angle a position adds to each pair, and the factor on the turned elements.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeFrequencies {
    frequencies: Vec<f64>,
    magnitude: f32,
}

impl RopeFrequencies {
    /// The frequencies of a model. `factors`, where the file has them, divide each pair's
    /// frequency; there is one for each of the `rotary_size / 2` pairs.
    pub fn new(config: &Config, factors: Option<&[f32]>) -> Self {
        let size = config.rotary_size as f64;
        let base = config.rope_base;
        let frequency = |pair: usize| {
            let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
            base.powf(-2.0 * pair as f64 / size) / factor
        };
        let plain: Vec<f64> = (0..config.rotary_size / 2).map(frequency).collect();
        match config.rope_scaling {
            RopeScaling::None => Self { frequencies: plain, magnitude: 1.0 },
            RopeScaling::Linear { factor } => {
                Self { frequencies: plain.iter().map(|f| f / factor).collect(), magnitude: 1.0 }
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                attention_factor,
                extrapolation,
                beta_fast,
                beta_slow,
            } => {
                // The pair that turns `turns` times over the original context.
                let pair_of = |turns: f64| {
                    let context = original_context as f64;
                    size * (context / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(size - 1.0);
                let blend = |(pair, frequency): (usize, &f64)| {
                    let ramp = (pair as f64 - low) / (high - low).max(0.001);
                    let kept = (1.0 - ramp.clamp(0.0, 1.0)) * extrapolation;
                    frequency / factor * (1.0 - kept) + frequency * kept
                };
                let magnitude = attention_factor * (1.0 + 0.1 * factor.max(1.0).ln());
                Self {
                    frequencies: plain.iter().enumerate().map(blend).collect(),
                    magnitude: magnitude as f32,
                }
            }
        }
    }

    /// Cosines and sines, each `positions × pairs`, times the magnitude.
    pub fn table(&self, positions: &[u32]) -> (Vec<f32>, Vec<f32>) {
        let count = positions.len() * self.frequencies.len();
        let (mut cosines, mut sines) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for &position in positions {
            for frequency in &self.frequencies {
                let (sine, cosine) = (f64::from(position) * frequency).sin_cos();
                cosines.push(cosine as f32 * self.magnitude);
                sines.push(sine as f32 * self.magnitude);
            }
        }
        (cosines, sines)
    }

    /// How many pairs of a head turn.
    pub fn pairs(&self) -> usize {
        self.frequencies.len()
    }
}
