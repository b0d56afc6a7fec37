"""quantkit's log-probabilities against those of transformers in float32."""

from pathlib import Path

import torch

from . import reference
from .tools import Failed, Report, Tools
from .variant import Variant

BAR = 5e-3
BAR_OF_STEPS = 2e-3
STEPS = (7, 1)


def check(
    variant: Variant, checkpoint: Path, model: Path, work: Path, tools: Tools, report: Report
):
    """Runs a text that is longer than every window in one step, in chunks and token by token."""
    theirs_model, _ = reference.load(checkpoint, variant.model)
    vocabulary = theirs_model.config.get_text_config().vocab_size - variant.padding
    tokens = reference.tokens(vocabulary)
    theirs = reference.logits(theirs_model, tokens).log_softmax(-1)
    sure = theirs.exp().max(-1).values.mean().item()
    what = f"{variant.name} logits"
    try:
        whole = log_probabilities(tools, model, tokens, work)
    except Failed as failure:
        report.line(False, what, str(failure))
        return
    if whole.shape != theirs.shape:
        report.line(False, what, f"{tuple(whole.shape)} logits, not {tuple(theirs.shape)}")
        return
    difference = (whole - theirs).abs()
    position = difference.max(-1).values.argmax().item()
    figures = (
        f"largest difference {difference.max():.1e} at position {position} of {len(tokens)} "
        f"(bar {BAR:.0e}), mean of the largest probability {sure:.2f}"
    )
    report.line(difference.max().item() < BAR, what, figures)
    for step in STEPS:
        try:
            pieces = log_probabilities(tools, model, tokens, work, step)
        except Failed as failure:
            report.line(False, f"{what}, {step} at a time", str(failure))
            continue
        largest = (pieces - whole).abs().max().item()
        figures = f"largest difference {largest:.1e} to one step (bar {BAR_OF_STEPS:.0e})"
        report.line(largest < BAR_OF_STEPS, f"{what}, {step} at a time", figures)


def log_probabilities(
    tools: Tools, model: Path, tokens: list[int], work: Path, step: int | None = None
) -> torch.Tensor:
    return torch.from_numpy(tools.logits(model, tokens, work, step)).log_softmax(-1)
