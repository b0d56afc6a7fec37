"""What a variant of a family is: a configuration with its special features switched on, and a tokenizer."""

from dataclasses import dataclass, field, replace
from typing import Any, Callable

from .vocabularies import Vocabulary


@dataclass(frozen=True)
class Shape:
    """The size of a tiny model. Windows and original contexts are shorter than the texts that are
    run, so that what happens behind them is seen."""

    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    context: int = 256
    window: int = 16
    original: int = 32
    few_layers: bool = False  # two, where a family's layers are all the same

    @property
    def head(self) -> int:
        return self.hidden // self.heads


# Every block of every quantized format fits into the rows of this one.
FULL = Shape(hidden=256, ffn=512, heads=8, kv_heads=2)
# For files that are committed: models to run, and checkpoints to convert.
SMALL = Shape(hidden=32, ffn=32, heads=4, kv_heads=2, context=192, few_layers=True)
CONVERSION = Shape(hidden=16, ffn=32, heads=4, kv_heads=2, few_layers=True)


@dataclass
class Variant:
    """A configuration of a family.

    `settings` gives config.json's values for a shape; `weights` says how random tensors are
    scaled (see `weights.py`); `padding` is how many rows the embedding has beyond the tokenizer;
    `old_config` writes rope settings as transformers 4 did, as real checkpoints have them;
    `unlike_llama_cpp` says why llama.cpp's mathematics differs, where it does; `unsaid` names the
    setting that llama.cpp's file does not say, so that a conversion must refuse it by name or be right,
    and `keys` the metadata that would say it; `pattern` says that the layers differ; `model_of` names the variant that has the same model, where only the
    checkpoint differs; `exported_as` is the model type that an export gives, where a GGUF file does not
    say the checkpoint's."""

    name: str
    config: str
    model: str
    vocabulary: Vocabulary
    settings: Callable[[Shape], dict[str, Any]]
    layers: int = 4
    pattern: bool = False
    weights: dict[str, Any] = field(default_factory=dict)
    padding: int = 0
    old_config: bool = False
    features: str = ""
    unlike_llama_cpp: str = ""
    unsaid: str = ""
    keys: Callable[[Shape], dict[str, Any]] = lambda _shape: {}
    model_of: str = ""
    exported_as: str = ""
    missing_for_llama_cpp: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)

    def layers_in(self, shape: Shape) -> int:
        return 2 if shape.few_layers and not self.pattern else self.layers

    def like(
        self, name: str, features: str, settings: Callable[[Shape], dict], **changes
    ) -> "Variant":
        """Another variant with some settings changed."""
        base = self.settings
        merged = lambda shape: base(shape) | settings(shape)  # noqa: E731
        return replace(
            self,
            name=name,
            features=features,
            settings=merged,
            **({"model_of": "", "exported_as": ""} | changes),
        )


def decoder(shape: Shape) -> dict[str, Any]:
    """The settings that most families share."""
    return dict(
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=False,
    )


def rope(kind: str = "default", theta: float = 10000.0, **options) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **options}}


def yarn(shape: Shape, factor: float = 8.0, **options) -> dict[str, Any]:
    return rope("yarn", factor=factor, original_max_position_embeddings=shape.original, **options)
