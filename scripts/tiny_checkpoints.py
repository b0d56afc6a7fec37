"""Writes tiny random checkpoints of model families, with every special feature switched on.

    pip install torch transformers==5.24.* sentencepiece protobuf
    python scripts/tiny_checkpoints.py --output tiny              # all
    python scripts/tiny_checkpoints.py gemma2 llama --output tiny # these, and their variants

Each is a Hugging Face directory of a few megabytes. With `--llama-source DIR`, llama.cpp's converter
writes f32, f16 and bf16 files beside it, and INDEX.md lists what there is and what was refused.
"""

import argparse
import sys
from pathlib import Path

from families import checkpoints, llama_cpp
from families.registry import choose
from families.variant import CONVERSION, FULL, SMALL

ABOUT = """\
Each NAME/ is a Hugging Face directory that scripts/tiny_checkpoints.py wrote, with random weights that
bf16 holds exactly; NAME.llamacpp.{f32,f16,bf16}.gguf is what llama.cpp's converter makes of it. It was
told the pre-tokenizer's name, which it would know by a hash of a full vocabulary's tokens, and, for
gpt_neox, `rotary_pct`, which transformers 5 drops. "Multimodal" checkpoints have a vision part, which
is left out.
"""
SHAPES = {"full": FULL, "small": SMALL, "conversion": CONVERSION}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="families or variants [default: all]")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dtype", choices=checkpoints.DTYPES, default="bf16")
    parser.add_argument("--shape", choices=SHAPES, default="full")
    parser.add_argument("--llama-source", type=Path, help="llama.cpp's source, for its converter")
    arguments = parser.parse_args()
    lines = []
    for variant in choose(arguments.names):
        directory = arguments.output / variant.name
        checkpoints.write(variant, directory, SHAPES[arguments.shape], arguments.dtype)
        refusal = ""
        if arguments.llama_source:
            names = {kind: f"{variant.name}.llamacpp.{kind}.gguf" for kind in llama_cpp.KINDS}
            outputs = {kind: directory.with_name(name) for kind, name in names.items()}
            refusal = llama_cpp.convert(variant, directory, outputs, arguments.llama_source)
        odd = [variant.unlike_llama_cpp and f"llama.cpp: {variant.unlike_llama_cpp}"]
        odd += [refusal and f"its converter: {refusal:.120}"]
        line = f"| {variant.name} | {variant.features} | {'; '.join(filter(None, odd))} |"
        print(line, flush=True)
        lines.append(line)
    if not arguments.names:
        head = [
            "# Tiny random checkpoints of model families",
            "",
            ABOUT,
            "| checkpoint | features | odd |",
            "|---|---|---|",
        ]
        (arguments.output / "INDEX.md").write_text("\n".join(head + lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
