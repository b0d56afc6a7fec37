//! How a model's metadata stretches its rotary position embedding (`<architecture>.rope.scaling.*`).
//!
//! Position interpolation: Chen et al. 2023; YaRN: Peng et al. 2023. The llama 3 scaling is no
//! part of the metadata: a tensor of divisors carries it.

use crate::gguf::ModelKeys;

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
        original_context: u32,
        /// Factor on queries and keys; `0.1 ln(factor) + 1` unless the model says otherwise.
        magnitude: f64,
        /// How much of the fast pairs' frequency is kept; 1 in the paper.
        extrapolation: f64,
        /// Pairs that turn at least this often over the original context are kept.
        beta_fast: f64,
        /// Pairs that turn at most this often over the original context are interpolated.
        beta_slow: f64,
    },
}

/// The values of the paper, which hold where the metadata has no others.
pub const YARN_EXTRAPOLATION: f64 = 1.0;
/// See [`RopeScaling::Yarn`].
pub const YARN_BETA_FAST: f64 = 32.0;
/// See [`RopeScaling::Yarn`].
pub const YARN_BETA_SLOW: f64 = 1.0;

/// YaRN's own factor on queries and keys: `0.1 ln(factor) + 1`.
pub fn yarn_magnitude(factor: f64) -> f64 {
    0.1 * factor.max(1.0).ln() + 1.0
}

impl RopeScaling {
    /// What the metadata says. A missing type means linear scaling, a missing factor none, and a
    /// missing original context the whole context. `yarn_attn_factor` takes the place of YaRN's
    /// own magnitude (it is transformers' `attention_factor`), and `attn_factor` multiplies
    /// whichever of them holds.
    ///
    /// # Errors
    /// A kind of scaling that quantkit does not know; a key of the wrong type or out of range.
    pub fn read(keys: &ModelKeys<'_>) -> Result<Self, String> {
        let number = |key: &str| keys.optional_positive(&format!("rope.scaling.{key}"));
        let factor = match number("factor")? {
            Some(factor) => Some(factor),
            None => keys.optional_positive("rope.scale_linear")?,
        };
        let attention_factor = number("attn_factor")?.unwrap_or(1.0);
        let kind = keys.optional_text("rope.scaling.type")?.unwrap_or("linear");
        match (kind, factor) {
            ("none" | "linear", _) if attention_factor != 1.0 => Err(format!(
                "{} is {attention_factor}, which quantkit knows with yarn scaling only",
                keys.name("rope.scaling.attn_factor")
            )),
            ("none", _) | ("linear", None) => Ok(Self::None),
            ("linear", Some(factor)) => Ok(Self::Linear { factor }),
            ("yarn", factor) => {
                let factor = factor.unwrap_or(1.0);
                let original = keys.optional_count("rope.scaling.original_context_length")?;
                let original = match original {
                    Some(0) | None => keys.count("context_length")?,
                    Some(original) => original,
                };
                let magnitude = number("yarn_attn_factor")?.unwrap_or(yarn_magnitude(factor));
                Ok(Self::Yarn {
                    factor,
                    original_context: original as u32,
                    magnitude: magnitude * attention_factor,
                    extrapolation: number("yarn_ext_factor")?.unwrap_or(YARN_EXTRAPOLATION),
                    beta_fast: number("yarn_beta_fast")?.unwrap_or(YARN_BETA_FAST),
                    beta_slow: number("yarn_beta_slow")?.unwrap_or(YARN_BETA_SLOW),
                })
            }
            (other, _) => Err(format!(
                "{} is {other:?}; quantkit knows none, linear and yarn (and llama3 scaling as \
                 frequency factors)",
                keys.name("rope.scaling.type")
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Metadata, Value};

    fn read(kind: Option<&str>, numbers: &[(&str, f32)]) -> Result<RopeScaling, String> {
        let mut metadata = Metadata::new();
        metadata.set("llama.context_length", Value::U32(2048));
        if let Some(kind) = kind {
            metadata.set("llama.rope.scaling.type", Value::String(kind.into()));
        }
        for (key, value) in numbers {
            metadata.set(format!("llama.rope.{key}"), Value::F32(*value));
        }
        RopeScaling::read(&ModelKeys { metadata: &metadata, architecture: "llama" })
    }

    #[test]
    fn a_factor_without_a_type_is_linear() {
        let linear = Ok(RopeScaling::Linear { factor: 4.0 });
        assert_eq!(read(None, &[]), Ok(RopeScaling::None));
        assert_eq!(read(None, &[("scaling.factor", 4.0)]), linear);
        assert_eq!(read(None, &[("scale_linear", 4.0)]), linear);
        assert_eq!(read(Some("linear"), &[("scaling.factor", 4.0)]), linear);
        assert_eq!(read(Some("none"), &[("scaling.factor", 4.0)]), Ok(RopeScaling::None));
    }

    #[test]
    fn yarn_has_the_defaults_of_its_paper() {
        let expected = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 2048,
            magnitude: 1.0 + 0.1 * 4f64.ln(),
            extrapolation: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        assert_eq!(read(Some("yarn"), &[("scaling.factor", 4.0)]), Ok(expected));
        let Ok(RopeScaling::Yarn { factor, magnitude, .. }) = read(Some("yarn"), &[]) else {
            panic!("no yarn");
        };
        assert_eq!((factor, magnitude), (1.0, 1.0));
    }

    #[test]
    fn a_given_attention_factor_replaces_yarn_s_own() {
        let magnitude = |numbers: &[(&str, f32)]| {
            let all = [&[("scaling.factor", 4.0)], numbers].concat();
            match read(Some("yarn"), &all) {
                Ok(RopeScaling::Yarn { magnitude, .. }) => magnitude,
                other => panic!("no yarn: {other:?}"),
            }
        };
        assert_eq!(magnitude(&[("scaling.yarn_attn_factor", 1.5)]), 1.5);
        assert_eq!(magnitude(&[("scaling.attn_factor", 0.5)]), 0.5 * yarn_magnitude(4.0));
        let both = [("scaling.yarn_attn_factor", 1.5), ("scaling.attn_factor", 0.5)];
        assert_eq!(magnitude(&both), 0.75);
        let error = read(Some("linear"), &both).unwrap_err();
        assert!(error.contains("llama.rope.scaling.attn_factor is 0.5"), "{error}");
    }
}
