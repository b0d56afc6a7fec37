"""`quantkit export` against the checkpoint that the file came from."""

import shutil
from pathlib import Path

import torch
import transformers

from . import reference
from .texts import AWKWARD
from .tools import Failed, Report, Tools, run
from .variant import Variant

BAR = 1e-5
# What no GGUF file holds and no prediction depends on.
VOLATILE = {
    "transformers_version", "_name_or_path", "dtype", "architectures", "initializer_range", "use_cache",
    "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "residual_dropout",
    "embedding_dropout", "classifier_dropout", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "pretraining_tp", "slow_but_exact",
    "is_decoder", "pad_token_id", "output_attentions",
    "output_hidden_states", "return_dict", "chunk_size_feed_forward", "id2label", "label2id", "problem_type",
    "n_ctx", "max_window_layers", "cache_implementation", "_sliding_window_pattern", "sliding_window_pattern",
}  # fmt: skip


def check(
    variant: Variant, checkpoint: Path, model: Path, work: Path, tools: Tools, report: Report
):
    """Exports in float32 and looks at what transformers makes of it."""
    what, exported = f"{variant.name} export", work / "exported"
    shutil.rmtree(exported, ignore_errors=True)
    try:
        run([tools.quantkit, "export", model, "--output", exported, "--dtype", "f32"])
    except Failed as failure:
        report.line(False, what, str(failure))
        return
    try:
        ours, info = reference.load(exported)
    except Exception as failure:  # whatever transformers raises is the result
        report.line(False, f"{what}, loads", f"{type(failure).__name__}: {failure}")
        return
    wrong = [
        f"{kind}: {keys}"
        for kind in ("missing_keys", "unexpected_keys")
        if (keys := sorted(info[kind]))
    ]
    wrong += [f"mismatched: {keys}" for keys in info.get("mismatched_keys", ())]
    report.line(
        not wrong, f"{what}, loads", "no missing, no unexpected key" if not wrong else "", wrong
    )
    theirs, _ = reference.load(checkpoint, variant.model)
    check_logits(what, variant, ours, theirs, report)
    check_tokens(what, exported, checkpoint, report)
    config = theirs.config.get_text_config()
    lines = config_differences(ours.config, config, variant.exported_as or config.model_type)
    report.line(not lines, f"{what}, config.json", "the same meaning" if not lines else "", lines)


def check_logits(what: str, variant: Variant, ours, theirs, report: Report):
    tokens = reference.tokens(theirs.config.get_text_config().vocab_size - variant.padding)
    mine, other = (reference.logits(model, tokens) for model in (ours, theirs))
    if mine.shape != other.shape:
        report.line(False, f"{what}, logits", f"{tuple(mine.shape)}, not {tuple(other.shape)}")
        return
    largest = (mine - other).abs().max().item()
    figures = (
        "bit-equal"
        if torch.equal(mine, other)
        else f"largest difference {largest:.1e} (bar {BAR:.0e})"
    )
    report.line(largest <= BAR, f"{what}, logits", figures)


def check_tokens(what: str, exported: Path, checkpoint: Path, report: Report):
    ours, theirs = reference.awkward_tokens(exported), reference.original_tokens(checkpoint)
    wrong = [repr(text) for text, mine, other in zip(AWKWARD, ours, theirs) if mine != other]
    report.line(
        not wrong,
        f"{what}, tokens",
        f"{len(AWKWARD) - len(wrong)} of {len(AWKWARD)} texts the same",
        wrong,
    )


def settings(config: transformers.PreTrainedConfig) -> dict:
    """What predictions depend on. transformers lays rope settings of version 4 over into
    `rope_parameters`, and leaves the old names where they were. What is off may be absent."""
    found = {
        key: value
        for key, value in config.to_dict().items()
        if key not in VOLATILE and value is not None and value is not False
    }
    rope = found.get("rope_parameters") or {}
    if "rope_type" in rope:
        found["rope_parameters"] = {key: value for key, value in rope.items() if key != "type"}
    if "partial_rotary_factor" in rope:
        found.pop("partial_rotary_factor", None)
    return single(found)


def single(value):
    """Numbers as the 32-bit floats that a GGUF file holds."""
    if isinstance(value, dict):
        return {key: single(item) for key, item in value.items()}
    if isinstance(value, list):
        return [single(item) for item in value]
    return torch.tensor(value).item() if isinstance(value, float) else value


def config_differences(
    ours: transformers.PreTrainedConfig, theirs: transformers.PreTrainedConfig, model_type: str
) -> list[str]:
    """A line for each setting that is not the same in the two configurations as they are loaded."""
    mine, other = (settings(config) for config in (ours, theirs))
    other["model_type"] = model_type
    absent = "(none)"
    return [
        f"{key}: {mine.get(key, absent)!r:.60}, not {other.get(key, absent)!r:.60}"
        for key in sorted(mine.keys() | other.keys())
        if mine.get(key) != other.get(key)
    ]
