//! Which layers see a window of the positions before them, and which see all: config.json's account of
//! it ↔ GGUF metadata.

use serde_json::{Map, Value as Json, json};

use super::Dimensions;
use super::fields::{Exported, Keys};
use crate::checkpoint::config::Config;
use crate::gguf::ModelKeys;

/// The key of the window's width.
pub const WINDOW: &str = "attention.sliding_window";

/// The key of the layers that have one: a truth a layer, or a number n where all but every n-th do.
pub const WINDOW_PATTERN: &str = "attention.sliding_window_pattern";

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

/// All layers but every `period`-th have a window: none for 1.
pub fn periodic(layers: usize, period: usize) -> Vec<bool> {
    (1..=layers).map(|layer| !layer.is_multiple_of(period)).collect()
}

/// The layers of a model that have a window: those that `layer_types` says, else all but every n-th by
/// `sliding_window_pattern`, else by `period`.
///
/// # Errors
/// Something else than a known kind for each layer.
pub fn of_config(config: &Config, period: usize) -> Result<Vec<bool>, String> {
    let layers = config.required_count(&["num_hidden_layers"])?;
    let own = config.count(&["sliding_window_pattern"])?;
    let Some(kinds) = config.texts(&["layer_types"])? else {
        return Ok(periodic(layers, own.unwrap_or(period)));
    };
    if kinds.len() != layers {
        return Err(format!("\"layer_types\" has {} entries for {layers} layers", kinds.len()));
    }
    let windowed = |&kind: &&str| match kind {
        SLIDING => Ok(true),
        FULL => Ok(false),
        other => Err(format!("\"layer_types\" has \"{other}\", which quantkit does not know")),
    };
    kinds.iter().map(windowed).collect()
}

/// The layers of a file that have a window: as it says, else all but every `period`-th.
///
/// # Errors
/// A key of the wrong type, or with another number of layers.
pub fn of_file(keys: &ModelKeys<'_>, layers: usize, period: usize) -> Result<Vec<bool>, String> {
    match keys.optional_truths(WINDOW_PATTERN, layers)? {
        Some(windowed) => Ok(windowed),
        None => {
            let own = keys.optional_count(WINDOW_PATTERN)?;
            Ok(match own {
                Some(0) => vec![true; layers],
                own => periodic(layers, own.unwrap_or(period)),
            })
        }
    }
}

/// Whether a layer of a file has a window; all but every `period`-th do unless the file says otherwise.
///
/// # Errors
/// As [`of_file`].
pub fn has_window(d: &Dimensions, layer: usize, period: usize) -> Result<bool, String> {
    Ok(of_file(&d.keys(), d.layers, period)?[layer])
}

/// Writes the window and, where they are not all but every `period`-th, the layers that have one.
///
/// # Errors
/// As [`of_config`]; a window that is missing.
pub fn write(config: &Config, keys: &mut Keys<'_>, period: usize) -> Result<(), String> {
    let windowed = of_config(config, period)?;
    keys.count(WINDOW, config.required_count(&["sliding_window"])?)?;
    if windowed != periodic(windowed.len(), period) {
        keys.truths(WINDOW_PATTERN, &windowed);
    }
    Ok(())
}

/// What config.json says of a file's windows.
///
/// # Errors
/// As [`of_file`].
pub fn export(
    file: &Exported<'_>,
    config: &mut Map<String, Json>,
    period: usize,
) -> Result<(), String> {
    let windowed = of_file(&file.keys, file.keys.count("block_count")?, period)?;
    let kinds = windowed.iter().map(|&windowed| if windowed { SLIDING } else { FULL });
    config.insert("layer_types".into(), json!(kinds.collect::<Vec<_>>()));
    if let Some(window) = file.keys.optional_count(WINDOW)? {
        config.insert("sliding_window".into(), window.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Array, Metadata, Value};

    fn config(json: &Json) -> Config {
        Config::parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_config_says_which_layers_have_a_window() {
        let kinds = json!({ "num_hidden_layers": 3, "layer_types": [SLIDING, FULL, FULL] });
        assert_eq!(of_config(&config(&kinds), 2), Ok(vec![true, false, false]));
        let every = json!({ "num_hidden_layers": 3, "sliding_window_pattern": 3 });
        assert_eq!(of_config(&config(&every), 2), Ok(vec![true, true, false]));
        let usual = config(&json!({ "num_hidden_layers": 3 }));
        assert_eq!(of_config(&usual, 2), Ok(vec![true, false, true]));
        assert_eq!(of_config(&usual, 1), Ok(vec![false; 3]));
        let few = json!({ "num_hidden_layers": 3, "layer_types": [SLIDING] });
        assert!(of_config(&config(&few), 2).unwrap_err().contains("1 entries for 3 layers"));
        let other = json!({ "num_hidden_layers": 1, "layer_types": ["linear_attention"] });
        assert!(of_config(&config(&other), 2).unwrap_err().contains("linear_attention"));
    }

    #[test]
    fn the_file_says_which_layers_have_a_window() {
        let read = |pattern: Option<Value>| {
            let mut metadata = Metadata::new();
            if let Some(pattern) = pattern {
                metadata.set(format!("x.{WINDOW_PATTERN}"), pattern);
            }
            of_file(&ModelKeys { metadata: &metadata, architecture: "x" }, 3, 2)
        };
        assert_eq!(read(None), Ok(vec![true, false, true]));
        assert_eq!(read(Some(Value::U32(3))), Ok(vec![true, true, false]));
        assert_eq!(read(Some(Value::U32(0))), Ok(vec![true; 3]));
        let truths = vec![false, true, false];
        assert_eq!(read(Some(Value::Array(Array::Bool(truths.clone())))), Ok(truths));
        assert!(read(Some(Value::Array(Array::Bool(vec![true])))).is_err());
    }
}
