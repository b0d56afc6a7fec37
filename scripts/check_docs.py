"""Runs the console blocks of README.md and docs/ and compares what they print with what is written.

    cargo build --release
    python3 scripts/check_docs.py --link models/SmolLM2-135M-Instruct.Q4_1.gguf=SmolLM2-135M-Instruct.Q4_1.gguf \\
        --link wikitext-2=wikitext-2 --link eval-sets/mmlu=eval-sets/mmlu

A block that is to be run says so behind its language: three backticks, then `console run`. More words may follow:

    shape         figures may differ; compared are the lines with every number replaced
    fails         the last command of the block ends with an error
    needs=PATH    the block is left out where the working directory has no PATH

Lines that begin with `$ ` are commands (a `\\` at the end continues one); what follows is their output, standard error
included. A line `…` stands for any number of lines. Without `shape`, durations and rates may differ, nothing else.

All blocks run in one new directory, in the order of docs/SUMMARY.md after the README, so a block may use the files of
an earlier one. The directory has the repository's `eval-sets`, and what `--link` puts there. `quantkit` and
`cargo run --release --` are the binary. `--update` writes what was printed into the pages instead of comparing; a `…`
keeps the number of lines before and after it. `--work DIR` keeps the directory; PAGE… runs only these.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```console run(.*)$")
ELLIPSIS = "…"
# A duration or a rate: `1.05 s`, `12 min 7 s`, `139.2 ms`, `769 tokens/s`, `966,499,872 weights/s`.
TIMED = re.compile(r"[\d.,]+ (?:ms|min|h|s|\S+/s)(?![\w])")


@dataclass
class Command:
    """A command of a block and the lines that are written under it."""

    line: str
    expected: list[str]


@dataclass
class Block:
    """A runnable block: its words, its place in the page and its commands."""

    page: Path
    first: int
    last: int
    words: set[str]
    commands: list[Command]

    @property
    def missing(self) -> list[str]:
        return [word.removeprefix("needs=") for word in self.words if word.startswith("needs=")]


def blocks_of(page: Path) -> list[Block]:
    found, lines = [], page.read_text().splitlines()
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        number += 1
        if not fence:
            continue
        end = lines.index("```", number)
        found.append(Block(page, number, end, set(fence[1].split()), commands_of(lines[number:end])))
        number = end + 1
    return found


def commands_of(lines: list[str]) -> list[Command]:
    commands: list[Command] = []
    continues = False
    for line in lines:
        if continues:
            commands[-1].line += "\n" + line
        elif line.startswith("$ "):
            commands.append(Command(line[2:], []))
        elif commands:
            commands[-1].expected.append(line)
        else:
            sys.exit(f"a block begins with {line!r}; expected a command, which begins with `$ `")
        continues = line.endswith("\\") and (continues or line.startswith("$ "))
    return commands


def masked(line: str, shape: bool) -> str:
    """A line without what may differ from run to run."""
    if shape:
        line = re.sub(r"\b(?:ms|min|s|KiB|MiB|GiB)\b", "", re.sub(r"[+−-]?\d[\d.,]*", "#", line))
        line = re.sub(r"-{3,}", "---", line)
        line = re.sub(r"\b(?:gains|loses|neither loses nor gains)\b", "changes", line)
        return re.sub(r"(?:# ?)+", "# ", " ".join(line.split())).strip()
    return re.sub(r"  +", "  ", TIMED.sub("#", line)).rstrip()


def agrees(expected: list[str], printed: list[str], shape: bool) -> bool:
    """Whether the printed lines are the expected ones, `…` standing for any number of them."""
    if ELLIPSIS not in expected:
        return [masked(line, shape) for line in expected] == [masked(line, shape) for line in printed]
    at = expected.index(ELLIPSIS)
    head, rest = expected[:at], expected[at + 1 :]
    if not agrees(head, printed[:at], shape):
        return False
    return any(agrees(rest, printed[start:], shape) for start in range(at, len(printed) + 1))


def shortened(expected: list[str], printed: list[str]) -> list[str]:
    """The printed lines, cut where the expected ones have one `…`."""
    if expected.count(ELLIPSIS) != 1:
        return printed
    head = expected.index(ELLIPSIS)
    tail = len(expected) - head - 1
    if head + tail >= len(printed):
        return printed
    return printed[:head] + [ELLIPSIS] + printed[len(printed) - tail :]


def run(command: str, work: Path, binary: Path) -> tuple[int, list[str]]:
    tools = work / ".bin"
    environment = dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}", COLUMNS="80")
    done = subprocess.run(
        ["bash", "-c", command.replace("cargo run --release --", str(binary))], cwd=work, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return done.returncode, [line.rstrip() for line in done.stdout.splitlines()]


def check(block: Block, work: Path, binary: Path, update: bool) -> list[str]:
    """Runs a block; what is wrong with it. With `update`, its commands get what they printed."""
    wrong = []
    for number, command in enumerate(block.commands):
        status, printed = run(command.line, work, binary)
        fails = "fails" in block.words and number == len(block.commands) - 1
        if (status != 0) != fails:
            wrong.append(f"$ {command.line}\nended with status {status}:\n" + "\n".join(printed[-5:]))
        elif update:
            blank = command.expected[-1:] == [""]
            command.expected = shortened(command.expected[: -1 if blank else None], printed) + [""] * blank
        elif not agrees(strip(command.expected), strip(printed), "shape" in block.words):
            wrong.append(f"$ {command.line}\nprinted:\n" + "\n".join(printed))
    return wrong


def strip(lines: list[str]) -> list[str]:
    """Without blank lines at the end."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


def rewrite(page: Path, blocks: list[Block]):
    lines = page.read_text().splitlines()
    for block in reversed(blocks):
        text = []
        for command in block.commands:
            text += [f"$ {command.line}", *command.expected]
        lines[block.first : block.last] = text
    page.write_text("\n".join(lines) + "\n")


def prepare(work: Path, binary: Path, links: list[str]):
    (work / ".bin").mkdir(parents=True, exist_ok=True)
    for name, target in [("quantkit", binary)]:
        (work / ".bin" / name).unlink(missing_ok=True)
        (work / ".bin" / name).symlink_to(target)
    sets = REPOSITORY / "eval-sets"
    links = [f"eval-sets/{name.name}={name}" for name in sets.iterdir() if name.is_dir()] + links
    for link in links:
        name, _, target = link.partition("=")
        place = work / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(Path(target).resolve(strict=True))


def pages() -> list[Path]:
    docs = REPOSITORY / "docs"
    listed = re.findall(r"\]\(([^)]+\.md)\)", (docs / "SUMMARY.md").read_text())
    return [REPOSITORY / "README.md"] + [docs / name for name in listed]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/quantkit")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--link", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        prepare(work, arguments.binary.resolve(strict=True), arguments.link)
        failures = count = 0
        for page in arguments.pages or pages():
            blocks = blocks_of(page)
            for block in blocks:
                place = f"{page}:{block.first}"
                absent = [name for name in block.missing if not (work / name).exists()]
                if absent:
                    print(f"{place}: left out, there is no {', '.join(absent)}")
                    continue
                count += 1
                for one in check(block, work, arguments.binary.resolve(), arguments.update):
                    failures += 1
                    print(f"{place}: {one}\n")
            if arguments.update and blocks:
                rewrite(page, blocks)
    print(f"{count} blocks run, {failures} commands not as written")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
