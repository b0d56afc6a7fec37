"""Writes what the tests know of model families: tests/data/families/NAME.gguf and NAME.zip.

    pip install torch transformers==5.24.* gguf sentencepiece protobuf
    python scripts/tiny_reference_models.py --llama-source llama.cpp            # all
    python scripts/tiny_reference_models.py gemma2 --llama-source llama.cpp     # these, and their variants

NAME.gguf is a random model of a few dozen KiB that llama.cpp's converter wrote, in F16 and without a
vocabulary. There is none where llama.cpp's converter refuses it, or another variant has the same model.
What llama.cpp's converter would not say is added (see `keys` in families/variant.py). The metadata
has tokens and the logits that transformers gives for them in float32 (reference.tokens,
reference.logits: tokens × vocabulary), so that one file is one test.

NAME.zip is a checkpoint in bf16 with its tokenizer, and conversion.json: what llama.cpp's converter
makes of it.

    {"refused": null, or what the converter says,
     "metadata": {"llama.block_count": {"type": "UINT32", "value": 4}, …},
     "tensors": {"f16": {"blk.0.attn_q.weight": {"type": "F16", "shape": [16, 16], "sha256": "…"}, …}, …}}

The metadata is that of the F16 file, in its order, without names that come from the directory's;
an array's type is "ARRAY.STRING" and the like. A shape is in GGUF's order. For f32 and bf16,
general.file_type differs.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import gguf

from families import checkpoints, gguf_compare, llama_cpp, reference
from families.registry import choose
from families.variant import CONVERSION, SMALL, Variant

DATA = Path(__file__).parent.parent / "tests" / "data" / "families"
VOCABULARY = 48
TOKENS = 80


def write_model(variant: Variant, work: Path, source: Path) -> str:
    """Writes NAME.gguf; returns why llama.cpp's converter refused, or nothing."""
    checkpoint = work / "model"
    checkpoints.write(variant, checkpoint, SMALL, "f16", VOCABULARY)
    model, _ = reference.load(checkpoint, variant.model)
    tokens = reference.tokens(VOCABULARY, TOKENS)
    logits = reference.logits(model, tokens).flatten().tolist()
    keys = {"reference.tokens": tokens, "reference.logits": logits} | variant.keys(SMALL)
    return llama_cpp.convert(
        variant, checkpoint, {"f16": DATA / f"{variant.name}.gguf"}, source, keys
    )


def write_conversion(variant: Variant, work: Path, source: Path):
    """Writes NAME.zip."""
    checkpoint = work / "conversion"
    checkpoints.write(variant, checkpoint, CONVERSION)
    outputs = {kind: work / f"{kind}.gguf" for kind in llama_cpp.KINDS}
    refused = llama_cpp.convert(variant, checkpoint, outputs, source)
    expected = {"refused": refused or None}
    if not refused:
        readers = {kind: gguf.GGUFReader(path) for kind, path in outputs.items()}
        expected["metadata"] = described_metadata(readers["f16"])
        expected["tensors"] = {kind: described_tensors(reader) for kind, reader in readers.items()}
    (checkpoint / "conversion.json").write_text(json.dumps(expected, ensure_ascii=False))
    with zipfile.ZipFile(
        DATA / f"{variant.name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9
    ) as archive:
        for file in sorted(checkpoint.iterdir()):
            archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def described_metadata(reader: gguf.GGUFReader) -> dict:
    return {
        key: {"type": ".".join(kind.name for kind in types), "value": value}
        for key, (types, value) in gguf_compare.metadata(reader).items()
    }


def described_tensors(reader: gguf.GGUFReader) -> dict:
    return {
        tensor.name: {
            "type": tensor.tensor_type.name,
            "shape": [int(size) for size in tensor.shape],
            "sha256": hashlib.sha256(tensor.data.tobytes()).hexdigest(),
        }
        for tensor in reader.tensors
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="families or variants [default: all]")
    parser.add_argument("--llama-source", type=Path, required=True, help="llama.cpp's source")
    arguments = parser.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    for variant in choose(arguments.names):
        with tempfile.TemporaryDirectory() as name:
            refused = ""
            if not variant.model_of:
                refused = write_model(variant, Path(name), arguments.llama_source)
            write_conversion(variant, Path(name), arguments.llama_source)
        sizes = [path.stat().st_size for path in sorted(DATA.glob(f"{variant.name}.*"))]
        print(f"{variant.name}: {sizes} bytes {refused:.120}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
