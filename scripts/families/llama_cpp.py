"""Running llama.cpp's converter and programs."""

import json
import subprocess
import sys
from pathlib import Path

from .variant import Variant

WRAPPER = Path(__file__).with_name("llama_cpp_converter.py")


KINDS = ("f32", "f16", "bf16")


def convert(
    variant: Variant, checkpoint: Path, outputs: dict[str, Path], source: Path, vocabulary: bool = True
) -> str:
    """Converts with llama.cpp into the file that `outputs` names for each type (f32, f16, bf16);
    returns why it failed, or nothing."""
    changes = {
        "pre": variant.vocabulary.pre,
        "settings": variant.missing_for_llama_cpp,
        "vocabulary": vocabulary,
        "outputs": {kind: str(path) for kind, path in outputs.items()},
    }
    command = [sys.executable, str(WRAPPER), str(source), json.dumps(changes), str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    for path in outputs.values():
        path.unlink(missing_ok=True)
    return done.stderr.strip().splitlines()[-1]
