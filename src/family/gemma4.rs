//! Gemma 4's dense text models (Google DeepMind 2026): Gemma 3's layers with unshifted norms, values
//! that are normalized, wider heads in layers without a window, and a factor at each layer's end.
//!
//! The small ones also have embeddings of the tokens for each layer, and last layers that read the keys
//! and values of earlier ones. The large ones take keys for values in layers without a window.

use serde_json::{Map, Value as Json, json};

use super::fields::{Absent, Exported, Keys, count, optional_number, shortest};
use super::gemma::{GEMMA, LATER, USUAL_HEAD_SIZE};
use super::gemma2::{LOGIT_CAP, USUAL_HEADS, embeddings, norms_and_network};
use super::gemma3::{self, GLOBAL_BASE, USUAL_CONTEXT, USUAL_KEY_HEADS, local_rope, usual};
use super::layer::{
    Activation, Attention, FeedForward, HeadNorms, LayerEmbedding, LayerEmbeddings, NormKind,
    Projection,
};
use super::rope::{DEFAULT_BASE, FREQUENCY_DIVISORS, LOCAL_BASE_KEY, RopePairs, RopeParameters};
use super::tensors::{TensorList, TensorSpec};
use super::windows::{self, PATTERN, WINDOW};
use super::{Checkpoint, ComputedTensor, Dimensions, Family, Field, Frame, Layer};
use crate::checkpoint::config::Config;
use crate::gguf::ModelKeys;

/// The last of each group of this many layers has no window, and neither has the last of all.
const PERIOD: usize = 6;

/// The width of a head of layers without a window where config.json has none.
const GLOBAL_HEAD_SIZE: usize = 512;

/// The part of those heads that turns where config.json says nothing of rotary embeddings.
const GLOBAL_PART: f64 = 0.25;

/// The divisor of frequencies that do not turn.
const STANDING: f32 = 1e30;

const SHARED: &str = "attention.shared_kv_layers";
const LAYER_WIDTH: &str = "embedding_length_per_layer_input";
const LOCAL_SIZES: [&str; 2] = ["attention.key_length_swa", "attention.value_length_swa"];
const LOCAL_TURNED: &str = "rope.dimension_count_swa";

pub(super) const GEMMA4: Family = Family {
    name: "Gemma 4 (text, dense)",
    gguf: "gemma4",
    checkpoints: &[
        Checkpoint { architecture: "Gemma4ForCausalLM", model_type: "gemma4_text" },
        Checkpoint { architecture: "Gemma4ForConditionalGeneration", model_type: "gemma4" },
    ],
    fields: &[
        &[
            count("block_count", &["num_hidden_layers"]),
            usual("context_length", &["max_position_embeddings"], USUAL_CONTEXT),
            count("embedding_length", &["hidden_size"]),
            FEED_FORWARD,
            usual("attention.head_count", &["num_attention_heads"], USUAL_HEADS),
            KEY_HEADS,
            ROPES,
            Field::Number {
                config: &["rms_norm_eps"],
                gguf: "attention.layer_norm_rms_epsilon",
                absent: Absent::Means(1e-6),
            },
            GLOBAL_SIZE,
            Field::FileType,
            optional_number(LOGIT_CAP, &[LOGIT_CAP]),
            count(WINDOW, &["sliding_window"]),
            SHARING,
            LAYER_EMBEDDINGS,
            KINDS,
            LOCAL_SIZE,
            TURNED,
            UNSCALED,
            OTHER_PARTS,
            Field::Always { config: "enable_moe_block", value: false },
        ],
        LATER,
    ],
    ignored: &[],
    tensors,
    computed_names: &[FREQUENCY_DIVISORS],
    computed: divisors,
    frame,
    layer,
    ..GEMMA
};

/// A whole number of config.json that may be 0, which is also what an absent one means.
fn natural(config: &Config, name: &str) -> Result<usize, String> {
    match config
        .get(name)
        .map(|value| (value, value.as_u64().and_then(|it| u32::try_from(it).ok())))
    {
        None => Ok(0),
        Some((_, Some(number))) => Ok(number as usize),
        Some((value, None)) => Err(format!("\"{name}\" is {value}, which is not a whole number")),
    }
}

/// Which layers of a config.json have a window.
fn windowed(config: &Config) -> Result<Vec<bool>, String> {
    let mut windowed = windows::of_config(config, PERIOD)?;
    // transformers lets the last one see all, whatever the config says.
    if let Some(last) = windowed.last_mut() {
        *last = false;
    }
    Ok(windowed)
}

/// What `per_layer_config` says of the layers without a window under one name, or `absent` where there is
/// no `per_layer_config`.
fn of_global_layers(
    config: &Config,
    name: &str,
    absent: Option<usize>,
) -> Result<Option<usize>, String> {
    const KNOWN: [&str; 2] = ["head_dim", "num_key_value_heads"];
    let Some(layers) = config.get("per_layer_config") else { return Ok(absent) };
    let refuse = || format!("\"per_layer_config\" is {layers:.120}, which quantkit does not know");
    let layers = layers.as_object().ok_or_else(refuse)?;
    let mut all = Vec::new();
    for (layer, is_windowed) in windowed(config)?.into_iter().enumerate() {
        let own = layers.get(&layer.to_string()).and_then(Json::as_object);
        let is_known = own.is_none_or(|own| own.keys().all(|key| KNOWN.contains(&key.as_str())));
        if !is_known || (is_windowed && own.is_some_and(|own| !own.is_empty())) {
            return Err(refuse());
        }
        if !is_windowed {
            all.push(own.and_then(|own| own.get(name)));
        }
    }
    match all.first().copied().flatten() {
        first if all.iter().any(|one| *one != first) => Err(refuse()),
        None => Ok(None),
        Some(number) => {
            let count = number.as_u64().and_then(|number| u32::try_from(number).ok());
            count.filter(|&count| count > 0).map(|count| Some(count as usize)).ok_or_else(refuse)
        }
    }
}

/// The network of layers without keys of their own may be twice as wide.
const FEED_FORWARD: Field = Field::Special {
    gguf: &["feed_forward_length"],
    write: write_feed_forward,
    export: export_feed_forward,
};

fn write_feed_forward(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let key = "feed_forward_length";
    let width = config.required_count(&["intermediate_size"])?;
    if !config.truth(&["use_double_wide_mlp"])?.unwrap_or(false) {
        return keys.count(key, width);
    }
    let layers = config.required_count(&["num_hidden_layers"])?;
    let own = layers.saturating_sub(natural(config, "num_kv_shared_layers")?);
    keys.counts(key, &doubled(width, own, layers))
}

/// The widths of networks that are twice as wide from layer `own` on.
fn doubled(width: usize, own: usize, layers: usize) -> Vec<usize> {
    (0..layers).map(|layer| if layer < own { width } else { 2 * width }).collect()
}

fn export_feed_forward(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    let key = "feed_forward_length";
    let layers = file.keys.count("block_count")?;
    let own = layers.saturating_sub(file.keys.optional_count(SHARED)?.unwrap_or(0));
    let widths = file.keys.optional_counts(key, layers)?;
    let width = match widths.as_ref().and_then(|widths| widths.first()) {
        Some(&width) => width,
        None => file.keys.count(key)?,
    };
    if widths.as_ref().is_some_and(|widths| *widths != doubled(width, own, layers)) {
        return Err(format!(
            "{} is {widths:?}; a config.json can say only that the layers from {own} on are twice as \
             wide",
            file.keys.name(key)
        ));
    }
    config.insert("intermediate_size".into(), width.into());
    config.insert("use_double_wide_mlp".into(), widths.is_some().into());
    Ok(())
}

/// Key heads, and whether layers without a window take keys for values: those may have heads of their
/// own number.
const KEY_HEADS: Field = Field::Special {
    gguf: &["attention.head_count_kv"],
    write: write_key_heads,
    export: export_key_heads,
};

fn write_key_heads(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let key = "attention.head_count_kv";
    let local = config.count(&["num_key_value_heads"])?.unwrap_or(USUAL_KEY_HEADS);
    let shares = config.truth(&["attention_k_eq_v"])?.unwrap_or(false);
    let stated = config.count(&["num_global_key_value_heads"])?.filter(|_| shares);
    match of_global_layers(config, "num_key_value_heads", stated)? {
        None => keys.count(key, local),
        Some(global) => {
            let windowed = windowed(config)?.into_iter();
            let heads = windowed.map(|windowed| if windowed { local } else { global });
            keys.counts(key, &heads.collect::<Vec<_>>())
        }
    }
}

fn export_key_heads(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    let key = "attention.head_count_kv";
    let layers = file.keys.count("block_count")?;
    let own = layers.saturating_sub(file.keys.optional_count(SHARED)?.unwrap_or(0));
    let windowed = of_file(&file.keys, layers)?;
    let mut lacks_values = (0..own)
        .filter(|&layer| !windowed[layer])
        .map(|layer| !file.has(&format!("blk.{layer}.attn_v.weight")));
    let shares = lacks_values.next().unwrap_or(false);
    if lacks_values.any(|one| one != shares) {
        return Err("some layers without a window have values, others take keys for them; a \
                    config.json of this architecture cannot say that"
            .to_string());
    }
    config.insert("attention_k_eq_v".into(), shares.into());
    let Some(heads) = file.keys.optional_counts(key, layers)? else {
        config.insert("num_key_value_heads".into(), file.keys.count(key)?.into());
        return Ok(());
    };
    let of_kind = |kind: bool| {
        let mut heads =
            heads.iter().zip(&windowed).filter(|pair| *pair.1 == kind).map(|pair| *pair.0);
        let first = heads.next();
        heads.all(|one| Some(one) == first).then_some(first)
    };
    match (of_kind(true), of_kind(false)) {
        (Some(local), Some(global)) if shares || local == global || local.is_none() => {
            config.insert("num_key_value_heads".into(), json!(local.or(global)));
            if shares {
                config.insert("num_global_key_value_heads".into(), json!(global));
            }
            Ok(())
        }
        _ => Err(format!(
            "{} is {heads:?}, which a config.json of this architecture cannot say",
            file.keys.name(key)
        )),
    }
}

/// The base of layers without a window, of whose heads a part turns (`rope_freqs` says which), and that of
/// the others.
const ROPES: Field = Field::Special {
    gguf: &["rope.freq_base", LOCAL_BASE_KEY],
    write: write_ropes,
    export: export_ropes,
};

fn write_ropes(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let all = RopeParameters::read(config)?;
    let mut base = GLOBAL_BASE;
    if let Some(global) = all.of_layers("full_attention")? {
        global.check(&[])?;
        global.allow(&["proportional"])?;
        base = global.required("rope_theta")?;
    }
    keys.float("rope.freq_base", base);
    let mut local_base = DEFAULT_BASE;
    if let Some(local) = all.of_layers("sliding_attention")? {
        local.check(&[])?;
        local.allow(&["default"])?;
        local_base = local.required("rope_theta")?;
    }
    keys.float(LOCAL_BASE_KEY, local_base);
    Ok(())
}

/// The divisors that let a part of each head turn, in layers without a window.
fn divisors(config: &Config, d: &Dimensions) -> Result<Vec<ComputedTensor>, String> {
    let part = match RopeParameters::read(config)?.of_layers("full_attention")? {
        None => GLOBAL_PART,
        Some(global) => global.number("partial_rotary_factor")?.unwrap_or(1.0),
    };
    let pairs = d.head_size / 2;
    let turning = (part * d.head_size as f64 / 2.0) as usize;
    if turning > pairs {
        return Err(format!("\"partial_rotary_factor\" is {part}, more than 1"));
    }
    let values = (0..pairs).map(|pair| if pair < turning { 1.0 } else { STANDING });
    Ok(vec![ComputedTensor { name: FREQUENCY_DIVISORS, values: values.collect() }])
}

fn export_ropes(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    let part = match file.values(FREQUENCY_DIVISORS)? {
        None => 1.0,
        Some(divisors) => {
            let turning = divisors.iter().take_while(|&&divisor| divisor == 1.0).count();
            if divisors[turning..].iter().any(|&divisor| divisor < STANDING / 2.0) {
                return Err(format!("{FREQUENCY_DIVISORS} is no rope_type \"proportional\""));
            }
            shortest(f64::from(turning as f32 / divisors.len() as f32))
        }
    };
    let base = file.number("rope.freq_base")?.unwrap_or(DEFAULT_BASE);
    let local_base = file.number(LOCAL_BASE_KEY)?.unwrap_or(DEFAULT_BASE);
    config.insert(
        "rope_parameters".into(),
        json!({
            "full_attention": {
                "rope_type": "proportional", "rope_theta": base, "partial_rotary_factor": part,
            },
            "sliding_attention": { "rope_type": "default", "rope_theta": local_base },
        }),
    );
    Ok(())
}

/// The width of a head of layers without a window.
const GLOBAL_SIZE: Field = Field::Special {
    gguf: &["attention.key_length", "attention.value_length"],
    write: |config, keys| {
        let size = global_head_size(config)?;
        keys.count("attention.key_length", size)?;
        keys.count("attention.value_length", size)
    },
    export: |file, config| {
        let size = file.keys.count("attention.key_length")?;
        config.insert("global_head_dim".into(), size.into());
        Ok(())
    },
};

fn global_head_size(config: &Config) -> Result<usize, String> {
    let stated = config.count(&["global_head_dim"])?.unwrap_or(GLOBAL_HEAD_SIZE);
    let size = of_global_layers(config, "head_dim", Some(stated))?;
    size.map_or_else(|| local_head_size(config), Ok)
}

/// The width of a head of layers with a window.
const LOCAL_SIZE: Field = Field::Special {
    gguf: &LOCAL_SIZES,
    write: |config, keys| {
        let size = local_head_size(config)?;
        LOCAL_SIZES.iter().try_for_each(|key| keys.count(key, size))
    },
    export: |file, config| {
        config.insert("head_dim".into(), file.keys.count(LOCAL_SIZES[0])?.into());
        Ok(())
    },
};

fn local_head_size(config: &Config) -> Result<usize, String> {
    Ok(config.count(&["head_dim"])?.unwrap_or(USUAL_HEAD_SIZE))
}

/// Heads turn as a whole; pairs that stand still have a divisor.
const TURNED: Field = Field::Special {
    gguf: &["rope.dimension_count", LOCAL_TURNED],
    write: |config, keys| {
        keys.count("rope.dimension_count", global_head_size(config)?)?;
        keys.count(LOCAL_TURNED, local_head_size(config)?)
    },
    export: |file, _| {
        let pairs =
            [("rope.dimension_count", "attention.key_length"), (LOCAL_TURNED, LOCAL_SIZES[0])];
        for (key, of) in pairs {
            let turned = file.keys.optional_count(key)?;
            if turned.is_some_and(|turned| Ok(turned) != file.keys.count(of)) {
                return Err(format!(
                    "{} is not {}; a config.json of this architecture cannot say that",
                    file.keys.name(key),
                    file.keys.name(of)
                ));
            }
        }
        Ok(())
    },
};

/// The number of last layers that read the keys and values of earlier ones.
const SHARING: Field = Field::Special {
    gguf: &[SHARED],
    write: |config, keys| keys.count(SHARED, natural(config, "num_kv_shared_layers")?),
    export: |file, config| {
        let shared = file.keys.optional_count(SHARED)?.unwrap_or(0);
        config.insert("num_kv_shared_layers".into(), shared.into());
        Ok(())
    },
};

/// The width of the layers' own embeddings of a token; 0 where they have none.
const LAYER_EMBEDDINGS: Field = Field::Special {
    gguf: &[LAYER_WIDTH],
    write: |config, keys| {
        // Where there are any, they are for every token; the tensor's shape is checked.
        config.get("vocab_size_per_layer_input");
        keys.count(LAYER_WIDTH, natural(config, "hidden_size_per_layer_input")?)
    },
    export: |file, config| {
        let width = file.keys.optional_count(LAYER_WIDTH)?.unwrap_or(0);
        config.insert("hidden_size_per_layer_input".into(), width.into());
        if let Some(table) = file.file.tensor("per_layer_token_embd.weight") {
            config.insert("vocab_size_per_layer_input".into(), table.rows().into());
        }
        Ok(())
    },
};

/// Which layers have a window.
const KINDS: Field = Field::Special {
    gguf: &[PATTERN],
    write: |config, keys| {
        keys.truths(PATTERN, &windowed(config)?);
        Ok(())
    },
    export: |file, config| windows::export(file, config, PERIOD),
};

/// Scores are not scaled: queries and keys are normalized.
const UNSCALED: Field = Field::Special {
    gguf: &[],
    write: |_, _| Ok(()),
    export: |file, _| match file.number("attention.scale")? {
        Some(scale) if scale != 1.0 => Err(format!(
            "{} is {scale}; a config.json of this architecture means 1",
            file.keys.name("attention.scale")
        )),
        _ => Ok(()),
    },
};

/// What a checkpoint that sees and hears says of images and sound, which are no text.
const OTHER_PARTS: Field = Field::Special {
    gguf: &[],
    write: |config, _| {
        let names = [
            "audio_token_id",
            "boa_token_id",
            "boi_token_id",
            "eoa_token_id",
            "eoa_token_index",
            "eoi_token_id",
            "image_token_id",
            "video_token_id",
            "vision_soft_tokens_per_image",
        ];
        config.first(&names);
        Ok(())
    },
    export: |_, _| Ok(()),
};

/// Which layers of a file have a window.
fn of_file(keys: &ModelKeys<'_>, layers: usize) -> Result<Vec<bool>, String> {
    let windowed = keys.optional_truths(PATTERN, layers)?;
    windowed.ok_or_else(|| format!("the metadata lacks {}", keys.name(PATTERN)))
}

/// What kind of layer one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    windowed: bool,
    head_size: usize,
    /// The layer whose keys and values it reads, where those are not its own.
    shares_with: Option<usize>,
}

fn kinds(d: &Dimensions) -> Result<Vec<Kind>, String> {
    let keys = d.keys();
    let windowed = of_file(&keys, d.layers)?;
    let [local_size, value_size] = LOCAL_SIZES.map(|key| keys.count(key));
    let local_size = local_size?;
    if value_size? != local_size {
        return Err(format!("{} and {} differ", keys.name(LOCAL_SIZES[0]), LOCAL_SIZES[1]));
    }
    let own = d.layers.saturating_sub(keys.optional_count(SHARED)?.unwrap_or(0));
    let kind = |layer: usize| {
        let is_like = |other: &usize| {
            windowed[*other] == windowed[layer] && d.kv_heads.at(*other) == d.kv_heads.at(layer)
        };
        let shares_with = if layer < own {
            None
        } else {
            let other = (0..own).rev().find(is_like);
            Some(other.ok_or_else(|| format!("no layer has keys and values for layer {layer}"))?)
        };
        let head_size = if windowed[layer] { local_size } else { d.head_size };
        Ok(Kind { windowed: windowed[layer], head_size, shares_with })
    };
    (0..d.layers).map(kind).collect()
}

/// The width of the layers' own embeddings, where they have any.
fn layer_width(d: &Dimensions) -> Result<Option<usize>, String> {
    Ok(d.keys().optional_count(LAYER_WIDTH)?.filter(|&width| width > 0))
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    embeddings(&mut list, d);
    // What is wrong with the metadata, the layers say.
    let width = layer_width(d).ok().flatten();
    let plain = Kind { windowed: true, head_size: d.head_size, shares_with: None };
    let kinds = kinds(d).unwrap_or_else(|_| vec![plain; d.layers]);
    if let Some(width) = width {
        let all = d.layers * width;
        list.matrix("model.embed_tokens_per_layer", "per_layer_token_embd", d.vocabulary, all);
        list.matrix("model.per_layer_model_projection", "per_layer_model_proj", all, d.hidden);
        list.norm("model.per_layer_projection_norm", "per_layer_proj_norm", width);
    }
    for (layer, kind) in kinds.into_iter().enumerate() {
        list.scope(format!("model.layers.{layer}."), format!("blk.{layer}."));
        attention_tensors(&mut list, d, layer, kind);
        norms_and_network(&mut list, d, layer);
        let scale = TensorSpec::vector("layer_scalar", "layer_output_scale.weight", 1);
        list.add(scale.optional());
        if let Some(width) = width {
            list.matrix("per_layer_input_gate", "inp_gate", width, d.hidden);
            list.matrix("per_layer_projection", "proj", d.hidden, width);
            list.norm("post_per_layer_input_norm", "post_norm", d.hidden);
        }
    }
    list.finish()
}

/// A layer's matrices and norms of queries, keys and values. Layers that read those of others may have
/// some that nothing needs, and layers without a window may take keys for values.
fn attention_tensors(list: &mut TensorList, d: &Dimensions, layer: usize, kind: Kind) {
    let size = kind.head_size;
    let (queries, keys) = (d.heads.at(layer) * size, d.kv_heads.at(layer) * size);
    let shares = kind.shares_with.is_some();
    list.matrix("self_attn.q_proj", "attn_q", queries, d.hidden);
    list.matrix("self_attn.o_proj", "attn_output", d.hidden, queries);
    list.norm("self_attn.q_norm", "attn_q_norm", size);
    let key = TensorSpec::matrix("self_attn.k_proj.weight", "attn_k.weight", keys, d.hidden);
    let value = TensorSpec::matrix("self_attn.v_proj.weight", "attn_v.weight", keys, d.hidden);
    let norm = TensorSpec::vector("self_attn.k_norm.weight", "attn_k_norm.weight", size);
    list.add(TensorSpec { optional: shares, ..key });
    list.add(TensorSpec { optional: shares || !kind.windowed, ..value });
    list.add(TensorSpec { optional: shares, ..norm });
}

fn frame(d: &Dimensions) -> Result<Frame, String> {
    let own = |width: usize| {
        Ok::<_, String>(LayerEmbeddings {
            width,
            table_scale: (width as f64).sqrt() as f32,
            projection_scale: (d.hidden as f64).sqrt().recip() as f32,
            projection_norm: d.norm(NormKind::Rms, "per_layer_proj_norm")?,
            input_scale: std::f32::consts::FRAC_1_SQRT_2,
        })
    };
    Ok(Frame { layer_embeddings: layer_width(d)?.map(own).transpose()?, ..gemma3::frame(d)? })
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let norm = |tensor| d.norm(NormKind::Rms, tensor);
    let feed_forward = FeedForward {
        post_norm: Some(norm("post_ffw_norm")?),
        ..FeedForward::gated(norm("ffn_norm")?, Activation::GeluTanh)
    };
    let own = LayerEmbedding { activation: Activation::GeluTanh, post_norm: norm("post_norm")? };
    Ok(Layer {
        layer_embedding: layer_width(d)?.map(|_| own),
        output_scale: Some("layer_output_scale"),
        ..Layer::new(attention(d, index)?, feed_forward)
    })
}

fn attention(d: &Dimensions, index: usize) -> Result<Attention, String> {
    let kind = kinds(d)?[index];
    let keys = d.keys();
    let epsilon = d.epsilon(NormKind::Rms)?;
    let projection = match kind.shares_with {
        Some(_) => Projection::QueriesOnly,
        None if d.layer_has(index, "attn_v.weight") => Projection::Split,
        None => Projection::SharedKeyValue,
    };
    let rope = if kind.windowed {
        let turned = keys.optional_count(LOCAL_TURNED)?.unwrap_or(kind.head_size);
        local_rope(d, turned, kind.head_size)?
    } else {
        d.rope(RopePairs::Halves)?
    };
    Ok(Attention {
        norm: Some(d.norm(NormKind::Rms, "attn_norm")?),
        projection,
        head_norms: Some(HeadNorms { kind: NormKind::Rms, whole_rows: false, epsilon }),
        value_norm: Some(epsilon),
        rope: Some(rope),
        window: if kind.windowed { Some(keys.count(WINDOW)?) } else { None },
        scale: keys.optional_positive("attention.scale")?.unwrap_or(1.0) as f32,
        post_norm: Some(d.norm(NormKind::Rms, "post_attention_norm")?),
        shares_with: kind.shares_with,
        ..Attention::new(d.heads.at(index), d.kv_heads.at(index), kind.head_size)
    })
}
