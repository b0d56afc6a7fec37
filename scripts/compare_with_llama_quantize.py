"""Compares quantkit's quantize with llama.cpp's llama-quantize: bytes, seconds, memory.

Both make every file from the same input, one after the other, and the files are compared as a whole
and tensor by tensor. It prints a Markdown table and fails where a tensor differs. Python's standard
library is all it takes; the memory columns need Linux. From the root of the repository:

    cargo build --release
    python3 scripts/compare_with_llama_quantize.py path/to/llama-quantize model.f16.gguf
    python3 scripts/compare_with_llama_quantize.py path/to/llama-quantize model.f16.gguf \\
        --importance model.imatrix.gguf --options

`s` is wall time, `core-s` user and system time of all threads, `resident` the largest resident set,
and `own` the largest part of it that is not pages of files.
"""

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

RECIPES = (
    "F32 F16 BF16 Q8_0 Q6_K Q5_1 Q5_0 Q5_K_M Q5_K_S Q4_1 Q4_K_M Q4_K_S Q4_0 IQ4_NL IQ4_XS MXFP4_MOE "
    "Q3_K_L Q3_K_M Q3_K_S Q2_K Q2_K_S"
).split()

# Recipes that both tools refuse without importance.
NEED_IMPORTANCE = {"Q2_K_S"}

# Bytes that are compared at a time.
PIECE = 1 << 20

# Weights and bytes a block, by ggml's number of the type.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2),
    39: (32, 17),
}  # fmt: skip


@dataclass
class Case:
    """One file to make, as each tool is told to."""

    recipe: str
    name: str = ""
    ours: list[str] = field(default_factory=list)
    theirs: list[str] = field(default_factory=list)
    requantize: bool = False

    def __post_init__(self):
        self.name = self.name or self.recipe


def option_cases() -> list[Case]:
    """Options beyond the recipe."""

    def rules(*texts: str) -> list[str]:
        return [word for text in texts for word in ("--tensor-type", text)]

    pure = [
        Case(recipe, f"{recipe} --pure", ["--pure"], ["--pure"])
        for recipe in ("MXFP4_MOE", "Q4_K_M", "Q5_K_S", "Q3_K_M", "Q2_K", "IQ4_XS", "Q4_0")
    ]
    output, embedding = ["--output-type"], ["--token-embedding-type"]
    return pure + [
        Case("Q4_K_M", "--output-type Q8_0", output + ["Q8_0"], ["--output-tensor-type", "q8_0"]),
        Case("Q4_0", "--output-type F16", output + ["F16"], ["--output-tensor-type", "f16"]),
        Case("Q4_K_M", "--token-embedding-type Q5_0", embedding + ["Q5_0"], embedding + ["q5_0"]),
        Case("Q4_K_M", "--leave-output", ["--leave-output"], ["--leave-output-tensor"]),
        Case("Q4_K_M", "--tensor-type attn_v=Q8_0", rules("attn_v=Q8_0"), rules("attn_v=q8_0")),
        Case(
            "Q4_K_S",
            "three rules",
            rules(r"blk\.[0-3]\.ffn_down=Q6_K", "FFN_(up|gate)=Q3_K", "down|attn_q=IQ4_NL"),
            rules(r"blk\.[0-3]\.ffn_down=q6_k", "FFN_(up|gate)=q3_k", "down|attn_q=iq4_nl"),
        ),
        *(
            Case(
                recipe,
                f"{recipe} from Q8_0",
                ["--allow-requantize"],
                ["--allow-requantize"],
                requantize=True,
            )
            for recipe in ("Q4_K_M", "Q4_0", "Q8_0", "F16")
        ),
    ]


@dataclass
class Cost:
    """What one run took."""

    seconds: float
    core_seconds: float
    resident: int
    own: int

    def best(self, other: "Cost | None") -> "Cost":
        """The quickest time and the largest memory of two runs."""
        if other is None:
            return self
        return Cost(
            min(self.seconds, other.seconds),
            min(self.core_seconds, other.core_seconds),
            max(self.resident, other.resident),
            max(self.own, other.own),
        )


def own_memory(process: int) -> int:
    """Bytes of a process's resident memory that are not pages of files."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(
        int(line.split()[1]) * 1024
        for line in lines
        if line.startswith(("RssAnon:", "RssShmem:"))
    )


def run(command: list[str], directory: Path) -> Cost:
    """Runs a command to its end and measures it."""
    log = directory / "log.txt"
    started = time.perf_counter()
    own = 0
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while True:
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            if done:
                break
            own = max(own, own_memory(child.pid))
            time.sleep(0.005)
    seconds = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        tail = log.read_text(errors="replace").strip().splitlines()[-5:]
        raise RuntimeError("\n".join([f"failed: {' '.join(command)}", *tail]))
    core_seconds = usage.ru_utime + usage.ru_stime
    return Cost(seconds, core_seconds, usage.ru_maxrss * 1024, own)


class Gguf:
    """A GGUF file's tensor directory. Files are read in pieces, never mapped: pages that this
    process holds would count as the next tool's resident memory."""

    FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as self.file:
            self.file.seek(4)
            _version, tensors, entries = self.take("<IQQ")
            alignment = 32
            for _ in range(entries):
                is_alignment = self.text() == b"general.alignment"
                (kind,) = self.take("<I")
                if is_alignment:
                    (alignment,) = self.take("<I")
                else:
                    self.skip(kind)
            listed = [self.tensor() for _ in range(tensors)]
            data = -(-self.file.tell() // alignment) * alignment
        self.tensors = {
            name: (shape, kind, data + offset, size) for name, shape, kind, offset, size in listed
        }

    def take(self, layout: str) -> tuple:
        return struct.unpack(layout, self.file.read(struct.calcsize(layout)))

    def text(self) -> bytes:
        return self.file.read(*self.take("<Q"))

    def skip(self, kind: int):
        if kind == 8:
            self.text()
        elif kind == 9:
            kind, count = self.take("<IQ")
            if kind in self.FIXED:
                self.file.seek(self.FIXED[kind] * count, os.SEEK_CUR)
            else:
                for _ in range(count):
                    self.skip(kind)
        else:
            self.file.seek(self.FIXED[kind], os.SEEK_CUR)

    def tensor(self) -> tuple:
        name = self.text().decode()
        (dimensions,) = self.take("<I")
        shape = self.take(f"<{dimensions}Q")
        kind, offset = self.take("<IQ")
        weights = 1
        for size in shape:
            weights *= size
        per_block, block_bytes = BLOCKS[kind]
        return name, shape, kind, offset, weights // per_block * block_bytes


def same_bytes(one: Path, start: int, other: Path, other_start: int, size: int) -> bool:
    """Whether two files have the same bytes in two places."""
    with one.open("rb") as first, other.open("rb") as second:
        first.seek(start)
        second.seek(other_start)
        while size > 0:
            piece = first.read(min(size, PIECE))
            if not piece or piece != second.read(len(piece)):
                return False
            size -= len(piece)
    return True


def same_file(one: Path, other: Path) -> bool:
    sizes = [path.stat().st_size for path in (one, other)]
    return sizes[0] == sizes[1] and same_bytes(one, 0, other, 0, sizes[0])


def differing_tensors(ours: Gguf, theirs: Gguf) -> list[str]:
    """The names of the tensors that are not the same in both files."""
    names = list(theirs.tensors) + [name for name in ours.tensors if name not in theirs.tensors]

    def differs(name: str) -> bool:
        if name not in ours.tensors or name not in theirs.tensors:
            return True
        shape, kind, start, size = ours.tensors[name]
        their_shape, their_kind, their_start, _ = theirs.tensors[name]
        if (shape, kind) != (their_shape, their_kind):
            return True
        return not same_bytes(ours.path, start, theirs.path, their_start, size)

    return [name for name in names if differs(name)]


def row(name: str, identical: str, ours: Cost, theirs: Cost) -> str:
    def pair(mine: float, other: float) -> list[str]:
        return [f"{mine:.2f}", f"{other:.2f}", f"{other / max(mine, 1e-9):.1f} ×"]

    cells = [name, identical]
    cells += pair(ours.seconds, theirs.seconds)
    cells += pair(ours.core_seconds, theirs.core_seconds)
    cells += [f"{size / 1e6:.0f}" for size in (ours.resident, theirs.resident, ours.own, theirs.own)]
    return f"| {' | '.join(cells)} |"


HEADER = """\
| file | identical | s: ours | theirs | ratio | core-s: ours | theirs | ratio \
| resident, MB: ours | theirs | own, MB: ours | theirs |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


def compare(case: Case, arguments: argparse.Namespace, source: Path, directory: Path) -> bool:
    """Makes one file with both tools, prints its row and says whether they are the same."""
    ours_path, theirs_path = directory / "ours.gguf", directory / "theirs.gguf"
    importance = [str(arguments.importance)] if arguments.importance else []
    ours_command = [str(arguments.quantkit), "quantize", str(source), str(ours_path)]
    ours_command += ["--type", case.recipe, "--quiet", *case.ours]
    ours_command += ["--threads", str(arguments.threads)] if arguments.threads else []
    theirs_command = [str(arguments.llama_quantize), *case.theirs]
    for file in importance:
        ours_command += ["--importance", file]
        theirs_command += ["--imatrix", file]
    theirs_command += [str(source), str(theirs_path), case.recipe]
    theirs_command += [str(arguments.threads)] if arguments.threads else []
    ours = theirs = None
    try:
        for _ in range(arguments.repeat):
            ours = run(ours_command, directory).best(ours)
            theirs = run(theirs_command, directory).best(theirs)
    except RuntimeError as failure:
        print(f"| {case.name} | failed |", flush=True)
        print(failure, file=sys.stderr)
        return False
    mine, other = Gguf(ours_path), Gguf(theirs_path)
    different = differing_tensors(mine, other)
    whole = same_file(ours_path, theirs_path)
    count = len(other.tensors)
    identical = (
        "whole file" if whole
        else f"all {count} tensors" if not different
        else f"**{count - len(different)} of {count} tensors**"
    )  # fmt: skip
    print(row(case.name, identical, ours, theirs), flush=True)
    if different:
        print(f"{case.name}: {', '.join(different[:5])} and so on", file=sys.stderr)
    return not different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("llama_quantize", type=Path)
    parser.add_argument("input", type=Path, help="a GGUF file of F16 weights")
    parser.add_argument("--quantkit", type=Path, default=Path("target/release/quantkit"))
    parser.add_argument("--importance", type=Path, help="an importance file for both tools")
    parser.add_argument("--recipes", nargs="*", default=RECIPES, help="default: all")
    parser.add_argument("--options", action="store_true", help="other options than recipes too")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each tool, alternating")
    parser.add_argument("--threads", type=int, help="threads of both tools")
    parser.add_argument(
        "--directory",
        type=Path,
        help="where the files are made [default: the system's folder for temporary files]",
    )
    arguments = parser.parse_args()
    cases = [
        Case(recipe)
        for recipe in arguments.recipes
        if arguments.importance or recipe not in NEED_IMPORTANCE
    ]
    if arguments.options:
        cases += option_cases()
    print(HEADER, flush=True)
    same = True
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        directory = Path(name)
        quantized = directory / "q8_0.gguf"
        if any(case.requantize for case in cases):
            command = [str(arguments.llama_quantize), str(arguments.input), str(quantized), "Q8_0"]
            run(command, directory)
        for case in cases:
            source = quantized if case.requantize else arguments.input
            same &= compare(case, arguments, source, directory)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
