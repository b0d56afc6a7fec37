#!/usr/bin/env python3
"""Runs llama.cpp's own tests of llama-server against quantkit, with a model that lies on this machine.

    python3 scripts/llama_server_tests.py --suite llama.cpp/tools/server/tests --model model.gguf \
        --reference llama.cpp/build/bin/llama-server

The tests want a model from a hub, whose texts some of them know by heart. So the same tests run with
llama-server first, and count where they pass there. The last line says how many of those pass with
quantkit. Needs pytest, requests, openai, wget, filelock and pytest-xdist.

The tests start their server with llama-server's options. They start this file, too, which puts the model in
the place of the one from the hub and starts the program: see `start`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

# What quantkit is meant to answer. The other files of the suite are about tools, embeddings and the like.
FILES = [
    "test_basic.py", "test_completion.py", "test_chat_completion.py", "test_tokenize.py",
    "test_template.py", "test_ignore_eos.py", "test_security.py", "test_stream.py", "test_ctx_shift.py",
]
# Options that choose a model, each with a value.
CHOOSE_MODEL = {"--hf-repo", "--hf-file", "--model", "--model-url", "--model-draft", "--mmproj-url"}
# Options that belong to the models that were left out: those with a value, and flags. The suite starts each
# of its models once before the first test.
OF_OTHER_MODELS = {"--ubatch-size", "-fa", "--pooling"}
FLAGS_OF_OTHER_MODELS = {"--offline", "--no-mmproj", "--embedding", "--reranking"}


def start():
    """Starts the program in the place of this process."""
    program, model = os.environ["WRAPPED_PROGRAM"], os.environ["WRAPPED_MODEL"]
    words, kept = iter(sys.argv[1:]), []
    for word in words:
        if word in CHOOSE_MODEL | OF_OTHER_MODELS:
            next(words)
        elif word not in FLAGS_OF_OTHER_MODELS:
            kept.append(word)
    command = [program]
    if "WRAPPED_IS_QUANTKIT" in os.environ:
        command.append("serve")
        kept = for_quantkit(kept)
    command += ["--model", model, *kept]
    os.execv(command[0], command)


def for_quantkit(words):
    """llama-server shares --ctx-size out among its slots; quantkit's is that of one request. quantkit has
    no templates but the model's own, which is what --no-jinja would do without."""
    words = [word for word in words if word != "--no-jinja"]
    if "--ctx-size" in words and "--parallel" in words and "--kv-unified" not in words:
        slots = int(words[words.index("--parallel") + 1])
        place = words.index("--ctx-size") + 1
        words[place] = str(int(words[place]) // slots)
    return words


def run(arguments, program, is_quantkit):
    """The outcome of each test, by its name: passed, skipped, or what went wrong in a line."""
    environment = {
        **os.environ,
        "LLAMA_SERVER_BIN_PATH": str(Path(__file__).resolve()),
        "WRAPPED_PROGRAM": str(Path(program).resolve()),
        "WRAPPED_MODEL": str(Path(arguments.model).resolve()),
        "PORT": str(arguments.port),
    }
    if is_quantkit:
        environment["WRAPPED_IS_QUANTKIT"] = "1"
    tests = arguments.tests or [f"unit/{name}" for name in FILES]
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow",
            f"--junitxml={report}", *tests,
        ]
        log = Path(arguments.log or directory) / ("quantkit.log" if is_quantkit else "reference.log")
        with log.open("w") as file:
            subprocess.run(
                command, cwd=arguments.suite, env=environment, stdout=file, stderr=file, check=False
            )
        if not report.exists():
            sys.exit(f"pytest gave no report:\n{log.read_text()[-2000:]}")
        return {name(case): outcome(case) for case in ElementTree.parse(report).iter("testcase")}


def name(case):
    return f"{case.get('classname').removeprefix('unit.')}::{case.get('name')}"


def outcome(case):
    for kind in ("failure", "error"):
        if (found := case.find(kind)) is not None:
            return (found.get("message") or kind).splitlines()[0][:160]
    return "skipped" if case.find("skipped") is not None else "passed"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", required=True, help="llama.cpp's tools/server/tests")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--program", default="target/release/quantkit")
    parser.add_argument("--reference", required=True,
                        help="llama-server; or a JSON file with its outcomes, as --keep writes it")
    parser.add_argument("--keep", help="write llama-server's outcomes into this JSON file")
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--log", help="write the tests' output into this directory")
    parser.add_argument("tests", nargs="*", help="unit/FILE.py, unit/FILE.py::TEST or -k WORD")
    arguments = parser.parse_args()
    if arguments.reference.endswith(".json"):
        expected = json.loads(Path(arguments.reference).read_text())
    else:
        expected = run(arguments, arguments.reference, is_quantkit=False)
    if arguments.keep:
        Path(arguments.keep).write_text(json.dumps(expected, indent=1))
    found = run(arguments, arguments.program, is_quantkit=True)
    counted = [test for test in found if expected.get(test) == "passed"]
    failed = [test for test in counted if found[test] != "passed"]
    for test in failed:
        print(f"{test}\n    {found[test]}")
    more = [test for test in found if found[test] == "passed" and expected.get(test) != "passed"]
    print(f"{len(counted) - len(failed)} of the {len(counted)} tests that pass with llama-server pass; "
          f"{len(more)} that do not pass there do")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    if "WRAPPED_PROGRAM" in os.environ:
        start()
    else:
        main()
