//! Windows of attention that some layers have and others lack: `layer_types` in config.json, a truth a
//! layer in GGUF.

use serde_json::{Map, Value as Json, json};

use super::Dimensions;
use super::fields::{Exported, Field, Keys, optional_count};
use crate::checkpoint::config::Config;
use crate::gguf::ModelKeys;

/// The key of the window: how many positions a query sees.
pub const WINDOW: &str = "attention.sliding_window";

/// The key that says which layers have it.
pub const PATTERN: &str = "attention.sliding_window_pattern";

/// One window for all layers; none where config.json has null.
pub const OF_ALL_LAYERS: Field = optional_count(WINDOW, &["sliding_window"]);

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

/// Whether a layer has a window where every `period`-th has none; a period of 0 means that all have one.
pub fn is_between(period: usize, layer: usize) -> bool {
    period == 0 || !(layer + 1).is_multiple_of(period)
}

/// Which layers of a checkpoint have a window: what `layer_types` says, else `usual`.
///
/// # Errors
/// A list of another length, or with other kinds of layers.
pub fn read(config: &Config, usual: impl Fn(usize) -> bool) -> Result<Vec<bool>, String> {
    let layers = config.required_count(&["num_hidden_layers"])?;
    let Some(kinds) = config.texts(&["layer_types"])? else {
        return Ok((0..layers).map(usual).collect());
    };
    if kinds.len() != layers {
        return Err(format!("\"layer_types\" has {} entries for {layers} layers", kinds.len()));
    }
    let is_sliding = |kind: &str| match kind {
        SLIDING => Ok(true),
        FULL => Ok(false),
        other => Err(format!(
            "\"layer_types\" has \"{other}\", but quantkit runs this architecture with {SLIDING} and \
             {FULL} only"
        )),
    };
    kinds.into_iter().map(is_sliding).collect()
}

/// [`read`], where every n-th layer has none: the n of `sliding_window_pattern`, else `period`.
///
/// # Errors
/// As [`read`].
pub fn of_config(config: &Config, period: usize) -> Result<Vec<bool>, String> {
    let own = config.count(&["sliding_window_pattern", "_sliding_window_pattern"])?;
    read(config, |layer| is_between(own.unwrap_or(period), layer))
}

/// Refuses a checkpoint without a window whose layers are said to have one.
///
/// # Errors
/// One that is, or as [`read`].
pub fn check_none(config: &Config) -> Result<(), String> {
    if read(config, |_| false)?.contains(&true) {
        return Err(format!("\"layer_types\" has {SLIDING}, but \"sliding_window\" is missing"));
    }
    Ok(())
}

/// Writes the window, and which layers have it.
///
/// # Errors
/// A window that does not fit 32 bits.
pub fn write(keys: &mut Keys<'_>, window: usize, layers: &[bool]) -> Result<(), String> {
    keys.count(WINDOW, window)?;
    keys.truths(PATTERN, layers);
    Ok(())
}

/// Writes the window of a checkpoint and, where they are not all but every `period`-th, the layers that
/// have it.
///
/// # Errors
/// As [`of_config`]; a window that is missing.
pub fn write_unless_usual(
    config: &Config,
    keys: &mut Keys<'_>,
    period: usize,
) -> Result<(), String> {
    let layers = of_config(config, period)?;
    keys.count(WINDOW, config.required_count(&["sliding_window"])?)?;
    let mut usual = (0..layers.len()).map(|layer| is_between(period, layer));
    if !layers.iter().all(|&layer| usual.next() == Some(layer)) {
        keys.truths(PATTERN, &layers);
    }
    Ok(())
}

/// Which of a file's layers have a window; where it does not say, every `period`-th has none. A file may
/// state the period, too.
///
/// # Errors
/// A key of the wrong type or length.
pub fn pattern(keys: &ModelKeys<'_>, period: usize) -> Result<Vec<bool>, String> {
    let layers = keys.count("block_count")?;
    if let Some(pattern) = keys.optional_truths(PATTERN, layers)? {
        return Ok(pattern);
    }
    let period = keys.optional_count(PATTERN)?.unwrap_or(period);
    Ok((0..layers).map(|layer| is_between(period, layer)).collect())
}

/// The window of a layer; see [`pattern`].
///
/// # Errors
/// A key of the wrong type or length.
pub fn of_layer(d: &Dimensions, layer: usize, period: usize) -> Result<Option<usize>, String> {
    match of_file(&d.keys())? {
        Some(window) if pattern(&d.keys(), period)?[layer] => Ok(Some(window)),
        _ => Ok(None),
    }
}

/// Whether a layer of a file has a window; see [`pattern`].
///
/// # Errors
/// A key of the wrong type or length.
pub fn has_window(d: &Dimensions, layer: usize, period: usize) -> Result<bool, String> {
    Ok(pattern(&d.keys(), period)?[layer])
}

/// The window of a file, if any of its layers has one.
///
/// # Errors
/// A key of the wrong type.
pub fn of_file(keys: &ModelKeys<'_>) -> Result<Option<usize>, String> {
    Ok(keys.optional_count(WINDOW)?.filter(|&window| window > 0))
}

/// Sets `sliding_window` and `layer_types`.
///
/// # Errors
/// A key of the wrong type or length.
pub fn export(
    file: &Exported<'_>,
    config: &mut Map<String, Json>,
    period: usize,
) -> Result<(), String> {
    let window = of_file(&file.keys)?;
    let kind = |slides: bool| if slides && window.is_some() { SLIDING } else { FULL };
    let kinds: Vec<&str> = pattern(&file.keys, period)?.into_iter().map(kind).collect();
    config.insert("sliding_window".into(), json!(window));
    config.insert("layer_types".into(), json!(kinds));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Array, Metadata, Value};

    fn config(fields: Json) -> Config {
        Config::parse(fields.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn every_fourth_layer_has_none_unless_the_config_says_otherwise() {
        let fourth = |layer| is_between(4, layer);
        let plain = config(json!({ "num_hidden_layers": 5 }));
        assert_eq!(read(&plain, fourth), Ok(vec![true, true, true, false, true]));
        let every = json!({ "num_hidden_layers": 3, "sliding_window_pattern": 3 });
        assert_eq!(of_config(&config(every), 2), Ok(vec![true, true, false]));
        let own = json!({ "num_hidden_layers": 2, "layer_types": [FULL, SLIDING] });
        assert_eq!(read(&config(own), fourth), Ok(vec![false, true]));
        let short = config(json!({ "num_hidden_layers": 3, "layer_types": [FULL] }));
        assert!(read(&short, fourth).unwrap_err().contains("1 entries for 3 layers"));
        let other = config(json!({ "num_hidden_layers": 1, "layer_types": ["mamba"] }));
        assert!(read(&other, fourth).unwrap_err().contains("\"mamba\""));
        let sliding = config(json!({ "num_hidden_layers": 1, "layer_types": [SLIDING] }));
        assert!(check_none(&sliding).unwrap_err().contains("\"sliding_window\" is missing"));
    }

    #[test]
    fn a_file_states_the_layers_or_the_period_or_nothing() {
        let of = |value: Option<Value>| {
            let mut metadata = Metadata::new();
            metadata.set("x.block_count", Value::U32(4));
            if let Some(value) = value {
                metadata.set(format!("x.{PATTERN}"), value);
            }
            pattern(&ModelKeys { metadata: &metadata, architecture: "x" }, 4)
        };
        assert_eq!(of(None), Ok(vec![true, true, true, false]));
        assert_eq!(of(Some(Value::U32(2))), Ok(vec![true, false, true, false]));
        assert_eq!(of(Some(Value::U32(0))), Ok(vec![true; 4]));
        let layers = |layers: &[bool]| Some(Value::Array(Array::Bool(layers.to_vec())));
        assert_eq!(of(layers(&[false, true, true, true])), Ok(vec![false, true, true, true]));
        assert!(of(layers(&[true])).is_err());
    }
}
