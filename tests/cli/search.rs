//! `quantkit search` from end to end.

use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use quantkit::gguf::GgufFile;
use serde_json::Value;
use tempfile::TempDir;

use super::support::{TinyModel, quantkit};

/// What every search here is given that is given nothing else.
const DEFAULTS: [[&str; 2]; 2] = [["--context", "64"], ["--chunks", "2"]];

/// A tiny model, with rows that allow super-blocks in one matrix a layer, and a text.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        TinyModel { feed_forward: 256, ..TinyModel::default() }.write(&bench.path("f16.gguf"));
        let text: String = (0..60).map(|n| format!("the {} on a tin\n", n * n % 97)).collect();
        fs::write(bench.path("text.txt"), text).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A search on two windows whose plan goes to `plan`.
    fn search(&self, plan: &str, arguments: &[&str]) -> Command {
        let mut command = quantkit();
        command.arg("search").arg(self.path("f16.gguf")).arg("--text").arg(self.path("text.txt"));
        command.arg("--output").arg(self.path(plan)).args(arguments);
        for default in DEFAULTS.iter().filter(|[option, _]| !arguments.contains(option)) {
            command.args(default);
        }
        command
    }

    fn report(&self, plan: &str, arguments: &[&str]) -> Value {
        let result = self.search(plan, arguments).arg("--json").assert().success();
        serde_json::from_slice(&result.get_output().stdout).expect("one JSON document")
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn quantize(&self, input: &str, output: &str, arguments: &[&str]) -> Command {
        let mut command = quantkit();
        command.arg("quantize").arg(self.path(input)).arg(self.path(output)).args(arguments);
        command
    }

    fn refused(&self, arguments: &[&str], part: &str) {
        // What an earlier refusal has left behind is of no use.
        self.search("refused.json", arguments)
            .arg("--fresh")
            .assert()
            .failure()
            .stdout("")
            .stderr(contains(part.to_string()));
        assert!(!self.path("refused.json").exists());
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[test]
fn a_plan_is_found_written_and_keeps_its_promises() {
    let bench = Bench::new();
    let report =
        bench.report("out/plan.json", &["--bits-per-weight", "5.2", "--against", "Q4_0,Q8_0"]);
    let plan = report["variants"][0].clone();
    assert_eq!(plan["name"], "plan");
    assert!(number(&plan["bits_per_weight"]) <= 5.2);
    assert!(number(&plan["file_bytes"]) <= number(&report["budget_bytes"]));
    // One measured tensor after the other predicts what all do together.
    let ratio = number(&plan["calibration"]["kl"]["mean"]) / number(&plan["predicted_kl"]);
    assert!((0.5..2.0).contains(&ratio), "measured / predicted = {ratio}");
    // More bits than Q4_0 and fewer than Q8_0, and so are the losses.
    let losses: Vec<f64> = [2, 0, 1]
        .map(|place| number(&report["variants"][place]["calibration"]["kl"]["mean"]))
        .to_vec();
    assert!(losses.is_sorted() && losses[0] < losses[2], "{losses:?}");

    // The file that quantize makes of the plan has the promised size and divergence.
    let plan_path = bench.path("out/plan.json");
    bench
        .quantize("f16.gguf", "planned.gguf", &["--plan", plan_path.to_str().unwrap()])
        .assert()
        .success();
    let file = GgufFile::open(&bench.path("planned.gguf")).unwrap();
    assert_eq!(plan["file_bytes"], file.file_bytes());
    for tensor in report["tensors"].as_array().unwrap() {
        let found = file.tensor(tensor["name"].as_str().unwrap()).unwrap();
        assert_eq!(tensor["format"], found.ggml_type.name());
    }
    assert_eq!(bench.json("out/plan.json")["search"]["file_bytes"], plan["file_bytes"]);
}

#[test]
fn the_measured_divergence_is_that_of_the_file() {
    let bench = Bench::new();
    // All windows of the text, so that both commands read the same ones.
    let output = bench.path("planned.gguf");
    let report = bench.report(
        "plan.json",
        &["--bits-per-weight", "6", "--chunks", "1000", "--quantize", output.to_str().unwrap()],
    );
    let mut divergence = quantkit();
    divergence.arg("divergence").arg(bench.path("f16.gguf")).arg(&output).arg("--json");
    divergence.arg("--text").arg(bench.path("text.txt")).args(DEFAULTS[0]);
    let result = divergence.assert().success();
    let summary: Value = serde_json::from_slice(&result.get_output().stdout).unwrap();
    assert_eq!(summary["chunks"], report["chunks"]);
    let [found, expected] = [
        number(&summary["variants"][0]["kl"]["mean"]),
        number(&report["variants"][0]["calibration"]["kl"]["mean"]),
    ];
    assert!((found / expected - 1.0).abs() < 0.01, "{found} instead of {expected}");
}

#[test]
fn a_stopped_search_goes_on_and_ends_with_the_same_plan() {
    let bench = Bench::new();
    let arguments = ["--size", "120K", "--formats", "Q4_0,Q4_K,Q5_1,Q8_0"];
    let whole = bench.report("whole.json", &arguments);
    // What is there after the machine stopped in the middle of a line.
    let measured = fs::read(bench.path("whole.json.measurements.jsonl")).unwrap();
    let part = &measured[..measured.len() / 2];
    fs::write(bench.path("again.json.measurements.jsonl"), part).unwrap();
    let again = bench.report("again.json", &arguments);
    assert_eq!(whole["tensors"], again["tensors"]);
    assert_eq!(bench.json("whole.json")["tensors"], bench.json("again.json")["tensors"]);
    let resumed = fs::read(bench.path("again.json.measurements.jsonl")).unwrap();
    assert!(resumed.starts_with(&part[..part.len() - 200]), "earlier measurements are kept");
    // A third time there is nothing to measure.
    bench.report("again.json", &arguments);
    assert_eq!(fs::read(bench.path("again.json.measurements.jsonl")).unwrap(), resumed);
    // Another size starts with all that is known.
    let smaller =
        bench.report("again.json", &["--size", "105K", "--formats", "Q4_0,Q4_K,Q5_1,Q8_0"]);
    assert!(number(&smaller["variants"][0]["file_bytes"]) <= 105_000.0);
    let grown = fs::read(bench.path("again.json.measurements.jsonl")).unwrap();
    assert!(grown.starts_with(&resumed));
    let losses = [&whole, &smaller].map(|report| number(&report["variants"][0]["predicted_kl"]));
    assert!(losses[0] < losses[1], "{losses:?}");
}

#[test]
fn the_table_the_plot_and_what_comes_next_are_shown() {
    let bench = Bench::new();
    let plot = bench.path("plan.svg");
    let held_out = bench.path("text.txt");
    bench
        .search(
            "plan.json",
            &[
                "--bits-per-weight",
                "5",
                "--against",
                "Q4_0",
                "--plot",
                plot.to_str().unwrap(),
                "--held-out",
                held_out.to_str().unwrap(),
                "--held-out-chunks",
                "3",
            ],
        )
        .assert()
        .success()
        .stdout(
            contains("most sensitive tensors")
                .and(contains("blk.1."))
                .and(contains("KL on held-out text"))
                .and(contains("Q4_0"))
                .and(contains("Next: quantkit quantize")),
        );
    let plot = fs::read_to_string(plot).unwrap();
    for part in ["<svg", "xmlns", "f16.gguf", "Q4_0", "wanted", "on held-out text"] {
        assert!(plot.contains(part), "{part}");
    }
}

#[test]
fn given_formats_are_kept() {
    let bench = Bench::new();
    let report = bench.report(
        "plan.json",
        &["--bits-per-weight", "6", "--keep", "ffn_down=Q6_K", "--keep", "attn_v=F16"],
    );
    for tensor in report["tensors"].as_array().unwrap() {
        let name = tensor["name"].as_str().unwrap();
        let given = match name {
            name if name.contains("ffn_down") => Some("Q6_K"),
            name if name.contains("attn_v") => Some("F16"),
            _ => None,
        };
        assert_eq!(tensor["fixed"], given.is_some(), "{name}");
        assert!(given.is_none_or(|format| tensor["format"] == format), "{tensor}");
    }
}

#[test]
fn importance_is_heeded_and_asked_for_again() {
    let bench = Bench::new();
    let (importance, text) = (bench.path("importance.gguf"), bench.path("text.txt"));
    let mut collect = quantkit();
    collect.arg("importance").arg(bench.path("f16.gguf")).arg("--text").arg(text);
    collect.arg("--output").arg(&importance).args(["--context", "64"]).assert().success();
    let importance = importance.to_str().unwrap();
    let size = ["--bits-per-weight", "4.6"];
    let plain = bench.report("plain.json", &size);
    let weighted =
        bench.report("weighted.json", &[&size[..], &["--importance", importance]].concat());
    assert_eq!(weighted["importance"], importance);
    assert_ne!(plain["variants"][0]["calibration"], weighted["variants"][0]["calibration"]);
    bench
        .search("weighted.json", &[&size[..], &["--importance", importance]].concat())
        .assert()
        .success()
        .stdout(contains(format!("--importance {importance}")));
    // The measurements without importance are of no use with it.
    bench
        .search("plain.json", &[&size[..], &["--importance", importance]].concat())
        .assert()
        .failure()
        .stderr(contains("another --importance").and(contains("--fresh")));
}

#[test]
fn what_cannot_be_is_refused_with_a_cure() {
    let bench = Bench::new();
    let plain = ["--bits-per-weight", "5"];
    let with = |more: &[&'static str]| [&plain[..], more].concat();
    bench.refused(&["--size", "20K"], "the smallest file has");
    bench.refused(&["--bits-per-weight", "1"], "the smallest file has");
    bench.refused(&["--bits-per-weight=-1"], "above 0");
    bench.refused(&["--size", "10 apples"], "1.5GiB");
    bench.refused(&["--size-of", "no/such.gguf"], "no/such.gguf");
    bench.refused(&[], "--size");
    bench.refused(&with(&["--context", "100000"]), "the text is too short");
    bench.refused(&with(&["--keep", "ffn_dwon=Q6_K"]), "matches none");
    bench.refused(&with(&["--keep", "attn_q=Q6_K"]), "rows of 64 weights");
    bench.refused(&with(&["--importance", "no/such.gguf"]), "no/such.gguf");
    bench.refused(&with(&["--plot", "."]), "directory");
    bench.quantize("f16.gguf", "q8.gguf", &["--type", "Q8_0"]).assert().success();
    let mut search = quantkit();
    search.arg("search").arg(bench.path("q8.gguf")).arg("--text").arg(bench.path("text.txt"));
    search.args(plain).arg("--output").arg(bench.path("refused.json"));
    search
        .assert()
        .failure()
        .stderr(contains("already quantized").and(contains("F16")).and(contains("--allow").not()));
}

#[test]
fn no_file_takes_the_place_of_another() {
    let bench = Bench::new();
    let kept = ["f16.gguf", "text.txt"].map(|name| fs::read(bench.path(name)).unwrap());
    let at = |name: &str| bench.path(name).to_str().unwrap().to_string();
    let (model, text, plan) = (at("f16.gguf"), at("text.txt"), at("refused.json"));
    let (plot, measurements) = (at("new.svg"), at("refused.json.measurements.jsonl"));
    let others = at("other.json.measurements.jsonl");
    let size = ["--bits-per-weight", "5"];
    for (arguments, part) in [
        (vec!["--plot", &model], "replace this input"),
        (vec!["--quantize", &model], "replace this input"),
        (vec!["--plot", &text], "replace this input"),
        (vec!["--plot", &plan], "two outputs"),
        (vec!["--quantize", &measurements], "two outputs"),
        (vec!["--plot", &others], "hold measurements"),
        (vec!["--plot", &plot, "--quantize", &plot], "two outputs"),
        // None of these is worth a measurement.
        (vec!["--held-out", "/dev/zero"], "/dev/zero"),
        (vec!["--against", "Q2_K_S"], "needs importance"),
        (vec!["--against", "MXFP4"], "--against MXFP4"),
    ] {
        bench.refused(&[&size[..], &arguments].concat(), part);
        assert!(!bench.path("refused.json.measurements.jsonl").exists(), "{arguments:?}");
    }
    bench.refused(&["--size-of", &model, "--plot", &model], "replace this input");
    assert_eq!(kept, ["f16.gguf", "text.txt"].map(|name| fs::read(bench.path(name)).unwrap()));
}

#[test]
fn the_held_out_figure_is_not_the_calibration_texts() {
    let bench = Bench::new();
    let text = bench.path("text.txt");
    // Two windows of one text each, but not the same ones.
    let report = bench.report(
        "plan.json",
        &["--bits-per-weight", "5", "--held-out", text.to_str().unwrap(), "--held-out-chunks", "2"],
    );
    let plan = &report["variants"][0];
    assert_eq!(plan["calibration"]["positions"], plan["held_out"]["positions"]);
    assert_ne!(plan["calibration"]["kl"], plan["held_out"]["kl"]);
}

#[test]
fn a_plan_is_for_its_own_model() {
    let bench = Bench::new();
    bench.report("plan.json", &["--bits-per-weight", "5"]);
    TinyModel { layers: 3, ..TinyModel::default() }.write(&bench.path("other.gguf"));
    let plan = bench.path("plan.json");
    bench
        .quantize("other.gguf", "out.gguf", &["--plan", plan.to_str().unwrap()])
        .assert()
        .failure()
        .stderr(contains("the plan is for another model"));
    assert!(!bench.path("out.gguf").exists());
}
