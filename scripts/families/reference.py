"""transformers in float32: what a checkpoint's model and tokenizer give."""

from pathlib import Path

import sentencepiece
import torch
import transformers

from .texts import AWKWARD

TOKENS = 96  # more than every window and original context of `variant.FULL`
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def load(checkpoint: Path, model_class: str = "AutoModelForCausalLM"):
    """The model in float32, and which tensors were missing or unexpected."""
    kind = getattr(transformers, model_class)
    model, info = kind.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    return model.eval(), info


def logits(model, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


def tokens(vocabulary: int, count: int = TOKENS) -> list[int]:
    """Token numbers to run, the same on every call."""
    generator = torch.Generator().manual_seed(11)
    return torch.randint(0, vocabulary, (count,), generator=generator).tolist()


def awkward_tokens(checkpoint: Path) -> list[list[int]]:
    """The tokens of the awkward texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    return [tokenizer(text)["input_ids"] for text in AWKWARD]


def original_tokens(checkpoint: Path) -> list[list[int]]:
    """The awkward texts as the model's own tokenizer divides them. transformers 5 makes of a
    tokenizer.model a tokenizer that writes one ▁ less than SentencePiece before a text that begins
    with a space. There, SentencePiece itself is asked."""
    tokens = awkward_tokens(checkpoint)
    model = checkpoint / "tokenizer.model"
    if not model.exists():
        return tokens
    processor = sentencepiece.SentencePieceProcessor(str(model))
    before = tokens[0]  # of the empty text: what comes before every text
    return [
        before + processor.encode(text) if text.startswith(" ") else ids
        for text, ids in zip(AWKWARD, tokens)
    ]
