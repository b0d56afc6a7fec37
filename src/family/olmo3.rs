//! OLMo 3 (Olmo Team 2025): OLMo 2's layers, with a window in most of them, where the rotary embedding is
//! not stretched. GGUF has no architecture for it: a file says "olmo2", and has a window.

use serde_json::{Map, Value as Json, json};

use super::fields::{Exported, Keys};
use super::layer::Mixer;
use super::llama::{AFTER_ROPE, SIZES};
use super::olmo2::{self, OLMO2, OWN};
use super::rope::{self, LOCAL_BASE_KEY, RopeParameters};
use super::windows::{self, FULL, PATTERN, SLIDING, WINDOW};
use super::{Checkpoint, Dimensions, Family, Field, Layer, RopeScaling};
use crate::checkpoint::config::Config;

/// Every fourth layer is without a window, where nothing else is said.
const PERIOD: usize = 4;

pub(super) const OLMO3: Family = Family {
    name: "OLMo 3",
    claims: |keys| windows::of_file(keys) != Ok(None),
    checkpoints: &[Checkpoint { architecture: "Olmo3ForCausalLM", model_type: "olmo3" }],
    fields: &[SIZES, &[ROPE], AFTER_ROPE, &[WINDOWS], OWN],
    layer,
    ..OLMO2
};

/// The rotary embedding of the layers without a window, which may be stretched, and the base of the others.
const ROPE: Field = Field::Special {
    gguf: &["rope.freq_base", "rope.scaling.type", LOCAL_BASE_KEY],
    write: write_rope,
    export: export_rope,
};

fn write_rope(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let all = RopeParameters::read(config)?;
    let sliding = all.of_layers(SLIDING)?;
    let full = all.of_layers(FULL)?.unwrap_or(all);
    // transformers assumes another base than other families where there is none.
    full.required("rope_theta")?;
    rope::write(&full, keys)?;
    if let Some(sliding) = sliding {
        sliding.check_plain(&[])?;
        keys.float(LOCAL_BASE_KEY, sliding.required("rope_theta")?);
    }
    Ok(())
}

/// Both spellings where transformers 4 can say it: it reads the outer fields, later versions the inner
/// ones.
fn export_rope(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    rope::export(file, config)?;
    let base = config["rope_theta"].clone();
    let local_base = file.number(LOCAL_BASE_KEY)?.map_or_else(|| base.clone(), Json::from);
    let mut full = match &config["rope_scaling"] {
        Json::Null => json!({ "rope_type": "default" }),
        scaling => scaling.clone(),
    };
    full["rope_theta"] = base.clone();
    if local_base != base {
        config.remove("rope_theta");
        config.remove("rope_scaling");
    }
    let sliding = json!({ "rope_type": "default", "rope_theta": local_base });
    config.insert("rope_parameters".into(), json!({ FULL: full, SLIDING: sliding }));
    Ok(())
}

const WINDOWS: Field = Field::Special {
    gguf: &[WINDOW, PATTERN],
    write: |config, keys| {
        let layers = windows::read(config, |layer| windows::is_between(PERIOD, layer))?;
        windows::write(keys, config.required_count(&["sliding_window"])?, &layers)
    },
    export: |file, config| windows::export(file, config, PERIOD),
};

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = olmo2::layer(d, index)?;
    let Mixer::Attention(attention) = &mut layer.mixer;
    attention.window = windows::of_layer(d, index, PERIOD)?;
    if let (Some(rope), Some(_)) = (&mut attention.rope, attention.window) {
        rope.scaling = RopeScaling::None;
        rope.base = d.keys().optional_positive(LOCAL_BASE_KEY)?.unwrap_or(rope.base);
    }
    Ok(layer)
}
