//! What `quantkit mmlu-eval` leaves behind: records, resuming, shards, `merge` and `results`.

use std::fs;
use std::path::PathBuf;
#[cfg(unix)]
use std::process::{Child, Command as Process};

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use quantkit::eval::questions::{Form, Question, write_questions};
use serde_json::Value;
use tempfile::TempDir;

use super::support::{TinyModel, quantkit};
#[cfg(unix)]
use super::support::{count_lines, send, start_until};

/// A tiny model, and a set of so many questions on three subjects.
pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new(questions: usize) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        TinyModel { context: 2048, ..TinyModel::default() }.write(&place.path("model.gguf"));
        let split = |count: usize| -> Vec<Question> { (0..count).map(question).collect() };
        write_questions(&place.path("set/test.parquet"), &split(questions)).unwrap();
        write_questions(&place.path("set/dev.parquet"), &split(6)).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn arguments(&self, output: &str, more: &[&str]) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().unwrap().to_string();
        let mut arguments = vec!["mmlu-eval".to_string(), text(self.path("model.gguf"))];
        arguments.extend(["--set".to_string(), text(self.path("set"))]);
        arguments.extend(["--output".to_string(), text(self.path(output))]);
        arguments.extend(["--shots", "1"].map(str::to_string));
        arguments.extend(more.iter().map(ToString::to_string));
        arguments
    }

    pub fn score(&self, output: &str, more: &[&str]) -> assert_cmd::assert::Assert {
        quantkit().args(self.arguments(output, more)).assert()
    }

    fn merge(&self, output: &str, shards: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = quantkit();
        command.arg("merge").arg(self.path(output));
        command.args(shards.iter().map(|shard| self.path(shard))).assert()
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap()
    }

    /// Starts a run on so many threads, and comes back once its journal has so many lines, or it has
    /// ended.
    #[cfg(unix)]
    pub fn start(&self, output: &str, more: &[&str], threads: &str, lines: usize) -> Child {
        let journal = self.path(output).join("journal.jsonl");
        let mut command = Process::new(env!("CARGO_BIN_EXE_quantkit"));
        command.args(["--quiet", "--threads", threads]).args(self.arguments(output, more));
        start_until(&mut command, || count_lines(&journal) >= lines)
    }

    /// Starts a run and gives it a signal once its journal has so many lines. Whether it was still
    /// running then.
    #[cfg(unix)]
    pub fn stop(&self, output: &str, more: &[&str], lines: usize, signal: i32) -> bool {
        let child = self.start(output, more, "2", lines);
        send(&child, signal);
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        if signal == libc::SIGTERM && !ended.status.success() {
            assert_eq!(ended.status.code(), Some(130), "{said}");
            assert!(said.contains("questions are scored and kept in"), "{said}");
        }
        !ended.status.success()
    }
}

pub fn question(row: usize) -> Question {
    Question {
        row,
        id: None,
        form: Form::default(),
        question: format!("Is {} the answer to number {row} here?", row * 37 % 11),
        subject: ["astronomy", "virology", "sociology"][row % 3].to_string(),
        choices: ["the one", "another one in a hat", "no", "none on a tin"]
            .map(|choice| format!("{choice} {}", row % 5))
            .to_vec(),
        answer: row % 4,
    }
}

/// A summary without what depends on the clock.
fn timeless(mut summary: Value) -> Value {
    for time in ["seconds", "questions_per_second", "tokens_per_second"] {
        summary[time].take();
    }
    summary
}

pub fn same_results(place: &Place, left: &str, right: &str) {
    let file = |run: &str, name: &str| fs::read(place.path(run).join(name)).unwrap();
    assert!(file(left, "questions.parquet") == file(right, "questions.parquet"));
    let summary = |run: &str| timeless(place.json(&format!("{run}/summary.json")));
    assert_eq!(summary(left), summary(right));
    let settings = |run: &str| place.json(&format!("{run}/run.json"))["settings"].take();
    assert_eq!(settings(left), settings(right));
}

#[test]
#[cfg(unix)]
fn a_run_that_is_stopped_again_and_again_ends_in_the_same_files() {
    let place = Place::new(400);
    for protocol in ["letter", "cloze"] {
        let (whole, stopped) = (format!("{protocol}-whole"), format!("{protocol}-stopped"));
        let options = ["--protocol", protocol];
        place.score(&whole, &options).success();
        assert!(!place.path(&whole).join("journal.jsonl").exists());

        let journal = place.path(&stopped).join("journal.jsonl");
        let mut stops = 0;
        for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGINT] {
            let lines = count_lines(&journal) + 3;
            if place.stop(&stopped, &options, lines, signal) {
                stops += 1;
                assert!(count_lines(&journal) >= lines, "what was scored is kept");
                assert!(!place.path(&stopped).join("summary.json").exists());
            } else {
                fs::remove_dir_all(place.path(&stopped)).unwrap();
            }
        }
        assert!(stops > 0, "the machine is too slow to stop a run");
        // A line that a power loss cut in two.
        if journal.exists() {
            let bytes = fs::read(&journal).unwrap();
            fs::write(&journal, &bytes[..bytes.len() - 5]).unwrap();
        }
        place.score(&stopped, &options).success();
        assert!(!journal.exists());
        same_results(&place, &whole, &stopped);
    }
}

/// The baseline is no part of what is scored: a run may get one, or lose it, when it goes on.
#[test]
#[cfg(unix)]
fn a_run_that_was_stopped_is_compared_when_it_ends() {
    let place = Place::new(400);
    let cloze = ["--protocol", "cloze"];
    place.score("baseline", &cloze).success();
    let baseline = place.path("baseline");
    let against = ["--protocol", "cloze", "--baseline", baseline.to_str().unwrap()];
    for begun_with in [&against[..], &cloze[..]] {
        while !place.stop("run", begun_with, 3, libc::SIGKILL) {}
        assert!(!place.path("run/comparison.json").exists());
        place.score("run", &against).success().stdout(contains("on these 400 questions; 0.0 %"));
        let comparison = place.json("run/comparison.json");
        assert_eq!(comparison["paired"]["agreement"], 1.0);
        assert_eq!(comparison["changed"], Value::Array(Vec::new()));
        // Two runs of one model are called by their directories.
        assert_eq!(comparison["run"]["name"], "run");
        same_results(&place, "baseline", "run");
        fs::remove_dir_all(place.path("run")).unwrap();
    }
}

#[test]
#[cfg(unix)]
fn a_journal_of_other_settings_is_refused_until_it_is_thrown_away() {
    let place = Place::new(400);
    let cloze = ["--protocol", "cloze"];
    while !place.stop("run", &cloze, 3, libc::SIGKILL) {}
    let kept = fs::read(place.path("run/journal.jsonl")).unwrap();
    let other = ["--protocol", "cloze", "--every", "2"];
    place
        .score("run", &other)
        .failure()
        .stderr(contains("journal.jsonl: holds"))
        .stderr(contains("every is 1 there and 2 here"))
        .stderr(contains("--overwrite"));
    let sixteen = ["--protocol", "cloze", "--activations", "16"];
    place.score("run", &sixteen).failure().stderr(contains("activations is 8 there and 16 here"));
    assert_eq!(fs::read(place.path("run/journal.jsonl")).unwrap(), kept);

    // It shows where it is, and is no shard to merge.
    let list = quantkit().args(["results", "list"]).arg(place.path("run")).assert().success();
    list.stdout(contains("of 400 questions"));
    place.merge("merged", &["run"]).failure().stderr(contains("its run is not finished"));

    place.score("run", &[&other[..], &["--overwrite"]].concat()).success();
    assert_eq!(place.json("run/summary.json")["overall"]["questions"], 200);
}

#[test]
fn merged_shards_are_the_run_in_one_piece() {
    let place = Place::new(400);
    for protocol in ["letter", "cloze"] {
        let options = ["--protocol", protocol];
        let whole = format!("{protocol}-whole");
        place.score(&whole, &options).success();
        let shards: Vec<String> = (0..3).map(|index| format!("{protocol}-{index}")).collect();
        for (index, shard) in shards.iter().enumerate() {
            let part = format!("{index}/3");
            place.score(shard, &[&options[..], &["--shard", &part]].concat()).success();
            let questions = place.json(&format!("{shard}/summary.json"))["overall"]["questions"]
                .as_u64()
                .unwrap();
            assert!((64..=192).contains(&questions), "{questions} of 400 in a third");
        }
        let merged = format!("{protocol}-merged");
        let order: Vec<&str> = [2, 0, 1].map(|index: usize| shards[index].as_str()).to_vec();
        place.merge(&merged, &order).success().stdout(contains("astronomy"));
        same_results(&place, &whole, &merged);
        let parts = place.json(&format!("{merged}/run.json"))["parts"].take();
        let parts: Vec<&str> =
            parts.as_array().unwrap().iter().map(|p| p["shard"].as_str().unwrap()).collect();
        assert_eq!(parts, ["0/3", "1/3", "2/3"]);
    }
}

#[test]
fn shards_that_do_not_make_a_run_are_refused() {
    let place = Place::new(40);
    let cloze = |output: &str, more: &[&str]| {
        place.score(output, &[&["--protocol", "cloze"], more].concat()).success();
    };
    cloze("0", &["--shard", "0/3"]);
    cloze("1", &["--shard", "1/3"]);
    cloze("2", &["--shard", "2/3"]);
    cloze("of-two", &["--shard", "1/2"]);
    cloze("other", &["--shard", "1/3", "--every", "2"]);
    cloze("whole", &[]);
    let cases: [(&[&str], &str); 6] = [
        (&["0", "2"], "2 of 3 shards are given; missing: 1/3"),
        (&["0", "1", "2", "0"], "is the same shard as"),
        (&["0", "of-two"], "cut into 3 shards there and into 2 here"),
        (&["0", "other", "2"], "every is 1 there and 2 here"),
        (&["0", "whole"], "is a whole run, no shard of one"),
        (&["0", "absent"], "absent"),
    ];
    for (shards, message) in cases {
        place.merge("merged", shards).failure().stderr(contains(message));
        assert!(!place.path("merged").exists());
    }
    place.merge("0", &["0", "1", "2"]).failure().stderr(contains("is one of the shards"));
    // A shard of so small a set may be empty.
    place.merge("merged", &["0", "1", "2"]).success();
    same_results(&place, "whole", "merged");

    fs::copy(place.path("0/questions.parquet"), place.path("1/questions.parquet")).unwrap();
    fs::remove_dir_all(place.path("merged")).unwrap();
    place.merge("merged", &["0", "1", "2"]).failure().stderr(contains("questions.parquet"));
    assert!(!place.path("merged").exists());
}

#[test]
fn a_run_says_what_it_was_made_with() {
    let place = Place::new(12);
    place.score("runs/one", &["--protocol", "cloze", "--limit", "2"]).success();
    let run = place.json("runs/one/run.json");
    assert_eq!(run["schema_version"], 3);
    let (settings, part) = (&run["settings"], &run["parts"][0]);
    assert_eq!((&settings["limit"], &settings["questions"]), (&2.into(), &6.into()));
    assert_eq!((&settings["kv_type"], &settings["activations"]), (&"i16".into(), &8.into()));
    assert_eq!(settings["model_sha256"].as_str().map(str::len), Some(64));
    let command = part["command"].as_str().unwrap();
    assert!(command.contains("mmlu-eval") && command.contains("--limit 2"), "{command}");
    for time in ["started", "finished"] {
        let moment = part[time].as_str().unwrap();
        assert!(moment.starts_with("20") && moment.ends_with('Z'), "{moment}");
    }
    assert_eq!((&part["threads"], &part["questions"]), (&2.into(), &6.into()));
    for field in ["cpu", "physical_cores", "memory_bytes", "system"] {
        assert!(!part["machine"][field].is_null(), "{field}");
    }
    assert!(part["host"].is_string() && run["quantkit_version"].is_string());
    assert!(run.get("commit").is_some(), "null where the build was not told");
    // Nothing is random but what --limit-seeded draws.
    assert!(run["seed"].is_null());
    place.score("drawn", &["--protocol", "cloze", "--limit-seeded", "3"]).success();
    assert_eq!(place.json("drawn/run.json")["seed"], 1);

    quantkit()
        .args(["results", "list"])
        .arg(place.path("runs"))
        .assert()
        .success()
        .stdout(contains("one").and(contains("model.gguf")).and(contains("cloze")));
    quantkit()
        .args(["results", "show"])
        .arg(place.path("runs/one"))
        .assert()
        .success()
        .stdout(contains("SHA-256").and(contains("--limit 2")).and(contains("6 questions in")));
    let json = quantkit().args(["--json", "results", "list"]).arg(place.path("runs")).assert();
    let listed: Value = serde_json::from_slice(&json.success().get_output().stdout).unwrap();
    assert_eq!(listed[0]["finished"]["run"], run);
    quantkit()
        .args(["results", "show"])
        .arg(place.path("set"))
        .assert()
        .failure()
        .stderr(contains("expected run.json"));
}

#[test]
fn the_cache_is_as_large_as_allowed() {
    let place = Place::new(30);
    let run =
        |output: &str, cache: &str| place.score(output, &["--protocol", "cloze", "--cache", cache]);
    run("large", "1GiB").success();
    run("small", "40KiB").success();
    let right = |run: &str| place.json(&format!("{run}/summary.json"))["overall"]["correct"].take();
    assert_eq!(right("small"), right("large"));
    run("tiny", "10KiB").failure().stderr(contains("larger --cache to go on"));
    // What the larger cache would have done differently is no reason to begin again.
    run("tiny", "1GiB").success();
    assert_eq!(right("tiny"), right("large"));
}

#[test]
fn a_question_that_does_not_fit_is_listed_and_the_run_goes_on() {
    let place = Place::new(12);
    TinyModel { context: 128, ..TinyModel::default() }.write(&place.path("model.gguf"));
    let mut questions: Vec<Question> = (0..12).map(question).collect();
    questions[5].choices[2] = "word ".repeat(60);
    write_questions(&place.path("set/test.parquet"), &questions).unwrap();
    place.score("out", &["--protocol", "cloze"]).success().stderr(contains(
        "1 questions could not be scored and are left out of every figure (rows 5;",
    ));
    let summary = place.json("out/summary.json");
    assert_eq!(summary["overall"]["questions"], 11);
    assert_eq!(summary["unscored"][0]["row"], 5);
    let reason = summary["unscored"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("longer than the model's context of 128 tokens"), "{reason}");
    let mut show: Command = quantkit();
    show.args(["results", "show"]).arg(place.path("out")).assert().stdout(contains("row 5"));
}
