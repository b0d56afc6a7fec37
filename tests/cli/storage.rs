//! `s3://` addresses in place of paths, from end to end, with a server of our own that plays the part.

use std::fs;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use assert_cmd::assert::Assert;
use predicates::prelude::*;
use predicates::str::contains;
use quantkit::eval::questions::{Question, write_questions};
use serde_json::Value;
use tempfile::TempDir;

use super::object_server::{KEY, Mishap, ObjectServer};
use super::records::question;
use super::support::{TinyModel, count_lines, quantkit, send, start_until};

const MODEL: &str = "s3://data/models/tiny.gguf";

/// A tiny model and a set, in storage and on the disk, and a cache.
struct Place {
    dir: TempDir,
    server: ObjectServer,
}

impl Place {
    fn new(questions: usize) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), server: ObjectServer::start() };
        place.put_model(1);
        let split = |count: usize| -> Vec<Question> { (0..count).map(question).collect() };
        for (name, count) in [("test.parquet", questions), ("dev.parquet", 6)] {
            let path = place.path("set").join(name);
            write_questions(&path, &split(count)).unwrap();
            place.server.put(&format!("sets/three/{name}"), fs::read(path).unwrap());
        }
        // Not part of the set.
        place.server.put("sets/three/README.md", "three subjects");
        place
    }

    fn put_model(&self, seed: u64) {
        let path = self.path("tiny.gguf");
        TinyModel { context: 2048, seed, ..TinyModel::default() }.write(&path);
        self.server.put("models/tiny.gguf", fs::read(path).unwrap());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn environment(&self) -> [(&'static str, String); 7] {
        [
            ("AWS_ENDPOINT_URL", self.server.address().to_string()),
            ("AWS_ACCESS_KEY_ID", KEY.to_string()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_string()),
            ("AWS_REGION", "us-east-1".to_string()),
            ("AWS_ALLOW_HTTP", "true".to_string()),
            ("AWS_MAX_ATTEMPTS", "3".to_string()),
            ("QUANTKIT_CACHE", self.path("cache").to_str().unwrap().to_string()),
        ]
    }

    fn command(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = quantkit();
        command.envs(self.environment()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Assert {
        self.command(arguments).assert()
    }

    /// The whole way: everything in storage.
    fn score(&self, output: &str, more: &[&str]) -> Assert {
        self.run(&[&score_arguments(output)[..], more].concat())
    }

    /// The same without storage; the bytes of its `questions.parquet`.
    fn score_here(&self, more: &[&str]) -> Vec<u8> {
        let (model, set, output) = (self.path("tiny.gguf"), self.path("set"), self.path("here"));
        let mut command = quantkit();
        command.arg("mmlu-eval").arg(model).arg("--set").arg(set).arg("--output").arg(&output);
        command.args(["--shots", "1"]).args(more).assert().success();
        fs::read(output.join("questions.parquet")).unwrap()
    }

    fn json(&self, key: &str) -> Value {
        serde_json::from_slice(&self.server.get(key).unwrap()).unwrap()
    }

    /// The journals of runs that work in the cache.
    fn journals(&self) -> Vec<PathBuf> {
        let runs = fs::read_dir(self.path("cache/runs")).into_iter().flatten().flatten();
        let journals = runs.map(|run| run.path().join("journal.jsonl"));
        journals.filter(|journal| journal.exists()).collect()
    }

    /// Starts a run and asks it to stop once its journal has so many lines. Whether it was still
    /// running then.
    #[cfg(unix)]
    fn stop(&self, output: &str, lines: usize) -> bool {
        let mut command = Process::new(env!("CARGO_BIN_EXE_quantkit"));
        command.args(["--quiet", "--threads", "2"]).args(score_arguments(output));
        command.envs(self.environment());
        let written = || self.journals().iter().map(count_lines).max().unwrap_or(0);
        let child = start_until(&mut command, || written() >= lines);
        send(&child, libc::SIGTERM);
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        if !ended.status.success() {
            assert_eq!(ended.status.code(), Some(130), "{said}");
            let kept = format!("questions are scored and kept in {output}");
            assert!(said.contains(&kept), "{said}");
        }
        !ended.status.success()
    }
}

fn score_arguments(output: &str) -> [&str; 8] {
    let set = "s3://data/sets/three";
    ["mmlu-eval", MODEL, "--set", set, "--output", output, "--shots", "1"]
}

#[test]
fn everything_in_storage_gives_what_files_give() {
    let place = Place::new(12);
    let here = place.score_here(&[]);
    place.score("s3://data/out/run/", &[]).success().stdout(contains("s3://data/out/run"));
    let files = ["questions.parquet", "run.json", "summary.json"];
    assert_eq!(place.server.keys("out/"), files.map(|file| format!("out/run/{file}")));
    assert!(place.server.get("out/run/questions.parquet").unwrap() == here);

    let mut summary = place.json("out/run/summary.json");
    assert_eq!(summary["model"].take(), MODEL);
    assert_eq!(summary["set"].take(), "s3://data/sets/three");
    let here: Value = serde_json::from_slice(&fs::read(place.path("here/summary.json")).unwrap())
        .expect("a summary");
    for field in ["model_sha256", "set_sha256", "overall", "tokens_run"] {
        assert_eq!(summary[field], here[field], "{field}");
    }
    // The results are where they belong, and nothing is left here.
    assert_eq!(fs::read_dir(place.path("cache/runs")).unwrap().count(), 0);
    // The summary seals the rest, and the journal goes when it is there.
    let written: Vec<String> =
        place.server.requests("PUT", "").into_iter().map(|request| request.path).collect();
    assert_eq!(written.last().unwrap(), "/data/out/run/summary.json");
    assert!(written.contains(&"/data/out/run/journal.jsonl".to_string()));
    assert!(place.server.requests("GET", "README.md").is_empty());

    let show = place.run(&["--json", "results", "show", "s3://data/out/run"]).success();
    let shown: Value = serde_json::from_slice(&show.get_output().stdout).unwrap();
    assert_eq!(shown["directory"], "s3://data/out/run");
    assert_eq!(shown["finished"]["summary"]["overall"]["questions"], 12);
    place.run(&["eval-set", "show", "s3://data/sets/three"]).success().stdout(contains("12"));
}

#[test]
fn what_was_fetched_is_fetched_again_only_when_it_changes() {
    let place = Place::new(12);
    let fetched = || place.server.requests("GET", "tiny.gguf").len();
    for output in ["s3://data/one", "s3://data/two"] {
        place.score(output, &["--limit", "3"]).success();
        assert_eq!(fetched(), 1);
    }
    place.put_model(2);
    place.score("s3://data/three", &["--limit", "3"]).success();
    assert_eq!(fetched(), 2);
    let hash = |key: &str| place.json(key)["model_sha256"].clone();
    assert_eq!(hash("one/summary.json"), hash("two/summary.json"));
    assert_ne!(hash("one/summary.json"), hash("three/summary.json"));
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let place = Place::new(12);
    let here = place.score_here(&["--limit", "3"]);
    place.server.plan("HEAD", "tiny.gguf", Mishap::Status(503), 1);
    place.server.plan("GET", "tiny.gguf", Mishap::CutAfter(5000), 1);
    place.server.plan("GET", "tiny.gguf", Mishap::CutAfter(70_000), 1);
    place.score("s3://data/out", &["--limit", "3"]).success();
    let starts: Vec<Option<usize>> =
        place.server.requests("GET", "tiny.gguf").iter().map(|one| one.range_start()).collect();
    assert_eq!(starts, [None, Some(5000), Some(75_000)]);
    assert!(place.server.get("out/questions.parquet").unwrap() == here);

    // A later process goes on too.
    fs::remove_dir_all(place.path("cache")).unwrap();
    let tries = place.server.requests("GET", "tiny.gguf").len();
    place.server.plan("GET", "tiny.gguf", Mishap::CutAfter(9000), 1);
    place.server.plan("GET", "tiny.gguf", Mishap::Status(500), 1);
    let mut once = place.command(&score_arguments("s3://data/again"));
    once.env("AWS_MAX_ATTEMPTS", "1").assert().failure().stderr(
        contains("going on from byte 9000").and(contains("s3://data/models/tiny.gguf: http://")),
    );
    place.score("s3://data/again", &["--limit", "3"]).success();
    let starts: Vec<Option<usize>> =
        place.server.requests("GET", "tiny.gguf").iter().map(|one| one.range_start()).collect();
    assert_eq!(starts[tries..], [None, Some(9000), Some(9000)]);
    assert!(place.server.get("again/questions.parquet").unwrap() == here);
}

#[test]
#[cfg(unix)]
fn a_run_that_loses_its_machine_goes_on_from_storage() {
    let place = Place::new(400);
    let here = place.score_here(&[]);
    let mut stops = 0;
    for lines in [3, 6] {
        if !place.stop("s3://data/out", lines) {
            break;
        }
        stops += 1;
        let journal = place.server.get("out/journal.jsonl").expect("sent when stopped");
        assert!(journal.iter().filter(|&&byte| byte == b'\n').count() >= lines);
        assert_eq!(place.server.keys("out/"), ["out/journal.jsonl"]);
        // The next host has neither the model nor the journal.
        fs::remove_dir_all(place.path("cache")).unwrap();
    }
    assert!(stops > 0, "the machine is too slow to stop a run");
    let shown = place.run(&["--json", "results", "show", "s3://data/out"]).success();
    let shown: Value = serde_json::from_slice(&shown.get_output().stdout).unwrap();
    let done = shown["unfinished"]["done"].as_u64().unwrap();
    assert!(done > 0, "{shown}");
    let unfinished = format!("s3://data/out: its run is not finished ({done} of 400 questions)");
    place
        .run(&["merge", "s3://data/whole", "s3://data/out"])
        .failure()
        .stderr(contains(unfinished));
    let refused = place.score("s3://data/out", &["--every", "2"]).failure();
    refused.stderr(contains("s3://data/out: ").and(contains("every is 1 there and 2 here")));

    let resumed = place.score("s3://data/out", &["--verbose"]).success();
    resumed.stderr(contains(format!("400 questions, {done} done")));
    assert!(place.server.get("out/questions.parquet").unwrap() == here);
    assert_eq!(place.server.keys("out/").len(), 3, "{:?}", place.server.keys("out/"));
}

#[test]
fn shards_in_storage_are_merged_wherever_they_are() {
    let place = Place::new(400);
    let here = place.score_here(&[]);
    let shard = |output: &str, part: &str| place.score(output, &["--shard", part]).success();
    let local = place.path("shard-1");
    let local = local.to_str().unwrap();
    shard("s3://data/parts/0", "0/3");
    shard(local, "1/3");
    shard("s3://data/parts/2", "2/3");
    let parts = ["s3://data/parts/2", local, "s3://data/parts/0"];
    place.run(&[&["merge", "s3://data/parts/whole"][..], &parts].concat()).success();
    assert!(place.server.get("parts/whole/questions.parquet").unwrap() == here);
    let merged = place.path("merged");
    place.run(&[&["merge", merged.to_str().unwrap()][..], &parts].concat()).success();
    assert!(fs::read(merged.join("questions.parquet")).unwrap() == here);

    let list = place.run(&["--json", "results", "list", "s3://data/parts"]).success();
    let runs: Value = serde_json::from_slice(&list.get_output().stdout).unwrap();
    let names: Vec<&str> =
        runs.as_array().unwrap().iter().map(|run| run["directory"].as_str().unwrap()).collect();
    assert_eq!(names, ["0", "2", "whole"].map(|name| format!("s3://data/parts/{name}")));

    for (output, shards, message) in [
        ("s3://data/x", &parts[..2], "2 of 3 shards are given; missing: 0/3"),
        ("s3://data/parts/2/", &parts[..], "s3://data/parts/2: is one of the shards"),
        ("s3://data/x", &["s3://data/none"], "s3://data/none: no run of mmlu-eval is here"),
    ] {
        let merge = place.run(&[&["merge", output][..], shards].concat());
        merge.failure().stderr(contains(message));
    }
    assert!(place.server.keys("x/").is_empty());
}

#[test]
fn processes_that_share_a_cache_fetch_a_split_model_once() {
    let place = Place::new(200);
    let here = place.score_here(&[]);
    let parts = place.path("parts");
    fs::create_dir(&parts).unwrap();
    let model = place.path("tiny.gguf");
    let split = ["split", model.to_str().unwrap(), "--max-tensors", "8"];
    place.command(&split).arg(parts.join("tiny")).assert().success();
    let mut names = Vec::new();
    for entry in fs::read_dir(&parts).unwrap() {
        let path = entry.unwrap().path();
        names.push(path.file_name().unwrap().to_str().unwrap().to_string());
        place.server.put(&format!("split/{}", names.last().unwrap()), fs::read(path).unwrap());
    }
    names.sort();
    assert!(names.len() > 2, "{names:?}");
    let first = format!("s3://data/split/{}", names[0]);
    let start = |shard: &str, output: &str| {
        Process::new(env!("CARGO_BIN_EXE_quantkit"))
            .args(["--quiet", "--threads", "1", "mmlu-eval", &first, "--shots", "1"])
            .args(["--set", "s3://data/sets/three/test.parquet", "--shard", shard])
            .args(["--output", output])
            .envs(place.environment())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let runs = [start("0/2", "s3://data/out/0"), start("1/2", "s3://data/out/1")];
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    for name in &names {
        assert_eq!(place.server.requests("GET", name).len(), 1, "{name}");
    }
    place.run(&["merge", "s3://data/whole", "s3://data/out/0", "s3://data/out/1"]).success();
    assert!(place.server.get("whole/questions.parquet").unwrap() == here);
}

/// What cannot be sent is kept here, and sending it is all that is left to do.
#[test]
fn results_that_cannot_be_sent_are_not_lost() {
    let place = Place::new(12);
    let here = place.score_here(&[]);
    place.server.plan("PUT", "questions.parquet", Mishap::Status(500), 3);
    place
        .score("s3://data/out", &[])
        .failure()
        .stderr(contains("s3://data/out/questions.parquet: http://").and(contains("500")));
    assert_eq!(place.server.keys("out/"), ["out/journal.jsonl", "out/run.json"]);
    let again = place.score("s3://data/out", &["--verbose"]).success();
    again.stderr(contains("12 questions, 12 done"));
    assert!(place.server.get("out/questions.parquet").unwrap() == here);

    // An earlier run's summary is gone before its questions change.
    place.server.plan("PUT", "run.json", Mishap::Status(403), 1);
    let anew = ["--limit", "3", "--overwrite"];
    place.score("s3://data/out", &anew).failure().stderr(contains("refuses access"));
    assert!(place.server.get("out/summary.json").is_none());
}

#[test]
fn a_journal_that_cannot_be_sent_stops_the_run_before_it_works() {
    let place = Place::new(12);
    place.server.plan("PUT", "journal.jsonl", Mishap::Status(403), 1);
    let denied = place.score("s3://data/out", &[]).failure();
    denied.stderr(contains("s3://data/out/journal.jsonl: http://").and(contains("refuses access")));
    let scored = place.journals().iter().map(count_lines).max();
    assert_eq!(scored, Some(1), "only the header");
}

#[test]
fn a_journal_that_cannot_be_sent_for_a_while_stops_nothing() {
    let place = Place::new(60);
    // So large that scoring takes seconds, and the journal is sent in between.
    let model = TinyModel {
        context: 2048,
        hidden: 768,
        feed_forward: 3072,
        layers: 4,
        heads: 12,
        ..TinyModel::default()
    };
    model.write(&place.path("tiny.gguf"));
    place.server.put("models/tiny.gguf", fs::read(place.path("tiny.gguf")).unwrap());
    place.server.plan_after(1, "PUT", "journal.jsonl", Mishap::Status(500), 1);
    let mut command = place.command(&score_arguments("s3://data/out"));
    let done = command.env("AWS_MAX_ATTEMPTS", "1").assert().success();
    done.stderr(contains("the run goes on and tries again"));
    assert_eq!(place.server.keys("out/").len(), 3, "{:?}", place.server.keys("out/"));
}

#[test]
fn what_is_wrong_with_an_address_is_said() {
    let place = Place::new(3);
    let local = place.path("tiny.gguf");
    let local = local.to_str().unwrap();
    let set = "s3://data/sets/three";
    let nobody = "http://127.0.0.1:9";
    // The model, the set, another value of a variable, and what is said.
    let fails = |model: &str, set: &str, (name, value): (&str, &str), messages: &[&str]| {
        let mut command = place.command(&["mmlu-eval", model, "--set", set, "--shots", "1"]);
        command.args(["--output", "s3://data/out"]);
        match (name, value) {
            ("", _) => {}
            (name, "") => drop(command.env_remove(name)),
            (name, value) => drop(command.env(name, value)),
        }
        let mut failed = command.assert().failure();
        for message in messages {
            failed = failed.stderr(contains(*message));
        }
    };
    let same = ("", "");
    fails("s3://data/models/none.gguf", set, same, &["none.gguf: not found at http://", "404"]);
    fails("s3://other/tiny.gguf", set, same, &["s3://other/tiny.gguf: not found at"]);
    fails(local, "s3://other/set", same, &["s3://other/set: not found", "NoSuchBucket"]);
    fails(local, "s3://data/models", same, &["s3://data/models: no question set is here (objects"]);
    fails(local, "s3://data/sets/no.csv", same, &["s3://data/sets/no.csv: not found at"]);
    fails(local, "s3:///sets", same, &["s3:///sets: the bucket is missing", "s3://BUCKET/KEY"]);
    for (variable, message) in [
        (("AWS_ACCESS_KEY_ID", "nobody"), "refuses access (403 Forbidden, InvalidAccessKeyId"),
        (("AWS_ALLOW_HTTP", "false"), "set AWS_ALLOW_HTTP=true"),
        (("AWS_ENDPOINT_URL", nobody), "http://127.0.0.1:9 cannot be reached"),
        (("AWS_MAX_ATTEMPTS", "many"), "AWS_MAX_ATTEMPTS is \"many\""),
        (("AWS_SECRET_ACCESS_KEY", ""), "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one"),
    ] {
        fails(MODEL, set, variable, &[message]);
    }
    assert!(place.server.keys("out/").is_empty());

    // Nobody says who is asking, and no cloud's machine does either.
    for machine in [nobody, place.server.address()] {
        let mut command = place.command(&score_arguments("s3://data/out"));
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        let failed = command.env("AWS_METADATA_ENDPOINT", machine).assert().failure();
        failed.stderr(contains("there are no credentials: set AWS_ACCESS_KEY_ID"));
    }
}
