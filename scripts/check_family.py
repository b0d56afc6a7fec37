"""Proves that quantkit handles model families: convert, logits, quantize, export.

Each check makes the tiny random checkpoints that `tiny_checkpoints.py` makes and holds quantkit
against llama.cpp (converter, llama-quantize) and transformers in float32. From the root of the
repository:

    pip install torch transformers==5.24.* gguf sentencepiece protobuf
    cargo build --release --bin quantkit --example logits
    python scripts/check_family.py gemma2 --llama-bin llama.cpp/build/bin --llama-source llama.cpp

A name stands for itself and for those that begin with it and a hyphen; no name means all. It prints
a line for every check, and exits with 1 if one fails. A line that begins with `----` says what could
not be checked, and why.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from families import check_convert, check_export, check_logits, check_quantize, checkpoints
from families.registry import choose
from families.tools import Report, Tools
from families.variant import FULL, Variant

PARTS = ("convert", "logits", "quantize", "export")


def check(variant: Variant, parts: list[str], work: Path, tools: Tools, report: Report):
    """All checks of one variant."""
    checkpoint = work / variant.name
    checkpoints.write(variant, checkpoint, FULL)
    if not check_convert.check(variant, checkpoint, work, tools, report):
        report.unchecked(f"{variant.name} logits, quantize, export", "there is no converted file")
        return
    if "logits" in parts:
        check_logits.check(variant, checkpoint, work / "ours.f32.gguf", work, tools, report)
    if "quantize" in parts:
        check_quantize.check(
            variant, work / "ours.f16.gguf", variant.vocabulary.size, work, tools, report
        )
    if "export" in parts:
        check_export.check(variant, checkpoint, work / "ours.f32.gguf", work, tools, report)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="families or variants [default: all]")
    parser.add_argument("--quantkit", type=Path, default=Path("target/release/quantkit"))
    parser.add_argument(
        "--llama-bin", type=Path, required=True, help="where llama.cpp's programs are"
    )
    parser.add_argument("--llama-source", type=Path, required=True, help="llama.cpp's source")
    parser.add_argument(
        "--only", choices=PARTS, nargs="+", default=PARTS, help="convert is always made"
    )
    parser.add_argument(
        "--directory", type=Path, help="where files are made [default: a temporary folder]"
    )
    arguments = parser.parse_args()
    tools = Tools(arguments.quantkit, arguments.llama_bin, arguments.llama_source)
    report = Report()
    for variant in choose(arguments.names):
        with tempfile.TemporaryDirectory(dir=arguments.directory) as work:
            check(variant, arguments.only, Path(work), tools, report)
    print(f"{report.checks} checks, {len(report.failed)} failed")
    for what in report.failed:
        print(f"  {what}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
