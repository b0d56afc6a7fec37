"""Running llama.cpp's converter on tiny checkpoints.

It runs in a fork of this process, which has the large libraries loaded already. Three things are
changed in it. Pre-tokenizers: it knows them by a hash of the tokens that they give, which no tiny
vocabulary gives, so it is told the name. Settings that it reads and that transformers 5 drops from
config.json are put back. And a model for the tests gets other keys in place of a vocabulary.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch

from .variant import Variant

KINDS = ("f32", "f16", "bf16")
torch.set_num_threads(1)  # a fork inherits no threads


def convert(
    variant: Variant,
    checkpoint: Path,
    outputs: dict[str, Path],
    source: Path,
    keys: dict[str, Any] | None = None,
) -> str:
    """Converts with llama.cpp into the file that `outputs` names for each type (f32, f16, bf16);
    returns why it failed, or nothing. `keys` go into the metadata in place of the vocabulary."""
    with tempfile.TemporaryFile("w+") as log:
        arguments = (variant, checkpoint, outputs, source.resolve(), keys, log)
        child = multiprocessing.get_context("fork").Process(target=_run, args=arguments)
        child.start()
        child.join()
        if child.exitcode == 0:
            return ""
        log.seek(0)
        last = [line for line in log.read().splitlines() if line.strip()][-1]
    for path in outputs.values():
        path.unlink(missing_ok=True)
    return last


def _run(
    variant: Variant,
    checkpoint: Path,
    outputs: dict[str, Path],
    source: Path,
    keys: dict | None,
    log,
):
    """In the fork: converts to every type, and says everything into `log`."""
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    try:
        _change_converter(variant, source, keys)
        program = str(source / "convert_hf_to_gguf.py")
        for kind, output in outputs.items():
            sys.argv = [program, str(checkpoint), "--outtype", kind, "--outfile", str(output)]
            runpy.run_path(program, run_name="__main__")
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _change_converter(variant: Variant, source: Path, keys: dict | None):
    for name in [name for name in sys.modules if name.partition(".")[0] == "gguf"]:
        del sys.modules[name]  # the converter has its own
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    import conversion
    from conversion.base import ModelBase, TextModel

    load_hparams, get_model_class = ModelBase.load_hparams, conversion.get_model_class

    def keys_for_vocabulary(model):
        writer = model.gguf_writer
        adders = {list: writer.add_array, int: writer.add_uint32, float: writer.add_float32}
        for key, value in keys.items():
            adders[type(value)](key, value)

    def class_without_vocabulary(*arguments, **options):
        model_class = get_model_class(*arguments, **options)
        inner = [value for value in vars(model_class).values() if isinstance(value, type)]
        for each in (model_class, *inner):  # Mistral 3's is a shell of others
            each.set_vocab = keys_for_vocabulary
        return model_class

    ModelBase.load_hparams = staticmethod(
        lambda *arguments, **options: (
            load_hparams(*arguments, **options) | variant.missing_for_llama_cpp
        )
    )
    TextModel.get_vocab_base_pre = lambda _model, _tokenizer: variant.vocabulary.pre
    if keys:
        conversion.get_model_class = class_without_vocabulary
