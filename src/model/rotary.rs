//! Rotary position embedding: the angles by which pairs of elements turn.
//!
//! Su et al. 2021 (RoFormer); position interpolation: Chen et al. 2023; YaRN: Peng et al. 2023.
//! Divisors, one a pair, carry the llama 3 scaling in GGUF files; LongRoPE (Ding et al. 2024) has two sets
//! of them.

use crate::family::RopeScaling;
use crate::family::rope::{Divisors, Rope};

/// The angle a position adds to each pair, and the factor on the turned elements.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeFrequencies {
    frequencies: Vec<f64>,
    magnitude: f32,
}

impl RopeFrequencies {
    /// The frequencies of a rotary embedding. `divisors`, where the file has them, divide each pair's
    /// frequency.
    ///
    /// # Panics
    /// If there is not one for each of the `rope.size / 2` pairs.
    pub fn new(rope: &Rope, divisors: Option<&[f32]>) -> Self {
        let size = rope.size as f64;
        let base = rope.base;
        assert!(divisors.is_none_or(|divisors| divisors.len() == rope.size / 2), "one a pair");
        let frequency = |pair: usize| {
            let divisor = divisors.map_or(1.0, |divisors| f64::from(divisors[pair]));
            base.powf(-2.0 * pair as f64 / size) / divisor
        };
        let plain: Vec<f64> = (0..rope.size / 2).map(frequency).collect();
        match rope.scaling {
            RopeScaling::None => {
                let magnitude = match rope.divisors {
                    Divisors::BySequenceLength(longrope) => longrope.magnitude as f32,
                    Divisors::None | Divisors::Tensor(_) => 1.0,
                };
                Self { frequencies: plain, magnitude }
            }
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

/// The frequencies of a rotary embedding, which may be others in long sequences.
#[derive(Debug, Clone)]
pub(super) struct RopeChoice {
    /// Those of short sequences; of all, unless there are others.
    pub(super) usual: RopeFrequencies,
    /// The length up to which a sequence is a short one, and the frequencies of longer ones.
    pub(super) long: Option<(usize, RopeFrequencies)>,
}

impl RopeChoice {
    /// The frequencies of a sequence that is taken for one of this length.
    pub(super) fn of_sequence(&self, length: usize) -> &RopeFrequencies {
        match &self.long {
            Some((original_context, long)) if length > *original_context => long,
            _ => &self.usual,
        }
    }
}
