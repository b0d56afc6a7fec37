//! StarCoder 2 (Lozhkov et al. 2024): a rotary embedding, few key heads, a window, LayerNorm, biases
//! everywhere, and a feed-forward network of two matrices with GELU.

use super::fields::{count, number};
use super::layer::{Activation, Attention, FeedForward, NormKind};
use super::llama::{LLAMA, ROPE};
use super::rope::RopePairs;
use super::tensors::{RowOrder, TensorList, TensorSpec};
use super::windows;
use super::{Checkpoint, Dimensions, Family, Field, Layer, layer_norm_frame};

pub(super) const STARCODER2: Family = Family {
    name: "StarCoder 2",
    gguf: "starcoder2",
    checkpoints: &[Checkpoint { architecture: "Starcoder2ForCausalLM", model_type: "starcoder2" }],
    fields: &[&[
        count("block_count", &["num_hidden_layers"]),
        count("context_length", &["max_position_embeddings"]),
        count("embedding_length", &["hidden_size"]),
        count("feed_forward_length", &["intermediate_size"]),
        count("attention.head_count", &["num_attention_heads"]),
        count("attention.head_count_kv", &["num_key_value_heads", "num_attention_heads"]),
        ROPE,
        number("attention.layer_norm_epsilon", &["norm_epsilon"]),
        Field::FileType,
        // llama.cpp's converter leaves it out.
        windows::OF_ALL_LAYERS,
        Field::OneOf { config: &["hidden_act"], allowed: &["gelu_pytorch_tanh", "gelu_new"] },
        USUAL_PARTS,
        Field::Tensor { config: "use_bias", tensor: "blk.0.attn_q.bias", there: true },
    ]],
    tied: true,
    tensors,
    frame: layer_norm_frame,
    layer,
    ..LLAMA
};

/// Texts of the first config.json files, which transformers no longer reads.
const USUAL_PARTS: Field = Field::Special {
    gguf: &[],
    write: |config, _| {
        for (name, usual) in [("mlp_type", "default"), ("norm_type", "layer_norm")] {
            match config.text(&[name])? {
                Some(other) if other != usual => {
                    return Err(format!(
                        "\"{name}\" is \"{other}\", but quantkit knows {usual} only"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    },
    export: |_, _| Ok(()),
};

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    list.matrix("model.embed_tokens", "token_embd", d.vocabulary, d.hidden);
    list.layer_norm("model.norm", "output_norm", d.hidden);
    list.output("lm_head", d);
    for layer in 0..d.layers {
        let (queries, keys) = (d.heads.at(layer) * d.head_size, d.kv_heads.at(layer) * d.head_size);
        let feed_forward = d.feed_forward.at(layer);
        list.scope(format!("model.layers.{layer}."), format!("blk.{layer}."));
        list.layer_norm("input_layernorm", "attn_norm", d.hidden);
        list.linear("self_attn.q_proj", "attn_q", queries, d.hidden, RowOrder::Same);
        list.linear("self_attn.k_proj", "attn_k", keys, d.hidden, RowOrder::Same);
        list.linear("self_attn.v_proj", "attn_v", keys, d.hidden, RowOrder::Same);
        list.linear("self_attn.o_proj", "attn_output", d.hidden, queries, RowOrder::Same);
        list.layer_norm("post_attention_layernorm", "ffn_norm", d.hidden);
        list.linear("mlp.c_fc", "ffn_up", feed_forward, d.hidden, RowOrder::Same);
        list.linear("mlp.c_proj", "ffn_down", d.hidden, feed_forward, RowOrder::Same);
    }
    list.finish()
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let attention = Attention {
        norm: Some(d.norm(NormKind::Layer, "attn_norm")?),
        rope: Some(d.rope(RopePairs::Halves)?),
        window: windows::of_file(&d.keys())?,
        ..Attention::new(d.heads.at(index), d.kv_heads.at(index), d.head_size)
    };
    let feed_forward =
        FeedForward::plain(d.norm(NormKind::Layer, "ffn_norm")?, Activation::GeluTanh);
    Ok(Layer::new(attention, feed_forward))
}
