//! `quantkit quantize` from a Hugging Face directory, into parts, and in little memory.

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use quantkit::gguf::{GgmlType, GgufWriter, Metadata, TensorPlan, Value, part_path};
use tempfile::TempDir;

use crate::support::{TinyModel, files_in, quantkit, without_identity};

/// A tiny model as a GGUF file and as a Hugging Face directory of this type of weights.
fn checkpoint(dtype: &str) -> (TempDir, PathBuf, PathBuf) {
    let model = TinyModel { hidden: 256, feed_forward: 512, ..TinyModel::default() };
    let directory = tempfile::tempdir().unwrap();
    let (file, checkpoint) = (directory.path().join("m.gguf"), directory.path().join("hf"));
    model.write(&file);
    let mut command = quantkit();
    command.arg("export").arg(&file).arg("--output").arg(&checkpoint).args(["--dtype", dtype]);
    command.assert().success();
    (directory, file, checkpoint)
}

fn quantize(input: &Path, output: &Path, arguments: &[&str]) {
    quantkit().arg("quantize").args([input, output]).args(arguments).assert().success();
}

fn assert_same(a: &Path, b: &Path) {
    let same = std::fs::read(a).unwrap() == std::fs::read(b).unwrap();
    assert!(same, "{} and {} differ", a.display(), b.display());
}

#[test]
fn a_checkpoint_becomes_what_its_gguf_file_becomes() {
    for (dtype, recipes) in
        [("bf16", ["Q4_K_M", "Q8_0"]), ("f16", ["Q5_0", "Q6_K"]), ("f32", ["Q4_0", "F16"])]
    {
        let (directory, _, checkpoint) = checkpoint(dtype);
        let at = |name: &str| directory.path().join(name);
        quantkit()
            .arg("convert")
            .arg(&checkpoint)
            .arg("--output")
            .arg(at("converted.gguf"))
            .assert()
            .success();
        for recipe in recipes {
            quantize(&at("converted.gguf"), &at("twice.gguf"), &["--type", recipe]);
            quantize(&checkpoint, &at("once.gguf"), &["--type", recipe]);
            assert_same(&at("once.gguf"), &at("twice.gguf"));
        }
    }
}

#[test]
fn a_weight_that_f16_cannot_hold_is_told_from_one_that_is_infinite() {
    let (directory, _, checkpoint) = checkpoint("f32");
    let file = checkpoint.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let query = &tensors["model.layers.0.self_attn.q_proj.weight"];
    let start = 8 + header + query["data_offsets"][0].as_u64().unwrap() as usize;
    let mut put = |value: f32| {
        // Its first row is first in either order.
        bytes[start + 12..start + 16].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&file, &bytes).unwrap();
    };
    let refused = |recipe: &str, words: &str| {
        let output = directory.path().join("out.gguf");
        let mut command = quantkit();
        command.arg("quantize").args([&checkpoint, &output]).args(["--type", recipe]);
        let place = "blk.0.attn_q.weight, row 0, column 3: ";
        command.assert().failure().stderr(predicate::str::contains(format!("{place}{words}")));
    };
    for recipe in ["Q4_0", "Q4_K_M", "F16"] {
        put(-70_000.0);
        refused(recipe, "-70000 is too large for F16");
        put(f32::NEG_INFINITY);
        refused(recipe, "weight 3 of the row is -inf");
    }
}

#[test]
fn no_file_of_a_checkpoint_is_replaced() {
    let (_directory, _, checkpoint) = checkpoint("f16");
    let before = files_in(&checkpoint);
    let contents = || -> Vec<Vec<u8>> {
        before.iter().map(|name| std::fs::read(checkpoint.join(name)).unwrap()).collect()
    };
    let kept = contents();
    for name in &before {
        let output = checkpoint.join(name);
        let mut quantize = quantkit();
        quantize.arg("quantize").args([&checkpoint, &output]).args(["--type", "Q8_0"]);
        quantize.assert().failure().stderr(predicate::str::contains("the output is the input"));
        let mut convert = quantkit();
        convert.arg("convert").arg(&checkpoint).arg("--output").arg(&output);
        convert.assert().failure().stderr(predicate::str::contains("a file of the checkpoint"));
    }
    assert_eq!(files_in(&checkpoint), before);
    assert_eq!(contents(), kept);
    let inside = checkpoint.join("model.gguf");
    for _ in 0..2 {
        quantize(&checkpoint, &inside, &["--type", "Q8_0"]);
    }
}

#[test]
fn a_directory_that_is_no_checkpoint_is_refused() {
    let (directory, _, checkpoint) = checkpoint("f16");
    let output = directory.path().join("out.gguf");
    let refused = |message: &str| {
        quantkit()
            .arg("quantize")
            .args([&checkpoint, &output])
            .args(["--type", "Q4_0"])
            .assert()
            .failure()
            .stderr(predicate::str::contains(message));
        assert_eq!(files_in(directory.path()), ["hf", "m.gguf"]);
    };
    std::fs::remove_file(checkpoint.join("model.safetensors")).unwrap();
    refused("expected model.safetensors");
    std::fs::remove_file(checkpoint.join("config.json")).unwrap();
    refused("config.json");
}

#[test]
fn parts_are_those_of_the_whole_file() {
    let (directory, file, _) = checkpoint("f16");
    let at = |name: &str| directory.path().join(name);
    quantize(&file, &at("whole.gguf"), &["--type", "Q4_K_M"]);
    quantize(&file, &at("own.Q4_K_M.gguf"), &["--type", "Q4_K_M", "--split-max-size", "300000"]);
    quantkit()
        .arg("split")
        .args([at("whole.gguf"), at("made")])
        .args(["--max-size", "300000"])
        .assert()
        .success();
    let own: Vec<String> =
        files_in(directory.path()).into_iter().filter(|name| name.starts_with("own")).collect();
    let count = own.len() as u64;
    assert!(count > 1);
    for (index, name) in own.iter().enumerate() {
        let index = index as u64;
        assert_eq!(at(name), part_path(&at("own.Q4_K_M"), index, count));
        let made = part_path(&at("made"), index, count);
        assert!(without_identity(&at(name)) == without_identity(&made), "{name}");
    }
    quantkit()
        .arg("quantize")
        .args([at(&own[0]), at("own.Q4_K_M.gguf")])
        .args(["--type", "Q8_0", "--allow-requantize", "--split-max-size", "300000"])
        .assert()
        .success();
}

#[test]
fn parts_that_are_read_are_not_replaced() {
    let (directory, file, _) = checkpoint("f16");
    let at = |name: &str| directory.path().join(name);
    quantize(&file, &at("p.gguf"), &["--type", "F16", "--split-max-size", "300000"]);
    let before = files_in(directory.path());
    let first = at(before.iter().find(|name| name.starts_with("p-00001")).unwrap());
    let second = at(before.iter().find(|name| name.starts_with("p-00002")).unwrap());
    let refused = |output: &Path, arguments: &[&str]| {
        quantkit()
            .arg("quantize")
            .args([first.as_path(), output])
            .args(["--type", "F16"])
            .args(arguments)
            .assert()
            .failure()
            .stderr(predicate::str::contains("the output is the input"));
        assert_eq!(files_in(directory.path()), before);
    };
    refused(&second, &[]);
    refused(&at("p.gguf"), &["--split-max-size", "300000"]);
}

#[cfg(unix)]
#[test]
fn an_input_is_not_replaced_under_any_of_its_names() {
    let (directory, file, _) = checkpoint("f16");
    let at = |name: &str| directory.path().join(name);
    std::os::unix::fs::symlink(&file, at("soft.gguf")).unwrap();
    std::fs::hard_link(&file, at("hard.gguf")).unwrap();
    let before = std::fs::read(&file).unwrap();
    for output in ["m.gguf", "soft.gguf", "hard.gguf"] {
        quantkit()
            .arg("quantize")
            .args([&file, &at(output)])
            .args(["--type", "Q8_0"])
            .assert()
            .failure()
            .stderr(predicate::str::contains("the output is the input"));
    }
    assert_eq!(std::fs::read(&file).unwrap(), before);
    assert_eq!(files_in(directory.path()), ["hard.gguf", "hf", "m.gguf", "soft.gguf"]);
}

/// A file of F16 zeros, most of it without a byte on the disk: one matrix, and one row that is wider
/// than what is coded at a time.
#[cfg(target_os = "linux")]
fn write_large(path: &Path, rows: u64) {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("llama".to_string()));
    metadata.set("llama.block_count", Value::U32(1));
    let plan = |name: &str, dimensions: &[u64]| TensorPlan {
        name: name.to_string(),
        dimensions: dimensions.to_vec(),
        ggml_type: GgmlType::F16,
    };
    let tensors = vec![
        plan("blk.0.ffn_up.weight", &[4096, rows]),
        plan("blk.0.ffn_gate.weight", &[1 << 23, 2]),
    ];
    // Bytes that are not written read as zeros; a file that nobody finishes has none else.
    let writer = GgufWriter::create(path, &metadata, tensors).unwrap();
    let bytes = writer.bytes();
    let directory = path.parent().unwrap();
    let unfinished = directory.join(files_in(directory).remove(0));
    std::fs::rename(&unfinished, path).unwrap();
    assert_eq!(path.metadata().unwrap().len(), bytes);
}

/// The most memory (`VmHWM`, mapped files included) of a run, in bytes.
#[cfg(target_os = "linux")]
fn peak_memory(arguments: &[&std::ffi::OsStr]) -> u64 {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_quantkit"))
        .args(["--quiet", "--threads", "2"])
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(child.wait().unwrap().success());
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_model() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.gguf"), directory.path().join("out.gguf"));
    write_large(&input, 40_000);
    let bytes = input.metadata().unwrap().len();
    let arguments = ["quantize".as_ref(), input.as_os_str(), output.as_os_str()];
    let peak = peak_memory(&[&arguments[..], &["--type".as_ref(), "Q4_0".as_ref()]].concat());
    assert!(peak > 0 && peak < 100 << 20, "{peak} bytes for a file of {bytes}");
}

#[test]
fn a_model_without_weights_stays_one() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.gguf"), directory.path().join("out.gguf"));
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("llama".to_string()));
    metadata.set("llama.block_count", Value::U32(1));
    GgufWriter::create(&input, &metadata, Vec::new()).unwrap().finish().unwrap();
    quantize(&input, &output, &["--type", "Q4_0"]);
    assert_eq!(quantkit::gguf::GgufFile::open(&output).unwrap().tensors().len(), 0);
}
