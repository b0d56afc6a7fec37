"""The programs that the checks run, and how a check's result is printed."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


class Failed(Exception):
    """A program ended with an error; the text is what it said last."""


def run(command: list) -> str:
    """Runs a program to its end and returns what it printed."""
    command = [str(word) for word in command]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise Failed(
            f"{Path(command[0]).name} {command[1]} ended with {done.returncode}: {' / '.join(said)}"
        )
    return done.stdout


@dataclass
class Tools:
    quantkit: Path
    llama_bin: Path
    llama_source: Path

    def logits(
        self, model: Path, tokens: list[int], directory: Path, step: int | None = None
    ) -> np.ndarray:
        """quantkit's logits, tokens × vocabulary; `step` tokens at a time, or all at once."""
        given, result = directory / "tokens.u32", directory / "logits.f32"
        np.array(tokens, dtype="<u4").tofile(given)
        program = self.quantkit.parent / "examples" / "logits"
        run([program, model, given, result, "cpu", *([step] if step else [])])
        return np.fromfile(result, dtype="<f4").reshape(len(tokens), -1)

    def llama_runs(self, model: Path):
        """Has llama.cpp read the file, process a prompt and generate a few tokens."""
        words = "The river runs past the old mill"
        options = ["-n", "4", "-c", "128", "-t", "2", "--no-warmup", "-no-cnv", "--simple-io"]
        run([self.llama_bin / "llama-completion", "-m", model, "-p", words, *options])


@dataclass
class Report:
    """Prints a line for every check and remembers whether all passed."""

    failed: list[str] = field(default_factory=list)
    checks: int = 0

    def line(self, passed: bool, what: str, figures: str = "", details: list[str] = ()):
        self.checks += 1
        print(f"{'PASS' if passed else 'FAIL'}  {what}: {figures}".rstrip(": "), flush=True)
        if not passed:
            self.failed.append(what)
            for detail in details[:8]:
                print(f"        {detail}")
            if len(details) > 8:
                print(f"        and {len(details) - 8} more")

    def unchecked(self, what: str, why: str):
        """A check that cannot be made, and why."""
        print(f"----  {what}: {why}", flush=True)
