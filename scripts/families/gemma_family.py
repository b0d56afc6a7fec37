"""Gemma 1 to 4, and multimodal checkpoints whose text part is one of the families."""

from .llama_family import MINISTRAL3, MISTRAL
from .variant import Variant, decoder
from .vocabularies import Vocabulary, gemma

GEMMA4 = Vocabulary(
    "fallback", size=400, special=["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>",
    "<|channel>"],
    bos="<bos>", eos="<eos>", pad="<pad>", unk="<unk>", add_bos=True, tokenizer_class="GemmaTokenizer",
    template_file=True,
)  # fmt: skip
# Gemma's norms multiply by 1 + weight, and its embeddings are scaled by the root of the hidden size.
SHIFTED = dict(norm_mean=0.0, embedding=0.5, last_norm=3.0)


def gemma_decoder(shape):
    return decoder(shape) | dict(head_dim=2 * shape.head, tie_word_embeddings=True)


def pattern(layers: int, every: int) -> list[str]:
    """Windows on all layers but every so many-th."""
    return ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)]


GEMMA = Variant(
    "gemma", "GemmaConfig", "GemmaForCausalLM", gemma(), gemma_decoder, layers=2, weights=SHIFTED,
    features="scaled embedding, norms + 1, GeGLU, tied",
)  # fmt: skip
GEMMA2 = Variant(
    "gemma2", "Gemma2Config", "Gemma2ForCausalLM", gemma(),
    lambda s: gemma_decoder(s)
    | dict(attn_logit_softcapping=5.0, final_logit_softcapping=4.0, query_pre_attn_scalar=2 * s.head,
           sliding_window=s.window),
    pattern=True, weights=SHIFTED, features="softcaps, window on every other layer, post-norms",
)  # fmt: skip
GEMMA3 = Variant(
    "gemma3", "Gemma3TextConfig", "Gemma3ForCausalLM", gemma(),
    lambda s: gemma_decoder(s)
    | dict(query_pre_attn_scalar=2 * s.head, sliding_window=s.window, layer_types=pattern(7, 6),
           rope_parameters={
               "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
               "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
    layers=7, pattern=True, weights=SHIFTED, features="head norms, two rope bases, window on five of six layers",
)  # fmt: skip


def gemma4_settings(s):
    return gemma_decoder(s) | dict(
        head_dim=s.head, global_head_dim=2 * s.head, sliding_window=s.window, layer_types=pattern(6, 3),
        hidden_size_per_layer_input=0, num_kv_shared_layers=0,
        final_logit_softcapping=8.0,
        rope_parameters={
            "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    )  # fmt: skip


GEMMA4_TEXT = Variant(
    "gemma4", "Gemma4TextConfig", "Gemma4ForCausalLM", GEMMA4, gemma4_settings, layers=6, pattern=True,
    weights=dict(embedding=0.5, last_norm=4.0, head_norm=0.7),
    features="head widths by layer, proportional rope, final softcap",
)  # fmt: skip
SHARED = dict(num_kv_shared_layers=3)


def vision(s) -> dict:
    """A vision part that is there to be left out."""
    return dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8,
        patch_size=4, num_channels=3, model_type="siglip_vision_model",
    )  # fmt: skip


def gemma3_multimodal(s):
    return dict(
        text_config=GEMMA3.settings(s) | dict(num_hidden_layers=7),
        vision_config=vision(s), mm_tokens_per_image=4, image_token_index=5, boi_token_index=6,
        eoi_token_index=7, tie_word_embeddings=True,
    )  # fmt: skip


def mistral3_multimodal(s, text=MINISTRAL3, kind="ministral3"):
    pixtral = vision(s) | dict(model_type="pixtral", head_dim=8)
    pixtral["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    return dict(
        text_config=text.settings(s) | dict(num_hidden_layers=4, model_type=kind),
        vision_config=pixtral, image_token_index=5, tie_word_embeddings=False,
    )  # fmt: skip


VARIANTS = [
    GEMMA,
    GEMMA2,
    GEMMA2.like("gemma2-scalar", "query_pre_attn_scalar is not the head's width (as 27B)",
                lambda s: dict(query_pre_attn_scalar=s.head), unsaid="query_pre_attn_scalar",
                keys=lambda s: {"gemma2.attention.scale": s.head**-0.5},
                unlike_llama_cpp="it takes the scalar only in the model of 46 layers"),
    GEMMA3,
    GEMMA3.like("gemma3-old", "config.json of transformers 4, linear rope on global layers (as 4B)",
                lambda s: dict(rope_parameters={
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}), old_config=True),
    Variant("gemma3-multimodal", "Gemma3Config", "Gemma3ForConditionalGeneration", gemma(), gemma3_multimodal,
            layers=7, pattern=True, model_of="gemma3", weights=SHIFTED, features="gemma3 as the text part of a multimodal checkpoint"),
    GEMMA4_TEXT,
    GEMMA4_TEXT.like("gemma4-shared", "shared keys and values, per-layer embeddings, double-wide MLP (as E2B)",
                     lambda s: SHARED | dict(hidden_size_per_layer_input=s.hidden // 2, use_double_wide_mlp=True,
                                             vocab_size_per_layer_input=None)),
    GEMMA4_TEXT.like("gemma4-keys-as-values", "keys are values on global layers with their own head count (as 31B)",
                     lambda s: dict(attention_k_eq_v=True, num_global_key_value_heads=1)),
    Variant("mistral3-multimodal", "Mistral3Config", "Mistral3ForConditionalGeneration", MINISTRAL3.vocabulary,
            mistral3_multimodal, pattern=True, model_of="ministral3", features="ministral3 as the text part of a multimodal checkpoint"),
    Variant("mistral3-multimodal-small", "Mistral3Config", "Mistral3ForConditionalGeneration", MINISTRAL3.vocabulary,
            lambda s: mistral3_multimodal(s, MISTRAL, "mistral"), pattern=True,
            features="mistral as the text part of a multimodal checkpoint (as Small 3.1)"),
]  # fmt: skip
