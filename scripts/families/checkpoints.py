"""Makes a variant's checkpoint: config.json, model.safetensors, the tokenizer's files."""

import json
import shutil
from pathlib import Path

import torch
import transformers

from . import weights
from .variant import Shape, Variant

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
SEED = 20260
transformers.utils.logging.disable_progress_bar()


def write(
    variant: Variant,
    directory: Path,
    shape: Shape,
    dtype: str = "bf16",
    vocabulary: int | None = None,
):
    """Writes the checkpoint; the same arguments give the same bytes. `vocabulary` is for models that
    are run without their tokenizer: fewer tokens than it has."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    tokens = variant.vocabulary.write(directory)
    ids = variant.vocabulary.token_ids(directory)
    if vocabulary:
        ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = configuration(variant, shape, vocabulary or tokens + variant.padding, ids)
    model = random_model(variant, config)
    model.to(DTYPES[dtype])
    for key, value in variant.generation.items():
        setattr(model.generation_config, key, value)
    model.save_pretrained(directory)
    config_file = directory / "config.json"
    settings = json.loads(config_file.read_text())
    if variant.old_config:
        settings = as_transformers_4(settings)
    config_file.write_text(json.dumps(settings, indent=2) + "\n")


def configuration(variant: Variant, shape: Shape, vocabulary: int, ids: dict):
    """The configuration object of a variant in a shape."""
    settings = variant.settings(shape)
    text = settings.get("text_config", settings)
    text["vocab_size"] = vocabulary
    text.setdefault("num_hidden_layers", variant.layers_in(shape))
    if text.get("vocab_size_per_layer_input", 0) is None:
        text["vocab_size_per_layer_input"] = vocabulary
    if "n_embd" in text:
        text["n_layer"] = text.pop("num_hidden_layers")
    return getattr(transformers, variant.config)(**(settings | ids))


def random_model(variant: Variant, config) -> torch.nn.Module:
    """A model in float32 with random weights."""
    torch.manual_seed(SEED)
    config.architectures = [variant.model]
    model = getattr(transformers, variant.model)(config).float().eval()
    weights.fill(model, SEED, variant.weights)
    return model


def as_transformers_4(settings: dict) -> dict:
    """config.json with the rope settings where transformers 4 had them."""
    rope = settings.pop("rope_parameters")
    settings["torch_dtype"] = settings.pop("dtype")
    settings["transformers_version"] = "4.46.0"
    if "full_attention" in rope:  # Gemma 3
        settings["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        settings.pop("layer_types")
        settings["sliding_window_pattern"] = 6
        rope = rope["full_attention"]
    settings["rope_theta"] = rope.pop("rope_theta")
    if (partial := rope.pop("partial_rotary_factor", None)) is not None:
        settings["partial_rotary_factor"] = partial
    if "short_factor" in rope:
        rope.pop("original_max_position_embeddings", None)
        rope = {"type": "longrope"} | {key: rope[key] for key in ("short_factor", "long_factor")}
    settings["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    return settings
