"""`quantkit quantize` against llama-quantize, by every recipe, with and without importance."""

from pathlib import Path

import numpy as np

import compare_with_llama_quantize as llama_quantize

from . import reference
from .texts import TRAINING
from .tools import Failed, Report, Tools, run
from .variant import Variant


def check(variant: Variant, model: Path, vocabulary: int, work: Path, tools: Tools, report: Report):
    """Makes every file with both tools, from an F16 file."""
    importance = importance_file(model, work, tools)
    tokens = reference.tokens(vocabulary, 24)
    for file in (None, importance):
        for recipe in llama_quantize.RECIPES:
            if file or recipe not in llama_quantize.NEED_IMPORTANCE:
                what = f"{variant.name} quantize {recipe}{' with importance' if file else ''}"
                try:
                    compare(what, recipe, model, file, work, tools, report)
                    runs(what, tokens, work, tools, report)
                except Failed as failure:
                    report.line(False, what, str(failure))


def importance_file(model: Path, work: Path, tools: Tools) -> Path:
    text, output = work / "calibration.txt", work / "importance.gguf"
    text.write_text("".join(TRAINING) * 2)
    options = ["-c", "64", "-b", "64", "-t", "2", "--no-ppl"]
    run([tools.llama_bin / "llama-imatrix", "-m", model, "-f", text, "-o", output, *options])
    return output


def compare(
    what: str,
    recipe: str,
    model: Path,
    importance: Path | None,
    work: Path,
    tools: Tools,
    report: Report,
):
    ours, theirs = work / "ours.quantized.gguf", work / "theirs.quantized.gguf"
    mine = [tools.quantkit, "quantize", model, ours, "--type", recipe, "--quiet"]
    other = [tools.llama_bin / "llama-quantize"]
    if importance:
        mine += ["--importance", importance]
        other += ["--imatrix", importance]
    ours.unlink(missing_ok=True)
    run(mine)
    run([*other, model, theirs, recipe])
    files = [llama_quantize.Gguf(path) for path in (ours, theirs)]
    different = llama_quantize.differing_tensors(*files)
    whole = llama_quantize.same_file(ours, theirs)
    count = len(files[1].tensors)
    figures = (
        "the same file"
        if whole
        else f"{count - len(different)} of {count} tensors the same, the file is not"
    )
    report.line(whole, what, figures, different)


def runs(what: str, tokens: list[int], work: Path, tools: Tools, report: Report):
    logits = tools.logits(work / "ours.quantized.gguf", tokens, work)
    report.line(bool(np.isfinite(logits).all()), f"{what}, runs")
