//! `quantkit bench`.

use std::path::Path;

use arrow::array::{Array, AsArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use predicates::prelude::*;
use serde_json::Value;

use crate::support::{TinyModel, quantkit};

fn bench(model: &Path, output: &Path, options: &[&str]) -> assert_cmd::assert::Assert {
    quantkit().args(["bench", "--json", "--output"]).arg(output).arg(model).args(options).assert()
}

fn near(found: f64, expected: f64) {
    let tolerance = 1e-6 * expected.abs().max(1e-3);
    assert!((found - expected).abs() <= tolerance, "{found} is not {expected}");
}

#[test]
fn figures_are_consistent_with_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel::default().write(&model);
    let output = directory.path().join("run");
    let options = [
        "--input-tokens",
        "40",
        "--output-tokens",
        "6",
        "--concurrency",
        "1,3",
        "--requests",
        "4",
        "--repeats",
        "2",
    ];
    let stdout = bench(&model, &output, &options).success().get_output().stdout.clone();
    let printed: Value = serde_json::from_slice(&stdout).expect("one JSON document");
    let written = std::fs::read(output.join("bench.json")).unwrap();
    let written: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(printed, written);
    assert_eq!(printed["complete"], true);

    let levels = printed["levels"].as_array().unwrap();
    assert_eq!(levels.len(), 2);
    for (level, concurrency) in levels.iter().zip([1, 3]) {
        assert_eq!(level["concurrency"], concurrency);
        assert_eq!(level["ttft_ms"]["count"], 8, "four requests twice");
        assert_eq!(level["inter_token_ms"]["count"], 8 * 5);
        let repeats = level["repeats"].as_array().unwrap();
        assert_eq!(repeats.len(), 2);
        for repeat in repeats {
            let figure = |name: &str| repeat[name].as_f64().unwrap();
            assert_eq!((figure("input_tokens"), figure("output_tokens")), (160.0, 24.0));
            near(figure("seconds"), figure("prefill_seconds") + figure("decode_seconds"));
            near(figure("output_tokens_per_second"), 24.0 / figure("seconds"));
            near(figure("requests_per_second"), 4.0 / figure("seconds"));
            near(figure("prefill_tokens_per_second"), 160.0 / figure("prefill_seconds"));
            near(
                figure("decode_tokens_per_second"),
                figure("decode_tokens") / figure("decode_seconds"),
            );
        }
        let spread = &level["output_tokens_per_second"];
        let [min, median, max] =
            ["min", "median", "max"].map(|name| spread[name].as_f64().unwrap());
        assert!(min <= median && median <= max && min < max);
    }
    let requests = printed["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 16);
    for request in requests {
        let figure = |name: &str| request[name].as_f64().unwrap();
        assert_eq!((figure("input_tokens"), figure("output_tokens")), (40.0, 6.0));
        assert!(0.0 < figure("ttft_ms") && figure("ttft_ms") <= figure("end_to_end_ms"));
        near(figure("tpot_ms"), (figure("end_to_end_ms") - figure("ttft_ms")) / 5.0);
        near(figure("tpot_ms"), request["inter_token_ms"]["mean"].as_f64().unwrap());
    }

    let rows = |name: &str| std::fs::read_to_string(output.join(name)).unwrap().lines().count();
    assert_eq!((rows("levels.csv"), rows("requests.csv")), (3, 17));
    let file = std::fs::File::open(output.join("requests.parquet")).unwrap();
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batch = reader.next().unwrap().unwrap();
    assert_eq!(batch.num_rows(), 16);
    let times = batch.column_by_name("token_ms").unwrap().as_list::<i32>();
    assert!((0..16).all(|row| times.value(row).len() == 6), "each token has its time");
}

#[test]
fn a_request_longer_than_the_context_is_refused_with_the_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel { context: 64, ..TinyModel::default() }.write(&model);
    let output = directory.path().join("run");
    bench(&model, &output, &["--input-tokens", "60", "--output-tokens", "5"])
        .failure()
        .stderr(predicate::str::contains("65").and(predicate::str::contains("64")));
    assert!(!output.exists(), "nothing is written");
}

#[test]
fn an_empty_level_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel::default().write(&model);
    bench(&model, directory.path(), &["--concurrency", "2,0"])
        .failure()
        .stderr(predicate::str::contains("at least 1"));
}

#[test]
fn every_percentile_of_every_latency_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel::default().write(&model);
    let assert = quantkit()
        .args(["bench", "--input-tokens", "8", "--output-tokens", "3", "--concurrency", "1,2"])
        .args(["--repeats", "2", "--output"])
        .args([&directory.path().join("run"), &model])
        .assert()
        .success();
    let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    for column in ["mean", "p50", "p90", "p95", "p99", "output tok/s"] {
        assert!(text.contains(column), "{column} is missing in {text}");
    }
    for latency in ["TTFT ms", "TPOT ms", "inter-token ms", "end-to-end ms"] {
        let rows = text.lines().filter(|line| line.trim_start().starts_with(latency)).count();
        assert_eq!(rows, 2, "a row a level of {latency} in {text}");
    }
    assert!(text.contains('–'), "the range over the repeats is missing in {text}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_output_is_an_error_and_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel::default().write(&model);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_quantkit"))
        .args(["bench", "--input-tokens", "8", "--output-tokens", "2", "--concurrency", "1"])
        .args(["--output".as_ref(), directory.path().join("run").as_os_str(), model.as_os_str()])
        .stdout(full)
        .output()
        .unwrap();
    let complaint = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("standard output") && !complaint.contains("panic"), "{complaint}");
}

#[cfg(unix)]
#[test]
fn an_output_that_cannot_be_written_is_found_out_first() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel::default().write(&model);
    let taken = directory.path().join("taken");
    std::fs::write(&taken, "a file, not a directory").unwrap();
    let options = ["--input-tokens", "8", "--output-tokens", "2", "--concurrency", "1"];
    bench(&model, &taken, &options).failure().stderr(predicate::str::contains("taken"));
}
