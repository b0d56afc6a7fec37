//! Which tensor gets which format: dry runs, options, plans and importance.

use std::path::Path;

use predicates::prelude::*;
use quantkit::gguf::{GgmlType, GgufFile, Value};
use quantkit::quant::formats;

use crate::quantize::{prepare, type_of, wide_model, write_importance};
use crate::support::{TinyModel, files_in, quantkit};

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
        (&["--type=Q4_0", "--tensor-type=(=Q8_0"], &["\"(\" is not a regular expression"]),
        (&["--type=Q4_0", "--tensor-type==Q8_0"], &["empty"]),
        (&["--type=Q4_0", "--exclude=("], &["\"(\" is not a regular expression"]),
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
