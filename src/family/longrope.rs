//! LongRoPE (Ding et al. 2024): two sets of divisors of the rotary frequencies, one for sequences within
//! the context of the original training, one for longer ones. Lists in config.json, tensors in GGUF.

use serde_json::{Value as Json, json};

use super::fields::{Exported, Keys, shortest};
use super::rope::{DEFAULT_BASE, Divisors, LongRope, Rope, RopePairs, RopeParameters};
use super::{ComputedTensor, Dimensions, RopeScaling};
use crate::checkpoint::config::Config;
use crate::gguf::ModelKeys;

/// The tensor of the divisors of sequences within the original context.
pub const SHORT_DIVISORS: &str = "rope_factors_short.weight";

/// The tensor of the divisors of longer ones.
pub const LONG_DIVISORS: &str = "rope_factors_long.weight";

/// The key of the factor on what is turned.
pub const MAGNITUDE: &str = "rope.scaling.attn_factor";

/// The key of the context of the original training.
pub const ORIGINAL_CONTEXT: &str = "rope.scaling.original_context_length";

/// What a file's metadata says of its LongRoPE.
fn read(keys: &ModelKeys<'_>) -> Result<LongRope, String> {
    if let Some(kind) = keys.optional_text("rope.scaling.type")?
        && kind != "longrope"
    {
        return Err(format!(
            "{} is {kind:?}, but the file has {SHORT_DIVISORS}, which goes with longrope",
            keys.name("rope.scaling.type")
        ));
    }
    match keys.optional_positive("rope.scaling.factor")? {
        Some(factor) if factor != 1.0 => Err(format!(
            "{} is {factor} beside {SHORT_DIVISORS}, which quantkit does not know",
            keys.name("rope.scaling.factor")
        )),
        _ => Ok(LongRope {
            original_context: keys.count(ORIGINAL_CONTEXT)?,
            magnitude: keys
                .optional_positive(MAGNITUDE)?
                .ok_or_else(|| format!("the metadata lacks {}", keys.name(MAGNITUDE)))?,
        }),
    }
}

/// Whether config.json describes one.
pub fn is_described(rope: &RopeParameters) -> bool {
    matches!(rope.kind(), "longrope" | "su")
}

/// Writes the factor on queries and keys, where config.json describes a LongRoPE.
///
/// # Errors
/// A number that is none.
pub fn write_magnitude(
    rope: &RopeParameters,
    context: usize,
    original_context: usize,
    keys: &mut Keys<'_>,
) -> Result<(), String> {
    if is_described(rope) {
        let ratio = context as f64 / original_context as f64;
        let factor = rope.number("factor")?.unwrap_or(ratio);
        let usual = usual_magnitude(factor, original_context as f64);
        keys.float(MAGNITUDE, rope.number("attention_factor")?.unwrap_or(usual));
    }
    Ok(())
}

/// The two sets of divisors, where config.json describes a LongRoPE.
///
/// # Errors
/// A list that is missing, too long or too short, or with something else than numbers above 0.
pub fn divisors(config: &Config, d: &Dimensions) -> Result<Vec<ComputedTensor>, String> {
    let rope = RopeParameters::read(config)?;
    if !is_described(&rope) {
        return Ok(Vec::new());
    }
    let pairs = d.rotary_size()? / 2;
    let tensor = |(key, name)| match rope.numbers(key)? {
        Some(values) if values.len() == pairs && values.iter().all(|&value| value > 0.0) => {
            Ok(ComputedTensor { name, values })
        }
        found => Err(format!(
            "\"{key}\" of the rotary embedding should be {pairs} numbers above 0, one for each pair of \
             elements that turn, but has {}",
            found.map_or(0, |values| values.len())
        )),
    };
    [("long_factor", LONG_DIVISORS), ("short_factor", SHORT_DIVISORS)]
        .into_iter()
        .map(tensor)
        .collect()
}

/// What config.json's `rope_scaling` says of a file: null where it has no LongRoPE.
///
/// # Errors
/// A file that has but one set of divisors, or metadata that does not go with them.
pub fn export(file: &Exported<'_>) -> Result<Json, String> {
    let (short, long) = match (file.values(SHORT_DIVISORS)?, file.values(LONG_DIVISORS)?) {
        (Some(short), Some(long)) => (short, long),
        (None, None) => return Ok(Json::Null),
        (short, _) => return Err(one_is_missing(short.is_some())),
    };
    let LongRope { original_context, magnitude } = read(&file.keys)?;
    let numbers = |values: Vec<f32>| -> Vec<f64> {
        values.into_iter().map(|value| shortest(value.into())).collect()
    };
    let mut scaling = json!({
        "type": "longrope",
        "short_factor": numbers(short),
        "long_factor": numbers(long),
    });
    let original = original_context as f64;
    let usual = usual_magnitude(file.keys.count("context_length")? as f64 / original, original);
    if (magnitude - usual).abs() > 1e-6 {
        scaling["attention_factor"] = json!(shortest(magnitude));
    }
    Ok(scaling)
}

fn one_is_missing(has_short: bool) -> String {
    let missing = if has_short { LONG_DIVISORS } else { SHORT_DIVISORS };
    format!("the tensor {missing} is missing")
}

/// The factor on queries and keys where config.json gives none. `factor` is the ratio of the context to
/// the original one.
fn usual_magnitude(factor: f64, original_context: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_context.ln()).sqrt() }
}

/// The rotary embedding of a file that may have the two sets of divisors.
///
/// # Errors
/// A file that has but one, or metadata that does not go with them.
pub fn rope(d: &Dimensions, pairs: RopePairs) -> Result<Rope, String> {
    match (d.has(SHORT_DIVISORS), d.has(LONG_DIVISORS)) {
        (false, false) => d.rope(pairs),
        (true, true) => Ok(Rope {
            pairs,
            size: d.rotary_size()?,
            base: d.keys().optional_positive("rope.freq_base")?.unwrap_or(DEFAULT_BASE),
            scaling: RopeScaling::None,
            divisors: Divisors::BySequenceLength(read(&d.keys())?),
        }),
        (has_short, _) => Err(one_is_missing(has_short)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Metadata, Value};

    #[test]
    fn the_factor_on_queries_and_keys_grows_with_the_context() {
        assert_eq!(usual_magnitude(1.0, 4096.0), 1.0);
        assert_eq!(usual_magnitude(0.5, 4096.0), 1.0);
        // Phi-3 mini with 128k tokens of context.
        assert!((usual_magnitude(32.0, 4096.0) - 1.190_238).abs() < 1e-6);
    }

    #[test]
    fn metadata_that_does_not_go_with_two_sets_of_divisors_is_refused() {
        let read = |more: &[(&str, Value)]| {
            let mut metadata = Metadata::new();
            for (key, value) in more {
                metadata.set(format!("phi3.{key}"), value.clone());
            }
            super::read(&ModelKeys { metadata: &metadata, architecture: "phi3" })
        };
        let magnitude = (MAGNITUDE, Value::F32(1.25));
        let original = (ORIGINAL_CONTEXT, Value::U32(32));
        let both = [magnitude.clone(), original.clone()];
        assert_eq!(read(&both), Ok(LongRope { original_context: 32, magnitude: 1.25 }));
        assert!(read(&[magnitude]).unwrap_err().contains(ORIGINAL_CONTEXT));
        assert!(read(&[original]).unwrap_err().contains(MAGNITUDE));
        let with = |key, value| [&both[..], &[(key, value)]].concat();
        assert!(read(&with("rope.scaling.type", Value::String("longrope".into()))).is_ok());
        let error = read(&with("rope.scaling.type", Value::String("yarn".into()))).unwrap_err();
        assert!(error.contains("phi3.rope.scaling.type is \"yarn\""), "{error}");
        let error = read(&with("rope.scaling.factor", Value::F32(4.0))).unwrap_err();
        assert!(error.contains("phi3.rope.scaling.factor is 4"), "{error}");
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let config = |long: &str| {
            let rope =
                format!(r#"{{"type": "longrope", "short_factor": [1, 1], "long_factor": {long}}}"#);
            Config::parse(format!(r#"{{"rope_scaling": {rope}}}"#).as_bytes()).unwrap()
        };
        let mut metadata = Metadata::new();
        for (key, value) in [
            ("embedding_length", 8),
            ("block_count", 1),
            ("attention.head_count", 2),
            ("context_length", 64),
            ("feed_forward_length", 8),
        ] {
            metadata.set(format!("phi3.{key}"), Value::U32(value));
        }
        let model = Dimensions::read(&crate::family::phi3::PHI3, &metadata, 8, []).unwrap();
        let found = divisors(&config("[1, 4]"), &model).unwrap();
        assert_eq!(found[0], ComputedTensor { name: LONG_DIVISORS, values: vec![1.0, 4.0] });
        for wrong in ["[1]", "[1, 0]", "null"] {
            let problem = divisors(&config(wrong), &model).unwrap_err();
            assert!(problem.contains("\"long_factor\""), "{problem}");
        }
    }
}
