//! `quantkit perplexity` from end to end, and the file of base logits on its way to `divergence`.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use quantkit::engine::{Engine, EngineOptions, LogitsFor, StepItem};
use serde_json::Value;

use super::support::{TinyModel, VariantBench, quantkit};
#[cfg(unix)]
use super::support::{count_lines, files_in, send, start_until};

struct Bench(VariantBench);

impl Bench {
    fn new() -> Self {
        Self(VariantBench::new())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn command(&self, model: &str, arguments: &[&str]) -> Command {
        let mut command = quantkit();
        command.current_dir(self.path("")).args(["perplexity", model, "--text", "text.txt"]);
        command.args(arguments);
        command
    }

    fn summary(&self, model: &str, arguments: &[&str]) -> Value {
        json(self.command(model, arguments).arg("--json"))
    }

    fn divergence(&self, arguments: &[&str]) -> Command {
        let mut command = quantkit();
        command.current_dir(self.path("")).arg("divergence").args(arguments);
        command
    }

    /// −ln of the probability of each next token at these positions of a window, which goes through
    /// the model alone and in one step.
    fn surprises(&self, window: &[u32], positions: Range<usize>) -> Vec<f64> {
        let mut engine =
            Engine::load(&self.path("f16.gguf"), EngineOptions::default()).expect("a model");
        let sequence = engine.start(window.len());
        let items = [StepItem { sequence, tokens: window, logits: LogitsFor::All }];
        let logits = engine.step(&items).expect("a step").item(0);
        positions
            .map(|position| {
                let row = logits.row(position).iter().map(|&logit| f64::from(logit));
                let next = f64::from(logits.row(position)[window[position + 1] as usize]);
                row.map(f64::exp).sum::<f64>().ln() - next
            })
            .collect()
    }

    fn tokens(&self) -> Vec<u32> {
        let engine = Engine::load(&self.path("f16.gguf"), EngineOptions::default()).unwrap();
        let text = fs::read_to_string(self.path("text.txt")).unwrap();
        engine.vocabulary().encode(text.trim_end(), false).unwrap()
    }
}

fn json(command: &mut Command) -> Value {
    let result = command.assert().success();
    serde_json::from_slice(&result.get_output().stdout).expect("one JSON document")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("expected a number, found {value}"))
}

fn near(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} instead of {expected}");
}

#[test]
fn the_second_half_of_each_window_is_scored() {
    let bench = Bench::new();
    let summary = bench.summary("f16.gguf", &["--context", "48", "--chunks", "5"]);
    assert_eq!((&summary["chunks"], &summary["positions"]), (&5.into(), &(5 * 23).into()));
    let tokens = bench.tokens();
    let windows = tokens.chunks_exact(48).take(5);
    let surprises: Vec<f64> = windows.flat_map(|window| bench.surprises(window, 24..47)).collect();
    let mean = surprises.iter().sum::<f64>() / surprises.len() as f64;
    near(number(&summary["negative_log_probability"]["mean"]), mean, 1e-3);
    near(number(&summary["perplexity"]), mean.exp(), 1e-3 * mean.exp());
    let squares: f64 = surprises.iter().map(|surprise| (surprise - mean).powi(2)).sum();
    let error = (squares / (surprises.len() * (surprises.len() - 1)) as f64).sqrt();
    near(number(&summary["standard_error"]), error * mean.exp(), 1e-2);
}

#[test]
fn with_a_stride_windows_overlap() {
    let bench = Bench::new();
    let arguments = ["--context", "48", "--stride", "20", "--chunks", "4"];
    let summary = bench.summary("f16.gguf", &arguments);
    assert_eq!(summary["positions"], 4 * 20);
    let tokens = bench.tokens();
    let surprises: Vec<f64> =
        (0..4).flat_map(|window| bench.surprises(&tokens[20 * window..][..48], 27..47)).collect();
    let mean = surprises.iter().sum::<f64>() / surprises.len() as f64;
    near(number(&summary["negative_log_probability"]["mean"]), mean, 1e-3);
    let whole = bench.summary("f16.gguf", &["--context", "48", "--stride", "20"]);
    assert_eq!(whole["chunks"], (tokens.len() - 48).div_ceil(20));
}

#[test]
fn the_estimate_is_printed_as_llama_perplexity_prints_it() {
    let bench = Bench::new();
    let pattern = r"\nFinal estimate: PPL = [0-9]+\.[0-9]{4} \+/- [0-9]+\.[0-9]{5}\n";
    let is_there = predicate::function(|text: &str| regex_matches(text, pattern));
    let mut command = bench.command("Q4_0.gguf", &["--context", "64", "--chunks", "2"]);
    command.assert().success().stdout(is_there.and(contains("62 positions")));
}

fn regex_matches(text: &str, pattern: &str) -> bool {
    regex::Regex::new(pattern).unwrap().is_match(text)
}

#[test]
fn a_file_of_base_logits_stands_in_for_the_base() {
    let bench = Bench::new();
    let window = ["--context", "64", "--chunks", "6"];
    let saved =
        bench.summary("f16.gguf", &[&window[..], &["--save-logits", "base.logits"]].concat());
    // 6 windows of 64 tokens, 31 positions each, and a vocabulary that is odd.
    let vocabulary = TinyModel::default().vocabulary_size();
    assert_eq!(vocabulary % 2, 1);
    let bytes = 20 + 4 * 6 * 64 + 6 * 31 * (8 + 2 * (vocabulary + 1));
    let file = fs::read(bench.path("base.logits")).unwrap();
    assert_eq!(file.len(), bytes);
    assert_eq!(saved["logits_bytes"], bytes);
    assert_eq!(file[..12], *b"_logits_\x40\0\0\0");

    let models = ["f16.gguf", "Q8_0.gguf", "Q4_0.gguf"];
    let side_by_side = [&models[..1], &models, &["--text", "text.txt", "--json"], &window].concat();
    let side_by_side = json(&mut bench.divergence(&side_by_side));
    let from_file = [&["--base-logits", "base.logits", "--json"], &models[..]].concat();
    let from_file = json(&mut bench.divergence(&from_file));
    assert_eq!((&from_file["base_kind"], &from_file["text"]), (&"logits".into(), &Value::Null));
    assert_eq!((&from_file["chunks"], &from_file["context"]), (&6.into(), &64.into()));
    for (index, name) in models.iter().enumerate() {
        let (found, expected) = (&from_file["variants"][index], &side_by_side["variants"][index]);
        assert_eq!(found["positions"], expected["positions"]);
        // Codes are within 1.2e-4 of the log-probabilities, up or down alike.
        for field in ["kl_median", "kl_p99", "kl_maximum", "base_perplexity", "perplexity"] {
            let expected = number(&expected[field]);
            near(number(&found[field]), expected, 1e-4 * expected.max(1.0));
        }
        near(number(&found["kl"]["mean"]), number(&expected["kl"]["mean"]), 2e-5);
        let shares = ["same_top", "probability_change", "perplexity_difference"];
        for field in shares {
            near(number(&found[field]["mean"]), number(&expected[field]["mean"]), 0.02);
        }
        assert_eq!(found["perplexity"], expected["perplexity"], "{name}");
    }
    near(number(&saved["perplexity"]), number(&side_by_side["variants"][0]["perplexity"]), 1e-9);

    let first = ["--base-logits", "base.logits", "--chunks", "2", "Q4_0.gguf"];
    bench.divergence(&first).assert().success().stdout(contains("62 positions"));
}

#[test]
fn broken_files_of_base_logits_are_refused() {
    let bench = Bench::new();
    let window = ["--context", "64", "--chunks", "2", "--save-logits", "base.logits"];
    bench.command("f16.gguf", &window).assert().success();
    let file = fs::read(bench.path("base.logits")).unwrap();
    let refused = |bytes: &[u8], words: &str| {
        fs::write(bench.path("broken.logits"), bytes).unwrap();
        bench
            .divergence(&["--base-logits", "broken.logits", "Q4_0.gguf"])
            .assert()
            .failure()
            .stderr(contains("broken.logits").and(contains(words)));
    };
    refused(&file[..file.len() - 7], "cut off");
    refused(&file[..13], "cut off");
    refused(b"", "_logits_");
    refused(&fs::read(bench.path("Q4_0.gguf")).unwrap(), "begins with \"_logits_\", found \"GGUF");
    refused(&[&file[..], &[0; 2]].concat(), "damaged");
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    refused(&changed(16, &[0xFF; 4]), "4,294,967,295 windows");
    refused(&changed(20 + 4 * 7, &[0xFF; 4]), "the token 4294967295");
    // The scale of the third row of the second window; then codes that make no probabilities.
    let row = 8 + 2 * (TinyModel::default().vocabulary_size() + 1);
    let place = 20 + 4 * 2 * 64 + (31 + 2) * row;
    refused(&changed(place, &f32::NAN.to_le_bytes()), "position 34 of window 2");
    refused(&changed(place, &1e9f32.to_le_bytes()), "position 34 of window 2");
    refused(&changed(place + 8, &[0; 256]), "position 34 of window 2");
    // A whole file of a model with five tokens.
    let other = [&b"_logits_\x04\0\0\0\x05\0\0\0\x01\0\0\0"[..], &[0; 16 + 20]].concat();
    refused(&other, "has 5 tokens, the models' 267");
    refused(&changed(8, &[0; 4]), "damaged");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let bench = Bench::new();
    let refused = |arguments: &[&str], words: &str| {
        bench.command("f16.gguf", arguments).assert().failure().stderr(contains(words.to_string()));
        assert!(!bench.path("base.logits").exists());
    };
    refused(&["--context", "1024"], "lower --context");
    refused(&["--context", "3"], "at least 4");
    refused(&["--context", "64", "--stride", "64"], "from 1 to 63");
    refused(&["--stride", "64", "--save-logits", "base.logits"], "cannot be used with");
    refused(&["--save-logits", "text.txt"], "one of the inputs");
    refused(&["--save-logits", "f16.gguf"], "one of the inputs");
    refused(&["--save-logits", "text.txt/base.logits"], "text.txt");
    bench.command("missing.gguf", &[]).assert().failure().stderr(contains("missing.gguf"));
    fs::write(bench.path("text.txt"), "too short").unwrap();
    refused(&["--save-logits", "base.logits"], "the text is too short");
    fs::write(bench.path("text.txt"), [0xff; 2000]).unwrap();
    refused(&["--save-logits", "base.logits"], "UTF-8");
    refused(&["--output", "results"], "UTF-8");
    refused(&["--output", "s3://bucket/results"], "a directory on this machine");
    refused(&["--overwrite"], "--output");
    assert!(!bench.path("results").exists() && !bench.path("s3:").exists());
}

#[cfg(unix)]
#[test]
fn a_stopped_run_leaves_no_file() {
    let bench = Bench::new();
    let text: String = (0..200_000).map(|n| format!("the {} on a tin\n", n * n % 97)).collect();
    fs::write(bench.path("text.txt"), text).unwrap();
    let names = || files_in(&bench.path(""));
    let before = names();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quantkit"));
    command
        .current_dir(bench.path(""))
        .args(["--quiet", "--threads", "1", "perplexity", "f16.gguf", "--text", "text.txt"])
        .args(["--save-logits", "base.logits"]);
    // The file under construction says that work has begun.
    let child = start_until(&mut command, || names() != before);
    send(&child, libc::SIGINT);
    let finished = child.wait_with_output().unwrap();
    assert_eq!(finished.status.code(), Some(130), "{finished:?}");
    assert!(String::from_utf8_lossy(&finished.stderr).contains("stopped"));
    assert_eq!(names(), before);
}

/// Runs until its journal holds a section, and is stopped then.
#[cfg(unix)]
fn stop(bench: &Bench, arguments: &[&str], output: &str) {
    let journal = bench.path(output).join("journal.jsonl");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quantkit"));
    command.current_dir(bench.path("")).args(["--quiet", "--threads", "1"]);
    command.args(arguments).args(["--output", output]);
    let child = start_until(&mut command, || count_lines(&journal) >= 2);
    send(&child, libc::SIGTERM);
    let finished = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.status.code(), Some(130), "{said}");
    assert!(said.contains(&format!("kept in {output}")), "{said}");
}

#[cfg(unix)]
#[test]
fn readings_that_are_stopped_go_on_to_the_same_result() {
    let bench = Bench::new();
    let text: String = (0..6_000).map(|n| format!("the {} on a tin\n", n * n % 97)).collect();
    fs::write(bench.path("text.txt"), text).unwrap();
    let perplexity = ["perplexity", "f16.gguf", "--text", "text.txt", "--context", "128"];
    let divergence =
        ["divergence", "f16.gguf", "Q4_0.gguf", "--text", "text.txt", "--context", "128"];
    for arguments in [&perplexity[..], &divergence[..]] {
        let name = format!("{}.json", arguments[0]);
        let run = |output: &str, more: &[&str]| {
            let mut command = quantkit();
            command.current_dir(bench.path("")).args(arguments).args(["--output", output]);
            command.args(more).assert()
        };
        let record = |output: &str| -> Value {
            let bytes = fs::read(bench.path(output).join(&name)).unwrap();
            let mut record: Value = serde_json::from_slice(&bytes).unwrap();
            record["seconds"].take();
            record["tokens_per_second"].take();
            record
        };
        run("whole", &[]).success();
        stop(&bench, arguments, "stopped");
        run("stopped", &["--chunks", "3"])
            .failure()
            .stderr(contains("of an unfinished run").and(contains("another number of windows")));
        run("stopped", &[]).success();
        assert_eq!(record("stopped"), record("whole"));
        stop(&bench, arguments, "again");
        run("again", &["--chunks", "3", "--overwrite"]).success();
        assert_eq!(number(&record("again")["chunks"]), 3.0);
        assert!(!bench.path("again").join("journal.jsonl").exists());
    }
}
