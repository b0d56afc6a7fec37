"""Llama and its relatives: Mistral, Qwen, SmolLM3, Granite, OLMo 2, EXAONE 4."""

from .variant import Shape, Variant, decoder, rope, yarn
from .vocabularies import bpe, llama


def llama3_rope(shape: Shape) -> dict:
    """Some frequencies divided, some not, some in between. Nothing depends on the text's length."""
    options = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    scaling = rope("llama3", 2000.0, original_max_position_embeddings=256, **options)
    return scaling | dict(max_position_embeddings=2048)


def window_keys(architecture: str):
    """The metadata that says a sliding window."""
    return lambda shape: {f"{architecture}.attention.sliding_window": shape.window}


def qwen_window_keys(architecture: str):
    def keys(shape: Shape) -> dict:
        pattern = {f"{architecture}.attention.sliding_window_pattern": [False, False, True, True]}
        return window_keys(architecture)(shape) | pattern

    return keys


def qwen_windows(shape: Shape) -> dict:
    return dict(
        use_sliding_window=True,
        sliding_window=shape.window,
        max_window_layers=2,
        num_hidden_layers=4,
    )


LLAMA3 = bpe(
    "llama-bpe", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>",
    bos="<|begin_of_text|>", eos="<|end_of_text|>", add_bos=True,
)  # fmt: skip
TEKKEN = bpe(
    "tekken",
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<pad>",
    bos="<s>",
    eos="</s>",
    add_bos=True,
)
CHATML = dict(eos="<|im_end|>", pad="<|endoftext|>")
QWEN = bpe(
    "qwen2",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    **CHATML,
    tokenizer_class="Qwen2Tokenizer",
)
SMOLLM = bpe(
    "smollm", "<|endoftext|>", "<|im_start|>", "<|im_end|>", bos="<|im_start|>", eos="<|im_end|>"
)

LLAMA = Variant(
    "llama", "LlamaConfig", "LlamaForCausalLM", llama(), decoder, features="SentencePiece, untied"
)
MISTRAL = Variant(
    "mistral", "MistralConfig", "MistralForCausalLM", llama(),
    lambda s: decoder(s) | dict(sliding_window=None, head_dim=s.head), features="no window",
    model_of="llama", exported_as="llama",
)  # fmt: skip
MINISTRAL3 = Variant(
    "ministral3", "Ministral3Config", "Ministral3ForCausalLM", TEKKEN,
    lambda s: decoder(s)
    | dict(head_dim=2 * s.head)
    | yarn(s, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1),
    features="yarn, attention temperature, head width apart, tekken",
)  # fmt: skip
QWEN2 = Variant(
    "qwen2", "Qwen2Config", "Qwen2ForCausalLM", QWEN, decoder, padding=8, features="qkv biases, padded vocabulary",
    generation=dict(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1),
)  # fmt: skip
QWEN3 = Variant(
    "qwen3", "Qwen3Config", "Qwen3ForCausalLM", QWEN,
    lambda s: decoder(s) | dict(head_dim=2 * s.head), padding=8, features="head norms, head width apart",
)  # fmt: skip
SMOLLM3 = Variant(
    "smollm3", "SmolLM3Config", "SmolLM3ForCausalLM", LLAMA3,
    lambda s: decoder(s) | dict(tie_word_embeddings=True) | rope(theta=50000.0),
    layers=5, pattern=True, features="no rotary on every fourth layer, tied",
)  # fmt: skip
GRANITE = Variant(
    "granite", "GraniteConfig", "GraniteForCausalLM",
    bpe("refact", "<|end_of_text|>", "<fim_prefix>", bos="<|end_of_text|>", eos="<|end_of_text|>"),
    lambda s: decoder(s)
    | dict(attention_multiplier=0.3, embedding_multiplier=6.0, residual_multiplier=0.4, logits_scaling=1.5),
    features="four multipliers",
)  # fmt: skip
OLMO2 = Variant(
    "olmo2", "Olmo2Config", "Olmo2ForCausalLM",
    bpe("dbrx", "<|endoftext|>", "<|im_start|>", "<|im_end|>", bos="<|endoftext|>", eos="<|endoftext|>"),
    decoder, padding=8, features="post-norms, norms over the whole query and key",
)  # fmt: skip


def rope_by_layers(full):
    """The rope settings of layers without a window; the others' are not stretched."""
    full = full["rope_parameters"]
    sliding = {"rope_type": "default", "rope_theta": full["rope_theta"]}
    return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}


OLMO3 = Variant(
    "olmo3", "Olmo3Config", "Olmo3ForCausalLM", OLMO2.vocabulary,
    lambda s: decoder(s) | dict(sliding_window=s.window) | rope_by_layers(rope(theta=50000.0)),
    layers=5, pattern=True, padding=8, features="window on three of four layers",
)  # fmt: skip
EXAONE4 = Variant(
    "exaone4", "Exaone4Config", "Exaone4ForCausalLM",
    bpe("exaone4", "[PAD]", "[BOS]", "[EOS]", "[|endofturn|]", bos="[BOS]", eos="[|endofturn|]", pad="[PAD]"),
    lambda s: decoder(s)
    | dict(sliding_window=None, layer_types=["full_attention"] * 4, num_hidden_layers=4, tie_word_embeddings=True)
    | llama3_rope(s),
    features="post-norms, head norms, llama3 rope, no window (as 1.2B), tied",
)  # fmt: skip

VARIANTS = [
    LLAMA,
    LLAMA.like("llama-tied", "tied, SmolLM2's tokenizer", lambda s: dict(tie_word_embeddings=True),
               vocabulary=SMOLLM),
    LLAMA.like("llama-bias", "attention and MLP biases", lambda s: dict(attention_bias=True, mlp_bias=True)),
    LLAMA.like("llama-linear", "linear rope, config.json of transformers 4", lambda s: rope("linear", factor=4.0),
               old_config=True),
    LLAMA.like("llama-llama3", "llama3 rope, Llama 3's tokenizer",
               llama3_rope,
               vocabulary=LLAMA3),
    LLAMA.like("llama-llama3-old", "the same, config.json of transformers 4",
               llama3_rope,
               vocabulary=LLAMA3, old_config=True, model_of="llama-llama3"),
    LLAMA.like("llama-yarn", "yarn, other bounds than 32 and 1", lambda s: yarn(s, beta_fast=24.0, beta_slow=2.0),
               unlike_llama_cpp="it reads beta_fast and beta_slow of grok and mistral3 only"),
    LLAMA.like("llama-yarn-factor", "yarn with an attention factor", lambda s: yarn(s, attention_factor=0.8),
               unlike_llama_cpp="it reads the attention factor of grok only"),
    LLAMA.like("llama-head-dim", "head width apart from the hidden size", lambda s: dict(head_dim=2 * s.head)),
    MISTRAL,
    MISTRAL.like("mistral-window", "sliding window", lambda s: dict(sliding_window=s.window),
                 unlike_llama_cpp="its converter drops the window", unsaid="sliding_window",
                 keys=window_keys("llama")),
    MISTRAL.like("mistral-nemo", "tekken, head width apart, config.json of transformers 4",
                 lambda s: dict(head_dim=2 * s.head) | rope(theta=1000000.0), vocabulary=TEKKEN, old_config=True,
                 model_of="llama-head-dim", exported_as="llama"),
    MINISTRAL3,
    QWEN2,
    QWEN2.like("qwen2-tied", "tied, config.json of transformers 4",
               lambda s: dict(tie_word_embeddings=True, use_sliding_window=False, sliding_window=s.window,
                              max_window_layers=4) | rope(theta=1000000.0), old_config=True),
    QWEN2.like("qwen2-yarn", "yarn", lambda s: yarn(s)),
    QWEN2.like("qwen2-window", "sliding window on the layers from the third on",
               qwen_windows, unlike_llama_cpp="its converter drops the window", unsaid="use_sliding_window",
               keys=qwen_window_keys("qwen2")),
    QWEN3,
    QWEN3.like("qwen3-tied", "tied, yarn, config.json of transformers 4",
               lambda s: dict(tie_word_embeddings=True) | yarn(s), old_config=True),
    QWEN3.like("qwen3-window", "sliding window on the layers from the third on",
               qwen_windows, unlike_llama_cpp="its converter drops the window", unsaid="use_sliding_window",
               keys=qwen_window_keys("qwen3")),
    SMOLLM3,
    SMOLLM3.like("smollm3-yarn", "untied, yarn", lambda s: dict(tie_word_embeddings=False) | yarn(s)),
    GRANITE,
    GRANITE.like("granite-bias", "attention and MLP biases, tied",
                 lambda s: dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    OLMO2,
    OLMO2.like("olmo2-yarn", "yarn", lambda s: yarn(s)),
    OLMO3,
    OLMO3.like("olmo3-yarn", "yarn on the layers without a window (as 7B)",
               lambda s: rope_by_layers(yarn(s, attention_factor=1.25))),
    EXAONE4,
    EXAONE4.like("exaone4-hybrid", "windows, and no rotary on every fourth layer (as 32B), untied",
                 lambda s: dict(sliding_window=s.window, sliding_window_pattern=4, layer_types=None, num_hidden_layers=5, tie_word_embeddings=False),
                 unlike_llama_cpp="it takes windows only in the model of 64 layers"),
]  # fmt: skip
