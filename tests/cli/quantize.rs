//! `quantkit quantize` from end to end.

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use quantkit::gguf::{GgmlType, GgufFile, GgufWriter, Metadata, TensorPlan, Value};
use quantkit::quant::formats;
use tempfile::TempDir;

use crate::support::{TinyModel, files_in, quantkit};
#[cfg(unix)]
use crate::support::{send, start_until};

/// Four layers whose rows are whole super-blocks.
pub fn wide_model() -> TinyModel {
    TinyModel {
        hidden: 256,
        feed_forward: 512,
        layers: 4,
        tied_output: false,
        ..TinyModel::default()
    }
}

/// A directory with `model` as `in.gguf`, and the path of an `out.gguf` that is not there yet.
pub fn prepare(model: &TinyModel) -> (TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.gguf");
    model.write(&input);
    let output = directory.path().join("out.gguf");
    (directory, input, output)
}

/// An importance file in llama.cpp's legacy format: per tensor as many numbers as it is given.
pub fn write_importance(path: &Path, tensors: &[(String, usize)]) {
    let text = |text: &str| [&(text.len() as i32).to_le_bytes(), text.as_bytes()].concat();
    let mut bytes = (tensors.len() as i32).to_le_bytes().to_vec();
    for (name, numbers) in tensors {
        bytes.extend(text(name));
        bytes.extend(1i32.to_le_bytes());
        bytes.extend((*numbers as i32).to_le_bytes());
        bytes.extend((0..*numbers).flat_map(|column| (1.0 + column as f32).to_le_bytes()));
    }
    bytes.extend(5i32.to_le_bytes());
    bytes.extend(text("calibration.txt"));
    std::fs::write(path, bytes).unwrap();
}

pub fn type_of(file: &GgufFile, name: &str) -> GgmlType {
    file.tensor(name).unwrap().ggml_type
}

#[test]
fn types_weights_and_metadata_are_as_promised() {
    let (_directory, input, output) = prepare(&wide_model());
    let assert = quantkit()
        .arg("quantize")
        .args([&input, &output])
        .args(["--type", "q4_k_m"])
        .assert()
        .success()
        .stdout(
            predicate::str::contains("bits per weight").and(predicate::str::contains("weights/s")),
        );
    let printed = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    let line = printed.lines().find(|line| line.contains("blk.0.attn_q.weight")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..6], ["blk.0.attn_q.weight", "256", "×", "256", "F16", "Q4_K"]);
    let (before, after) = (GgufFile::open(&input).unwrap(), GgufFile::open(&output).unwrap());
    for (name, expected) in [
        ("output.weight", GgmlType::Q6_K),
        ("token_embd.weight", GgmlType::Q4_K),
        ("output_norm.weight", GgmlType::F32),
        ("blk.1.attn_v.weight", GgmlType::Q4_K),
        ("blk.2.attn_v.weight", GgmlType::Q6_K),
        ("blk.3.ffn_down.weight", GgmlType::Q6_K),
        ("blk.3.ffn_up.weight", GgmlType::Q4_K),
        ("blk.3.ffn_norm.weight", GgmlType::F32),
    ] {
        assert_eq!(type_of(&after, name), expected, "{name}");
    }
    assert_eq!(after.tensors().len(), before.tensors().len());
    for tensor in after.tensors() {
        let source = before.tensor(&tensor.name).unwrap();
        assert_eq!(tensor.dimensions, source.dimensions);
        let mut weights = vec![0.0; tensor.weights() as usize];
        formats::dequantize_row(source.ggml_type, before.tensor_bytes(source), &mut weights)
            .unwrap();
        let mut expected = vec![0; tensor.bytes() as usize];
        formats::quantize_row(tensor.ggml_type, &weights, &mut expected).unwrap();
        assert!(after.tensor_bytes(tensor) == expected, "{}", tensor.name);
    }
    let carried = |metadata: &Metadata| -> Vec<(String, Value)> {
        let own = ["general.file_type", "general.quantization_version"];
        metadata
            .iter()
            .filter(|(key, _)| !own.contains(key))
            .map(|(key, value)| (key.to_string(), value.clone()))
            .collect()
    };
    assert_eq!(carried(after.metadata()), carried(before.metadata()));
    assert_eq!(after.metadata().get("general.file_type"), Some(&Value::U32(15)));
    assert_eq!(after.metadata().get("general.quantization_version"), Some(&Value::U32(2)));
}

#[test]
fn the_document_and_the_report_file_say_the_same() {
    let (directory, input, output) = prepare(&TinyModel::default());
    let report = directory.path().join("report.json");
    let assert = quantkit()
        .args(["quantize", "--json", "--type", "Q4_K_M", "--report"])
        .args([&report, &input, &output])
        .assert()
        .success();
    let printed: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let written: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(printed, written);
    let after = GgufFile::open(&output).unwrap();
    let sum = |sizes: fn(&quantkit::gguf::TensorInfo) -> u64| {
        after.tensors().iter().map(sizes).sum::<u64>()
    };
    let (weights, bytes) = (sum(|tensor| tensor.weights()), sum(|tensor| tensor.bytes()));
    assert_eq!(printed["recipe"], "Q4_K_M");
    assert_eq!(printed["weights"], weights);
    assert_eq!(printed["new_bytes"], bytes);
    let bits = printed["new_bits_per_weight"].as_f64().unwrap();
    assert!((bits - bytes as f64 * 8.0 / weights as f64).abs() < 1e-9);
    // 64 columns are no whole super-block.
    let tensors = printed["tensors"].as_array().unwrap();
    let query = tensors.iter().find(|tensor| tensor["name"] == "blk.0.attn_q.weight").unwrap();
    assert_eq!(query["wanted_type"], "Q4_K");
    assert_eq!(query["new_type"], "Q5_0");
}

#[test]
fn no_output_takes_the_place_of_an_input() {
    let (directory, input, output) = prepare(&TinyModel::default());
    let at = |name: &str| directory.path().join(name);
    let (plan, importance) = (at("plan.json"), at("importance.dat"));
    let columns = [("blk.0.attn_q.weight".to_string(), 64)];
    write_importance(&importance, &columns);
    let matrices = GgufFile::open(&input).unwrap();
    let matrices = matrices.tensors().iter().filter(|tensor| tensor.dimensions.len() > 1);
    let formats: serde_json::Map<String, serde_json::Value> =
        matrices.map(|tensor| (tensor.name.clone(), "Q8_0".into())).collect();
    let document = serde_json::json!({
        "format": "quantkit-plan", "version": 1, "model": {"architecture": "llama"},
        "tensors": formats, "search": {"importance": "used.gguf"},
    });
    std::fs::write(&plan, document.to_string()).unwrap();
    let before = files_in(directory.path());
    let contents = || -> Vec<_> {
        files_in(directory.path()).iter().map(|name| std::fs::read(at(name)).unwrap()).collect()
    };
    let kept = contents();
    let run = |output: &Path, report: &Path| {
        let mut command = quantkit();
        command.arg("quantize").args([&input, output]).arg("--plan").arg(&plan);
        command.arg("--importance").arg(&importance).arg("--allow-partial-importance");
        command.arg("--report").arg(report).assert()
    };
    let missing = at("report.json");
    run(&importance, &missing).failure().stderr(predicate::str::contains("the importance file;"));
    run(&plan, &missing).failure().stderr(predicate::str::contains("the output is the plan;"));
    for report in [&input, &plan, &importance, &output, &directory.path().join("./out.gguf")] {
        run(&output, report).failure().stderr(predicate::str::contains("the report would replace"));
    }
    run(&output, directory.path()).failure().stderr(predicate::str::contains("a directory"));
    assert_eq!(files_in(directory.path()), before);
    assert_eq!(contents(), kept);
    run(&output, &missing).success();
    let mut without = quantkit();
    without
        .arg("quantize")
        .args([&input, &output])
        .arg("--plan")
        .arg(&plan)
        .assert()
        .success()
        .stderr(predicate::str::contains("made with the importance file used.gguf"));
}

#[test]
fn half_and_full_precision_inputs_give_the_same_weights() {
    let (directory, input, output) = prepare(&TinyModel::default());
    let (wide, from_wide) =
        (directory.path().join("f32.gguf"), directory.path().join("from-f32.gguf"));
    for (from, to, recipe) in
        [(&input, &wide, "F32"), (&wide, &from_wide, "Q8_0"), (&input, &output, "Q8_0")]
    {
        quantkit().arg("quantize").args([from, to]).args(["--type", recipe]).assert().success();
    }
    assert_eq!(std::fs::read(&output).unwrap(), std::fs::read(&from_wide).unwrap());
}

#[test]
fn what_is_quantized_is_not_quantized_again() {
    let (directory, input, output) = prepare(&TinyModel::default());
    let again = directory.path().join("again.gguf");
    quantkit().arg("quantize").args([&input, &output]).args(["--type", "Q8_0"]).assert().success();
    quantkit()
        .arg("quantize")
        .args([&output, &again])
        .args(["--type", "Q4_0"])
        .assert()
        .failure()
        .stderr(predicate::str::contains("already quantized").and(predicate::str::contains("F16")));
    assert_eq!(files_in(directory.path()), ["in.gguf", "out.gguf"]);
}

#[test]
fn the_input_is_never_the_output() {
    let (directory, input, _) = prepare(&TinyModel::default());
    let before = std::fs::read(&input).unwrap();
    let detour = directory.path().join(".").join("in.gguf");
    for output in [&input, &detour] {
        quantkit()
            .arg("quantize")
            .args([&input, output])
            .args(["--type", "Q4_0"])
            .assert()
            .failure()
            .stderr(predicate::str::contains("the output is the input"));
    }
    assert_eq!(std::fs::read(&input).unwrap(), before);
    assert_eq!(files_in(directory.path()), ["in.gguf"]);
}

#[test]
fn a_weight_that_is_not_a_number_is_named_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.gguf");
    let output = directory.path().join("out.gguf");
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut weights = vec![0.25f32; 64 * 300];
        weights[64 * 299 + 17] = value;
        write_one_tensor(&input, "blk.0.ffn_up.weight", &weights, &[64, 300], &[]);
        quantkit()
            .arg("quantize")
            .args([&input, &output])
            .args(["--type", "Q4_0"])
            .assert()
            .failure()
            .stderr(
                predicate::str::contains("blk.0.ffn_up.weight, row 299, column 17")
                    .and(predicate::str::contains(text)),
            );
        assert_eq!(files_in(directory.path()), ["in.gguf"]);
    }
}

#[test]
fn a_weight_too_large_for_the_format_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.gguf");
    let mut weights = vec![0.25f32; 64 * 4];
    weights[64 * 2 + 40] = 1e8;
    write_one_tensor(&input, "blk.0.ffn_up.weight", &weights, &[64, 4], &[]);
    quantkit()
        .arg("quantize")
        .args([&input, &directory.path().join("out.gguf")])
        .args(["--type", "Q4_0"])
        .assert()
        .failure()
        .stderr(predicate::str::contains("blk.0.ffn_up.weight, row 2, column 32: "));
    assert_eq!(files_in(directory.path()), ["in.gguf"]);
}

#[test]
fn a_part_without_its_number_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in-00001-of-00002.gguf");
    write_one_tensor(&input, "blk.0.ffn_up.weight", &[0.5; 64], &[32, 2], &[("split.count", 2)]);
    quantkit()
        .arg("quantize")
        .args([&input, &directory.path().join("out.gguf")])
        .args(["--type", "Q4_0"])
        .assert()
        .failure()
        .stderr(predicate::str::contains("split.no is missing"));
}

#[test]
fn bad_arguments_say_what_is_possible() {
    let (directory, input, output) = prepare(&TinyModel::default());
    quantkit()
        .arg("quantize")
        .args([&input, &output])
        .args(["--type", "Q9"])
        .assert()
        .failure()
        .stderr(predicate::str::contains("Q4_K_M"));
    let missing = directory.path().join("missing.gguf");
    quantkit()
        .arg("quantize")
        .args([&missing, &output])
        .args(["--type", "Q4_0"])
        .assert()
        .failure()
        .stderr(predicate::str::contains("missing.gguf"));
    std::fs::write(&missing, b"GGUX").unwrap();
    quantkit()
        .arg("quantize")
        .args([&missing, &output])
        .args(["--type", "Q4_0"])
        .assert()
        .failure()
        .stderr(predicate::str::contains("missing.gguf"));
    assert_eq!(files_in(directory.path()), ["in.gguf", "missing.gguf"]);
}

#[cfg(unix)]
#[test]
fn a_device_is_not_replaced() {
    let (directory, input, _) = prepare(&wide_model());
    for (output, message) in
        [(Path::new("/dev/null"), "not a regular file"), (directory.path(), "a directory")]
    {
        quantkit()
            .arg("quantize")
            .args([input.as_path(), output])
            .args(["--type", "Q8_0"])
            .assert()
            .failure()
            .stderr(predicate::str::contains(message));
    }
    assert!(!Path::new("/dev/null").is_file());
    assert_eq!(files_in(directory.path()), ["in.gguf"]);
}

/// A limit on the size of files stands in for a full disk: writes fail in the middle.
#[cfg(unix)]
#[test]
fn a_failing_write_leaves_nothing_behind() {
    let (directory, input, output) = prepare(&wide_model());
    let script = "ulimit -f 64; exec \"$0\" \"$@\"";
    assert_cmd::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_quantkit"), "quantize"])
        .args([&input, &output])
        .args(["--type", "Q8_0"])
        .assert()
        .failure()
        .stderr(predicate::str::contains("out.gguf"));
    assert_eq!(files_in(directory.path()), ["in.gguf"]);
}

/// Weights that were never written take no time to make and a while to quantize.
#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_nothing_half_written() {
    for signals in [1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let (input, output) = (directory.path().join("in.gguf"), directory.path().join("out.gguf"));
        write_sparse(&input, &[4096, 1 << 18]);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quantkit"));
        command.args(["--quiet", "--threads", "1", "quantize", "--type", "Q4_K_S"]);
        command.args([&input, &output]);
        // The output under construction says that work has begun.
        let child = start_until(&mut command, || files_in(directory.path()).len() >= 2);
        for _ in 0..signals {
            send(&child, libc::SIGINT);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let finished = child.wait_with_output().unwrap();
        assert_eq!(finished.status.code(), Some(130), "{finished:?}");
        if signals == 1 {
            assert!(String::from_utf8_lossy(&finished.stderr).contains("stopped"));
        }
        assert_eq!(files_in(directory.path()), ["in.gguf"]);
    }
}

#[test]
fn the_help_shows_recipes_and_examples() {
    quantkit().args(["quantize", "--help"]).assert().success().stdout(
        predicate::str::contains("Q4_K_M:")
            .and(predicate::str::contains("Formats:"))
            .and(predicate::str::contains("Examples:")),
    );
}

/// A file of one F32 tensor and the little metadata that it takes.
fn write_one_tensor(
    path: &Path,
    name: &str,
    weights: &[f32],
    dimensions: &[u64],
    numbers: &[(&str, u16)],
) {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("llama".to_string()));
    metadata.set("llama.block_count", Value::U32(1));
    for (key, number) in numbers {
        metadata.set(*key, Value::U16(*number));
    }
    let plan = TensorPlan {
        name: name.to_string(),
        dimensions: dimensions.to_vec(),
        ggml_type: GgmlType::F32,
    };
    let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let mut writer = GgufWriter::create(path, &metadata, vec![plan]).unwrap();
    writer.write(&bytes).unwrap();
    writer.finish().unwrap();
}

/// A file of one F32 matrix of zeros that takes no room on the disk.
#[cfg(unix)]
fn write_sparse(path: &Path, dimensions: &[u64]) {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("llama".to_string()));
    metadata.set("llama.block_count", Value::U32(1));
    let plan = TensorPlan {
        name: "blk.0.ffn_up.weight".to_string(),
        dimensions: dimensions.to_vec(),
        ggml_type: GgmlType::F32,
    };
    // Bytes that are not written read as zeros; a file that nobody finishes has none else.
    let writer = GgufWriter::create(path, &metadata, vec![plan]).unwrap();
    let directory = path.parent().unwrap();
    let unfinished = directory.join(files_in(directory).remove(0));
    std::fs::rename(unfinished, path).unwrap();
    assert_eq!(path.metadata().unwrap().len(), writer.bytes());
}
