"""Compares quantkit's logits with those of transformers in float32.

    pip install torch transformers
    cargo build --release --example logits
    python scripts/check_logits.py CHECKPOINT MODEL.gguf TEXT.txt [--tokens 512] [--device cuda]

CHECKPOINT is the Hugging Face directory that MODEL.gguf was converted from (or exported to).
Fails if a logit differs by 2e-2 or more, or the most likely token differs anywhere.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("checkpoint")
parser.add_argument("model")
parser.add_argument("text")
parser.add_argument("--tokens", type=int, default=512)
parser.add_argument("--device", default="cpu", help="where quantkit runs: cpu or cuda")
parser.add_argument("--tolerance", type=float, default=2e-2)
arguments = parser.parse_args()

root = Path(__file__).parent.parent
tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
text = Path(arguments.text).read_text()[: 16 * arguments.tokens]
tokens = tokenizer(text, add_special_tokens=False)["input_ids"][: arguments.tokens]
with tempfile.TemporaryDirectory() as directory:
    given, result = Path(directory, "tokens.u32"), Path(directory, "logits.f32")
    np.array(tokens, dtype="<u4").tofile(given)
    program = root / "target" / "release" / "examples" / "logits"
    subprocess.run([program, arguments.model, given, result, arguments.device], check=True)
    ours = torch.from_numpy(np.fromfile(result, dtype="<f4").reshape(len(tokens), -1))

model = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32).eval()
with torch.no_grad():
    theirs = model(torch.tensor([tokens])).logits[0]

difference = (ours - theirs).abs()
same = (ours.argmax(-1) == theirs.argmax(-1)).sum().item()
print(f"tokens: {len(tokens)}, vocabulary: {theirs.shape[1]}")
print(f"largest difference: {difference.max():.3e}, mean: {difference.mean():.3e}")
print(f"same most likely token: {same} of {len(tokens)} positions")
sys.exit(0 if difference.max() < arguments.tolerance and same == len(tokens) else 1)
