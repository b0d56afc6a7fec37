//! What an unkind system does to a run: names that are no text, pipes in the place of files, terminal
//! escapes in them, a process that is killed, a file that is cut while it is read.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use quantkit::gguf::{GgmlType, GgufWriter, Metadata, TensorPlan, Value};
use serde_json::Value as Json;

#[cfg(unix)]
use super::support::start_until;
use super::support::{TinyModel, quantkit, stdout_of};

/// Text that would turn a terminal red, move its cursor and end its line.
const ESCAPES: &str = "a\x1b[31mred\u{9b}2J\x07\r\nb";

/// A GGUF file with one tensor, under this name, whose F32 weights are all zero; they take no room on
/// the disk.
fn write_sparse(path: &Path, metadata: &Metadata, name: &str, rows: u64) {
    let plan = TensorPlan {
        name: name.to_string(),
        dimensions: vec![4096, rows],
        ggml_type: GgmlType::F32,
    };
    let header_only = path.with_extension("header");
    let zeros = vec![0; 4096 * 4];
    let mut writer = GgufWriter::create(
        &header_only,
        metadata,
        vec![TensorPlan { dimensions: vec![4096, 1], ..plan }],
    )
    .unwrap();
    writer.write(&zeros).unwrap();
    writer.finish().unwrap();
    let mut bytes = fs::read(&header_only).unwrap();
    fs::remove_file(&header_only).unwrap();
    // The number of rows stands after the number of columns, which comes once in the header.
    let columns = bytes.windows(8).rposition(|eight| *eight == 4096u64.to_le_bytes()).unwrap();
    bytes[columns + 8..columns + 16].copy_from_slice(&rows.to_le_bytes());
    let data = bytes.len() - zeros.len();
    fs::write(path, &bytes[..data]).unwrap();
    let length = data as u64 + 4096 * 4 * rows;
    fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_read_and_written() {
    use std::os::unix::ffi::OsStrExt;

    let directory = tempfile::tempdir().unwrap();
    let at = |name: &[u8]| directory.path().join(std::ffi::OsStr::from_bytes(name));
    let (model, output, text) = (at(b"m\xff.gguf"), at(b"q\xfe.gguf"), at(b"t\xfd.txt"));
    TinyModel::default().write(&model);
    fs::write(&text, "the tin on the tin ".repeat(60)).unwrap();
    let json = |command: &mut Command| -> Json {
        serde_json::from_str(&stdout_of(command)).expect("one JSON document")
    };
    let name = |value: &Json| value.as_str().unwrap().rsplit('/').next().unwrap().to_string();

    let shown = json(quantkit().args(["--json", "inspect"]).arg(&model));
    assert_eq!(name(&shown["file"]), "m\u{FFFD}.gguf");
    let mut quantize = quantkit();
    quantize.args(["--json", "quantize"]).args([&model, &output]).args(["--type", "Q8_0"]);
    let report = json(&mut quantize);
    assert_eq!(name(&report["output"]), "q\u{FFFD}.gguf");
    assert!(output.exists());
    let difference =
        json(quantkit().args(["--json", "inspect"]).arg(&model).arg("--diff").arg(&output));
    assert_eq!(name(&difference["right"]), "q\u{FFFD}.gguf");
    let mut perplexity = quantkit();
    perplexity.args(["--json", "perplexity"]).arg(&model).arg("--text").arg(&text);
    json(perplexity.args(["--context", "64"]));
    let mut importance = quantkit();
    importance.args(["--json", "importance"]).arg(&model).arg("--text").arg(&text);
    json(importance.args(["--context", "64", "--output"]).arg(at(b"i\xff.gguf")));
    json(
        quantkit()
            .args(["--json", "split"])
            .args([&model, &at(b"p\xff")])
            .args(["--max-tensors", "100"]),
    );

    // Words that are no names must be text.
    let mut command = quantkit();
    command.arg("quantize").args([&model, &output]).arg("--type").arg(at(b"\xff"));
    command.assert().failure().code(2);
    // A run record holds the command line.
    let mut evaluate = quantkit();
    evaluate.arg("mmlu-eval").arg(at(b"absent\xff.gguf")).args(["--set", "starter"]);
    evaluate.assert().failure().code(1).stderr(contains("panicked").not());
}

#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let pipe = at("pipe");
    let make = |path: &Path| {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    make(&pipe);
    TinyModel::default().write(&at("model.gguf"));
    fs::write(at("text.txt"), "the tin on the tin ".repeat(60)).unwrap();
    let refused = |words: &[&str], named: &str| {
        let mut command = quantkit();
        command.current_dir(directory.path()).args(words).timeout(Duration::from_secs(20));
        let message = contains(named.to_string()).and(contains("not a regular file"));
        command.assert().failure().code(1).stderr(message);
    };
    refused(&["inspect", "pipe"], "pipe");
    refused(&["inspect", "model.gguf", "--diff", "pipe"], "pipe");
    refused(&["quantize", "pipe", "out.gguf", "--type", "Q8_0"], "pipe");
    refused(&["quantize", "model.gguf", "out.gguf", "--plan", "pipe"], "pipe");
    let weighted = ["quantize", "model.gguf", "out.gguf", "--type", "Q8_0", "--importance", "pipe"];
    refused(&weighted, "pipe");
    refused(&["generate", "pipe", "--prompt", "the"], "pipe");
    refused(&["perplexity", "model.gguf", "--text", "pipe"], "pipe");
    refused(&["perplexity", "pipe", "--text", "text.txt"], "pipe");
    refused(&["divergence", "--base-logits", "pipe", "model.gguf"], "pipe");
    refused(&["importance", "model.gguf", "--text", "pipe", "--output", "i.gguf"], "pipe");
    refused(&["importance", "show", "pipe"], "pipe");
    refused(&["split", "pipe", "out", "--max-tensors", "8"], "pipe");

    let mut export = quantkit();
    export.arg("export").arg(at("model.gguf")).arg("--output").arg(at("hf")).assert().success();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        let path = at("hf").join(name);
        fs::rename(&path, at("kept")).unwrap();
        make(&path);
        refused(&["convert", "hf", "--output", "out.gguf"], name);
        fs::rename(at("kept"), &path).unwrap();
    }
    fs::remove_file(at("hf/model.safetensors")).unwrap();
    make(&at("hf/model.safetensors.index.json"));
    refused(&["inspect", "hf"], "model.safetensors.index.json");
    assert!(!at("out.gguf").exists());
}

/// The characters that a terminal might obey; a table's ends of lines are none of them.
fn controls(text: &str) -> Vec<char> {
    text.chars().filter(|&character| character.is_control() && character != '\n').collect()
}

#[test]
fn terminal_escapes_of_a_file_are_shown_and_not_obeyed() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String(ESCAPES.to_string()));
    metadata.set(ESCAPES, Value::String(ESCAPES.to_string()));
    write_sparse(&at("a.gguf"), &metadata, ESCAPES, 2);
    metadata.set(format!("{ESCAPES}2"), Value::Bool(true));
    write_sparse(&at("b.gguf"), &metadata, &format!("{ESCAPES}2"), 2);
    let header = serde_json::json!({
        "__metadata__": {ESCAPES: ESCAPES},
        ESCAPES: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    });
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    let safetensors = [&length, header.as_bytes(), &[0; 4]].concat();
    fs::write(at("a.safetensors"), safetensors).unwrap();
    fs::create_dir(at("hf")).unwrap();
    let index = serde_json::json!({"weight_map": {ESCAPES: format!("{ESCAPES}.safetensors")}});
    fs::write(at("hf/model.safetensors.index.json"), index.to_string()).unwrap();
    fs::write(at("text.txt"), "the tin").unwrap();

    let said = |words: &[&str]| {
        let mut command = quantkit();
        let output = command.current_dir(directory.path()).args(words).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(controls(&said).is_empty(), "{words:?}: {said:?}");
        said
    };
    for words in [
        &["inspect", "a.gguf"][..],
        &["inspect", "a.gguf", "--full"],
        &["inspect", "a.gguf", "--diff", "b.gguf"],
        &["inspect", "a.safetensors"],
        &["inspect", "hf"],
        &["quantize", "a.gguf", "--dry-run", "--type", "Q8_0"],
        &["-vv", "quantize", "a.gguf", "q.gguf", "--type", "Q8_0"],
        &["-v", "split", "a.gguf", "parts", "--max-tensors", "1"],
    ] {
        let said = said(words);
        assert!(said.contains("red"), "{words:?}: {said}");
    }
    // What is wrong with the file may be said without any of its names.
    for words in [
        &["generate", "a.gguf", "--prompt", "x"][..],
        &["export", "a.gguf", "--output", "out"],
        &["importance", "show", "a.gguf"],
        &["perplexity", "a.gguf", "--text", "text.txt"],
    ] {
        assert!(said(words).contains("error"), "{words:?}");
    }
}

#[test]
fn a_file_of_a_million_keys_is_refused_in_little_memory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.gguf");
    let count = 1_000_000u64;
    let mut bytes = [&b"GGUF\x03\0\0\0"[..], &0u64.to_le_bytes(), &count.to_le_bytes()].concat();
    for index in 0..count {
        let key = format!("k{index:07}");
        bytes.extend((key.len() as u64).to_le_bytes());
        bytes.extend(key.as_bytes());
        bytes.extend([7, 0, 0, 0, 1]);
    }
    fs::write(&path, bytes).unwrap();
    let mut command = quantkit();
    let message = contains("1000000 metadata entries").and(contains("at most 65536"));
    command.arg("inspect").arg(&path).assert().failure().code(1).stderr(message);
}

/// Starts `quantize` on an input that takes it a while, and comes back when it is writing.
#[cfg(unix)]
fn start_quantizing(input: &Path, output: &Path) -> std::process::Child {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("llama".to_string()));
    metadata.set("llama.block_count", Value::U32(1));
    write_sparse(input, &metadata, "blk.0.ffn_up.weight", 1 << 15);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quantkit"));
    command.args(["--quiet", "--threads", "1", "quantize"]).args([input, output]);
    command.args(["--type", "Q4_K_M"]);
    let started = std::time::Instant::now();
    let child = start_until(&mut command, || {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing is written");
        !partial_files(output).is_empty()
    });
    assert!(!partial_files(output).is_empty(), "nothing is being written");
    child
}

/// The files under construction beside `output`.
#[cfg(unix)]
fn partial_files(output: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(output.parent().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains(".partial-")).collect()
}

#[cfg(unix)]
#[test]
fn what_a_killed_run_has_left_goes_with_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.gguf"), directory.path().join("out.gguf"));
    let mut child = start_quantizing(&input, &output);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((output.exists(), partial_files(&output).len()), (false, 1));
    TinyModel::default().write(&input);
    let quantize = || {
        let mut command = quantkit();
        command.arg("quantize").args([&input, &output]).args(["--type", "Q8_0"]);
        command.assert().success();
    };
    quantize();
    assert_eq!(partial_files(&output), Vec::<PathBuf>::new());

    // What somebody is still working on stays.
    fs::remove_file(&input).unwrap();
    let mut child = start_quantizing(&input, &output);
    let other = directory.path().join("other.gguf");
    TinyModel::default().write(&other);
    let mut command = quantkit();
    command.arg("quantize").args([&other, &output]).args(["--type", "Q8_0"]);
    command.assert().success();
    assert_eq!(partial_files(&output).len(), 1);
    assert!(child.wait().unwrap().success());
    assert_eq!(partial_files(&output), Vec::<PathBuf>::new());
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_cut_while_it_is_read_ends_the_run_with_a_message() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.gguf"), directory.path().join("out.gguf"));
    let child = start_quantizing(&input, &output);
    fs::File::options().write(true).open(&input).unwrap().set_len(4096).unwrap();
    let result = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&result.stderr);
    assert_eq!(result.status.code(), Some(74), "{message}");
    assert!(message.contains("a file was cut"), "{message}");
    assert!(!output.exists());
}
