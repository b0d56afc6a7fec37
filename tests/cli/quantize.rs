//! `quantkit quantize` from end to end.

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use quantkit::gguf::{GgmlType, GgufFile, GgufWriter, Metadata, TensorPlan, Value};
use quantkit::quant::formats;
use tempfile::TempDir;

use crate::support::{TinyModel, files_in, quantkit, send};

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
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_quantkit"))
            .args(["--quiet", "--threads", "1", "quantize", "--type", "Q4_K_S"])
            .args([&input, &output])
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The output under construction says that work has begun.
        while files_in(directory.path()).len() < 2 && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
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

/// Types by tensor from the JSON of a dry run with these options.
fn dry_run(input: &Path, options: &[&str]) -> serde_json::Value {
    let assert = quantkit()
        .args(["quantize", "--json", "--dry-run"])
        .arg(input)
        .args(options)
        .assert()
        .success();
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

fn planned(report: &serde_json::Value, name: &str) -> (String, String) {
    let tensors = report["tensors"].as_array().unwrap();
    let tensor = tensors.iter().find(|tensor| tensor["name"] == name).unwrap();
    let text = |key: &str| tensor[key].as_str().unwrap().to_string();
    (text("new_type"), text("note"))
}

#[test]
fn a_dry_run_tells_all_and_writes_nothing() {
    let (directory, input, output) = prepare(&wide_model());
    let options = ["--type", "Q4_K_M", "--tensor-type", "attn_k=Q8_0"];
    let told = dry_run(&input, &options);
    quantkit()
        .args(["quantize", "--dry-run"])
        .args([&input, &output])
        .args(options)
        .assert()
        .success()
        .stdout(
            predicate::str::contains("--tensor-type attn_k")
                .and(predicate::str::contains("nothing was written")),
        );
    assert_eq!(files_in(directory.path()), ["in.gguf"]);
    let assert = quantkit()
        .args(["quantize", "--json"])
        .args([&input, &output])
        .args(options)
        .assert()
        .success();
    let done: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    assert_eq!(told["tensors"], done["tensors"]);
    assert_eq!(told["file_bytes"], std::fs::metadata(&output).unwrap().len());
    assert_eq!(told["file_bytes"], done["file_bytes"]);
    assert!(told["weights_per_second"].is_null() && done["weights_per_second"].is_f64());
}

#[test]
fn options_say_which_tensor_gets_which_format_and_the_notes_say_why() {
    let (_directory, input, _) = prepare(&wide_model());
    let (value, key, output) = ("blk.0.attn_v.weight", "blk.0.attn_k.weight", "output.weight");
    let told = dry_run(
        &input,
        &[
            "--type=q4_k",
            "--output-type=q5_k",
            "--token-embedding-type=Q8_0",
            "--tensor-type=ATTN_V=q4_1",
            "--tensor-type=attn_.=Q5_0",
            "--exclude=ffn_(up|gate)",
        ],
    );
    for (name, format, note) in [
        (value, "Q4_1", "--tensor-type ATTN_V"),
        (key, "Q5_0", "--tensor-type attn_."),
        (output, "Q5_K", "--output-type"),
        ("token_embd.weight", "Q8_0", "--token-embedding-type"),
        ("blk.2.ffn_up.weight", "F16", "kept by --exclude ffn_(up|gate)"),
        ("blk.1.ffn_down.weight", "Q4_K", ""),
        ("blk.3.ffn_down.weight", "Q6_K", "feed-forward down"),
        ("blk.3.ffn_norm.weight", "F32", "kept"),
    ] {
        assert_eq!(planned(&told, name), (format.to_string(), note.to_string()), "{name}");
    }
    let pure = dry_run(&input, &["--type=Q4_K_M", "--pure"]);
    assert_eq!(planned(&pure, output), ("Q4_K".to_string(), String::new()));
    let left = dry_run(&input, &["--type=Q4_K_M", "--leave-output"]);
    assert_eq!(planned(&left, output), ("F16".to_string(), "kept by --leave-output".to_string()));
}

/// Runs with these options, expects a failure that leaves nothing behind, and returns what it said.
fn refused(input: &Path, options: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let assert = quantkit()
        .arg("quantize")
        .args([input, &directory.path().join("out.gguf")])
        .args(options)
        .assert()
        .failure();
    assert_eq!(files_in(directory.path()), [""; 0]);
    String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
}

#[test]
fn options_that_make_no_sense_are_refused_by_name() {
    let (_directory, input, _) = prepare(&wide_model());
    for (options, words) in [
        (&["--type=Q4_KM"] as &[&str], &["'Q4_KM'", "similar", "'Q4_K_M'"] as &[&str]),
        (&["--pure"], &["--type"]),
        (&["--type=Q4_0", "--plan=plan.json"], &["--plan", "cannot be used"]),
        (&["--plan=plan.json", "--pure"], &["--pure", "cannot be used"]),
        (&["--type=Q4_0", "--output-type=Q8_0", "--leave-output"], &["cannot be used"]),
        (&["--type=Q4_0", "--output-type=Q9"], &["'Q9'", "Q6_K"]),
        (&["--type=Q4_0", "--tensor-type=attn_v"], &["attn_v", "REGEX=FORMAT"]),
        (&["--type=Q4_0", "--tensor-type=attn_v=Q9"], &["\"Q9\" is no format", "Q6_K"]),
        (&["--type=Q4_0", "--tensor-type=(=Q8_0"], &["\"(\" is no regular expression"]),
        (&["--type=Q4_0", "--tensor-type==Q8_0"], &["empty"]),
        (&["--type=Q4_0", "--exclude=("], &["\"(\" is no regular expression"]),
        (&["--type=Q4_0", "--tensor-type=atn_v=Q8_0"], &["--tensor-type \"atn_v\"", "token_embd"]),
        (&["--type=Q4_0", "--exclude=lm_head"], &["--exclude \"lm_head\"", "token_embd"]),
        (&["--type=MXFP4"], &["--pure", "MXFP4_MOE"]),
        (&["--type=Q2_K_S"], &["--importance", "as Q2_K"]),
        (&["--type=Q4_0", "--importance=missing.gguf"], &["missing.gguf"]),
        (&["--plan=missing.json"], &["missing.json"]),
    ] {
        let said = refused(&input, options);
        for word in words {
            assert!(said.contains(word), "{options:?}: {word} is not in {said}");
        }
    }
    let (_narrow, input, _) = prepare(&TinyModel { tied_output: false, ..TinyModel::default() });
    let said = refused(&input, &["--type=Q4_0", "--output-type=Q4_K"]);
    assert!(said.contains("output.weight has rows of 64") && said.contains("256"), "{said}");
}

#[test]
fn a_plan_names_every_tensor() {
    let (directory, input, output) = prepare(&wide_model());
    let path = directory.path().join("plan.json");
    let matrices: Vec<String> = GgufFile::open(&input)
        .unwrap()
        .tensors()
        .iter()
        .filter(|tensor| tensor.dimensions.len() > 1)
        .map(|tensor| tensor.name.clone())
        .collect();
    let write = |formats: &[(&str, &str)], architecture: &str| {
        let mut tensors = serde_json::Map::new();
        for name in &matrices {
            tensors.insert(name.clone(), "Q5_K".into());
        }
        for (name, format) in formats {
            tensors.insert(name.to_string(), (*format).into());
        }
        tensors.retain(|_, format| format != "");
        let document = serde_json::json!({
            "format": "quantkit-plan",
            "version": 1,
            "model": {"architecture": architecture},
            "tensors": tensors,
            "made_by": "a test",
        });
        std::fs::write(&path, document.to_string()).unwrap();
    };
    let option = format!("--plan={}", path.display());
    write(&[("blk.1.ffn_up.weight", "q8_0"), ("output.weight", "F16")], "llama");
    quantkit()
        .arg("quantize")
        .args([&input, &output])
        .arg(&option)
        .assert()
        .success()
        .stdout(predicate::str::contains("plan"));
    let after = GgufFile::open(&output).unwrap();
    assert_eq!(type_of(&after, "blk.1.ffn_up.weight"), GgmlType::Q8_0);
    assert_eq!(type_of(&after, "blk.0.ffn_up.weight"), GgmlType::Q5_K);
    assert_eq!(type_of(&after, "output.weight"), GgmlType::F16);
    assert_eq!(type_of(&after, "blk.0.ffn_norm.weight"), GgmlType::F32);
    assert_eq!(after.metadata().get("general.file_type"), Some(&Value::U32(17)));
    for (formats, architecture, words) in [
        (&[] as &[_], "qwen2", "qwen2"),
        (&[("blk.9.ffn_up.weight", "Q4_0")], "llama", "names blk.9.ffn_up.weight"),
        (&[("blk.1.attn_q.weight", "")], "llama", "what becomes of blk.1.attn_q.weight"),
        (&[("blk.1.attn_q.weight", "Q9")], "llama", "Q9"),
        (&[("blk.1.attn_q.weight", "IQ1_S")], "llama", "blk.1.attn_q.weight as IQ1_S"),
    ] {
        write(formats, architecture);
        let said = refused(&input, &[&option]);
        assert!(said.contains(words), "{words}: {said}");
    }
    let (_narrow, input, _) =
        prepare(&TinyModel { layers: 4, tied_output: false, ..TinyModel::default() });
    write(&[], "llama");
    let said = refused(&input, &[&option]);
    assert!(said.contains("rows of 64 weights") && said.contains("the plan"), "{said}");
}

/// An importance file in llama.cpp's legacy format: per tensor as many numbers as it is given.
fn write_importance(path: &Path, tensors: &[(String, usize)]) {
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

#[test]
fn importance_is_the_models_own_and_recorded() {
    let (directory, input, output) = prepare(&wide_model());
    let path = directory.path().join("importance.dat");
    let columns: Vec<(String, usize)> = GgufFile::open(&input)
        .unwrap()
        .tensors()
        .iter()
        .filter(|tensor| tensor.name.starts_with("blk.") && tensor.dimensions.len() > 1)
        .map(|tensor| (tensor.name.clone(), tensor.columns()))
        .collect();
    write_importance(&path, &columns);
    let option = format!("--importance={}", path.display());
    quantkit()
        .arg("quantize")
        .args([&input, &output])
        .args(["--type=Q4_K_M", &option])
        .assert()
        .success();
    let (before, after) = (GgufFile::open(&input).unwrap(), GgufFile::open(&output).unwrap());
    let recorded = |key: &str| after.metadata().get(&format!("quantize.imatrix.{key}")).cloned();
    assert_eq!(recorded("dataset"), Some(Value::String("calibration.txt".to_string())));
    assert_eq!(recorded("entries_count"), Some(Value::U32(columns.len() as u32)));
    assert_eq!(recorded("chunks_count"), Some(Value::U32(5)));
    let Some(Value::String(file)) = recorded("file") else { panic!("no file is recorded") };
    assert!(path.display().to_string().starts_with(&file) && file.len() <= 127, "{file}");
    let tensor = after.tensor("blk.1.ffn_up.weight").unwrap();
    let source = before.tensor_bytes(before.tensor(&tensor.name).unwrap());
    let mut weights = vec![0.0; tensor.weights() as usize];
    formats::dequantize_row(GgmlType::F16, source, &mut weights).unwrap();
    let importance: Vec<f32> = (0..tensor.columns()).map(|column| 1.0 + column as f32).collect();
    let mut expected = vec![0; tensor.bytes() as usize];
    formats::quantize_weighted(GgmlType::Q4_K, &weights, &importance, &mut expected).unwrap();
    assert!(after.tensor_bytes(tensor) == expected);

    let said = |columns: &[(String, usize)], options: &[&str]| {
        write_importance(&path, columns);
        refused(&input, &[options, &[&option]].concat())
    };
    let mut other = columns.clone();
    other[3].1 += 64;
    let text = said(&other, &["--type=Q4_K_M"]);
    let words = format!("{} takes {} numbers, found {}", other[3].0, columns[3].1, other[3].1);
    assert!(text.contains("another model") && text.contains(&words), "{text}");
    let text = said(&columns[1..], &["--type=Q4_K_M"]);
    assert!(text.contains(&format!("no importance for {};", columns[0].0)), "{text}");
    let text = said(&columns[1..], &["--type=Q2_K_S", "--allow-partial-importance"]);
    assert!(text.contains("garbage") && text.contains(&columns[0].0), "{text}");
    write_importance(&path, &columns[1..]);
    quantkit()
        .arg("quantize")
        .args([&input, &output])
        .args(["--type=Q4_K_M", &option, "--allow-partial-importance"])
        .assert()
        .success();
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
