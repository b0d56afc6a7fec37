"""`quantkit convert` against llama.cpp's converter."""

from pathlib import Path

from . import gguf_compare, llama_cpp
from .tools import Failed, Report, Tools, run
from .variant import Variant


def check(variant: Variant, checkpoint: Path, work: Path, tools: Tools, report: Report) -> bool:
    """Converts to every type and compares; whether there is a converted file to go on with."""
    theirs = {kind: work / f"theirs.{kind}.gguf" for kind in llama_cpp.KINDS}
    refusal = llama_cpp.convert(variant, checkpoint, theirs, tools.llama_source)
    for kind in llama_cpp.KINDS:
        what = f"{variant.name} convert {kind}"
        ours = work / f"ours.{kind}.gguf"
        try:
            run([tools.quantkit, "convert", checkpoint, "--output", ours, "--dtype", kind])
        except Failed as failure:
            if variant.unsaid and variant.unsaid in str(failure):
                report.line(True, what, f"refused, as llama.cpp's file does not say it: {failure}")
            else:
                report.line(False, what, str(failure))
            return False
        compare(ours, theirs[kind], refusal, what, report, more_keys=bool(variant.unsaid))
        try:
            tools.llama_runs(ours)
            report.line(True, f"{what}, llama.cpp runs it")
        except Failed as failure:
            report.line(False, f"{what}, llama.cpp runs it", str(failure))
    return True


def compare(ours: Path, theirs: Path, refusal: str, what: str, report: Report, more_keys: bool):
    """Compares two files; `more_keys` allows ours to say what llama.cpp's does not."""
    if refusal:
        report.unchecked(what, f"llama.cpp's converter refuses: {refusal}")
        return
    tensors, metadata, figures = gguf_compare.compare(ours, theirs)
    report.line(not tensors, f"{what}, tensors", figures, tensors)
    more = [line for line in metadata if line.endswith(gguf_compare.MORE)] if more_keys else []
    different = [line for line in metadata if line not in more]
    said = "; ".join(["the same", *more])
    report.line(not different, f"{what}, metadata", "" if different else said, different)
