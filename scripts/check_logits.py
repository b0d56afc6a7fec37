"""Compares quantkit's logits with those of transformers in float32.

It needs a checkpoint in a Hugging Face directory, the GGUF file of the same weights, and any English
text of a few kilobytes. From the root of the repository, for a checkpoint in checkpoint/:

    pip install numpy torch transformers
    cargo build --release --bin quantkit --example logits
    target/release/quantkit convert checkpoint --output model.gguf
    python scripts/check_logits.py checkpoint model.gguf docs/throughput.md

`quantkit fetch` gets a checkpoint. For a GGUF file that has none, `quantkit export model.gguf
--output checkpoint --dtype f32` writes one. `--tokens N` looks at N tokens of the text instead of
512; `--device cuda` runs quantkit's side on a GPU, in a build with `--features cuda`.

It prints the largest and the mean difference and how often the most likely token is the same, and
exits with 1 if a logit differs by 2e-2 (`--tolerance`) or more or a most likely token differs.
A quantized model.gguf agrees only with the checkpoint that was exported from it.
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
