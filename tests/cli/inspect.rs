//! `quantkit inspect`.

use std::path::Path;

use predicates::prelude::*;
use quantkit::gguf::{Array, GgmlType, GgufFile, GgufWriter, Metadata, TensorPlan, Value};
use serde_json::json;

use super::support::{TinyModel, quantkit};

fn json_of(arguments: &[&Path], flags: &[&str]) -> serde_json::Value {
    let mut command = quantkit();
    command.args(["inspect", "--json"]).arg(arguments[0]).args(flags);
    if let Some(other) = arguments.get(1) {
        command.arg("--diff").arg(other);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

#[test]
fn shows_metadata_tensors_and_sizes_of_gguf() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    TinyModel::default().write(&path);
    let summary = json_of(&[&path], &[]);
    assert_eq!(summary["format"], "gguf");
    assert_eq!(summary["version"], 3);
    assert_eq!(summary["alignment"], 32);
    assert_eq!(summary["file_bytes"], std::fs::metadata(&path).unwrap().len());
    assert_eq!(
        summary["metadata"][0],
        json!({"key": "general.architecture", "type": "string", "value": "llama"})
    );
    let metadata = summary["metadata"].as_array().unwrap();
    let entry = |key: &str| metadata.iter().find(|entry| entry["key"] == key).unwrap();
    // As an f64 it would print as 9.999999747378752e-6.
    assert_eq!(entry("llama.attention.layer_norm_rms_epsilon")["value"], json!(1e-5));
    let tokens = entry("tokenizer.ggml.tokens");
    let vocabulary = TinyModel::default().vocabulary_size();
    assert_eq!((&tokens["type"], &tokens["length"]), (&json!("array<string>"), &json!(vocabulary)));
    assert_eq!(tokens["value"].as_array().unwrap().len(), 8, "long arrays are cut");
    assert_eq!(
        summary["tensors"][0],
        json!({"name": "token_embd.weight", "type": "F16", "shape": [64, vocabulary],
               "weights": 64 * vocabulary, "bytes": 128 * vocabulary})
    );
    let file = GgufFile::open(&path).unwrap();
    let bytes: u64 = file.tensors().iter().map(|tensor| tensor.bytes()).sum();
    let weights: u64 = file.tensors().iter().map(|tensor| tensor.weights()).sum();
    assert_eq!(summary["totals"]["tensors"], file.tensors().len());
    assert_eq!(summary["totals"]["bytes"], bytes);
    assert_eq!(summary["totals"]["weights"], weights);
    assert_eq!(summary["totals"]["bits_per_weight"], bytes as f64 * 8.0 / weights as f64);
    assert_eq!(summary["types"][0]["type"], "F16");
    assert_eq!(summary["types"][1]["type"], "F32");
    assert_eq!(summary["types"][1]["bits_per_weight"], 32.0);

    let whole = json_of(&[&path], &["--full"]);
    let metadata = whole["metadata"].as_array().unwrap();
    let tokens = metadata.iter().find(|entry| entry["key"] == "tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens["value"].as_array().unwrap().len(), vocabulary);

    let table = predicate::str::contains("token_embd.weight")
        .and(predicate::str::contains("GGUF v3"))
        .and(predicate::str::contains("array<string> × 267"))
        .and(predicate::str::contains(", …]"));
    quantkit().arg("inspect").arg(&path).assert().success().stdout(table);
}

#[test]
fn recognises_safetensors_by_its_content_and_shards_by_their_index() {
    let directory = tempfile::tempdir().unwrap();
    let shard = |name: &str| {
        let header = json!({
            "__metadata__": {"format": "pt"},
            name: {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        });
        let header = header.to_string();
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), [0u8; 12].as_slice()].concat()
    };
    let oddly_named = directory.path().join("weights.bin");
    std::fs::write(&oddly_named, shard("a")).unwrap();
    let summary = json_of(&[&oddly_named], &[]);
    assert_eq!(summary["format"], "safetensors");
    assert_eq!(summary["metadata"], json!([{"key": "format", "type": "string", "value": "pt"}]));
    assert_eq!(
        summary["tensors"],
        json!([{"name": "a", "type": "BF16", "shape": [2, 3], "weights": 6, "bytes": 12}])
    );

    let checkpoint = directory.path().join("checkpoint");
    std::fs::create_dir(&checkpoint).unwrap();
    std::fs::write(checkpoint.join("1.safetensors"), shard("a")).unwrap();
    std::fs::write(checkpoint.join("2.safetensors"), shard("b")).unwrap();
    let index = json!({"weight_map": {"b": "2.safetensors", "a": "1.safetensors"}});
    std::fs::write(checkpoint.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let summary = json_of(&[&checkpoint], &[]);
    assert_eq!(summary["files"], 2);
    assert_eq!(summary["tensors"][0]["name"], "a");
    assert_eq!(summary["tensors"][1]["name"], "b");
    assert_eq!(summary["totals"]["weights"], 12);
}

/// One file a call: metadata, and tensors with their F32 weights.
fn write_gguf(path: &Path, metadata: &[(&str, Value)], tensors: &[(&str, &[u64], &[f32])]) {
    let mut all = Metadata::new();
    for (key, value) in metadata {
        all.set(*key, value.clone());
    }
    let plan = |&(name, dimensions, _): &(&str, &[u64], &[f32])| TensorPlan {
        name: name.to_string(),
        dimensions: dimensions.to_vec(),
        ggml_type: GgmlType::F32,
    };
    let mut writer = GgufWriter::create(path, &all, tensors.iter().map(plan).collect()).unwrap();
    for (_, _, weights) in tensors {
        let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn diff_shows_every_kind_of_change_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (left, right) = (directory.path().join("left.gguf"), directory.path().join("right.gguf"));
    let numbers = |last| Value::Array(Array::I32(vec![1, 2, last]));
    write_gguf(
        &left,
        &[
            ("same", Value::F32(f32::NAN)),
            ("removed", Value::Bool(true)),
            ("retyped", Value::U32(5)),
            ("changed", numbers(3)),
        ],
        &[
            ("same", &[2], &[1.0, f32::NAN]),
            ("removed", &[1], &[1.0]),
            ("reshaped", &[2, 1], &[1.0, 2.0]),
            ("changed", &[2], &[1.0, 2.0]),
        ],
    );
    write_gguf(
        &right,
        &[
            ("changed", numbers(4)),
            ("retyped", Value::I32(5)),
            ("same", Value::F32(f32::NAN)),
            ("added", Value::String("\u{1b}[31m".into())),
        ],
        &[
            ("changed", &[2], &[1.0, 2.5]),
            ("same", &[2], &[1.0, f32::NAN]),
            ("reshaped", &[1, 2], &[1.0, 2.0]),
            ("added", &[1], &[1.0]),
        ],
    );
    let difference = json_of(&[&left, &right], &[]);
    assert_eq!(difference["identical"], false);
    assert_eq!((&difference["same_metadata"], &difference["same_tensors"]), (&json!(1), &json!(1)));
    let changes = |of: &str, name: &str| -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
        let side = |row: &serde_json::Value| {
            let side = if row["left"].is_null() { &row["right"] } else { &row["left"] };
            text(&side[name])
        };
        let rows = difference[of].as_array().unwrap();
        rows.iter().map(|row| (side(row), text(&row["change"]))).collect()
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
    };
    assert_eq!(
        changes("metadata", "key"),
        pairs(&[
            ("removed", "removed"),
            ("retyped", "changed"),
            ("changed", "changed"),
            ("added", "added")
        ])
    );
    assert_eq!(difference["metadata"][1]["left"]["type"], "u32");
    assert_eq!(difference["metadata"][1]["right"]["type"], "i32");
    assert_eq!(difference["metadata"][2]["first_different_element"], 2);
    assert_eq!(
        changes("tensors", "name"),
        pairs(&[
            ("removed", "removed"),
            ("reshaped", "changed"),
            ("changed", "changed"),
            ("added", "added")
        ])
    );
    assert!(difference["tensors"][1]["data"].is_null());
    // 2.0 is 0x40000000 and 2.5 is 0x40200000: byte 2 of the second weight.
    assert_eq!(
        difference["tensors"][2]["data"],
        json!({"different_bytes": 1, "first_different_byte": 6, "largest_difference": 0.5,
               "root_mean_square_difference": 0.125f64.sqrt()})
    );

    let table = quantkit().arg("inspect").arg(&left).arg("--diff").arg(&right).output().unwrap();
    assert!(table.status.success());
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("1 bytes differ, first at 6; largest difference 5.000e-1"), "{table}");
    assert!(!table.contains('\u{1b}'), "text of a file must not steer the terminal");
}

#[test]
fn diff_of_a_file_with_itself_and_with_its_quantized_form() {
    let directory = tempfile::tempdir().unwrap();
    let (path, quantized) = (directory.path().join("a.gguf"), directory.path().join("q.gguf"));
    TinyModel::default().write(&path);
    let same = json_of(&[&path, &path], &[]);
    assert_eq!(same["identical"], true);
    assert_eq!((&same["metadata"], &same["tensors"]), (&json!([]), &json!([])));

    quantkit()
        .arg("quantize")
        .args([&path, &quantized])
        .args(["--type", "Q8_0"])
        .assert()
        .success();
    let difference = json_of(&[&path, &quantized], &[]);
    let tensors = difference["tensors"].as_array().unwrap();
    let names = |side: &str| -> Vec<&str> {
        tensors.iter().map(|tensor| tensor[side]["name"].as_str().unwrap()).collect()
    };
    assert_eq!(names("left"), names("right"));
    assert!(tensors.iter().all(|tensor| tensor["right"]["type"] == "Q8_0"));
    for tensor in tensors {
        let largest = tensor["data"]["largest_difference"].as_f64().unwrap();
        assert!(0.0 < largest && largest < 0.01, "{tensor}");
    }
}
