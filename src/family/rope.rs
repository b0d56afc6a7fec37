//! Rotary position embeddings: what a layer uses, and config.json's account of it ↔ GGUF metadata.

use serde_json::{Map, Value as Json, json};

use super::fields::{Exported, Keys, shortest};
use super::llama3_rope;
use super::rope_scaling::{self, RopeScaling};
use crate::checkpoint::config::{Config, finite};

/// The base of the rotary frequencies where nothing states it.
pub const DEFAULT_BASE: f64 = 10_000.0;

/// The key of the base in layers with a window, where it is another one.
pub const LOCAL_BASE_KEY: &str = "rope.freq_base_swa";

/// The tensor of one divisor a frequency; checkpoints keep them as numbers in config.json.
pub const FREQUENCY_DIVISORS: &str = "rope_freqs.weight";

/// A rotary position embedding (Su et al. 2021).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Which elements of a head turn together.
    pub pairs: RopePairs,
    /// Elements of a head that turn; the others pass unchanged. Even.
    pub size: usize,
    /// The base θ of the frequencies.
    pub base: f64,
    /// How it stretches beyond the original context.
    pub scaling: RopeScaling,
    /// Divisors of the frequencies.
    pub divisors: Divisors,
}

/// Which elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// Elements 2i and 2i + 1.
    Neighbours,
    /// Elements i and i + n/2.
    Halves,
}

/// Where the divisors of the frequencies come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Divisors {
    /// There are none.
    None,
    /// A tensor, where the file has it.
    Tensor(&'static str),
    /// A tensor for short sequences and one for long ones.
    BySequenceLength(LongRope),
}

/// A rotary embedding with two sets of divisors (LongRoPE; Ding et al. 2024).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LongRope {
    /// The context of the original training, in tokens: up to it, a sequence is a short one.
    pub original_context: usize,
    /// Factor on queries and keys, of short sequences too.
    pub magnitude: f64,
}

impl Rope {
    /// Whether elements i and i + n/2 of a head turn together.
    pub fn turns_halves(&self) -> bool {
        self.pairs == RopePairs::Halves
    }
}

/// What config.json says of the rotary embedding of one kind of layer.
#[derive(Debug)]
pub struct RopeParameters {
    fields: Map<String, Json>,
    /// What the fields are part of, for messages.
    place: &'static str,
}

impl RopeParameters {
    /// As transformers reads them: `rope_scaling` where it says anything, else `rope_parameters`. The
    /// fields that older files keep outside count where there are none inside.
    ///
    /// # Errors
    /// A value that is no object.
    pub fn read(config: &Config) -> Result<Self, String> {
        let mut found = Self { fields: Map::new(), place: "rope_parameters" };
        for place in ["rope_scaling", "rope_parameters"] {
            match config.get(place) {
                Some(Json::Object(fields)) if found.fields.is_empty() => {
                    found = Self { fields: fields.clone(), place };
                }
                None | Some(Json::Object(_)) => {}
                Some(other) => return Err(format!("\"{place}\" is {other}, no object")),
            }
        }
        let outside: [(&str, &[&str]); 3] = [
            ("rope_theta", &["rope_theta", "rotary_emb_base"]),
            ("partial_rotary_factor", &["partial_rotary_factor", "rotary_pct", "rope_pct"]),
            ("original_max_position_embeddings", &["original_max_position_embeddings"]),
        ];
        for (inside, names) in outside {
            if let Some((_, value)) = config.first(names)
                && !found.fields.contains_key(inside)
            {
                found.fields.insert(inside.to_string(), value.clone());
            }
        }
        Ok(found)
    }

    /// Those of one kind of layer, where the config tells them apart.
    ///
    /// # Errors
    /// A value that is no object.
    pub fn of_layers(&self, kind: &'static str) -> Result<Option<Self>, String> {
        match self.fields.get(kind) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Object(fields)) => Ok(Some(Self { fields: fields.clone(), place: kind })),
            Some(other) => Err(format!("\"{}.{kind}\" is {other}, no object", self.place)),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// A value that is none.
    pub fn number(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(value) = self.fields.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        finite(&format!("{}.{key}", self.place), value).map(Some)
    }

    /// Numbers, one a frequency.
    ///
    /// # Errors
    /// A value that is not a list of numbers.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, String> {
        let Some(value) = self.fields.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let list = value.as_array().and_then(|list| {
            list.iter().map(|number| number.as_f64().map(|number| number as f32)).collect()
        });
        let problem = || format!("\"{}.{key}\" is {value:.60}, no list of numbers", self.place);
        list.map(Some).ok_or_else(problem)
    }

    /// A number that has to be there.
    ///
    /// # Errors
    /// It is absent or no number.
    pub fn required(&self, key: &str) -> Result<f64, String> {
        self.number(key)?.ok_or_else(|| format!("\"{}.{key}\" is missing", self.place))
    }

    /// A context length that has to be there.
    ///
    /// # Errors
    /// It is absent or no whole number above 0.
    pub fn original_context(&self) -> Result<u32, String> {
        let key = "original_max_position_embeddings";
        let number = self.required(key)?;
        if number < 1.0 || number.fract() != 0.0 || number > f64::from(1u32 << 31) {
            return Err(format!("\"{}.{key}\" is {number}, no number of tokens", self.place));
        }
        Ok(number as u32)
    }

    /// What `rope_type` says.
    pub fn kind(&self) -> &str {
        ["rope_type", "type"]
            .iter()
            .find_map(|key| self.fields.get(*key).and_then(Json::as_str))
            .unwrap_or("default")
    }

    /// Refuses kinds that the architecture does not know.
    ///
    /// # Errors
    /// One that is not among `kinds`.
    pub fn allow(&self, kinds: &[&str]) -> Result<(), String> {
        if kinds.contains(&self.kind()) {
            return Ok(());
        }
        Err(format!(
            "\"{}\" has rope_type \"{}\", but quantkit knows {} for this architecture only",
            self.place,
            self.kind(),
            kinds.join(" and ")
        ))
    }

    /// Refuses fields that are not among those of this kind of rotary embedding, or of `more`.
    ///
    /// # Errors
    /// One that is.
    pub fn check(&self, more: &[&str]) -> Result<(), String> {
        const COMMON: [&str; 3] = ["rope_theta", "rope_type", "type"];
        let of_kind: &[&str] = match self.kind() {
            "default" => &["original_max_position_embeddings"],
            "linear" => &["factor", "original_max_position_embeddings"],
            "yarn" => &[
                "factor",
                "original_max_position_embeddings",
                "extrapolation_factor",
                "attention_factor",
                "attn_factor",
                "beta_fast",
                "beta_slow",
                "mscale",
                "mscale_all_dim",
                "truncate",
            ],
            "llama3" => &[
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            ],
            "longrope" | "su" => &[
                "factor",
                "long_factor",
                "short_factor",
                "attention_factor",
                "original_max_position_embeddings",
            ],
            "proportional" => &["partial_rotary_factor"],
            other => {
                return Err(format!(
                    "\"{}\" has rope_type \"{other}\"; quantkit knows default, linear, yarn, \
                     llama3, for phi3 longrope and for gemma4 proportional",
                    self.place
                ));
            }
        };
        let turns_all = self.number("partial_rotary_factor")?.is_none_or(|factor| factor == 1.0);
        let is_known = |key: &str| {
            (key == "partial_rotary_factor" && turns_all)
                || COMMON.contains(&key)
                || of_kind.contains(&key)
                || more.contains(&key)
        };
        let stranger = self.fields.iter().find(|(key, value)| !value.is_null() && !is_known(key));
        match stranger {
            None => Ok(()),
            Some((key, value)) => Err(format!(
                "\"{}.{key}\" is {value:.60}, which quantkit does not know for rope_type \"{}\"",
                self.place,
                self.kind()
            )),
        }
    }

    /// Refuses every `rope_type` but "default", for families that quantkit knows in no other. The config
    /// may also have the fields `more`.
    ///
    /// # Errors
    /// Another `rope_type`, and what [`RopeParameters::check`] refuses.
    pub fn check_plain(&self, more: &[&str]) -> Result<(), String> {
        self.check(more)?;
        self.allow(&["default"])
    }

    /// The same parameters without some of their fields.
    #[must_use]
    pub fn without(mut self, keys: &[&str]) -> Self {
        self.fields.retain(|key, _| !keys.contains(&key.as_str()));
        self
    }

    /// The factor on queries and keys, where YaRN's own is not what holds.
    fn yarn_attention_factor(&self) -> Result<Option<f64>, String> {
        for key in ["attention_factor", "attn_factor"] {
            if let Some(factor) = self.number(key)? {
                return Ok(Some(factor));
            }
        }
        let scales = [self.number("mscale")?, self.number("mscale_all_dim")?];
        let [Some(scale), Some(all)] = scales else { return Ok(None) };
        if scale == 0.0 || all == 0.0 {
            return Ok(None);
        }
        let log = self.required("factor")?.max(1.0).ln();
        Ok(Some((0.1 * scale * log + 1.0) / (0.1 * all * log + 1.0)))
    }
}

/// Writes the keys of one rotary embedding for all layers: the scaling, then the base.
///
/// # Errors
/// A kind of scaling, or a field of one, that GGUF metadata or quantkit does not know.
pub fn write(rope: &RopeParameters, keys: &mut Keys<'_>) -> Result<(), String> {
    write_with(rope, keys, &[])
}

/// [`write()`] of a config that may have the fields `more` beside it.
///
/// # Errors
/// As [`write()`].
pub fn write_with(rope: &RopeParameters, keys: &mut Keys<'_>, more: &[&str]) -> Result<(), String> {
    write_scaling(rope, keys, more)?;
    if let Some(base) = rope.number("rope_theta")? {
        keys.float("rope.freq_base", base);
    }
    Ok(())
}

/// Writes the base of one rotary embedding without scaling, where it is not the usual one. The config may
/// have the fields `more` beside it.
///
/// # Errors
/// Any scaling, and fields that quantkit does not know.
pub fn write_plain(
    rope: &RopeParameters,
    keys: &mut Keys<'_>,
    more: &[&str],
) -> Result<(), String> {
    rope.check_plain(more)?;
    match rope.number("rope_theta")? {
        Some(base) if base != DEFAULT_BASE => keys.float("rope.freq_base", base),
        _ => {}
    }
    Ok(())
}

/// Writes the scaling of a rotary embedding. The config may have the fields `more` beside it.
///
/// # Errors
/// As [`write()`].
pub fn write_scaling(
    rope: &RopeParameters,
    keys: &mut Keys<'_>,
    more: &[&str],
) -> Result<(), String> {
    rope.check(more)?;
    match rope.kind() {
        "linear" => {
            keys.text("rope.scaling.type", "linear");
            keys.float("rope.scaling.factor", rope.required("factor")?);
        }
        "yarn" => write_yarn(rope, keys)?,
        "longrope" | "su" => {
            return Err("\"rope_type\" is \"longrope\", which quantkit knows for phi3 only".into());
        }
        "proportional" => {
            return Err(
                "\"rope_type\" is \"proportional\", which quantkit knows for gemma4 only".into()
            );
        }
        // A tensor says what llama 3's does.
        _ => {}
    }
    Ok(())
}

fn write_yarn(rope: &RopeParameters, keys: &mut Keys<'_>) -> Result<(), String> {
    if rope.fields.get("truncate") == Some(&Json::Bool(false)) {
        return Err(format!(
            "\"{}.truncate\" is false, which GGUF metadata cannot say: the frequencies would be \
             others than the model was trained with",
            rope.place
        ));
    }
    keys.text("rope.scaling.type", "yarn");
    keys.float("rope.scaling.factor", rope.required("factor")?);
    keys.count("rope.scaling.original_context_length", rope.original_context()? as usize)?;
    let optional = [
        ("yarn_ext_factor", rope.number("extrapolation_factor")?),
        ("yarn_attn_factor", rope.yarn_attention_factor()?),
        ("yarn_beta_fast", rope.number("beta_fast")?),
        ("yarn_beta_slow", rope.number("beta_slow")?),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            keys.float(&format!("rope.scaling.{key}"), value);
        }
    }
    Ok(())
}

/// The divisors of llama 3's scaling for heads that turn `size` elements, where the config has it.
///
/// # Errors
/// A field that is missing or no number.
pub fn llama3_divisors(config: &Config, size: usize) -> Result<Option<Vec<f32>>, String> {
    let rope = RopeParameters::read(config)?;
    if rope.kind() != "llama3" {
        return Ok(None);
    }
    let scaling = llama3_rope::Llama3Scaling {
        factor: rope.required("factor")?,
        low_freq_factor: rope.number("low_freq_factor")?.unwrap_or(1.0),
        high_freq_factor: rope.number("high_freq_factor")?.unwrap_or(4.0),
        original_context: rope.original_context()?,
    };
    let base = rope.number("rope_theta")?.unwrap_or(DEFAULT_BASE);
    Ok(Some(scaling.divisors(base, size)))
}

/// What config.json says of a file's rotary embedding: `rope_theta` and `rope_scaling`, as transformers
/// 4 spells them; later versions read that too. A value is left out where it is what transformers
/// assumes.
///
/// # Errors
/// What a config.json cannot say.
pub fn export(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    let base = file.number("rope.freq_base")?;
    config.insert("rope_theta".into(), json!(base.unwrap_or(DEFAULT_BASE)));
    let scaling = RopeScaling::read(&file.keys)?;
    let Some(divisors) = file.values(FREQUENCY_DIVISORS)? else {
        config.insert("rope_scaling".into(), scaling_json(scaling));
        return Ok(());
    };
    if scaling != RopeScaling::None {
        return Err(format!(
            "the file has both {FREQUENCY_DIVISORS} and {}; a config.json cannot say that",
            file.keys.name("rope.scaling.*")
        ));
    }
    let found = llama3_rope::Llama3Scaling::find(&divisors, base.unwrap_or(DEFAULT_BASE))?;
    config.insert("rope_scaling".into(), found.to_json());
    Ok(())
}

fn scaling_json(scaling: RopeScaling) -> Json {
    match scaling {
        RopeScaling::None => Json::Null,
        RopeScaling::Linear { factor } => {
            json!({ "rope_type": "linear", "factor": shortest(factor) })
        }
        RopeScaling::Yarn {
            factor,
            original_context,
            magnitude,
            extrapolation,
            beta_fast,
            beta_slow,
        } => {
            let mut object = json!({
                "rope_type": "yarn",
                "factor": shortest(factor),
                "original_max_position_embeddings": original_context,
            });
            let unless_usual = [
                ("extrapolation_factor", extrapolation, rope_scaling::YARN_EXTRAPOLATION),
                ("attention_factor", magnitude, rope_scaling::yarn_magnitude(factor)),
                ("beta_fast", beta_fast, rope_scaling::YARN_BETA_FAST),
                ("beta_slow", beta_slow, rope_scaling::YARN_BETA_SLOW),
            ];
            for (key, value, usual) in unless_usual {
                if value != usual {
                    object[key] = json!(shortest(value));
                }
            }
            object
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Metadata, ModelKeys};

    /// The scaling that the metadata of a config.json says, or why there is none.
    fn scaling(config: Json) -> Result<RopeScaling, String> {
        let config = Config::parse(config.to_string().as_bytes())?;
        let mut metadata = Metadata::new();
        let mut keys = Keys::new(&mut metadata, "llama", 0);
        keys.count("context_length", 512)?;
        write(&RopeParameters::read(&config)?, &mut keys)?;
        RopeScaling::read(&ModelKeys { metadata: &metadata, architecture: "llama" })
    }

    #[test]
    fn both_places_are_read_as_transformers_reads_them() {
        let linear = json!({ "type": "linear", "factor": 2.0 });
        let expected = Ok(RopeScaling::Linear { factor: 2.0 });
        let default = json!({ "rope_type": "default", "rope_theta": 1e4 });
        for parameters in [default, Json::Null, json!({})] {
            let both = json!({ "rope_parameters": parameters, "rope_scaling": linear });
            assert_eq!(scaling(both), expected);
        }
        let empty = json!({ "rope_parameters": linear, "rope_scaling": {} });
        assert_eq!(scaling(empty), expected);
    }

    #[test]
    fn yarn_s_magnitude_comes_from_both_scales() {
        let yarn = |more: Json| {
            let mut rope = json!({
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
            });
            rope.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            scaling(json!({ "rope_parameters": rope }))
        };
        let magnitude = |more: Json| match yarn(more) {
            Ok(RopeScaling::Yarn { magnitude, .. }) => magnitude,
            other => panic!("no yarn: {other:?}"),
        };
        let log = 4f64.ln();
        assert_eq!(magnitude(json!({})), 0.1 * log + 1.0);
        assert_eq!(magnitude(json!({ "mscale": 0.7 })), 0.1 * log + 1.0);
        let both = magnitude(json!({ "mscale": 0.7, "mscale_all_dim": 1.3 }));
        assert!((both - (0.07 * log + 1.0) / (0.13 * log + 1.0)).abs() < 1e-6, "{both}");
        assert!(yarn(json!({ "truncate": false })).unwrap_err().contains("truncate"));
        assert!(yarn(json!({ "scale": 2.0 })).unwrap_err().contains("rope_parameters.scale"));
    }
}
