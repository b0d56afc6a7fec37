"""Writes tests/data/tokenizers: small vocabularies, and the tokens that they give to awkward texts.

    pip install tokenizers transformers sentencepiece
    python scripts/tokenizer_reference.py

byte_level.json: one byte-level BPE vocabulary whose merges cross every border between words, so
that the tokens show where a rule cuts; then each rule as published tokenizer.json files spell it.
sentencepiece.json and *.model: SentencePiece's kinds, by sentencepiece itself and by tokenizers.
"""

import io
import itertools
import json
from pathlib import Path

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CohereTokenizer, GPT2Tokenizer, GPTNeoXTokenizer, Qwen2Tokenizer
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

DATA = Path(__file__).parent.parent / "tests" / "data" / "tokenizers"

TEXTS = [
    "Hello world, this is a plain sentence.",
    " leading and trailing ",
    "two  three   four    five     spaces",
    "tabs\tand\t\tmore\n\n\nnewlines\r\n\r\nand  \n  mixed \t\n",
    "    if (x == 42) {\n\t\treturn foo[i]->bar(\"baz\");  // 0x1F\n    }\n",
    "I'm sure they've said it's what we'd do; you'll see, don't you? 'Tis HE'LL, IT'S.",
    "1 12 123 1234 12345 123456 1234567 3.14159 1,234,567.89 2024-01-31",
    "x1y22z333 a1b2 v1.0.0-rc2 ½ ² ³x Ⅻ ٣٤٥ १२३ 12½34",
    "CamelCaseWords HTMLParser iPhone XMLHttpRequest snake_case_name ALLCAPS",
    "naïve café Ångström façade ò м ü ñ Ÿ",
    # The same letters, decomposed.
    "nai\u0308ve cafe\u0301 A\u030angstro\u0308m n\u0303",
    "Ну что, привет! Това е на Български.",
    "你好，世界！我想在apple工作1314151天～ 日本語のテキスト、カタカナ。",
    "한국어 텍스트입니다. ไทย កាន់តែពិសេសអាច नमस्ते दुनिया বাংলা",
    "مرحبا بالعالم، كيف حالك؟ שלום עולם",
    "🚀 (normal) 😶\u200d🌫️ (several) ✅ 👩🏽\u200d💻 🇩🇪 e\u20e3",
    "...!!!??? ---=== ''''\"\"\"``` ~/path/to/file.txt a/b//c $5+3=8 <tag> ^_^ |x| #1 @me &c",
    "https://example.com/a?b=c&d=%20#frag user@example.org",
    "e.g. 3..3 3...3 (a) [b] {c} «d» “e” ‘f’ – — …",
    "\u00a0nbsp\u2003em\u3000wide\u200bzero\ufeffbom \x0b\x0c end",
    "ﬁ ﬂ ① Ａ１ ㌔ ℌ",
    "a" * 30 + " " * 20 + "b" + "\n" * 12,
    "Straße İstanbul ǅ ʰ ªº ﷽ ໂ ʻOkina",
    "\\d+(?=x) r'\\n' %s {{ }} <|im_start|> </s>",
]


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": use_regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"?[^\s\p{L}\p{N}]", r"?[^\s\p{L}\p{M}\p{N}]")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = CASED % ("", "") + r"|\p{N}" + REST
GPT4O = CASED % (SUFFIX, SUFFIX) + r"|\p{N}{1,3}" + REST
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"

NFC = {"type": "NFC"}

# The name in GGUF, the architecture that has it, normalizer, pre-tokenizer, ignore_merges.
RULES = [
    ("gpt-2", "gpt2", None, byte_level(True), False),
    ("mpt", "gptneox", NFC, byte_level(True), False),
    ("exaone4", "exaone4", None, byte_level(True), False),
    ("smollm", "llama", None, sequence(digits(True), byte_level(True)), False),
    ("starcoder", "starcoder2", None, sequence(digits(True), byte_level(True)), False),
    ("refact", "granite", None, sequence(digits(True), byte_level(True)), False),
    ("command-r", "cohere2", NFC, sequence(digits(True), byte_level(True)), False),
    ("tiny_aya", "cohere2", None,
     sequence(split(r"\d{1,3}(?=(?:\d{3})*\b)"), split(GPT4O), byte_level(False)), False),
    ("llama-bpe", "llama", None, sequence(split(LLAMA3), byte_level(False)), True),
    ("dbrx", "olmo2", None, sequence(split(LLAMA3, "Removed", True), byte_level(False)), False),
    ("qwen2", "qwen2", NFC, sequence(split(QWEN2), byte_level(False)), False),
    ("stablelm2", "stablelm", NFC, sequence(split(QWEN2), byte_level(False)), False),
    ("grok-2", "llama", None, sequence(split(QWEN2), byte_level(False)), False),
    ("qwen35", "qwen35", NFC, sequence(split(QWEN35), byte_level(False)), False),
    ("tekken", "llama", None, sequence(split(TEKKEN), byte_level(False)), True),
    ("gpt-4o", "phi3", None, sequence(split(GPT4O, "Removed", True), byte_level(False)), False),
    ("bloom", "bloom", None, sequence(split(BLOOM), byte_level(False)), False),
    ("falcon", "falcon", None,
     sequence({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(True), digits(False),
              split("[0-9][0-9][0-9]")), False),
]

# Rules that transformers writes down in code.
CLASSES = {
    "gpt-2": GPT2Tokenizer,
    "mpt": GPTNeoXTokenizer,
    "command-r": CohereTokenizer,
    "qwen2": Qwen2Tokenizer,
    "qwen35": Qwen3_5Tokenizer,
}


def train_byte_level():
    """A vocabulary whose merges ignore all borders between words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        # Long texts would merge as a whole; pieces of seven overlap every border somewhere.
        pre_tokenizers.Split(Regex(r"[\s\S]{1,7}"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        max_token_length=6,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    shifted = [text[start:] for text in TEXTS for start in range(7)]
    tokenizer.train_from_iterator(shifted, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    # Words that no merge makes: only ignore_merges finds them.
    for word in ["Ġsentence", "Ġspaces", "12"]:
        model["vocab"].setdefault(word, len(model["vocab"]))
    return model["vocab"], model["merges"]


def write_byte_level():
    vocab, merges = train_byte_level()
    rules = []
    for name, architecture, normalizer, pre_tokenizer, ignore_merges in RULES:
        described = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None,
            "decoder": None,
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges,
                      "vocab": vocab, "merges": merges},
        }
        tokenizer = Tokenizer.from_str(json.dumps(described))
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        if name in CLASSES:
            built = CLASSES[name](vocab=vocab, merges=[tuple(merge) for merge in merges])
            backend = built.backend_tokenizer
            # Their own special tokens are in one of the texts.
            for text, expected in zip(TEXTS[:-1], ids):
                found = backend.encode(text, add_special_tokens=False).ids
                assert found == expected, (name, text)
        rules.append({"pre": name, "architecture": architecture, "normalizer": normalizer,
                      "pre_tokenizer": pre_tokenizer, "ignore_merges": ignore_merges, "ids": ids})
    kinds = {json.dumps([rule["normalizer"], rule["pre_tokenizer"], rule["ignore_merges"]]): rule
             for rule in rules}
    alike = [(a["pre"], b["pre"]) for a, b in itertools.combinations(kinds.values(), 2)
             if a["ids"] == b["ids"]]
    assert not alike, f"the texts do not tell rules apart: {alike}"
    content = {"texts": TEXTS, "vocab": vocab, "merges": [" ".join(m) for m in merges],
               "rules": rules}
    write("byte_level.json", content)


def train_sentencepiece(kind, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([line for text in TEXTS[:14] for line in text.split("\n")] * 3),
        model_writer=model, model_type=kind, character_coverage=0.98, byte_fallback=True,
        normalization_rule_name="identity", allow_whitespace_only_pieces=True, split_digits=True,
        minloglevel=2, **options)
    return model.getvalue()


def merges_by_score(pieces):
    """Every pair of pieces that spells a third, the highest score first."""
    ids = {text: (score, id) for id, (text, score, kind) in enumerate(pieces) if kind == 1}
    merges = []
    for text, (score, id) in ids.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                merges.append((-score, -len(left), id, left, right))
    return [[left, right] for *_, left, right in sorted(merges)]


def sentencepiece_json(pieces, normalizer, pre_tokenizer, added):
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>",
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False,
                  "vocab": {text: id for id, (text, *_) in enumerate(pieces)},
                  "merges": merges_by_score(pieces)},
    }


def added(id, content, special, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special} | flags


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Prepend", "prepend": "▁"}
ONLY_REPLACE_SPLIT = {"type": "Split", "pattern": {"String": " "},
                      "behavior": "MergedWithPrevious", "invert": False}


def write_sentencepiece():
    cases = []

    def pieces_of(processor):
        def kind(id):
            return (2 if processor.IsUnknown(id) else 3 if processor.IsControl(id)
                    else 5 if processor.IsUnused(id) else 6 if processor.IsByte(id) else 1)
        return [(processor.IdToPiece(id), processor.GetScore(id), kind(id))
                for id in range(processor.GetPieceSize())]

    processors = {}
    for name, options in {
        "prefix": dict(remove_extra_whitespaces=False),
        "no_prefix": dict(remove_extra_whitespaces=False, add_dummy_prefix=False),
        "user_defined": dict(remove_extra_whitespaces=False, add_dummy_prefix=False,
                             user_defined_symbols=["\n\n", "▁▁▁▁", "</b>", "said it's"]),
    }.items():
        model = train_sentencepiece("bpe", vocab_size=520, **options)
        (DATA / f"{name}.model").write_bytes(model)
        processors[name] = processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        ids = [processor.EncodeAsIds(text) for text in TEXTS]
        cases.append({"name": name, "architecture": "gemma" if name == "no_prefix" else "llama",
                      "model": f"{name}.model", "vocab_size": processor.GetPieceSize(),
                      "ids": ids})

    pieces = pieces_of(processors["prefix"])
    special = [added(0, "<unk>", True), added(1, "<s>", True), added(2, "</s>", True)]
    both = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}
    for name, architecture, normalizer, pre_tokenizer in [
        ("json_prefix", "llama", both, None),
        ("json_no_prefix", "llama", REPLACE, None),
        ("json_gemma3", "gemma3", REPLACE, ONLY_REPLACE_SPLIT),
        ("json_gemma4", "gemma4", REPLACE, ONLY_REPLACE_SPLIT),
    ]:
        described = sentencepiece_json(pieces, normalizer, pre_tokenizer, special)
        tokenizer = Tokenizer.from_str(json.dumps(described))
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        cases.append({"name": name, "architecture": architecture, "json": described,
                      "vocab_size": len(pieces), "ids": ids})

    for name, options in {
        "unigram": dict(remove_extra_whitespaces=False),
        "unigram_spaces": dict(remove_extra_whitespaces=True),
    }.items():
        model = train_sentencepiece("unigram", vocab_size=460, **options)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        ids = [processor.EncodeAsIds(text) for text in TEXTS]
        cases.append({"name": name, "unigram": pieces_of(processor),
                      "remove_extra_whitespaces": options["remove_extra_whitespaces"], "ids": ids})
    write("sentencepiece.json", {"texts": TEXTS, "cases": cases})


def write(name, content):
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (DATA / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    write_byte_level()
    write_sentencepiece()
