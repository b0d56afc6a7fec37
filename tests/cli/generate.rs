//! `quantkit generate`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use predicates::prelude::*;
use quantkit::gguf::{Array, GgufFile, GgufWriter, Metadata, TensorPlan, Value};
use serde_json::Value as Json;

use crate::support::{TinyModel, quantkit};

fn tiny(directory: &Path) -> PathBuf {
    let model = directory.join("tiny.gguf");
    TinyModel::default().write(&model);
    model
}

fn generate(model: &Path, options: &[&str]) -> assert_cmd::assert::Assert {
    quantkit().arg("generate").arg(model).args(options).assert()
}

fn document(model: &Path, options: &[&str]) -> Json {
    let output = generate(model, &[options, &["--json"]].concat()).success();
    serde_json::from_slice(&output.get_output().stdout).expect("one JSON document")
}

#[test]
fn the_stream_and_the_document_hold_the_same_text() {
    let directory = tempfile::tempdir().unwrap();
    let model = tiny(directory.path());
    let options = ["--prompt", "the inner on", "--max-tokens", "24"];
    let document = document(&model, &options);
    assert_eq!(document["tokens"].as_array().unwrap().len(), 24);
    assert_eq!(document["finish_reason"], "length");
    assert!(document["prompt_tokens"].as_u64().unwrap() > 3);
    let timings = &document["timings"];
    for name in ["load_seconds", "time_to_first_token_seconds", "decode_tokens_per_second"] {
        assert!(timings[name].as_f64().unwrap() > 0.0, "{name}");
    }
    let text = document["text"].as_str().unwrap();
    generate(&model, &options).success().stdout(format!("{text}\n"));
}

#[test]
fn the_seed_fixes_the_draws() {
    let directory = tempfile::tempdir().unwrap();
    let model = tiny(directory.path());
    let tokens = |options: &[&str]| {
        let options = [&["--prompt", "x", "--max-tokens", "16"], options].concat();
        document(&model, &options)["tokens"].clone()
    };
    let hot = ["--temperature", "2", "--top-k", "50", "--top-p", "0.95", "--min-p", "0.01"];
    let seeded = |seed| tokens(&[&hot[..], &["--seed", seed]].concat());
    assert_eq!(seeded("1"), seeded("1"));
    assert_ne!(seeded("1"), seeded("2"));
    assert_eq!(tokens(&[]), tokens(&["--temperature", "3", "--top-k", "1", "--seed", "9"]));
    assert_ne!(tokens(&[]), tokens(&["--repeat-penalty", "5"]));
}

#[test]
fn a_chat_turn_goes_through_the_models_template() {
    let directory = tempfile::tempdir().unwrap();
    let model = tiny(directory.path());
    let options = ["--chat", "--system", "Be brief.", "--prompt", "Hi", "--max-tokens", "1"];
    assert_eq!(
        document(&model, &options)["prompt"],
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
         <|im_start|>assistant\n"
    );
}

/// Copies a tiny model, changing its metadata.
fn with_metadata(directory: &Path, key: &str, value: Value) -> PathBuf {
    change(directory, |metadata| metadata.set(key, value), |_, _| ())
}

/// Copies a tiny model, changing its metadata and its tensors' bytes.
fn change(
    directory: &Path,
    change_metadata: impl FnOnce(&mut Metadata),
    change_tensor: impl Fn(&str, &mut [u8]),
) -> PathBuf {
    let (model, changed) = (tiny(directory), directory.join("changed.gguf"));
    let file = GgufFile::open(&model).unwrap();
    let mut metadata = file.metadata().clone();
    change_metadata(&mut metadata);
    let plans = file.tensors().iter().map(|tensor| TensorPlan {
        name: tensor.name.clone(),
        dimensions: tensor.dimensions.clone(),
        ggml_type: tensor.ggml_type,
    });
    let mut writer = GgufWriter::create(&changed, &metadata, plans.collect()).unwrap();
    for tensor in file.tensors() {
        let mut bytes = file.tensor_bytes(tensor).to_vec();
        change_tensor(&tensor.name, &mut bytes);
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    changed
}

#[track_caller]
fn assert_refused(model: &Path, options: &[&str], words: &[&str]) {
    let mut assert = generate(model, options).failure().stdout("");
    for word in words {
        assert = assert.stderr(predicate::str::contains(*word));
    }
    assert.stderr(predicate::str::contains("panicked").not());
}

#[test]
fn a_damaged_model_is_no_model() {
    let directory = tempfile::tempdir().unwrap();
    let damage = |name: &str, bytes: &mut [u8]| {
        if name == "output_norm.weight" {
            bytes.fill(0xFF); // f32 that are not numbers
        }
    };
    let model = change(directory.path(), |_| (), damage);
    let words = ["logits are not numbers", "damaged"];
    assert_refused(&model, &["--prompt", "x", "--max-tokens", "4", "--json"], &words);
    assert_refused(&model, &["--prompt", "x", "--temperature", "1", "--json"], &words);
}

#[test]
fn control_tokens_are_no_text() {
    let directory = tempfile::tempdir().unwrap();
    let options = ["--prompt", "the inner on", "--max-tokens", "1"];
    let before = document(&tiny(directory.path()), &options);
    let token = before["tokens"][0].as_u64().unwrap() as usize;
    assert_ne!(before["text"], "");
    let make_control = |metadata: &mut Metadata| {
        let key = "tokenizer.ggml.token_type";
        let mut types = metadata.integers(key).unwrap().to_vec();
        types[token] = 3;
        metadata.set(key, Value::Array(Array::I32(types)));
    };
    let after = document(&change(directory.path(), make_control, |_, _| ()), &options);
    assert_eq!(after["tokens"], before["tokens"]);
    assert_eq!(after["text"], "");
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let model = tiny(directory.path());
    for json in [&[][..], &["--json"]] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_quantkit"))
            .args(["--quiet", "--threads", "2", "generate"])
            .arg(&model)
            .args(["--prompt", "x", "--max-tokens", "64"])
            .args(json)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_lengths() {
    let directory = tempfile::tempdir().unwrap();
    let model = tiny(directory.path());
    let prompt = "x".repeat(513);
    assert_refused(&model, &["--prompt", &prompt], &["513 tokens", "512"]);
    assert_refused(&model, &["--prompt", ""], &["the prompt is empty"]);
}

#[test]
fn generation_stops_when_the_context_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let document = document(&tiny(directory.path()), &["--prompt", &"x".repeat(505)]);
    let reason = &document["finish_reason"];
    assert!(reason == "context_full" || reason == "end_of_generation", "{reason}");
    assert!(document["tokens"].as_array().unwrap().len() <= 8);
}

#[test]
fn what_cannot_be_run_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let prompt = ["--prompt", "x"];
    let changed =
        with_metadata(directory, "general.architecture", Value::String("mamba9".to_string()));
    assert_refused(&changed, &prompt, &["changed.gguf", "mamba9", "llama"]);
    let changed = with_metadata(directory, "llama.feed_forward_length", Value::U32(96));
    assert_refused(&changed, &prompt, &["changed.gguf", "blk.0.ffn_gate.weight", "96 rows"]);
    let changed = with_metadata(directory, "llama.block_count", Value::U32(7));
    assert_refused(&changed, &prompt, &["blk.2.attn_norm.weight is missing"]);
    let changed = with_metadata(
        directory,
        "tokenizer.ggml.tokens",
        Value::Array(Array::String(vec!["a".into(), "b".into()])),
    );
    assert_refused(&changed, &prompt, &["changed.gguf"]);
    let missing = directory.join("missing.gguf");
    assert_refused(&missing, &prompt, &["missing.gguf"]);
    let model = tiny(directory);
    assert_refused(&model, &["--prompt", "x", "--top-p", "1.5"], &["top-p", "1.5"]);
    if cfg!(not(feature = "cuda")) {
        let options = ["--prompt", "x", "--device", "cuda"];
        assert_refused(&model, &options, &["built without CUDA", "--features cuda"]);
    }
}

#[test]
fn what_a_file_says_of_its_tokenizer_and_is_not_done_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let options = ["--prompt", "the inner on", "--max-tokens", "1"];
    let without_rule = |metadata: &mut Metadata| {
        metadata.remove("tokenizer.ggml.pre");
    };
    let model = change(directory.path(), without_rule, |_, _| ());
    generate(&model, &options).success().stderr(predicate::str::contains("tokenizer.ggml.pre"));
    let model = with_metadata(directory.path(), "tokenizer.ggml.add_eos_token", Value::Bool(true));
    let told = predicate::str::contains("tokenizer.ggml.add_eos_token");
    generate(&model, &options).success().stderr(told);
}

#[test]
fn a_template_that_asks_for_too_much_ends_with_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let doubling = "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(40) %}\
                    {% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s | length }}";
    for (template, told) in [
        (doubling.to_string(), "MiB of text"),
        ("{{ '%1000000000s' % 'a' }}".to_string(), "takes more than"),
        ("{% if 1 %}".repeat(20_000), "nested more than"),
    ] {
        let key = "tokenizer.chat_template";
        let model = with_metadata(directory.path(), key, Value::String(template));
        assert_refused(&model, &["--chat", "--prompt", "Hi"], &["chat template", told]);
    }
}
