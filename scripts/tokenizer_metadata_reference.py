"""Writes tests/data/tokenizers/metadata.json: tokenizer files of every family's kind, and the
metadata that llama.cpp's converter makes of them.

    pip install transformers sentencepiece gguf torch
    python scripts/tokenizer_metadata_reference.py PATH/TO/llama.cpp

The rules are those of scripts/tokenizer_reference.py, which goes first; the vocabularies are a few
tokens. The converter knows a pre-tokenizer by the hash of its tokens; for these it is told the name.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]) / "gguf-py")]

import gguf  # noqa: E402
import sentencepiece  # noqa: E402
from conversion import (  # noqa: E402
    bloom, command_r, exaone, falcon, gemma, gpt2, gptneox, granite, llama, olmo, phi, qwen,
    stablelm, starcoder,
)

DATA = Path(__file__).parent.parent / "tests" / "data" / "tokenizers"
BYTE_LEVEL = json.loads((DATA / "byte_level.json").read_text(encoding="utf-8"))

VOCAB = {text: id for id, text in enumerate(["<s>", "</s>", "a", "b", "Ġ", "1", "ab", "Ġa"])}
MERGES = [["a", "b"], ["Ġ", "a"]]
SIZE = len(VOCAB)
PIECES = {text: id for id, text in enumerate(
    ["<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "▁", "a", "b", "ab", "▁a"])}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Prepend", "prepend": "▁"}
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"


def token(id, content, special=True, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special} | flags


def template(first=None, last=None, pair=None):
    def special(text):
        return {"SpecialToken": {"id": text, "type_id": 0}}

    def around(name):
        return ([special(first)] if first else []) + [{"Sequence": {"id": name, "type_id": 0}}] + (
            [special(last)] if last else [])

    return {"type": "TemplateProcessing", "single": around("A"),
            "pair": pair or around("A") + around("B"),
            "special_tokens": {text: {"id": text, "ids": [0], "tokens": [text]}
                               for text in (first, last) if text}}


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


def byte_level(pre, added=(), post_processor=None):
    rule = next(rule for rule in BYTE_LEVEL["rules"] if rule["pre"] == pre)
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [token(0, "<s>"), token(1, "</s>"), *added],
        "normalizer": rule["normalizer"], "pre_tokenizer": rule["pre_tokenizer"],
        "post_processor": post_processor, "decoder": BYTES,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": rule["ignore_merges"], "vocab": VOCAB, "merges": MERGES},
    }


def sentencepiece_json(normalizer, added=()):
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [token(0, "<unk>"), token(1, "<s>"), token(2, "</s>"), *added],
        "normalizer": normalizer, "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>",
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": PIECES,
                  "merges": [["a", "b"], ["▁", "a"]]},
    }


def train_model():
    """A tokenizer.model of 40 pieces."""
    with (DATA / MODEL).open("wb") as writer:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(["a small model of a few small letters"] * 5),
            model_writer=writer, model_type="bpe", vocab_size=40, minloglevel=2,
            normalization_rule_name="identity", remove_extra_whitespaces=False)


MODEL = "tiny.model"


def config(**fields):
    return {"tokenizer_class": "PreTrainedTokenizerFast"} | fields


ENDS = dict(bos_token="<s>", eos_token="</s>")
WITH_UNK = dict(ENDS, unk_token="<unk>")
CHAT = [token(SIZE, "<|im_start|>"), token(SIZE + 1, "<|im_end|>", False),
        token(SIZE + 2, "<tool>", False)]


def decoder(*tokens):
    return {"added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"}
                                     for t in tokens}}


# Name, the converter's class, tokenizer.ggml.pre, vocab_size, config.json, files, model.
CASES = [
    ("llama_model", llama.LlamaModel, None, 46, {"bos_token_id": 1, "eos_token_id": 2}, {
        "tokenizer_config.json": config(
            **WITH_UNK, add_bos_token=True, add_eos_token=False, add_prefix_space=True,
            chat_template=TEMPLATE,
            **decoder(token(0, "<unk>"), token(1, "<s>"), token(2, "</s>"),
                      token(40, "<|im_start|>", False), token(41, "▁▁tool", False),
                      token(42, "<pad>", False))),
        "added_tokens.json": {"<extra>": 43},
    }, MODEL),
    ("llama_bytes", llama.LlamaModel, "llama-bpe", SIZE + 4,
     {"bos_token_id": 0, "eos_token_id": [1, SIZE + 1], "pad_token_id": 1}, {
        "tokenizer.json": byte_level("llama-bpe", CHAT, {
            "type": "Sequence", "processors": [BYTES, template("<s>")]}),
        "tokenizer_config.json": config(**ENDS, chat_template=[
            {"name": "default", "template": TEMPLATE},
            {"name": "tool use", "template": "tools"}]),
    }, None),
    ("llama_no_config", llama.LlamaModel, "smollm", SIZE, {"bos_token_id": 0}, {
        "tokenizer.json": byte_level("smollm", (), template("<s>", "</s>")),
    }, None),
    ("granite", granite.GraniteModel, "refact", SIZE, {}, {
        "tokenizer.json": byte_level("refact"),
        "tokenizer_config.json": config(**ENDS, add_bos_token=False, add_prefix_space=False,
                                        pad_token="</s>", unk_token="</s>"),
    }, None),
    ("mistral_tekken", llama.LlamaModel, "tekken", SIZE, {}, {
        "tokenizer.json": byte_level("tekken", (), template("<s>")),
        "tokenizer_config.json": config(**ENDS, add_prefix_space=False),
    }, None),
    ("qwen2", qwen.Qwen2Model, "qwen2", SIZE + 3, {"eos_token_id": 1}, {
        "tokenizer.json": byte_level("qwen2", CHAT, BYTES),
        "tokenizer_config.json": config(
            bos_token=None, eos_token="<|im_end|>", pad_token="</s>", add_bos_token=False,
            add_prefix_space=False, chat_template=TEMPLATE),
    }, None),
    ("gemma", gemma.GemmaModel, None, 110, {"pad_token_id": 0}, {
        "tokenizer_config.json": config(
            **WITH_UNK, add_bos_token=True, add_eos_token=False, chat_template=TEMPLATE,
            **decoder(token(39, "▁▁", False), token(38, "<unused0>", False))),
    }, MODEL),
    ("gemma2", gemma.Gemma2Model, None, 110, {}, {
        "tokenizer_config.json": config(**WITH_UNK, add_bos_token=True)}, MODEL),
    ("gemma3", gemma.Gemma3Model, None, 110, {}, {
        "tokenizer_config.json": config(**WITH_UNK, add_bos_token=True)}, MODEL),
    ("gemma4", gemma.Gemma4Model, None, 14, {}, {
        "tokenizer.json": sentencepiece_json(REPLACE, [
            token(10, "<|channel>"), token(11, "<|turn>"), token(12, "<turn|>"),
            token(13, "<image>", False)]),
        "tokenizer_config.json": config(
            **WITH_UNK, add_bos_token=True, chat_template=TEMPLATE,
            extra_special_tokens=["<|channel>", "<|turn>", "<turn|>"]),
    }, None),
    ("phi3_model", phi.Phi3MiniModel, None, 44, {}, {
        "tokenizer_config.json": config(
            **WITH_UNK, tokenizer_class="LlamaTokenizer", add_bos_token=False,
            **decoder(token(40, "<|end|>", True, rstrip=True), token(41, "<|x|>", False))),
        "tokenizer.json": sentencepiece_json({"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, [
            token(40, "<|end|>", True, rstrip=True), token(42, "<|user|>", False)]),
    }, MODEL),
    ("phi4", phi.Phi3MiniModel, "dbrx", SIZE + 3, {}, {
        "tokenizer.json": byte_level("dbrx", CHAT),
        "tokenizer_config.json": config(
            **ENDS, unk_token="</s>", tokenizer_class="GPT2Tokenizer"),
    }, None),
    ("gpt2", gpt2.GPT2Model, "gpt-2", SIZE, {"bos_token_id": 1, "eos_token_id": 1}, {
        "tokenizer.json": byte_level("gpt-2", (), BYTES),
        "tokenizer_config.json": config(bos_token="</s>", eos_token="</s>", unk_token="</s>"),
    }, None),
    ("bloom", bloom.BloomModel, "bloom", SIZE, {"pad_token_id": 0}, {
        "tokenizer.json": byte_level("bloom", (), BYTES),
        "tokenizer_config.json": config(**ENDS, pad_token="<s>"),
    }, None),
    ("gptneox", gptneox.GPTNeoXModel, "mpt", SIZE + 3, {}, {
        "tokenizer.json": byte_level("mpt", [token(SIZE, "  ", False, normalized=True)], BYTES),
        "tokenizer_config.json": config(**ENDS),
    }, None),
    ("starcoder2", starcoder.StarCoder2Model, "starcoder", SIZE, {}, {
        "tokenizer.json": byte_level("starcoder"), "tokenizer_config.json": config(**ENDS)}, None),
    ("falcon", falcon.FalconModel, "falcon", SIZE, {}, {
        "tokenizer.json": byte_level("falcon"),
        "tokenizer_config.json": config(eos_token="</s>")}, None),
    ("olmo2", olmo.Olmo2Model, "dbrx", SIZE, {}, {
        "tokenizer.json": byte_level("dbrx"), "tokenizer_config.json": config(**ENDS)}, None),
    ("cohere2", command_r.Cohere2Model, "command-r", SIZE, {}, {
        "tokenizer.json": byte_level("command-r", (), {
            "type": "Sequence", "processors": [BYTES, template("<s>")]}),
        "tokenizer_config.json": config(**ENDS, add_bos_token=True)}, None),
    ("exaone4", exaone.Exaone4Model, "exaone4", SIZE + 3, {}, {
        "tokenizer.json": byte_level("exaone4", CHAT, BYTES),
        "tokenizer_config.json": config(**ENDS)}, None),
    ("stablelm", stablelm.StableLMModel, "stablelm2", SIZE, {}, {
        "tokenizer.json": byte_level("stablelm2"), "tokenizer_config.json": config(**ENDS)}, None),
    # cls and sep in place of bos and eos, and a pair with a separator.
    ("cls_and_sep", gpt2.GPT2Model, "gpt-2", SIZE, {}, {
        "tokenizer.json": byte_level("gpt-2", (), template("<s>", "</s>")),
        "tokenizer_config.json": config(cls_token="<s>", sep_token="</s>")}, None),
    # Texts end with another token than eos.
    ("other_end", gpt2.GPT2Model, "gpt-2", SIZE + 3, {}, {
        "tokenizer.json": byte_level("gpt-2", CHAT, template(None, "<|im_end|>")),
        "tokenizer_config.json": config(**ENDS)}, None),
]


def plain(value):
    """A metadata value as JSON."""
    content = value.value
    if isinstance(content, list) and isinstance(content[0], bytes):
        content = [text.decode() for text in content]
    return {"type": value.type.name, "value": content}


def metadata_of(model_class, pre, directory, hparams):
    model = model_class.__new__(model_class)
    model.dir_model = directory
    model.hparams = hparams
    model.gguf_writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[model.model_arch])
    model.is_mistral_format = False
    model.origin_hf_arch = ""
    model.get_vocab_base_pre = lambda tokenizer: pre
    model.set_vocab()
    values = dict(model.gguf_writer.kv_data[0])
    architecture = values.pop("general.architecture").value
    return architecture, {key: plain(value) for key, value in values.items()}


def main():
    train_model()
    cases = []
    for name, model_class, pre, vocab_size, hparams, files, spm in CASES:
        hparams = hparams | {"vocab_size": vocab_size}
        with tempfile.TemporaryDirectory() as directory:
            directory = Path(directory)
            files = files | {"config.json": hparams}
            for file, content in files.items():
                (directory / file).write_text(json.dumps(content), encoding="utf-8")
            if spm:
                shutil.copy(DATA / spm, directory / "tokenizer.model")
            architecture, metadata = metadata_of(model_class, pre, directory, hparams)
        cases.append({"name": name, "architecture": architecture, "vocab_size": vocab_size,
                      "files": files, "model": spm, "metadata": metadata})
    text = json.dumps(cases, ensure_ascii=False, separators=(",", ":"))
    (DATA / "metadata.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
