//! Rotary position embedding: the angles by which pairs of elements turn.
//!
//! Su et al. 2021 (RoFormer); position interpolation: Chen et al. 2023; YaRN: Peng et al. 2023.
//! Frequency factors, one a pair, carry the llama 3 scaling in GGUF files.

use super::config::Config;
use crate::gguf::RopeScaling;

/// Which elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// Elements 2i and 2i + 1.
    Neighbours,
    /// Elements i and i + n/2.
    Halves,
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
                magnitude,
                extrapolation,
                beta_fast,
                beta_slow,
            } => {
                // The pair that turns `turns` times over the original context.
                let pair_of = |turns: f64| {
                    let context = f64::from(original_context);
                    size * (context / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(size - 1.0);
                let blend = |(pair, frequency): (usize, &f64)| {
                    let ramp = (pair as f64 - low) / (high - low).max(0.001);
                    let kept = (1.0 - ramp.clamp(0.0, 1.0)) * extrapolation;
                    frequency / factor * (1.0 - kept) + frequency * kept
                };
                Self {
                    frequencies: plain.iter().enumerate().map(blend).collect(),
                    magnitude: magnitude as f32,
                }
            }
        }
    }

    /// Appends the cosines and sines of a position, one a pair, times the magnitude.
    pub fn extend(&self, position: usize, cosines: &mut Vec<f32>, sines: &mut Vec<f32>) {
        for frequency in &self.frequencies {
            let (sine, cosine) = (position as f64 * frequency).sin_cos();
            cosines.push(cosine as f32 * self.magnitude);
            sines.push(sine as f32 * self.magnitude);
        }
    }

    /// How many pairs of a head turn.
    pub fn pairs(&self) -> usize {
        self.frequencies.len()
    }
}
