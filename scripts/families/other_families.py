"""Phi, GPT-2, BLOOM, GPT-NeoX, StarCoder 2, Falcon, Cohere 2, StableLM."""

from .llama_family import window_keys
from .variant import Variant, decoder, rope
from .vocabularies import bpe, llama

END = "<|endoftext|>"
PHI3 = Variant(
    "phi3", "Phi3Config", "Phi3ForCausalLM",
    llama(added=[END, "<|assistant|>", "<|end|>", "<|user|>"], eos=END, pad=END),
    lambda s: decoder(s) | dict(sliding_window=None, original_max_position_embeddings=s.context),
    padding=8, features="fused qkv and gate-up",
)  # fmt: skip
GPT2 = Variant(
    "gpt2", "GPT2Config", "GPT2LMHeadModel", bpe("gpt-2", END, bos=END, eos=END, tokenizer_class="GPT2Tokenizer"),
    lambda s: dict(n_embd=s.hidden, n_head=s.heads, n_positions=s.context // 2, n_ctx=s.context // 2, n_inner=None,
                   tie_word_embeddings=True),
    weights=dict(position=0.5), features="learned positions, LayerNorm, Conv1D, fused qkv, GELU, tied",
)  # fmt: skip
BLOOM = Variant(
    "bloom", "BloomConfig", "BloomForCausalLM",
    bpe("bloom", "<unk>", "<s>", "</s>", "<pad>", bos="<s>", eos="</s>", pad="<pad>", unk="<unk>"),
    lambda s: dict(hidden_size=s.hidden, n_head=s.heads, tie_word_embeddings=True, seq_length=s.context),
    features="ALiBi, embedding norm, interleaved qkv, tied",
)  # fmt: skip
GPT_NEOX = Variant(
    "gpt_neox", "GPTNeoXConfig", "GPTNeoXForCausalLM", bpe("olmo", END, "<|padding|>", bos=END, eos=END),
    lambda s: {k: v for k, v in decoder(s).items() if k != "num_key_value_heads"}
    | rope(partial_rotary_factor=0.5) | dict(use_parallel_residual=True),
    padding=8, features="parallel residual, half rotary, interleaved qkv", missing_for_llama_cpp=dict(rotary_pct=0.5),
)  # fmt: skip
STARCODER2 = Variant(
    "starcoder2", "Starcoder2Config", "Starcoder2ForCausalLM", bpe("starcoder", END, "<fim_prefix>", bos=END, eos=END),
    lambda s: decoder(s) | dict(tie_word_embeddings=True, use_bias=True, sliding_window=None) | rope(theta=100000.0),
    features="biases everywhere, LayerNorm, plain GELU, tied",
)  # fmt: skip
FALCON = Variant(
    "falcon", "FalconConfig", "FalconForCausalLM", bpe("falcon", END, ">>TITLE<<", bos=END, eos=END),
    lambda s: dict(hidden_size=s.hidden, num_attention_heads=s.heads, multi_query=True, parallel_attn=True,
                   new_decoder_architecture=False, bias=False, alibi=False, tie_word_embeddings=True,
                   num_kv_heads=1, max_position_embeddings=2048) | rope(),
    features="parallel attention with one norm, multi-query (as 7B), tied",
)  # fmt: skip
COHERE2 = Variant(
    "cohere2", "Cohere2Config", "Cohere2ForCausalLM",
    bpe("command-r", "<PAD>", "<UNK>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>", pad="<PAD>", add_bos=True),
    lambda s: decoder(s) | dict(tie_word_embeddings=True, logit_scale=0.7, sliding_window=s.window, rotary_pct=1.0,
                                sliding_window_pattern=4),
    layers=5, pattern=True, features="parallel block, windows, no rotary on every fourth layer, logit scale, tied",
)  # fmt: skip
STABLELM = Variant(
    "stablelm", "StableLmConfig", "StableLmForCausalLM", bpe("stablelm2", END, "<|im_start|>", bos=END, eos=END),
    lambda s: decoder(s) | dict(use_qkv_bias=True) | rope(partial_rotary_factor=0.5),
    features="half rotary, qkv biases, LayerNorm (as 2 1.6B)",
)  # fmt: skip

LONG = "it takes the long factors by the size of its context, not by the text"


def longrope(s, original: int, partial: float = 1.0) -> dict:
    """Two sets of divisors: one for texts within the original context, one for those beyond it.

    The factor on queries and keys that goes with them makes scores 1.6 times as large; where whole heads
    turn, `qkv` of a variant's weights takes that back."""
    pairs = int(s.head * partial) // 2
    parameters = dict(
        short_factor=[1.0 + 0.05 * i for i in range(pairs)],
        long_factor=[1.0 + 0.75 * i for i in range(pairs)],
        original_max_position_embeddings=original,
        partial_rotary_factor=partial,
    )
    return rope("longrope", **parameters) | dict(original_max_position_embeddings=original)


VARIANTS = [
    PHI3,
    PHI3.like("phi3-longrope", "longrope, the text is longer than the original context",
              lambda s: longrope(s, s.original), weights=dict(qkv=1.1),
              unlike_llama_cpp=LONG),
    PHI3.like("phi3-longrope-short", "longrope, the text is shorter; config.json of transformers 4",
              lambda s: longrope(s, s.context) | dict(max_position_embeddings=2 * s.context), old_config=True),
    PHI3.like("phi3-window", "sliding window (as mini 4k)", lambda s: dict(sliding_window=s.window),
              unlike_llama_cpp="it ignores the window"),
    PHI3.like("phi4-mini", "longrope on half of each head, GPT-4o's tokenizer, tied",
              lambda s: longrope(s, s.original, 0.5) | dict(tie_word_embeddings=True), unlike_llama_cpp=LONG,
              vocabulary=bpe("gpt-4o", END, "<|end|>", "<|user|>", bos=END, eos=END, tokenizer_class="GPT2Tokenizer")),
    PHI3.like("phi4", "no window, GPT-4's tokenizer", lambda s: rope(theta=250000.0), model_of="phi3",
              vocabulary=bpe("dbrx", END, "<|im_start|>", "<|im_end|>", bos=END, eos="<|im_end|>",
                             tokenizer_class="GPT2Tokenizer")),
    GPT2,
    BLOOM,
    GPT_NEOX,
    GPT_NEOX.like("gpt_neox-sequential", "no parallel residual, a quarter rotary",
                  lambda s: dict(use_parallel_residual=False) | rope(partial_rotary_factor=0.25),
                  missing_for_llama_cpp=dict(rotary_pct=0.25)),
    STARCODER2,
    STARCODER2.like("starcoder2-window", "sliding window", lambda s: dict(sliding_window=s.window),
                    unsaid="sliding_window", keys=window_keys("starcoder2"),
                    unlike_llama_cpp="its converter drops the window"),
    FALCON,
    FALCON.like("falcon-40b", "new decoder architecture: two norms, grouped keys and values",
                lambda s: dict(new_decoder_architecture=True, num_kv_heads=s.kv_heads, multi_query=False)),
    FALCON.like("falcon-11b", "new decoder architecture with one norm, untied",
                lambda s: dict(new_decoder_architecture=True, num_kv_heads=s.kv_heads, multi_query=False,
                               num_ln_in_parallel_attn=1, tie_word_embeddings=False)),
    FALCON.like("falcon-rw", "ALiBi, biases, no parallel attention (as RW 1B)",
                lambda s: dict(alibi=True, bias=True, multi_query=False, parallel_attn=False, num_kv_heads=s.heads),
                unsaid="alibi"),
    COHERE2,
    STABLELM,
    STABLELM.like("stablelm-parallel", "parallel residual, a quarter rotary",
                  lambda s: dict(use_parallel_residual=True, use_qkv_bias=False) | rope(partial_rotary_factor=0.25)),
    STABLELM.like("stablelm-norms", "parallel residual, norms of each head (as 2 12B)",
                  lambda s: dict(use_parallel_residual=True, qk_layernorm=True, use_qkv_bias=False)),
]  # fmt: skip
