"""Whether two GGUF files say the same."""

from pathlib import Path

import gguf

# Names that each converter makes up in its own way from the directory's name.
NAMES = {
    f"general.{key}"
    for key in ("name", "basename", "finetune", "version", "organization", "size_label")
}

MORE = "not in llama.cpp's"


def metadata(reader: gguf.GGUFReader) -> dict[str, tuple]:
    """Every key's types and value, in the file's order, without names."""
    return {
        key: (field.types, field.contents())
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.") and key not in NAMES
    }


def metadata_differences(ours: gguf.GGUFReader, theirs: gguf.GGUFReader) -> list[str]:
    """A line for each key that is not the same in both."""
    mine, other = metadata(ours), metadata(theirs)
    lines = [f"{key}: missing" for key in other if key not in mine]
    lines += [f"{key}: {MORE}" for key in mine if key not in other]
    for key in mine.keys() & other.keys():
        if mine[key] != other[key] and not may_differ(key, mine[key][1], other[key][1]):
            lines.append(f"{key}: {shown(mine[key], other[key])}")
    return sorted(lines)


def may_differ(key: str, ours, theirs) -> bool:
    """Names of one and the same pre-tokenizer rule, which a tokenizer.json does not tell apart; and
    special (3) and user-defined (4) tokens that llama.cpp's converter takes for normal ones (1), so that
    it would not find them in a text."""
    if key == "tokenizer.ggml.pre":
        return (ours, theirs) == ("mpt", "olmo")
    if key == "tokenizer.ggml.token_type":
        pairs = list(zip(ours, theirs, strict=True))
        return all(mine == other or (mine in (3, 4) and other == 1) for mine, other in pairs)
    return False


def shown(ours: tuple, theirs: tuple) -> str:
    """Two unequal values, of long ones what comes first."""
    if ours[0] != theirs[0]:
        kinds = [".".join(kind.name for kind in kinds) for kinds in (ours[0], theirs[0])]
        return f"type {kinds[0]}, not {kinds[1]}"
    mine, other = ours[1], theirs[1]
    if isinstance(mine, list) and len(mine) == len(other):
        at = next(index for index, pair in enumerate(zip(mine, other)) if pair[0] != pair[1])
        return f"[{at}] is {mine[at]!r:.40}, not {other[at]!r:.40}"
    return f"{mine!r:.40}, not {other!r:.40}"


def tensor_differences(ours: gguf.GGUFReader, theirs: gguf.GGUFReader) -> list[str]:
    """A line for each tensor that is not the same in both."""
    mine = {tensor.name: tensor for tensor in ours.tensors}
    other = {tensor.name: tensor for tensor in theirs.tensors}
    lines = [f"{name}: missing" for name in other if name not in mine]
    lines += [f"{name}: {MORE}" for name in mine if name not in other]
    for name in (name for name in other if name in mine):
        a, b = mine[name], other[name]
        if a.tensor_type != b.tensor_type:
            lines.append(f"{name}: {a.tensor_type.name}, not {b.tensor_type.name}")
        elif list(a.shape) != list(b.shape):
            lines.append(f"{name}: shape {list(a.shape)}, not {list(b.shape)}")
        elif a.data.tobytes() != b.data.tobytes():
            lines.append(f"{name}: other bytes")
    return lines


def same_order(ours: gguf.GGUFReader, theirs: gguf.GGUFReader) -> bool:
    tensors = [[tensor.name for tensor in reader.tensors] for reader in (ours, theirs)]
    keys = [list(metadata(reader)) for reader in (ours, theirs)]
    return tensors[0] == tensors[1] and keys[0] == keys[1]


def compare(ours: Path, theirs: Path) -> tuple[list[str], list[str], str]:
    """Differences of the tensors, of the metadata, and how much was compared."""
    mine, other = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
    order = "" if same_order(mine, other) else ", in another order"
    figures = f"{len(other.tensors)} tensors, {len(metadata(other))} keys{order}"
    return tensor_differences(mine, other), metadata_differences(mine, other), figures
