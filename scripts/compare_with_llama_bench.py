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
`--report`, `--pages docs/throughput.md` and `--plot docs/throughput.svg` turn what is stored into a table, sections
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
from dataclasses import asdict
from pathlib import Path

from throughput_pages import fill, picture, report, shows_bandwidth
from throughput_results import (
    CONCURRENCY,
    FORMATS,
    LONG_FORMATS,
    Job,
    Results,
    Setting,
    setting_of,
    short_phases,
)

SHORT_INPUT, SHORT_OUTPUT = 512, 64

# llama.cpp's batch and its pieces: its tools' defaults.
BATCH, PIECE = 2048, 512


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
    image = "![Decode tokens/s against the number of sequences](throughput.svg)\n\n"
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
