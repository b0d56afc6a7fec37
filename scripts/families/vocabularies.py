"""Tiny tokenizers, each built as the real family's is: the same kind, the same pre-tokenizer, the
same special tokens, a few hundred tokens trained on `texts.TRAINING`."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers import processors, trainers

from .texts import TRAINING

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
SLASH_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The pre-tokenizers of the families' tokenizer.json files: a pattern splits the text first.
PATTERNS = {
    "llama-bpe": rf"{CONTRACTIONS}|{LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{REST}",
    "qwen2": rf"{CONTRACTIONS}|{LEAD}\p{{L}}+|\p{{N}}|{REST}",
    "tekken": rf"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*|\p{{N}}|{SLASH_REST}",
    "gpt-4o": rf"{LEAD}{UPPER}*{LOWER}+{CONTRACTIONS}?|{LEAD}{UPPER}+{LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{SLASH_REST}",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
}
PATTERNS["dbrx"] = PATTERNS["llama-bpe"]
PATTERNS["stablelm2"] = PATTERNS["qwen2"]
COMPOSED = {"qwen2", "stablelm2", "command-r", "olmo"}  # those that compose characters first (NFC)
WHOLE_WORDS = {"llama-bpe", "tekken"}  # those that take a word that is a token without merging
DIGITS = {"smollm", "starcoder", "refact", "command-r"}  # those that split every digit off


def byte_level(name: str):
    """The pre-tokenizer that GGUF calls `name`."""
    plain = pre.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in PATTERNS:
        split = pre.Split(Regex(PATTERNS[name]), "isolated")
        return pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    if name in DIGITS:
        return pre.Sequence([pre.Digits(individual_digits=True), plain])
    if name == "falcon":
        three = pre.Split(Regex("[0-9][0-9][0-9]"), "isolated")
        return pre.Sequence([pre.Punctuation("contiguous"), plain, pre.Digits(), three])
    if name in ("gpt-2", "olmo", "exaone4"):
        return plain
    raise ValueError(f"no pre-tokenizer {name}")


@dataclass
class Vocabulary:
    """How a family's tokenizer is made. `kind` is bpe, sentencepiece or fallback (byte-pair
    encoding of characters with bytes for the unknown, as Gemma 4 has it)."""

    kind: str
    pre: str = "default"
    size: int = 400
    special: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)  # special tokens behind SentencePiece's own
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None
    add_bos: bool = False
    tokenizer_class: str = "PreTrainedTokenizerFast"
    dummy_prefix: bool = True
    template_file: bool = False

    def token_ids(self, directory: Path) -> dict[str, int]:
        """What config.json calls the special tokens that this vocabulary has."""
        tokens = json.loads((directory / "tokenizer.json").read_text())
        known = tokens["model"]["vocab"] | {a["content"]: a["id"] for a in tokens["added_tokens"]}
        names = {"bos_token_id": self.bos, "eos_token_id": self.eos, "pad_token_id": self.pad}
        return {key: known[token] if token else None for key, token in names.items()}

    def write(self, directory: Path) -> int:
        """Writes the tokenizer's files and returns how many tokens it has."""
        makers = {
            "bpe": self._bpe,
            "sentencepiece": self._sentencepiece,
            "fallback": self._fallback,
        }
        tokenizer = makers[self.kind](directory)
        self._prepend_bos(tokenizer)
        tokenizer.save(str(directory / "tokenizer.json"))
        self._write_config(directory)
        return tokenizer.get_vocab_size()

    def _special_tokens(self) -> list[AddedToken]:
        return [AddedToken(token, special=True, normalized=False) for token in self.special]

    def _bpe(self, _directory: Path) -> Tokenizer:
        tokenizer = Tokenizer(models.BPE(ignore_merges=self.pre in WHOLE_WORDS))
        if self.pre in COMPOSED:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = byte_level(self.pre)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.size,
            show_progress=False,
            special_tokens=self._special_tokens(),
            initial_alphabet=sorted(pre.ByteLevel.alphabet()),
        )
        tokenizer.train_from_iterator(TRAINING, trainer)
        return tokenizer

    def _fallback(self, _directory: Path) -> Tokenizer:
        tokenizer = Tokenizer(models.BPE(unk_token=self.unk, fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre.Split(" ", "merged_with_previous")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        bytes_ = [AddedToken(f"<0x{byte:02X}>", special=True) for byte in range(256)]
        special = self._special_tokens() + bytes_
        trainer = trainers.BpeTrainer(
            vocab_size=self.size, show_progress=False, special_tokens=special
        )
        latin = [line for line in TRAINING if max(line) < "\u0100"]  # the alphabet must fit
        tokenizer.train_from_iterator(latin, trainer)
        description = json.loads(
            tokenizer.to_str()
        )  # bytes are tokens of the model, not added ones
        special = set(self.special)
        description["added_tokens"] = [
            a for a in description["added_tokens"] if a["content"] in special
        ]
        return Tokenizer.from_str(json.dumps(description))

    def _sentencepiece(self, directory: Path) -> Tokenizer:
        model = io.BytesIO()
        roles = [("pad", self.pad), ("bos", self.bos), ("eos", self.eos), ("unk", self.unk)]
        pieces = {
            name: (self.special.index(token), token)
            for name, token in roles
            if token in self.special
        }
        absent = {f"{name}_id": -1 for name, _ in roles if name not in pieces}
        built_in = {token for _, token in pieces.values()}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(line.rstrip("\n") for line in TRAINING),
            model_writer=model,
            model_type="bpe",
            vocab_size=self.size,
            byte_fallback=True,
            character_coverage=0.98,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            add_dummy_prefix=self.dummy_prefix,
            user_defined_symbols=[token for token in self.special if token not in built_in],
            num_threads=1,
            minloglevel=2,
            **absent,
            **{f"{name}_id": index for name, (index, _) in pieces.items()},
            **{f"{name}_piece": token for name, (_, token) in pieces.items()},
        )
        (directory / "tokenizer.model").write_bytes(model.getvalue())
        return self._from_sentencepiece(model.getvalue())

    def _from_sentencepiece(self, serialized: bytes) -> Tokenizer:
        """The tokenizer.json that transformers' converter makes of a SentencePiece model of BPE."""
        processor = sentencepiece.SentencePieceProcessor(model_proto=serialized)
        pieces = [processor.id_to_piece(index) for index in range(processor.vocab_size())]
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        scores = [processor.get_score(index) for index in range(len(pieces))]
        merges = [
            (piece[:cut], piece[cut:])
            for piece in sorted(pieces, key=lambda piece: -scores[vocabulary[piece]])
            for cut in range(1, len(piece))
            if piece not in self.special and piece[:cut] in vocabulary and piece[cut:] in vocabulary
        ]
        tokenizer = Tokenizer(
            models.BPE(vocabulary, merges, unk_token=self.unk, fuse_unk=True, byte_fallback=True)
        )
        steps = [normalizers.Replace(" ", "▁")]
        decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if self.dummy_prefix:
            steps.insert(0, normalizers.Prepend("▁"))
            decoding.append(decoders.Strip(" ", 1, 0))
        tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.decoder = decoders.Sequence(decoding)
        tokenizer.add_special_tokens(self._special_tokens())
        tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in self.added]
        )
        return tokenizer

    def _prepend_bos(self, tokenizer: Tokenizer):
        if not self.add_bos:
            return
        bos = (self.bos, tokenizer.token_to_id(self.bos))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{self.bos} $A", pair=f"{self.bos} $A {self.bos} $B", special_tokens=[bos]
        )

    def _write_config(self, directory: Path):
        config = {"tokenizer_class": self.tokenizer_class, "model_max_length": 1024}
        names = {
            "bos_token": self.bos,
            "eos_token": self.eos,
            "pad_token": self.pad,
            "unk_token": self.unk,
        }
        config |= {key: token for key, token in names.items() if token}
        if self.added:
            known = json.loads((directory / "tokenizer.json").read_text())["added_tokens"]
            config["added_tokens_decoder"] = {str(token.pop("id")): token for token in known}
        if self.kind != "bpe":
            config |= {"add_bos_token": self.add_bos, "add_eos_token": False}
        if self.tokenizer_class == "LlamaTokenizer":
            config["legacy"] = True  # a space before every text, as SentencePiece has it
        if self.template_file:
            (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        else:
            config["chat_template"] = CHAT_TEMPLATE
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (directory / "tokenizer_config.json").write_text(text)


def llama(**options) -> Vocabulary:
    """SentencePiece as Llama 2 and Mistral 7B have it."""
    defaults = dict(
        kind="sentencepiece", special=["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", unk="<unk>"
    )
    return Vocabulary(**(defaults | dict(add_bos=True, tokenizer_class="LlamaTokenizer") | options))


def gemma(**options) -> Vocabulary:
    """SentencePiece as Gemma 1 to 3 have it."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    defaults = dict(
        kind="sentencepiece", special=special, bos="<bos>", eos="<eos>", pad="<pad>", unk="<unk>"
    )
    defaults |= dict(
        add_bos=True, dummy_prefix=False, template_file=True, tokenizer_class="GemmaTokenizer"
    )
    return Vocabulary(**(defaults | options))


def bpe(
    name: str, *special: str, bos: str | None = None, eos: str | None = None, **options
) -> Vocabulary:
    """Byte-level byte-pair encoding with the pre-tokenizer `name`."""
    return Vocabulary(kind="bpe", pre=name, special=list(special), bos=bos, eos=eos, **options)
