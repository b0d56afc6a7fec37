//! `quantkit quantize` from end to end.

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use quantkit::gguf::{GgmlType, GgufFile, GgufWriter, Metadata, TensorPlan, Value};
use quantkit::quant::formats;
use quantkit::support::hash::sha256_file;
use tempfile::TempDir;

use crate::support::{TinyModel, quantkit};

/// Four layers whose rows are whole super-blocks.
fn wide_model() -> TinyModel {
    TinyModel {
        hidden: 256,
        feed_forward: 512,
        layers: 4,
        tied_output: false,
        ..TinyModel::default()
    }
}

/// A directory with `model` as `in.gguf`, and the path of an `out.gguf` that is not there yet.
fn prepare(model: &TinyModel) -> (TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.gguf");
    model.write(&input);
    let output = directory.path().join("out.gguf");
    (directory, input, output)
}

fn files_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn type_of(file: &GgufFile, name: &str) -> GgmlType {
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

/// SHA-256 of what llama.cpp's llama-quantize makes of `tests/data/quantize_input.gguf`: eight layers
/// with rows of whole super-blocks, of whole small blocks only, and of neither.
const REFERENCE_FILES: [(&str, &str); 13] = [
    ("F32", "3d3fa7540a0474cff7e3d39342bea3ce71771a12360ca0ce915993e947b4d630"),
    ("F16", "7e47fe852a2633ae8c7a8e10422855564a59b5e2845a8e44cea6db8d7fc1dac4"),
    ("BF16", "cea32f65ed5b3cf3d47fce672836d6e0d556b1c52f3615dbc35fcd133f4307aa"),
    ("Q8_0", "55cb76412d713f5f74a41926abb4c02bb28b943d681095caeb0eb20dc19b15ca"),
    ("Q6_K", "06ab86f0f9d8874a16d3898bd93cb34316d6c59ebb56cb04700b9ab3beb3ae17"),
    ("Q5_1", "bb8fbd47a76a6de091054769242160d49a33764204d9946464ee1ba1e100392d"),
    ("Q5_0", "845f2a71ca25a5be426c364c3f2898a797098bb636ed28a6201ab3a4859c2254"),
    ("Q4_1", "1fc28983ed51abbb813a45c81f72cb2d260efa1017837b45c299e15ab918ae39"),
    ("Q4_0", "938979b082f298f5d1064c644cb4d12b2b52b94d16785afa545ac850f3d15ef9"),
    ("Q5_K_M", "eeb3f3b2b33b0aac6d12c4ea5c801c34ad5c798f18ecd1e1b67e0c769ec78c62"),
    ("Q5_K_S", "609375ca58ed5d77315249ff21ad0e7c51869f98c38dd082fac02ff3bd6027dc"),
    ("Q4_K_M", "c3d114043c28a60c402b3d75b82387ab188b36da278e240b001b7d5cbd860cc4"),
    ("Q4_K_S", "bc102c37de9cfe7c5fb09faf3466ccc3ea645f854ac982b0d4b2d4f7cc62de1f"),
];

#[test]
fn whole_files_are_those_of_llama_quantize() {
    let directory = tempfile::tempdir().unwrap();
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/quantize_input.gguf");
    for (recipe, expected) in REFERENCE_FILES {
        let output = directory.path().join("out.gguf");
        quantkit()
            .arg("quantize")
            .args([&input, &output])
            .args(["--type", recipe])
            .assert()
            .success();
        assert_eq!(sha256_file(&output).unwrap(), expected, "{recipe}");
    }
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
        [(Path::new("/dev/null"), "no regular file"), (directory.path(), "a directory")]
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
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    assert_cmd::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_quantkit"), "quantize"])
        .args([&input, &output])
        .args(["--type", "Q8_0"])
        .assert()
        .failure()
        .stderr(predicate::str::contains("out.gguf"));
    assert_eq!(files_in(directory.path()), ["in.gguf"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_nothing_half_written() {
    let model = TinyModel { hidden: 512, feed_forward: 1024, layers: 4, ..TinyModel::default() };
    let (directory, input, output) = prepare(&model);
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_quantkit"))
        .args(["--quiet", "--threads", "1", "quantize", "--type", "F32"])
        .args([&input, &output])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The output under construction says that work has begun.
    while files_in(directory.path()).len() < 2 && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    // SAFETY: the child has not been waited for, so its number is still its own.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let finished = child.wait_with_output().unwrap();
    // On a busy machine the run may have ended before the signal came: then it is complete.
    match finished.status.code() {
        Some(130) => {
            assert!(String::from_utf8_lossy(&finished.stderr).contains("stopped"));
            assert_eq!(files_in(directory.path()), ["in.gguf"]);
        }
        Some(0) => assert_eq!(files_in(directory.path()), ["in.gguf", "out.gguf"]),
        _ => panic!("{finished:?}"),
    }
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
