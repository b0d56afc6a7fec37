"""Running llama.cpp's converter and programs."""

import json
import subprocess
import sys
from pathlib import Path

from .variant import Variant

WRAPPER = Path(__file__).with_name("llama_cpp_converter.py")


def convert(variant: Variant, checkpoint: Path, output: Path, kind: str, source: Path, vocabulary: bool = True) -> str:
    """Converts with llama.cpp; returns why it failed, or nothing."""
    changes = {"pre": variant.vocabulary.pre, "settings": variant.missing_for_llama_cpp, "vocabulary": vocabulary}
    command = [sys.executable, str(WRAPPER), str(source), json.dumps(changes), str(checkpoint)]
    command += ["--outfile", str(output), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    output.unlink(missing_ok=True)
    return done.stderr.strip().splitlines()[-1]
