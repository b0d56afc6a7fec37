"""Compares the speed of quantkit on the CPU with llama.cpp's: prefill and decode tokens/s.

Both run the same files in turns, one run of each a round, and medians count. llama.cpp comes either
as its own tools or, with nothing but pip, as the library inside llama-cpp-python:

    cargo build --release
    python3 -m venv peer
    peer/bin/pip install --no-binary llama-cpp-python llama-cpp-python
    peer/bin/python scripts/compare_with_llama_bench.py --results docs/throughput.json \\
        --small F16=models/smollm2.f16.gguf Q4_0=models/smollm2.Q4_0.gguf \\
                Q4_K_M=models/smollm2.Q4_K_M.gguf Q8_0=models/smollm2.Q8_0.gguf \\
        --big F16=big.f16.gguf Q4_0=big.Q4_0.gguf Q4_K_M=big.Q4_K_M.gguf Q8_0=big.Q8_0.gguf

`--llama-bin DIR` takes llama-bench and llama-batched-bench from a folder instead. Every run is stored in the
results as it comes; the same command goes on where it was stopped, and `--jobs 'small/*/short'` does a part.
Another build of quantkit begins again.
`--report`, `--pages README.md` and `--plot docs/throughput.svg` turn what is stored into a table, sections
of pages and a picture, without measuring. Python's standard library is all that takes.

A job is `MODEL/FORMAT/short` (prefill of 512 tokens; decode of 64 tokens from an empty context) or
`MODEL/FORMAT/cN` (N sequences: prefill of 2560 tokens each, then decode of 768 tokens each, all in
every step). quantkit's figures are those of `quantkit bench`, llama.cpp's what llama-bench and
llama-batched-bench define: f16 cache, batches of 2048 in pieces of 512 tokens. Both sides run with
every number of threads in `--threads`, llama.cpp also with and without flash attention, since one
prefills faster and the other may decode faster; for each phase a side's best median counts.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

FORMATS = ("Q4_0", "Q4_K_M", "Q8_0", "F16")

# Formats and numbers of sequences of the long jobs.
LONG_FORMATS = ("Q4_0", "Q4_K_M", "F16")
CONCURRENCY = (1, 2, 4, 8)

SHORT_INPUT, SHORT_OUTPUT = 512, 64

# llama.cpp's batch and its pieces: its tools' defaults.
BATCH, PIECE = 2048, 512

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


def all_jobs(files: dict[tuple[str, str], Path], options: argparse.Namespace) -> list[Job]:
    """The jobs of the files that there are, short ones first."""
    short = [
        Job(model, name, None, options.short_tokens[0], options.short_tokens[1])
        for model in ("small", "big")
        for name in FORMATS
        if (model, name) in files
    ]
    long = [
        Job("small", name, concurrency, options.input_tokens, options.output_tokens)
        for name in LONG_FORMATS
        for concurrency in CONCURRENCY
        if ("small", name) in files
    ]
    wanted = options.jobs or ["*"]
    return [job for job in short + long if any(fnmatch.fnmatch(job.name, one) for one in wanted)]


# What runs on either side.


def output_of(command: list[str]) -> str:
    """A program's standard output; its last words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise RuntimeError("\n".join([f"failed: {' '.join(command)}", *tail]))
    return done.stdout


class Quantkit:
    """quantkit's own benchmark."""

    def __init__(self, executable: Path, kv_type: str | None):
        self.executable = executable
        self.cache = ["--kv-type", kv_type] if kv_type else []
        self.version = output_of([str(executable), "--version"]).strip()
        self.build = hashlib.sha256(executable.read_bytes()).hexdigest()

    def bench(self, model: Path, threads: int, repeats: int, load: tuple[int, int, int]) -> dict:
        """One level of `quantkit bench`: `load` is input and output tokens and concurrency."""
        input_tokens, output_tokens, concurrency = map(str, load)
        with tempfile.TemporaryDirectory() as directory:
            command = [str(self.executable), "bench", str(model), "--quiet", "--json"]
            command += ["--input-tokens", input_tokens, "--output-tokens", output_tokens]
            command += ["--concurrency", concurrency, "--repeats", str(repeats)]
            command += ["--threads", str(threads), "--output", directory, *self.cache]
            return json.loads(output_of(command))["levels"][0]

    def settings(self, threads: list[int]) -> list[Setting]:
        return [Setting(count) for count in threads]

    def measure(self, job: Job, model: Path, setting: Setting, repeats: int) -> dict[str, float]:
        threads = setting.threads
        if job.concurrency is None:
            # A first token comes out of the prefill.
            prefill = self.bench(model, threads, repeats, (job.input_tokens, 1, 1))
            decode = self.bench(model, threads, repeats, (1, job.output_tokens + 1, 1))
        else:
            load = (job.input_tokens, job.output_tokens + 1, job.concurrency)
            prefill = decode = self.bench(model, threads, repeats, load)
        full_decode = decode["full_decode_tokens_per_second"]
        if full_decode is None:
            # The first sequences decode while the last ones' prompts are still being read.
            raise RuntimeError(f"{job.name}: no step had all sequences: raise --output-tokens")
        return {
            "prefill": prefill["prefill_tokens_per_second"]["median"],
            "decode": full_decode["median"],
        }

    def profile(self, job: Job, model: Path, threads: int) -> dict:
        command = [str(self.executable), "profile", str(model), "--quiet", "--json"]
        command += ["--input-tokens", str(job.input_tokens), "--threads", str(threads)]
        command += ["--output-tokens", str(min(job.output_tokens, 64))]
        command += ["--concurrency", str(job.concurrency or 1), *self.cache]
        profile = json.loads(output_of(command))
        return {name: profile[name] for name in ("limits", "phases")}


    def example(self, model: Path, name: str) -> str:
        """What a user sees of a profile of four sequences at a long context."""
        options = ["--input-tokens", "2560", "--concurrency", "4", *self.cache]
        shown = output_of([str(self.executable), "profile", str(model), "--quiet", *options])
        command = " ".join(["quantkit profile", name, *options])
        return f"$ {command}\n{shown.replace(str(model), name).strip()}"


class Llama:
    """What both ways to llama.cpp have in common."""

    def __init__(self, flash_attention: list[bool]):
        self.flash_attention = flash_attention

    def settings(self, threads: list[int]) -> list[Setting]:
        return [Setting(count, flash) for count in threads for flash in self.flash_attention]


class LlamaTools(Llama):
    """llama.cpp's own benchmarks."""

    def __init__(self, folder: Path, flash_attention: list[bool]):
        super().__init__(flash_attention)
        self.bench, self.batched = folder / "llama-bench", folder / "llama-batched-bench"
        for tool in (self.bench, self.batched):
            if not tool.is_file():
                sys.exit(f"{tool}: expected llama.cpp's tools in --llama-bin, found no such file")
        # Tools that were built with shared libraries find them beside themselves.
        path = [str(folder), os.environ.get("LD_LIBRARY_PATH", "")]
        os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, path))
        self.version = "llama-bench and llama-batched-bench"

    def measure(self, job: Job, model: Path, setting: Setting, repeats: int) -> dict[str, float]:
        shared = ["-m", str(model), "-t", str(setting.threads)]
        shared += ["-fa", "on" if setting.flash_attention else "off"]
        if job.concurrency is None:
            command = [str(self.bench), *shared, "-r", str(repeats)]
            command += ["-p", str(job.input_tokens), "-n", str(job.output_tokens), "-o", "json"]
            tests = json.loads(output_of(command))
            self.version = f"llama-bench of build {tests[0]['build_commit']}"
            rates = {test["n_gen"] > 0: statistics.median(test["samples_ts"]) for test in tests}
            return {"prefill": rates[False], "decode": rates[True]}
        context = job.concurrency * rounded(job.input_tokens + job.output_tokens)
        command = [str(self.batched), *shared, "-c", str(context)]
        command += ["-npp", str(job.input_tokens), "-ntg", str(job.output_tokens)]
        command += ["-npl", str(job.concurrency), "-b", str(BATCH), "-ub", str(PIECE)]
        command += ["--output-format", "jsonl"]
        runs = []
        for _ in range(repeats):
            lines = output_of(command).splitlines()
            runs += [json.loads(line) for line in lines if line.startswith("{")]
        return {
            "prefill": statistics.median(run["speed_pp"] for run in runs),
            "decode": statistics.median(run["speed_tg"] for run in runs),
        }


class LlamaLibrary(Llama):
    """llama.cpp's library by way of llama-cpp-python, each run in a process of its own."""

    def __init__(self, flash_attention: list[bool]):
        super().__init__(flash_attention)
        self.version = self.ask({})["version"]

    def ask(self, task: dict) -> dict:
        text = output_of([sys.executable, __file__, "--library-task", json.dumps(task)])
        return json.loads(text.splitlines()[-1])

    def measure(self, job: Job, model: Path, setting: Setting, repeats: int) -> dict[str, float]:
        task = asdict(job) | asdict(setting) | {"model": str(model), "repeats": repeats}
        return self.ask(task)["rates"]


def rounded(tokens: int) -> int:
    """A sequence's context as llama.cpp rounds it."""
    return -(-tokens // 256) * 256


def library_task(task: dict) -> dict:
    """Runs in a process of its own: the loops of llama.cpp's benchmarks over its library."""
    import ctypes
    import random

    import llama_cpp
    from llama_cpp import llama_cpp as library

    if not task:
        return {"version": f"llama-cpp-python {llama_cpp.__version__}"}
    silent = library.llama_log_callback(lambda *_: None)
    library.llama_log_set(silent, ctypes.c_void_p(0))
    library.llama_backend_init()
    model_options = library.llama_model_default_params()
    model = library.llama_model_load_from_file(task["model"].encode(), model_options)
    if not model:
        raise RuntimeError(f"{task['model']}: llama.cpp cannot load it")
    sequences = task["concurrency"] or 1
    is_short = task["concurrency"] is None
    input_tokens, output_tokens = task["input_tokens"], task["output_tokens"]
    options = library.llama_context_default_params()
    options.n_ctx = sequences * rounded(input_tokens + output_tokens)
    options.n_batch, options.n_ubatch, options.n_seq_max = BATCH, PIECE, sequences
    options.n_threads = options.n_threads_batch = task["threads"]
    options.kv_unified = False
    # LLAMA_FLASH_ATTN_TYPE_ENABLED and _DISABLED.
    options.flash_attn_type = 1 if task["flash_attention"] else 0
    context = library.llama_init_from_model(model, options)
    if not context:
        raise RuntimeError(f"{task['model']}: llama.cpp makes no context of {options.n_ctx} tokens")
    memory = library.llama_get_memory(context)
    vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    batch = library.llama_batch_init(BATCH, 0, 1)

    def run(tokens: list[tuple[int, int, bool]]):
        """Runs tokens, each a sequence, a position and whether it gives logits, a batch at a time."""
        for start in range(0, len(tokens), BATCH):
            part = tokens[start : start + BATCH]
            for i, (sequence, position, logits) in enumerate(part):
                batch.token[i] = random.randrange(vocabulary)
                batch.pos[i] = position
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = sequence
                batch.logits[i] = logits
            batch.n_tokens = len(part)
            if library.llama_decode(context, batch) != 0:
                raise RuntimeError(f"{task['model']}: llama_decode failed")
        library.llama_synchronize(context)

    def prompts() -> list[tuple[int, int, bool]]:
        positions = range(input_tokens)
        return [(s, p, p == input_tokens - 1) for s in range(sequences) for p in positions]

    def timed(action) -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    def decode(first: int):
        for step in range(output_tokens):
            run([(sequence, first + step, True) for sequence in range(sequences)])

    run([(0, position, False) for position in range(16)])
    prefill_rates, decode_rates = [], []
    for _ in range(task["repeats"]):
        library.llama_memory_clear(memory, False)
        seconds = timed(lambda: run(prompts()))
        prefill_rates.append(sequences * input_tokens / seconds)
        if is_short:
            library.llama_memory_clear(memory, False)
        seconds = timed(lambda: decode(0 if is_short else input_tokens))
        decode_rates.append(sequences * output_tokens / seconds)
    rates = {"prefill": prefill_rates, "decode": decode_rates}
    return {"rates": {name: statistics.median(values) for name, values in rates.items()}}


# Results.


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


def measure(results: Results, jobs: list[Job], files: dict, sides: dict, options: argparse.Namespace):
    """Runs what is missing of the jobs, in turns."""
    for job in jobs:
        model = files[(job.model, job.format)]
        repeats = options.repeats or (3 if job.concurrency is None else 1)
        for turn in range(options.rounds):
            for name, side in sides.items():
                for setting in side.settings(options.threads):
                    done = [run for run in results.runs(job, name) if setting_of(run) == setting]
                    if len(done) > turn:
                        continue
                    load = os.getloadavg()[0]
                    rates = side.measure(job, model, setting, repeats)
                    run = {"job": asdict(job), "side": name, "version": side.version}
                    run |= asdict(setting) | {"repeats": repeats, "load_before": round(load, 2)}
                    run |= {phase: round(rate, 2) for phase, rate in rates.items()}
                    results.document["runs"].append(run)
                    results.write()
                    figures = f"prefill {rates['prefill']:9.1f}, decode {rates['decode']:8.1f}"
                    print(f"{job.name:20} {name:10} {setting}: {figures} tokens/s", flush=True)
        for phase in ("prefill", "decode"):
            print(f"{job.name:20} {phase}: {results.ratio(job, phase):.2f} ×", flush=True)


def explain(results: Results, jobs: list[Job], files: dict, quantkit: Quantkit):
    """Profiles the jobs that fall short of a bar, and those that show how fast weights are read."""
    for job in jobs:
        wanted = short_phases(results, job) or shows_bandwidth(job)
        if job not in results.jobs() or not wanted:
            continue
        if job.name in results.document["profiles"]:
            continue
        model = files[(job.model, job.format)]
        print(f"{job.name:20} profiling", flush=True)
        results.document["profiles"][job.name] = quantkit.profile(job, model, results.threads(job))
        results.write()
    example = files.get(("small", "Q4_0"))
    if example and not results.document["example"]:
        results.document["example"] = quantkit.example(example, "models/smollm2.Q4_0.gguf")
        results.write()


def short_phases(results: Results, job: Job) -> list[str]:
    """The phases of a job whose ratio is below its bar."""
    def falls_short(phase: str) -> bool:
        wanted = bar(job.model, job.format, job.concurrency, phase)
        return wanted is not None and results.ratio(job, phase) < wanted

    return [phase for phase in ("prefill", "decode") if falls_short(phase)]


# Reports.


def figure(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def cell(results: Results, job: Job, phase: str) -> str:
    """`2,312 : 1,107 = 2.1 × (≥ 1.8)`, the ratio in bold where it reaches its bar."""
    ours, theirs = (results.rate(job, side, phase) for side in SIDES)
    wanted = bar(job.model, job.format, job.concurrency, phase)
    ratio = f"{ours / theirs:.2f} ×"
    if wanted is not None:
        ratio = f"**{ratio}**" if ours / theirs >= wanted else ratio
        ratio += f" (≥ {wanted:g})"
    return f"{figure(ours)} : {figure(theirs)} = {ratio}"


def tables(results: Results) -> str:
    """A table a model: a row a job and phase, a column a format."""
    text = []
    for model, title in (("small", "SmolLM2-135M"), ("big", "1.43 B llama shape")):
        jobs = [job for job in results.jobs() if job.model == model]
        formats = [name for name in FORMATS if any(job.format == name for job in jobs)]
        if not jobs:
            continue
        text.append(f"| {title}: tokens/s | " + " | ".join(formats) + " |")
        text.append("|---|" + "--:|" * len(formats))
        kinds = sorted(
            {(job.concurrency, job.input_tokens, job.output_tokens) for job in jobs},
            key=lambda kind: kind[0] or 0,
        )
        for phase in ("prefill", "decode"):
            for kind in kinds:
                cells = []
                for name in formats:
                    job = next((j for j in jobs if j == Job(model, name, *kind)), None)
                    cells.append(cell(results, job, phase) if job else "")
                text.append(f"| {row_name(kind, phase)} | " + " | ".join(cells) + " |")
        text.append("")
    return "\n".join(text)


def row_name(kind: tuple, phase: str) -> str:
    concurrency, input_tokens, output_tokens = kind
    if concurrency is None:
        from_empty = "" if phase == "prefill" else " from empty"
        return f"{phase} {input_tokens if phase == 'prefill' else output_tokens}{from_empty}"
    sequences = f"{concurrency} sequence" + ("s" if concurrency > 1 else "")
    if phase == "prefill":
        return f"prefill {input_tokens:,}, {sequences}"
    return f"decode {output_tokens:,} after {input_tokens:,}, {sequences}"


def ourselves(results: Results) -> str:
    """What fewer bytes bring: quantized files against F16, where weights dominate."""
    lines = []
    for model in ("small", "big"):
        jobs = {job.format: job for job in results.jobs()
                if job.model == model and job.concurrency is None}  # fmt: skip
        if "F16" not in jobs:
            continue
        f16 = jobs.pop("F16")
        sizes = results.document["bytes"]
        base = results.rate(f16, "quantkit", "decode")
        for name in (name for name in FORMATS if name in jobs):
            rate = results.rate(jobs[name], "quantkit", "decode")
            smaller = sizes[f"{model}/F16"] / sizes[f"{model}/{name}"]
            lines.append(f"{title_of(model)} {name}: {rate / base:.2f} × F16's decode with "
                         f"1/{smaller:.2f} of its bytes")  # fmt: skip
    return "Against ourselves: " + "; ".join(lines) + "." if lines else ""


def shows_bandwidth(job: Job) -> bool:
    return job.model == "big" and job.concurrency is None


def bandwidth(results: Results) -> str:
    """How much of the memory's speed decoding the big model reaches."""
    words = []
    for job in results.jobs():
        profile = results.document["profiles"].get(job.name)
        if not profile or not shows_bandwidth(job):
            continue
        decode = next(phase for phase in profile["phases"] if phase["name"] == "decode")
        read = sum(one["bytes"] for one in decode["operations"]) / decode["seconds"]
        limit = profile["limits"]["model"]["bytes_per_second"]
        words.append(f"{job.format} {read / 1e9:.1f} of {limit / 1e9:.1f} GB/s ({read / limit:.0%})")
    return "Memory reads of one sequence's decode, 1.43 B: " + "; ".join(words) + "." if words else ""


def title_of(model: str) -> str:
    return {"small": "SmolLM2", "big": "1.43 B"}[model]


def limits(results: Results) -> str:
    """For each row that falls short, where quantkit's time goes and how near the limits that is."""
    lines = []
    for job in results.jobs():
        profile = results.document["profiles"].get(job.name)
        for phase in short_phases(results, job):
            wanted = bar(job.model, job.format, job.concurrency, phase)
            kind = (job.concurrency, job.input_tokens, job.output_tokens)
            line = f"- {title_of(job.model)} {job.format}, {row_name(kind, phase)}: "
            line += f"{results.ratio(job, phase):.2f} × instead of {wanted:g} ×"
            if profile:
                line += f". {limit_of(profile, phase)}"
            lines.append(line)
    return "\n".join(lines)


def limit_of(profile: dict, phase: str) -> str:
    """The largest operations of a phase, each with its share and how near its limit it is."""
    found = next(one for one in profile["phases"] if one["name"] == phase)
    largest = sorted(found["operations"], key=lambda one: -one["seconds"])[:3]
    words = []
    for one in largest:
        near = ""
        if one["least_seconds"] > 0:
            near = f" (at {one['least_seconds'] / one['seconds']:.0%} of its limit)"
        words.append(f"{one['operation']} {one['share']:.0%}{near}")
    share = found["least_seconds"] / found["seconds"]
    return f"Bound by {found['bound']}, {share:.0%} of the limit in all: {'; '.join(words)}"


def machine_line(results: Results) -> str:
    machine = results.document.get("machine", {})
    versions = {side: sorted({run["version"] for run in results.document["runs"]
                              if run["side"] == side}) for side in SIDES}  # fmt: skip
    threads = sorted({run["threads"] for run in results.document["runs"]})
    load = max((run["load_before"] for run in results.document["runs"]), default=0)
    return (
        f"{machine.get('cpu', 'unknown processor')}, {machine.get('cores', '?')} cores; threads tried: "
        f"{', '.join(map(str, threads))}; {', '.join(versions['quantkit'])} against "
        f"{', '.join(versions['llama.cpp'])}, each phase with what is faster, flash attention or none; "
        f"load average before a run at most {load:.1f}"
    )


def report(results: Results) -> str:
    parts = [tables(results), "tokens/s, quantkit : llama.cpp = ratio (bar); "
             "bold where the bar is reached. " + machine_line(results) + "."]  # fmt: skip
    for paragraph in (ourselves(results), bandwidth(results)):
        if paragraph:
            parts += ["", paragraph]
    short = limits(results)
    if short:
        parts += ["", "What falls short, and what limits it:", "", short]
    return "\n".join(parts) + "\n"


def fill(page: Path, sections: dict[str, str]):
    """Puts each section between its marks in a page, where the page has them."""
    text = page.read_text()
    filled = 0
    for name, section in sections.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin in text and end in text and section:
            start = text.index(begin) + len(begin)
            text = f"{text[:start]}\n{section.strip()}\n{text[text.index(end):]}"
            filled += 1
    if not filled:
        sys.exit(f"{page}: expected marks such as <!-- throughput:begin -->, found none")
    page.write_text(text)


# The picture.

PANEL, HEIGHT, LEFT, TOP, BOTTOM = 300, 320, 56, 64, 48
# Room in a panel beside the first and the last point.
INSET = 22
COLOURS = {"quantkit": "#1f6feb", "llama.cpp": "#bf5700"}


def picture(results: Results) -> str:
    """Decode tokens/s against concurrency, a panel a format, as SVG."""
    jobs = [job for job in results.jobs() if job.concurrency is not None]
    formats = [name for name in reversed(FORMATS) if any(job.format == name for job in jobs)]
    if not formats:
        sys.exit("no long job is in the results: nothing to draw")
    highest = max(results.rate(job, side, "decode") for job in jobs for side in SIDES)
    step = next(s for s in (10, 20, 50, 100, 200, 500, 1000) if highest / s <= 8)
    top = -(-highest // step) * step
    width = LEFT + PANEL * len(formats)
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13" fill="#24292f">',
        f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>',
    ]

    def y(rate: float) -> float:
        return HEIGHT - BOTTOM - rate / top * (HEIGHT - TOP - BOTTOM)

    def text(x: float, y: float, words: str, rest: str = ""):
        svg.append(f'<text x="{x:.1f}" y="{y:.1f}" {rest}>{words}</text>')

    for panel, name in enumerate(formats):
        own = sorted((job for job in jobs if job.format == name), key=lambda job: job.concurrency)
        left, right = LEFT + panel * PANEL, LEFT + (panel + 1) * PANEL - 24
        places = {
            job.concurrency: left + INSET + (right - left - 2 * INSET) * index / max(len(own) - 1, 1)
            for index, job in enumerate(own)
        }
        text((left + right) / 2, TOP - 16, f"{name}", 'text-anchor="middle" font-weight="bold"')
        rate = 0
        while rate <= top:
            svg.append(
                f'<line x1="{left}" x2="{right}" y1="{y(rate):.1f}" y2="{y(rate):.1f}" '
                'stroke="#d0d7de"/>'
            )
            if panel == 0:
                text(left - 8, y(rate) + 4, f"{rate:g}", 'text-anchor="end"')
            rate += step
        for concurrency, x in places.items():
            text(x, HEIGHT - BOTTOM + 18, str(concurrency), 'text-anchor="middle"')
        for side in SIDES:
            points = [(places[job.concurrency], y(results.rate(job, side, "decode"))) for job in own]
            path = " ".join(f"{x:.1f},{height:.1f}" for x, height in points)
            colour = COLOURS[side]
            svg.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
            for (x, height), job in zip(points, own):
                svg.append(f'<circle cx="{x:.1f}" cy="{height:.1f}" r="3.5" fill="{colour}"/>')
                label = figure(results.rate(job, side, "decode"))
                is_above = side == "quantkit" or height > y(0) - 20
                beside = height - 8 if is_above else height + 17
                text(x, beside, label, f'text-anchor="middle" font-size="11" fill="{colour}"')
    sample = jobs[0]
    last = sample.input_tokens + sample.output_tokens
    text(8, 20, f"decode tokens/s in total at a context of {sample.input_tokens:,} to {last:,}")
    text((LEFT + width) / 2, HEIGHT - 8, "sequences at once", 'text-anchor="middle"')
    for index, side in enumerate(SIDES):
        x = width - 190 + 96 * index
        svg.append(f'<circle cx="{x}" cy="16" r="4" fill="{COLOURS[side]}"/>')
        text(x + 9, 20, side)
    return "\n".join(svg) + "\n</svg>\n"


# The command line.


def named_files(words: list[str], model: str) -> dict[tuple[str, str], Path]:
    files = {}
    for word in words:
        name, _, path = word.partition("=")
        if name not in FORMATS or not Path(path).is_file():
            sys.exit(f"--{model} {word}: expected FORMAT=FILE with one of {', '.join(FORMATS)}")
        files[(model, name)] = Path(path)
    return files


def physical_cores() -> int:
    """Cores, each counted once however many threads it has; hardware threads where Linux does not tell."""
    places = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    return len({place.read_text() for place in places}) or os.cpu_count()


def describe_machine() -> dict:
    cpu = "unknown processor"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"cpu": " ".join(cpu.split()), "cores": os.cpu_count(), "system": " ".join(os.uname()[::2])}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--results", type=Path, default=Path("docs/throughput.json"), metavar="FILE")
    add("--small", nargs="+", default=[], metavar="FORMAT=FILE", help="files of the small model")
    add("--big", nargs="+", default=[], metavar="FORMAT=FILE", help="files of the big model")
    add("--jobs", nargs="+", metavar="GLOB", help="only these, such as 'small/Q4_0/*'")
    add("--quantkit", type=Path, default=Path("target/release/quantkit"), metavar="FILE")
    add("--kv-type", help="quantkit's --kv-type")
    add("--llama-bin", type=Path, metavar="DIR", help="folder of llama.cpp's tools")
    add("--threads", type=int, nargs="+", default=sorted({physical_cores(), os.cpu_count()}),
        help="numbers to try [physical cores and hardware threads]")  # fmt: skip
    add("--flash-attention", nargs="+", choices=("on", "off"), default=["on", "off"],
        help="llama.cpp's, to try [both]")  # fmt: skip
    add("--rounds", type=int, default=2, help="runs of each side, in turns [2]")
    add("--repeats", type=int, help="repeats within a run [3 of short jobs, 1 of long ones]")
    add("--input-tokens", type=int, default=2560, help="of long jobs [2560]")
    add("--output-tokens", type=int, default=768, help="of long jobs [768]")
    add("--short-tokens", type=int, nargs=2, default=[SHORT_INPUT, SHORT_OUTPUT],
        metavar=("IN", "OUT"), help="of short jobs [512 64]")  # fmt: skip
    add("--again", action="store_true", help="forget what is stored of the jobs")
    add("--no-profiles", action="store_true", help="do not profile what falls short")
    add("--report", action="store_true", help="print the stored results as Markdown")
    add("--pages", type=Path, nargs="+", default=[], help="put them between the marks of pages")
    add("--plot", type=Path, metavar="SVG", help="draw decode tokens/s against concurrency")
    add("--library-task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.library_task:
        print(json.dumps(library_task(json.loads(options.library_task))))
        return 0
    results = Results(options.results)
    files = named_files(options.small, "small") | named_files(options.big, "big")
    if files:
        quantkit = Quantkit(options.quantkit, options.kv_type)
        results.begin(quantkit.build)
        results.document["bytes"] |= {"/".join(key): path.stat().st_size for key, path in files.items()}
        results.document["machine"] = describe_machine()
        jobs = all_jobs(files, options)
        if options.again:
            results.forget({job.name for job in jobs})
        flash = [one == "on" for one in options.flash_attention]
        folder = options.llama_bin
        llama = LlamaTools(folder, flash) if folder else LlamaLibrary(flash)
        measure(results, jobs, files, {"quantkit": quantkit, "llama.cpp": llama}, options)
        if not options.no_profiles:
            explain(results, jobs, files, quantkit)
    if not results.document["runs"]:
        sys.exit("nothing is measured yet: give --small or --big")
    if options.report or files:
        print("\n" + report(results))
    example = results.document["example"]
    image = "![Decode tokens/s against the number of sequences](docs/throughput.svg)\n\n"
    sections = {
        "throughput": (image if options.plot else "") + report(results),
        "profile": f"```console\n{example}\n```" if example else "",
    }
    for page in options.pages:
        fill(page, sections)
    if options.plot:
        options.plot.write_text(picture(results))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as failure:
        sys.exit(str(failure))
