"""Compares `quantkit mmlu-eval --protocol letter` with lm-evaluation-harness, question by question.

Both score the same MMLU questions with the same shots: quantkit a GGUF file, the harness its own task
files on transformers in float32. The questions come from a local directory with MMLU's Parquet
files, so that no hub is needed:

    pip install "lm_eval[hf,api]"
    cargo build --release
    python scripts/compare_with_lm_eval.py checkpoint model.gguf --set eval-sets/mmlu \\
        --subjects anatomy astronomy --limit 50 --others model.Q4_0.gguf

With `--server`, the harness asks a server that runs the same file, as its `local-completions` does:

    quantkit serve model.gguf --port 8080
    python scripts/compare_with_lm_eval.py checkpoint model.gguf --set eval-sets/mmlu \\
        --subjects anatomy --limit 50 --server http://127.0.0.1:8080

It prints a row a subject, the standard error and accuracy of all of them, every question on which the
predictions differ with the gap between the harness's best two answers, and both sides' questions a second,
loading left out. It exits with 1 where predictions differ on a question whose gap is 1e-3 or more.
`--others` are timed on the same questions, but not compared. With `--limit`, the harness scores the
first questions of each subject and quantkit the whole subjects.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow.parquet as parquet

# Two answers this close may change places between two ways to add up the same numbers.
NEAR_TIE = 1e-3


@dataclass
class Answer:
    """One side's answer to one question."""

    log_probabilities: list[float]
    right: int

    @property
    def prediction(self) -> int:
        return self.log_probabilities.index(max(self.log_probabilities))

    @property
    def gap(self) -> float:
        best = sorted(self.log_probabilities, reverse=True)
        return best[0] - best[1]


@dataclass
class Side:
    """What one side says: the answers of each subject, and its totals."""

    answers: dict[str, list[Answer]]
    accuracy: float
    standard_error: float
    questions: int
    seconds: float


def questions_of(directory: Path, split: str) -> list[dict]:
    """The rows of a split of MMLU."""
    files = sorted(directory.glob(f"{split}-*.parquet")) or [directory / f"{split}.parquet"]
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def serve_locally(directory: Path):
    """Lets the harness find MMLU's subjects in local files."""
    splits = {split: questions_of(directory, split) for split in ("test", "dev")}
    load = datasets.load_dataset

    def load_dataset(path, name=None, **options):
        if path != "cais/mmlu":
            return load(path, name, **options)
        chosen = {
            split: datasets.Dataset.from_list([row for row in rows if row["subject"] == name])
            for split, rows in splits.items()
        }
        return datasets.DatasetDict(chosen)

    datasets.load_dataset = load_dataset


def run_harness(checkpoint: Path, options: argparse.Namespace) -> Side:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    serve_locally(options.set)
    if options.server:
        from lm_eval.models.openai_completions import LocalCompletionsAPI

        model = LocalCompletionsAPI(model=options.model.stem, tokenizer=str(checkpoint),
                                    base_url=f"{options.server}/v1/completions",
                                    batch_size=options.batch_size)  # fmt: skip
    else:
        model = HFLM(pretrained=str(checkpoint), dtype="float32", device="cpu",
                     batch_size=options.batch_size)  # fmt: skip
    scored = model.loglikelihood
    seconds = 0.0

    def timed(requests, **rest):
        nonlocal seconds
        started = time.perf_counter()
        results = scored(requests, **rest)
        seconds += time.perf_counter() - started
        return results

    model.loglikelihood = timed
    group = {
        "group": "selected",
        "task": [f"mmlu_{subject}" for subject in options.subjects],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    with tempfile.TemporaryDirectory() as directory:
        # YAML reads JSON.
        (Path(directory) / "selected.yaml").write_text(json.dumps(group))
        results = lm_eval.simple_evaluate(
            model=model, tasks=["selected"], num_fewshot=options.shots, limit=options.limit,
            task_manager=TaskManager(include_path=directory), log_samples=True, bootstrap_iters=2,
        )  # fmt: skip
    answers = {}
    for subject in options.subjects:
        samples = sorted(results["samples"][f"mmlu_{subject}"], key=lambda one: one["doc_id"])
        answers[subject] = [
            Answer([float(one[0]) for one in sample["filtered_resps"]], int(sample["target"]))
            for sample in samples
        ]
    totals = results["results"]["selected"]
    count = sum(map(len, answers.values()))
    return Side(answers, totals["acc,none"], totals["acc_stderr,none"], count, seconds)


def run_quantkit(model: Path, options: argparse.Namespace) -> Side:
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "run"
        command = [str(options.quantkit), "mmlu-eval", str(model), "--set", str(options.set)]
        command += ["--protocol", "letter", "--shots", str(options.shots), "--json", "--quiet"]
        command += ["--subjects", ",".join(options.subjects), "--output", str(output)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        summary = json.loads(done.stdout)
        rows = parquet.read_table(output / "questions.parquet").to_pylist()
    answers = {subject: [] for subject in options.subjects}
    for row in rows:
        answers[row["subject"]].append(Answer(row["log_probabilities"], row["answer"]))
    overall = summary["overall"]
    return Side(answers, overall["accuracy"], overall["standard_error"], overall["questions"],
                summary["seconds"])  # fmt: skip


def compare(harness: Side, quantkit: Side) -> bool:
    """Prints what differs; whether all that does is nearly a tie."""
    is_same, differences = True, []
    print(f"{'subject':32} questions  same  right: harness  quantkit  largest difference")
    for subject, theirs in harness.answers.items():
        ours = quantkit.answers[subject][: len(theirs)]
        same = sum(one.prediction == other.prediction for one, other in zip(theirs, ours))
        right = [sum(one.prediction == one.right for one in side) for side in (theirs, ours)]
        largest = max(
            abs(a - b)
            for one, other in zip(theirs, ours)
            for a, b in zip(one.log_probabilities, other.log_probabilities)
        )
        print(f"{subject:32} {len(theirs):9} {same:5} {right[0]:15} {right[1]:9} {largest:19.5f}")
        for number, (one, other) in enumerate(zip(theirs, ours)):
            if one.right != other.right:
                sys.exit(f"{subject}, question {number}: the sides were asked different questions")
            if one.prediction != other.prediction:
                differences.append((subject, number, one, other))
                is_same &= one.gap < NEAR_TIE
    for subject, number, one, other in differences:
        print(f"{subject}, question {number}: harness {one.prediction}, quantkit {other.prediction}; "
              f"the harness's best two are {one.gap:.6f} apart, quantkit's {other.gap:.6f}")  # fmt: skip
    return is_same


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="the checkpoint, for transformers")
    add("model", type=Path, help="the GGUF file of the same weights")
    add("--set", type=Path, required=True, help="directory of MMLU's Parquet files")
    add("--subjects", nargs="+", required=True)
    add("--shots", type=int, default=5)
    add("--limit", type=int, help="the harness scores at most so many of each subject")
    add("--batch-size", type=int, default=4, help="the harness's [4]")
    add("--server", metavar="URL", help="the harness asks this server instead of transformers")
    add("--others", type=Path, nargs="+", default=[], help="more GGUF files to time")
    add("--quantkit", type=Path, default=Path("target/release/quantkit"), metavar="FILE")
    options = parser.parse_args()

    before = run_quantkit(options.model, options)
    harness = run_harness(options.checkpoint, options)
    after = run_quantkit(options.model, options)
    is_same = compare(harness, before)
    for name, side in (("harness", harness), ("quantkit", before)):
        print(f"{name}: accuracy {side.accuracy:.6f} ± {side.standard_error:.6f} "
              f"on {side.questions} questions")  # fmt: skip
    slow = harness.questions / harness.seconds
    print(f"harness: {slow:.2f} questions/s")
    timed = [(options.model, before), (options.model, after)]
    timed += [(other, run_quantkit(other, options)) for other in options.others]
    for model, side in timed:
        rate = side.questions / side.seconds
        print(f"quantkit, {model.name}: {rate:.2f} questions/s, {rate / slow:.1f} times the harness's")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
