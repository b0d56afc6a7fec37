"""What compare_with_llama_bench.py has measured: jobs, settings, bars, and the file of all runs."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

FORMATS = ("Q4_0", "Q4_K_M", "Q8_0", "F16")

# Formats and numbers of sequences of the long jobs.
LONG_FORMATS = ("Q4_0", "Q4_K_M", "F16")
CONCURRENCY = (1, 2, 4, 8)

SIDES = ("quantkit", "llama.cpp")


@dataclass(frozen=True)
class Setting:
    """What a side is run with. Each is tried, and the best counts."""

    threads: int
    # Whether llama.cpp runs with flash attention; None for quantkit, which has no such choice.
    flash_attention: bool | None = None

    def __str__(self) -> str:
        flash = {None: "", True: ", flash attention", False: ", no flash attention"}
        return f"{self.threads} threads{flash[self.flash_attention]}"


def bar(model: str, file_format: str, concurrency: int | None, phase: str) -> float | None:
    """How many times llama.cpp's speed is asked for."""
    quantized = file_format != "F16"
    if concurrency is None:
        if phase == "decode":
            return 1.5 if model == "small" else 1.4
        if not quantized:
            return 1.3 if model == "small" else 1.2
        return 2.5 if model == "big" or file_format == "Q4_K_M" else 1.8
    if phase == "prefill":
        return 2.5
    bars = (3.0, 3.5, 4.0, 5.0) if quantized else (2.5, 3.0, 3.5, 4.0)
    return dict(zip(CONCURRENCY, bars)).get(concurrency)


@dataclass(frozen=True)
class Job:
    """Something that both sides do."""

    model: str
    format: str
    # Sequences of a long job; None for a short one.
    concurrency: int | None
    input_tokens: int
    output_tokens: int

    @property
    def name(self) -> str:
        kind = "short" if self.concurrency is None else f"c{self.concurrency}"
        return f"{self.model}/{self.format}/{kind}"


class Results:
    """All runs so far, in a file that is rewritten after each."""

    def __init__(self, path: Path):
        self.path = path
        self.document = json.loads(path.read_text()) if path.exists() else {}
        empties = {"build": None, "bytes": {}, "runs": [], "profiles": {}, "example": ""}
        for name, empty in empties.items():
            self.document.setdefault(name, empty)

    def write(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.document, indent=1) + "\n")
        partial.replace(self.path)

    def forget(self, names: set[str]):
        """Forgets all runs of these jobs."""
        runs = self.document["runs"]
        self.document["runs"] = [run for run in runs if Job(**run["job"]).name not in names]
        for name in names:
            self.document["profiles"].pop(name, None)

    def begin(self, build: str):
        """Forgets everything if another build of quantkit has measured: runs of one job belong together."""
        if self.document["build"] not in (None, build):
            print("the results are another build's: beginning again", flush=True)
            self.forget({Job(**run["job"]).name for run in self.document["runs"]})
            self.document["example"] = ""
        self.document["build"] = build

    def runs(self, job: Job, side: str) -> list[dict]:
        return [
            run for run in self.document["runs"]
            if run["job"] == asdict(job) and run["side"] == side
        ]  # fmt: skip

    def jobs(self) -> list[Job]:
        """The jobs that both sides have done at least once."""
        found = []
        for run in self.document["runs"]:
            job = Job(**run["job"])
            if job not in found and all(self.runs(job, side) for side in SIDES):
                found.append(job)
        return found

    def rate(self, job: Job, side: str, phase: str) -> float:
        """Tokens a second: the median of the runs with the best setting."""
        by_setting: dict[Setting, list[float]] = {}
        for run in self.runs(job, side):
            by_setting.setdefault(setting_of(run), []).append(run[phase])
        return max(statistics.median(rates) for rates in by_setting.values())

    def ratio(self, job: Job, phase: str) -> float:
        return self.rate(job, "quantkit", phase) / self.rate(job, "llama.cpp", phase)

    def threads(self, job: Job) -> int:
        """How many threads quantkit was fastest with."""
        best = max(self.runs(job, "quantkit"), key=lambda run: run["decode"])
        return best["threads"]


def setting_of(run: dict) -> Setting:
    return Setting(run["threads"], run["flash_attention"])


def short_phases(results: Results, job: Job) -> list[str]:
    """The phases of a job whose ratio is below its bar."""
    def falls_short(phase: str) -> bool:
        wanted = bar(job.model, job.format, job.concurrency, phase)
        return wanted is not None and results.ratio(job, phase) < wanted

    return [phase for phase in ("prefill", "decode") if falls_short(phase)]


# Reports.
