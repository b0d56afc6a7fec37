//! `quantkit divergence` from end to end.

use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use super::support::{VariantBench, quantkit};

/// Variants, and how they are compared.
struct Bench(VariantBench);

impl Bench {
    fn new() -> Self {
        Self(VariantBench::new())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn command(&self, variants: &[&str], arguments: &[&str]) -> Command {
        let mut command = quantkit();
        command.arg("divergence").arg(self.path("f16.gguf"));
        command.args(variants.iter().map(|variant| self.path(variant)));
        command.arg("--text").arg(self.path("text.txt")).args(arguments);
        command
    }

    fn summary(&self, variants: &[&str], arguments: &[&str]) -> Value {
        let result = self.command(variants, arguments).arg("--json").assert().success();
        serde_json::from_slice(&result.get_output().stdout).expect("one JSON document")
    }
}

#[test]
fn fewer_bits_diverge_more_and_the_model_itself_not_at_all() {
    let bench = Bench::new();
    let summary = bench
        .summary(&["f16.gguf", "Q8_0.gguf", "Q4_0.gguf"], &["--context", "64", "--chunks", "3"]);
    assert_eq!(summary["chunks"], 3);
    let [same, eight, four] = [0, 1, 2].map(|index| &summary["variants"][index]);
    assert_eq!(same["positions"], 3 * 31);
    assert_eq!(same["kl"]["mean"], 0.0);
    assert_eq!(same["same_top"]["mean"], 1.0);
    assert_eq!(same["perplexity"], same["base_perplexity"]);
    let kl = |variant: &Value| variant["kl"]["mean"].as_f64().unwrap();
    assert!(kl(eight) > 0.0 && kl(four) > 10.0 * kl(eight), "{summary}");
    assert!(four["kl_maximum"].as_f64().unwrap() > four["kl_p99"].as_f64().unwrap());
    assert_eq!(summary["base_kind"], "model");
    // What was there before agrees with the fuller figures.
    assert_eq!(four["kl_p99"], four["kl_distribution"]["p99"]);
    assert_eq!(same["probability_change_distribution"]["maximum"], 0.0);
    let ratio = four["perplexity"].as_f64().unwrap() / four["base_perplexity"].as_f64().unwrap();
    assert!((four["perplexity_ratio"]["mean"].as_f64().unwrap() - ratio).abs() < 1e-9);
}

#[test]
fn activations_of_sixteen_bits_leave_what_the_weights_lose() {
    let bench = VariantBench::new();
    // The same weights, multiplied in floating point.
    let mut quantize = quantkit();
    quantize.arg("quantize").args([bench.path("Q4_0.gguf"), bench.path("exact.gguf")]);
    quantize.args(["--type", "F32", "--allow-requantize"]).assert().success();
    let summary = |activations: &str| -> Value {
        let mut command = quantkit();
        command.arg("divergence").arg(bench.path("exact.gguf")).arg(bench.path("Q4_0.gguf"));
        command.arg("--text").arg(bench.path("text.txt")).args(["--context", "64", "--json"]);
        let result = command.args(["--activations", activations]).assert().success();
        serde_json::from_slice(&result.get_output().stdout).expect("one JSON document")
    };
    let (eight, sixteen) = (summary("8"), summary("16"));
    assert_eq!((&eight["activations"], &sixteen["activations"]), (&8.into(), &16.into()));
    // The base has no quantized weights: it is what it was.
    let of = |summary: &Value, name: &str| summary["variants"][0][name].clone();
    assert_eq!(of(&eight, "base_perplexity"), of(&sixteen, "base_perplexity"));
    // KL grows with the square of an error that is 256 times smaller; the key-value cache, of
    // 16 bits too, adds its own.
    let kl = |summary: &Value| of(summary, "kl")["mean"].as_f64().unwrap();
    assert!(kl(&eight) > 1000.0 * kl(&sixteen).abs(), "{} and {}", kl(&eight), kl(&sixteen));
}

#[test]
fn without_a_limit_the_whole_text_is_read() {
    let bench = Bench::new();
    let summary = bench.summary(&["Q4_0.gguf"], &["--context", "256"]);
    let chunks = summary["chunks"].as_u64().unwrap();
    let bytes = fs::metadata(bench.path("text.txt")).unwrap().len();
    // A token is at least one byte and at most four, in this vocabulary.
    assert!(chunks >= bytes / 4 / 256 && chunks <= bytes / 256, "{chunks} windows");
}

#[test]
fn the_table_names_every_variant() {
    let bench = Bench::new();
    bench
        .command(&["Q8_0.gguf", "Q4_0.gguf"], &["--context", "32", "--chunks", "2"])
        .assert()
        .success()
        .stdout(contains("Q8_0.gguf").and(contains("Q4_0.gguf")).and(contains("30 positions")));
}

#[test]
fn the_detailed_table_has_all_figures() {
    let bench = Bench::new();
    let result = bench
        .command(&["Q8_0.gguf", "Q4_0.gguf"], &["--context", "32", "--chunks", "2", "--detailed"])
        .assert()
        .success();
    let text = String::from_utf8_lossy(&result.get_output().stdout).into_owned();
    for name in [
        "perplexity − base's",
        "correlation of their logarithms",
        "KL, mean",
        "KL, 99.9 %",
        "KL, minimum",
        "Δp, mean",
        "Δp, 0.1 %",
        "Δp, root mean square",
        "same top token",
    ] {
        let row = text.lines().find(|line| line.trim_start().starts_with(name));
        let row = row.unwrap_or_else(|| panic!("no {name} in {text}"));
        assert!(row.split_whitespace().count() >= name.split(' ').count() + 2, "{row}");
    }
}

#[test]
fn a_base_and_a_variant_are_needed() {
    let bench = Bench::new();
    bench.command(&[], &[]).assert().failure().stderr(contains("at least one variant"));
    let arguments = ["--base-logits", "base.logits"];
    bench.command(&["Q4_0.gguf"], &arguments).assert().failure().stderr(contains("--text"));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let bench = Bench::new();
    let refused = |command: &mut Command, part: &str| {
        command.assert().failure().stderr(contains(part.to_string()));
    };
    refused(&mut bench.command(&["Q4_0.gguf"], &["--context", "1024"]), "lower --context");
    refused(&mut bench.command(&["Q4_0.gguf"], &["--context", "2"]), "at least 4");
    refused(&mut bench.command(&["missing.gguf"], &[]), "missing.gguf");
    fs::write(bench.path("text.txt"), "too short").unwrap();
    refused(&mut bench.command(&["Q4_0.gguf"], &[]), "the text is too short");
    fs::write(bench.path("text.txt"), [0xff; 2000]).unwrap();
    refused(&mut bench.command(&["Q4_0.gguf"], &[]), "UTF-8");
}
