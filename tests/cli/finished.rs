//! Finished results: shown again where they are what is asked for, and replaced only on request.

use std::fs;

use assert_cmd::assert::Assert;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

use super::support::{VariantBench, quantkit};

/// A set of two subjects, three questions each, beside the models.
fn bench() -> VariantBench {
    let bench = VariantBench::new();
    let line = |row: usize| {
        let subject = ["astronomy", "virology"][row / 3];
        format!(
            "{{\"subject\":\"{subject}\",\"question\":\"Is it {row}?\",\"choices\":[\"yes\",\"no\"],\
             \"answer\":{}}}\n",
            row % 2
        )
    };
    fs::write(bench.path("set.jsonl"), (0..6).map(line).collect::<String>()).unwrap();
    bench
}

fn run(bench: &VariantBench, arguments: &[&str]) -> Assert {
    quantkit().current_dir(bench.path("")).args(arguments).assert()
}

fn json(assert: Assert) -> Value {
    serde_json::from_slice(&assert.get_output().stdout).expect("one JSON document")
}

const EVALUATION: [&str; 6] =
    ["mmlu-eval", "f16.gguf", "--set", "set.jsonl", "--protocol", "cloze"];

#[test]
fn an_evaluation_is_shown_again_and_replaced_only_on_request() {
    let bench = bench();
    let default = "outputs/mmlu-eval-f16-set-cloze";
    let result = bench.path(default).join("summary.json");
    run(&bench, &EVALUATION).success().stdout(contains("6 questions in").and(contains(default)));
    let first = fs::read(&result).unwrap();
    // The model is not even loaded.
    run(&bench, &EVALUATION)
        .success()
        .stdout(contains("6 questions in").and(contains("This result was there already")));
    let again = json(run(&bench, &[&EVALUATION[..], &["--json"]].concat()).success());
    assert_eq!(again["reused"], true);
    assert_eq!(fs::read(&result).unwrap(), first);

    let limited = ["--limit", "1", "--output", default];
    run(&bench, &[&EVALUATION[..], &limited].concat()).failure().stderr(
        contains(format!("{default}: holds a finished result"))
            .and(contains("limit is not given there and 1 here"))
            .and(contains("--overwrite")),
    );
    assert_eq!(fs::read(&result).unwrap(), first);
    let limited = [&limited[..], &["--overwrite"]].concat();
    run(&bench, &[&EVALUATION[..], &limited].concat()).success();
    assert_ne!(fs::read(&result).unwrap(), first);

    // A result that cannot be read is one all the same.
    fs::write(&result, "{").unwrap();
    run(&bench, &EVALUATION).failure().stderr(contains("cannot be read").and(contains(default)));
    run(&bench, &[&EVALUATION[..], &["--overwrite"]].concat()).success();
}

#[test]
fn a_limit_is_per_subject_and_said() {
    let bench = bench();
    let limited = [&EVALUATION[..], &["--limit", "1"]].concat();
    run(&bench, &limited).success().stdout(
        contains("set.jsonl: cloze; the first question of each subject")
            .and(contains("2 questions in"))
            .and(contains("outputs/mmlu-eval-f16-set-cloze-limit-1")),
    );
    let directory = "outputs/mmlu-eval-f16-set-cloze-limit-1";
    let record = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(bench.path(directory).join(name)).unwrap()).unwrap()
    };
    let (run_record, summary) = (record("run.json"), record("summary.json"));
    for record in [&run_record, &summary] {
        assert_eq!(record["selection"], "the first question of each subject");
    }
    assert_eq!(run_record["settings"]["questions"], 2);
    // One question has no standard error.
    assert!(summary["subject_scores"][0]["standard_error"].is_null());
    assert!(summary["overall"]["standard_error"].is_f64());
    run(&bench, &limited).success().stdout(contains("–"));
    run(&bench, &["results", "show", directory])
        .success()
        .stdout(contains("the first question of each subject"));
}

#[test]
fn a_finished_run_gets_its_comparison_without_being_scored_again() {
    let bench = bench();
    run(&bench, &[&EVALUATION[..], &["--output", "base"]].concat()).success();
    let variant = ["mmlu-eval", "Q4_0.gguf", "--set", "set.jsonl", "--protocol", "cloze"];
    let variant = [&variant[..], &["--output", "variant"]].concat();
    run(&bench, &variant).success();
    let summary = fs::read(bench.path("variant/summary.json")).unwrap();
    let against = [&variant[..], &["--baseline", "base", "--json"]].concat();
    let compared = json(run(&bench, &against).success());
    assert_eq!(compared["reused"], true);
    assert_eq!(compared["comparison"]["paired"]["questions"], 6);
    assert!(bench.path("variant/comparison.json").is_file());
    assert_eq!(fs::read(bench.path("variant/summary.json")).unwrap(), summary);
}

/// The commands with one file of results, an option that changes what they find, and that file.
const OTHERS: [(&[&str], &[&str], &str); 3] = [
    (
        &["perplexity", "f16.gguf", "--text", "text.txt", "--context", "32", "--output", "out"],
        &["--chunks", "2"],
        "perplexity.json",
    ),
    (
        &[
            "divergence",
            "f16.gguf",
            "Q4_0.gguf",
            "--text",
            "text.txt",
            "--context",
            "32",
            "--output",
            "out",
        ],
        &["--chunks", "2"],
        "divergence.json",
    ),
    (
        &[
            "bench",
            "f16.gguf",
            "--output-tokens",
            "3",
            "--concurrency",
            "1",
            "--output",
            "out",
            "--input-tokens",
        ],
        &["9"],
        "bench.json",
    ),
];

#[test]
fn other_results_are_shown_again_and_replaced_only_on_request() {
    for (command, change, file) in OTHERS {
        let bench = bench();
        // The load's length is the last word.
        let own: &[&str] = if file == "bench.json" { &["8"] } else { &[] };
        let same = [command, own].concat();
        let other = [command, change].concat();
        let result = bench.path("out").join(file);
        run(&bench, &same).success().stdout(contains("there already").not());
        let first = fs::read(&result).unwrap();
        run(&bench, &same).success().stdout(contains("This result was there already"));
        let again = json(run(&bench, &[&same[..], &["--json"]].concat()).success());
        assert_eq!(again["reused"], true, "{file}");
        assert_eq!(fs::read(&result).unwrap(), first, "{file}");
        run(&bench, &other).failure().stderr(
            contains(format!("{file}: holds a finished result")).and(contains("--overwrite")),
        );
        assert_eq!(fs::read(&result).unwrap(), first, "{file}");
        run(&bench, &[&other[..], &["--overwrite"]].concat()).success();
        assert_ne!(fs::read(&result).unwrap(), first, "{file}");
    }
}

#[test]
fn logits_that_are_not_there_are_no_finished_result() {
    let bench = bench();
    let command = ["perplexity", "f16.gguf", "--text", "text.txt", "--context", "32"];
    let with = |more: &[&str]| run(&bench, &[&command[..], &["--output", "out"], more].concat());
    with(&["--save-logits", "base.logits"]).success();
    with(&["--save-logits", "base.logits"]).success().stdout(contains("there already"));
    fs::remove_file(bench.path("base.logits")).unwrap();
    with(&["--save-logits", "base.logits"])
        .failure()
        .stderr(contains("the file of base logits").and(contains("--overwrite")));
    with(&["--save-logits", "base.logits", "--overwrite"]).success();
    assert!(bench.path("base.logits").is_file());
}

#[test]
fn merged_shards_replace_another_run_only_on_request() {
    let bench = bench();
    run(&bench, &[&EVALUATION[..], &["--limit", "1", "--output", "whole"]].concat()).success();
    run(&bench, &[&EVALUATION[..], &["--shard", "0/1", "--output", "part"]].concat()).success();
    run(&bench, &["merge", "whole", "part"])
        .failure()
        .stderr(contains("whole: holds a finished result"));
    run(&bench, &["merge", "whole", "part", "--overwrite"]).success();
    run(&bench, &["merge", "whole", "part"]).success();
}
