//! `quantkit profile`.

use std::path::Path;

use predicates::prelude::*;
use serde_json::Value;

use crate::support::{TinyModel, quantkit};

/// What the tiny model of the tests is made of.
const LAYERS: u64 = 2;
const HIDDEN: u64 = 64;
const FEED_FORWARD: u64 = 128;

fn profile(model: &Path, options: &[&str]) -> assert_cmd::assert::Assert {
    quantkit().arg("profile").arg(model).args(options).assert()
}

fn near(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= 1e-6 * expected.abs().max(1e-9),
        "{found} is not {expected}"
    );
}

fn operation<'a>(phase: &'a Value, name: &str) -> &'a Value {
    let operations = phase["operations"].as_array().unwrap();
    let named = |operation: &&Value| operation["operation"].as_str().unwrap().contains(name);
    operations.iter().find(named).unwrap_or_else(|| panic!("{name} is missing in {phase}"))
}

#[test]
fn each_phase_counts_what_its_operations_did() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel::default().write(&model);
    let options = ["--json", "--input-tokens", "40", "--output-tokens", "3", "--concurrency", "2"];
    let stdout = profile(&model, &options).success().get_output().stdout.clone();
    let printed: Value = serde_json::from_slice(&stdout).expect("one JSON document");
    let [prefill, decode] = &printed["phases"].as_array().unwrap()[..] else {
        panic!("two phases, not {}", printed["phases"])
    };
    assert_eq!((&prefill["name"], &decode["name"]), (&"prefill".into(), &"decode".into()));
    assert_eq!((&prefill["tokens"], &decode["tokens"]), (&80.into(), &6.into()));
    // The last layer goes on with the tokens that give logits alone.
    for (phase, steps, in_last_layer) in [(prefill, 2, 2), (decode, 3, 6)] {
        let operations = phase["operations"].as_array().unwrap();
        let sum = |name: &str| -> f64 {
            operations.iter().map(|operation| operation[name].as_f64().unwrap()).sum()
        };
        let seconds = phase["seconds"].as_f64().unwrap();
        near(sum("seconds"), seconds);
        near(sum("share"), 1.0);
        near(sum("least_seconds"), phase["least_seconds"].as_f64().unwrap());
        near(
            phase["tokens_per_second"].as_f64().unwrap() * seconds,
            phase["tokens"].as_f64().unwrap(),
        );
        assert_eq!(operation(phase, "down")["calls"], LAYERS * steps);
        assert_eq!(operation(phase, "sampling")["calls"], steps);
        let tokens = phase["tokens"].as_u64().unwrap();
        let down = operation(phase, "down");
        let tokens = tokens * (LAYERS - 1) + in_last_layer;
        assert_eq!(down["arithmetic_operations"], 2 * tokens * HIDDEN * FEED_FORWARD);
        assert_eq!(down["arithmetic"], "f32", "the weights are F16");
        assert_eq!(operation(phase, "attention")["arithmetic"], "int16");
    }
    let attended = |phase: &Value| {
        let attention = phase["operations"].as_array().unwrap().iter();
        let attention = attention.clone().find(|one| one["operation"] == "attention");
        attention.unwrap()["arithmetic_operations"].as_u64().unwrap()
    };
    // Each of 40 tokens sees itself and those before it; in the last layer there is one.
    assert_eq!(attended(prefill), 2 * 4 * HIDDEN * ((LAYERS - 1) * (40 * 41 / 2) + 40));
    assert_eq!(attended(decode), 2 * LAYERS * 4 * HIDDEN * (41 + 42 + 43));
    for limit in ["int8", "int16", "float"] {
        assert!(printed["limits"][limit]["operations_per_second"].as_f64().unwrap() > 0.0);
    }
    assert!(printed["limits"]["memory"]["bytes_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(printed["limits"]["threads"], 2);
}

#[test]
fn the_tables_name_the_machine_the_operations_and_the_bound() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel::default().write(&model);
    let assert =
        profile(&model, &["--input-tokens", "9", "--output-tokens", "2", "--kv-type", "i8"]);
    let output = assert.success().get_output().stdout.clone();
    let text = String::from_utf8(output).unwrap();
    for expected in [
        "tiny.gguf",
        "2 threads",
        "in i8",
        "reads from memory",
        "int8 dot products",
        "GB/s",
        "GOP/s",
        "of limit",
        "gate and up",
        "rest",
        "at the limits it would take",
        "prefill: 9 tokens",
        "decode: 2 steps at a context of 9 to 11",
    ] {
        assert!(text.contains(expected), "{expected} is missing in {text}");
    }
    let bounds = text.matches("bound it:").count() + text.matches("bounds it:").count();
    assert_eq!(bounds, 2, "a bound a phase in {text}");
}

#[test]
fn what_cannot_be_profiled_is_refused_before_anything_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel { context: 64, ..TinyModel::default() }.write(&model);
    profile(&model, &["--input-tokens", "60", "--output-tokens", "5"])
        .failure()
        .stderr(predicate::str::contains("65").and(predicate::str::contains("64")));
    for option in ["--input-tokens", "--output-tokens", "--concurrency"] {
        profile(&model, &[option, "0"]).failure().stderr(predicate::str::contains("at least"));
    }
    let absent = directory.path().join("absent.gguf");
    profile(&absent, &[]).failure().stderr(predicate::str::contains("absent.gguf"));
}
