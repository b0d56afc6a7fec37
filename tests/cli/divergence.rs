//! `quantkit divergence` from end to end.

use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use tempfile::TempDir;

use super::support::{TinyModel, quantkit};

/// A tiny model, its quantized variants, and a text.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        TinyModel::default().write(&bench.path("f16.gguf"));
        for recipe in ["Q8_0", "Q4_0"] {
            let mut quantize = quantkit();
            quantize.arg("quantize").arg(bench.path("f16.gguf"));
            quantize.arg(bench.path(&format!("{recipe}.gguf"))).args(["--type", recipe]);
            quantize.assert().success();
        }
        let text: String = (0..400).map(|n| format!("the {} on a tin\n", n * n % 97)).collect();
        fs::write(bench.path("text.txt"), text).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
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
