"""Writes tests/data/tiny-*.gguf: random models of every family and rope scaling that quantkit runs,
each a few dozen KiB, with tokens and the logits that transformers gives for them in float32.

    pip install torch transformers gguf
    python scripts/tiny_reference_models.py

The logits lie in the metadata (reference.tokens, reference.logits), so that one file is one test.
Weights are rounded to f16 before the logits are computed: both sides see the same weights.
"""

import math
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

DATA = Path(__file__).parent.parent / "tests" / "data"
TOKENS = 40

SHAPE = dict(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
)

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{NAMES[part]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def neighbours(weights, heads):
    """Rows of a head from half-and-half order to pairs of neighbours."""
    shape = weights.shape
    return weights.reshape(heads, 2, -1, *shape[1:]).swapaxes(1, 2).reshape(shape)


def llama3_factors(config, rope):
    size = config.hidden_size // config.num_attention_heads
    frequencies = 10000.0 ** (-np.arange(0, size, 2) / size)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def write(name, architecture, config, model_class, rope=None, pairs=False):
    torch.manual_seed(7)
    if rope:
        config.rope_parameters = {"rope_theta": 10000.0, **rope}
    model = model_class(config).float().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            scale = 0.1 if key.endswith("bias") or "norm" in key else 1.0 / parameter.shape[-1] ** 0.5
            parameter.copy_(torch.randn_like(parameter) * scale + ("norm" in key))
        model = model.half().float()
    tokens = torch.randint(0, config.vocab_size, (TOKENS,), generator=torch.manual_seed(11))
    with torch.no_grad():
        logits = model(tokens[None]).logits[0]

    writer = gguf.GGUFWriter(DATA / f"tiny-{name}.gguf", architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    kind = rope and rope["rope_type"]
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "attention_factor" in rope:
            writer.add_rope_scaling_yarn_attn_factor(rope["attention_factor"])
    writer.add_array("reference.tokens", [int(token) for token in tokens])
    writer.add_array("reference.logits", [float(value) for value in logits.flatten()])
    if kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config, rope))
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weights = tensor.numpy()
        if pairs and ("q_proj" in key or "k_proj" in key):
            heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
            weights = neighbours(weights, heads)
        weights = weights.astype(np.float16 if weights.ndim == 2 else np.float32)
        writer.add_tensor(gguf_name(key), weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama(name, rope=None, **options):
    config = LlamaConfig(**SHAPE, **options)
    write(name, "llama", config, LlamaForCausalLM, rope, pairs=True)


DATA.mkdir(parents=True, exist_ok=True)
llama("llama", tie_word_embeddings=True)
llama("llama-linear", {"rope_type": "linear", "factor": 2.0}, tie_word_embeddings=False)
llama(
    "llama-yarn",
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    attention_bias=True,
)
llama(
    "llama-yarn-factor",
    {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "attention_factor": 0.8,
    },
)
llama(
    "llama-llama3",
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
)
write("qwen2", "qwen2", Qwen2Config(**SHAPE), Qwen2ForCausalLM)
write("qwen3", "qwen3", Qwen3Config(**SHAPE, head_dim=16), Qwen3ForCausalLM)
