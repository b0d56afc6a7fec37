"""llama.cpp's convert_hf_to_gguf.py for tiny checkpoints: WRAPPER SOURCE CHANGES CHECKPOINT

CHANGES is JSON. Its `outputs` are the files to write, by type: one start of Python serves all. What
it changes in the converter:
`pre`, the pre-tokenizer's name: the converter knows pre-tokenizers by a hash of the tokens that they
give, which no tiny vocabulary gives; `settings`, that it reads and that transformers 5 drops from
config.json; `vocabulary` false: the file gets no tokenizer.
"""

import json
import runpy
import sys

source, changes = sys.argv[1], json.loads(sys.argv[2])
program, checkpoint = f"{source}/convert_hf_to_gguf.py", sys.argv[3]
sys.path[:0] = [source, f"{source}/gguf-py"]

from conversion.base import ModelBase, TextModel  # noqa: E402

load_hparams = ModelBase.load_hparams


def with_settings(*arguments, **options):
    return load_hparams(*arguments, **options) | changes["settings"]


TextModel.get_vocab_base_pre = lambda _self, _tokenizer: changes["pre"]
ModelBase.load_hparams = staticmethod(with_settings)
if not changes["vocabulary"]:
    from conversion import get_model_class

    def without_vocabulary(name, *arguments, **options):
        model = get_model_class(name, *arguments, **options)
        model.set_vocab = lambda self: self._set_vocab_none()
        return model

    import conversion

    conversion.get_model_class = without_vocabulary
for kind, output in changes["outputs"].items():
    sys.argv = [program, checkpoint, "--outtype", kind, "--outfile", output]
    runpy.run_path(program, run_name="__main__")
