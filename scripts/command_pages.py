"""Writes the help of every command into its page, docs/commands/NAME.md.

    cargo build --release
    python3 scripts/command_pages.py target/release/quantkit

A page has prose and examples, written by hand, and one section between the marks `help:begin` and
`help:end`, which this script fills. A command without a page gets one with a heading and that section;
add it to docs/SUMMARY.md. `cargo test` fails when a page no longer has the help that the binary prints.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGES = Path(__file__).parent.parent / "docs" / "commands"
BEGIN, END = "<!-- help:begin -->", "<!-- help:end -->"


def help_of(binary: str, *words: str) -> str:
    """The help of a command, at the width that it has where no terminal says otherwise."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        ["quantkit", *words, "--help"], executable=binary, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    return done.stdout


def commands_in(text: str) -> list[str]:
    """The names under `Commands:` in a help text, without `help` itself."""
    found = re.search(r"^Commands:\n((?:  .*\n)+)", text, re.MULTILINE)
    names = re.findall(r"^  ([a-z][\w-]*)", found.group(1), re.MULTILINE) if found else []
    return [name for name in names if name != "help"]


def section(binary: str, *words: str) -> str:
    """A command's help as Markdown, then that of its own commands."""
    text = help_of(binary, *words)
    lines = "\n".join(line.rstrip() for line in text.rstrip().splitlines())
    parts = [f"```text\n$ quantkit {' '.join(words)} --help\n{lines}\n```"]
    parts += [section(binary, *words, name) for name in commands_in(text)]
    return "\n\n".join(parts)


def fill(page: Path, name: str, text: str):
    before = page.read_text() if page.exists() else f"# {name}\n\n{BEGIN}\n{END}\n"
    if before.count(BEGIN) != 1 or before.count(END) != 1:
        sys.exit(f"{page}: expected {BEGIN} and {END}, once each")
    head, rest = before.split(BEGIN)
    page.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    binary = sys.argv[1]
    PAGES.mkdir(exist_ok=True)
    for name in commands_in(help_of(binary)):
        fill(PAGES / f"{name}.md", name, section(binary, name))


if __name__ == "__main__":
    main()
