//! `quantkit convert`: what goes in as a checkpoint comes out as the same model, and what cannot be
//! converted is told so.

use std::fs;
use std::path::{Path, PathBuf};

use predicates::prelude::*;
use predicates::str::contains;
use quantkit::gguf::{GgmlType, GgufFile};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{TinyModel, quantkit};

/// A tiny model and a checkpoint exported from it.
struct Checkpoint {
    directory: TempDir,
}

impl Checkpoint {
    fn of(model: &TinyModel, dtype: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        model.write(&directory.path().join("tiny.gguf"));
        let checkpoint = Self { directory };
        quantkit()
            .arg("export")
            .arg(checkpoint.model())
            .arg("--output")
            .arg(checkpoint.path())
            .args(["--dtype", dtype])
            .assert()
            .success();
        checkpoint
    }

    fn model(&self) -> PathBuf {
        self.directory.path().join("tiny.gguf")
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("checkpoint")
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("converted.gguf")
    }

    fn convert(&self, dtype: &str) -> assert_cmd::assert::Assert {
        quantkit()
            .arg("convert")
            .arg(self.path())
            .arg("--output")
            .arg(self.output())
            .args(["--dtype", dtype])
            .assert()
    }

    fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.path().join(name);
        let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut json);
        fs::write(&path, json.to_string()).unwrap();
    }

    /// Writes the tensors that `keep` accepts into another file of the directory.
    fn copy_tensors(&self, to: &str, keep: impl Fn(&str) -> bool) {
        let bytes = fs::read(self.path().join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let kept: Vec<(String, TensorView<'_>)> =
            tensors.tensors().into_iter().filter(|(name, _)| keep(name)).collect();
        safetensors::serialize_to_file(kept, None, &self.path().join(to)).unwrap();
    }

    /// The conversion fails with this message and leaves nothing behind.
    fn refused(&self, message: &str) {
        self.convert("f16").failure().stderr(contains(message));
        let names: Vec<_> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "tiny.gguf" && name != "checkpoint")
            .collect();
        assert!(names.is_empty(), "left behind: {names:?}");
    }
}

fn tensors(path: &Path) -> Vec<(String, GgmlType, Vec<u64>, Vec<u8>)> {
    let file = GgufFile::open(path).unwrap();
    let mut tensors: Vec<_> = file
        .tensors()
        .iter()
        .map(|tensor| {
            let bytes = file.tensor_bytes(tensor).to_vec();
            (tensor.name.clone(), tensor.ggml_type, tensor.dimensions.clone(), bytes)
        })
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

#[test]
fn a_model_survives_the_way_there_and_back() {
    for tied_output in [true, false] {
        let checkpoint = Checkpoint::of(&TinyModel { tied_output, ..TinyModel::default() }, "f32");
        checkpoint.convert("f16").success().stdout(contains("llama architecture"));
        assert!(tensors(&checkpoint.model()) == tensors(&checkpoint.output()));

        let before = GgufFile::open(&checkpoint.model()).unwrap();
        let after = GgufFile::open(&checkpoint.output()).unwrap();
        for (key, value) in before.metadata().iter().filter(|(key, _)| *key != "general.name") {
            assert_eq!(after.metadata().get(key), Some(value), "{key}");
        }
        // The directory's name is all that is known about the model's.
        assert_eq!(after.metadata().string("general.name"), Some("Checkpoint"));
    }
}

#[test]
fn auto_takes_the_checkpoints_own_type() {
    let model = TinyModel { weights: GgmlType::BF16, ..TinyModel::default() };
    let checkpoint = Checkpoint::of(&model, "bf16");
    checkpoint.convert("auto").success();
    let file = GgufFile::open(&checkpoint.output()).unwrap();
    assert_eq!(file.tensor("token_embd.weight").unwrap().ggml_type, GgmlType::BF16);
    assert_eq!(file.tensor("output_norm.weight").unwrap().ggml_type, GgmlType::F32);
    assert_eq!(file.metadata().unsigned("general.file_type"), Some(32));
}

#[test]
fn the_result_can_be_had_as_json() {
    let checkpoint = Checkpoint::of(&TinyModel::default(), "f16");
    let assert = quantkit()
        .args(["--json", "convert"])
        .arg(checkpoint.path())
        .arg("--output")
        .arg(checkpoint.output())
        .assert()
        .success();
    let report: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    assert_eq!(report["architecture"], "llama");
    assert_eq!(report["weight_type"], "F16");
    assert_eq!(report["tensors"], tensors(&checkpoint.model()).len());
}

#[test]
fn shards_are_one_model() {
    let checkpoint = Checkpoint::of(&TinyModel::default(), "f16");
    checkpoint.convert("f16").success();
    let whole = tensors(&checkpoint.output());

    let first = |name: &str| name.contains("layers.0.");
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    checkpoint.copy_tensors(shards[0], first);
    checkpoint.copy_tensors(shards[1], |name| !first(name));
    let bytes = fs::read(checkpoint.path().join("model.safetensors")).unwrap();
    let names = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let weight_map: serde_json::Map<_, _> = names
        .names()
        .into_iter()
        .map(|name| (name.to_string(), json!(shards[usize::from(!first(name))])))
        .collect();
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    fs::write(checkpoint.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    fs::remove_file(checkpoint.path().join("model.safetensors")).unwrap();

    checkpoint.convert("f16").success();
    assert!(tensors(&checkpoint.output()) == whole);

    fs::remove_file(checkpoint.output()).unwrap();
    fs::remove_file(checkpoint.path().join(shards[1])).unwrap();
    checkpoint.refused("model-00002-of-00002.safetensors");
}

#[test]
fn rope_scaling_arrives_and_comes_back() {
    let model = TinyModel { hidden: 128, heads: 2, kv_heads: 1, ..TinyModel::default() };
    for (scaling, has_divisors) in [
        (json!({ "rope_type": "linear", "factor": 4.0 }), false),
        (
            json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
                    "attention_factor": 1.25, "beta_fast": 24.0 }),
            false,
        ),
        (
            json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192 }),
            true,
        ),
    ] {
        let checkpoint = Checkpoint::of(&model, "f16");
        checkpoint.edit_json("config.json", |config| config["rope_scaling"] = scaling.clone());
        checkpoint.convert("f16").success();
        let file = GgufFile::open(&checkpoint.output()).unwrap();
        assert_eq!(file.tensors()[0].name == "rope_freqs.weight", has_divisors);

        let back = checkpoint.directory.path().join("back");
        quantkit()
            .arg("export")
            .arg(checkpoint.output())
            .arg("--output")
            .arg(&back)
            .assert()
            .success();
        let config: Value =
            serde_json::from_slice(&fs::read(back.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["rope_scaling"], scaling);
    }
}

#[test]
fn what_is_not_a_checkpoint_is_named() {
    let checkpoint = Checkpoint::of(&TinyModel::default(), "f16");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let elsewhere = checkpoint.directory.path().join("elsewhere");
    let convert = |from: &Path| {
        let mut command = quantkit();
        command.arg("convert").arg(from).arg("--output").arg(checkpoint.output());
        command.assert().failure()
    };
    convert(&elsewhere).stderr(contains("found nothing here"));
    convert(&checkpoint.model()).stderr(contains("a GGUF file, which needs no conversion"));
    fs::create_dir(&elsewhere).unwrap();
    convert(&elsewhere).stderr(contains("found no config.json"));
    fs::write(elsewhere.join("params.json"), "{}").unwrap();
    convert(&elsewhere).stderr(contains("made for transformers"));
    let adapter = r#"{"peft_type": "LORA", "base_model_name_or_path": "org/base"}"#;
    fs::write(elsewhere.join("adapter_config.json"), adapter).unwrap();
    convert(&elsewhere).stderr(contains("an adapter of org/base").and(contains("merge it")));
    for name in ["tokenizer.json", "model.safetensors", "config.json"] {
        fs::write(checkpoint.path().join(name), pointer).unwrap();
        convert(&checkpoint.path()).stderr(contains(name).and(contains("git lfs pull")));
    }
    fs::write(checkpoint.output(), pointer).unwrap();
    let mut inspect = quantkit();
    inspect.arg("inspect").arg(checkpoint.output()).assert().failure();
    inspect.assert().stderr(contains("git lfs pull"));
}

#[test]
fn unusable_configs_are_refused() {
    let checkpoint = Checkpoint::of(&TinyModel::default(), "f16");
    let original = fs::read(checkpoint.path().join("config.json")).unwrap();
    for (key, value, message) in [
        (
            "architectures",
            json!(["MambaForCausalLM"]),
            "\"MambaForCausalLM\" is not supported; quantkit knows ",
        ),
        ("hidden_size", json!(32), "config.json asks for [267, 32]"),
        ("num_hidden_layers", json!(3), "\"model.layers.2.input_layernorm.weight\" is missing"),
        ("num_hidden_layers", json!(1), "has no place in a model of this architecture"),
        ("tie_word_embeddings", json!(false), "\"lm_head.weight\" is missing"),
        ("vocab_size", json!(null), "\"vocab_size\" is missing"),
        (
            "rope_scaling",
            json!({ "rope_type": "dynamic" }),
            "rope_type \"dynamic\"; quantkit knows",
        ),
        (
            "rope_scaling",
            json!({ "rope_type": "yarn", "mscale_all": 1 }),
            "rope_scaling.mscale_all",
        ),
        ("hidden_act", json!("gelu"), "\"hidden_act\" is \"gelu\""),
        ("sliding_window", json!(16), "\"sliding_window\" is 16, which changes"),
        ("quantization_config", json!({ "quant_method": "awq" }), "quantized already"),
        ("rope_scaling", json!({ "rope_type": "longrope" }), "quantkit knows for phi3 only"),
    ] {
        checkpoint.edit_json("config.json", |config| config[key] = value);
        checkpoint.refused(message);
        fs::write(checkpoint.path().join("config.json"), &original).unwrap();
    }
    fs::remove_file(checkpoint.path().join("config.json")).unwrap();
    checkpoint.refused("config.json");
}

#[test]
fn unusable_tokenizers_are_refused() {
    let checkpoint = Checkpoint::of(&TinyModel::default(), "f16");
    let path = checkpoint.path().join("tokenizer.json");
    let original = fs::read(&path).unwrap();
    checkpoint
        .edit_json("tokenizer.json", |json| json["pre_tokenizer"] = json!({ "type": "Bert" }));
    checkpoint.refused("none that quantkit knows by name; it knows those of smollm");
    fs::write(&path, &original).unwrap();
    checkpoint.edit_json("tokenizer.json", |json| json["model"]["vocab"]["zz"] = json!(9999));
    checkpoint.refused("token \"zz\" has id 9999");
    fs::write(&path, &original).unwrap();
    checkpoint.edit_json("tokenizer.json", |json| json["model"]["type"] = json!("WordPiece"));
    checkpoint.refused("WordPiece; only BPE");
    fs::write(&path, "{").unwrap();
    checkpoint.refused("tokenizer.json: no tokenizer");
    fs::remove_file(&path).unwrap();
    checkpoint.refused("neither tokenizer.json nor tokenizer.model");
    fs::write(checkpoint.path().join("tokenizer.model"), "not a protocol buffer").unwrap();
    checkpoint.refused("tokenizer.model: no valid protocol buffer");
}

#[test]
fn unusable_tensors_are_refused() {
    let checkpoint = Checkpoint::of(&TinyModel::default(), "f16");
    let path = checkpoint.path().join("model.safetensors");
    let original = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&original).unwrap();
    let replaced = |name: &str, dtype: Dtype, bytes: &[u8]| {
        let mut all = tensors.tensors();
        let shape = tensors.tensor(name).unwrap().shape().to_vec();
        let view = TensorView::new(dtype, shape, bytes).unwrap();
        all.iter_mut().find(|(known, _)| known == name).unwrap().1 = view;
        safetensors::serialize_to_file(all, None, &path).unwrap();
    };
    replaced("model.norm.weight", Dtype::F64, &[0; 64 * 8]);
    checkpoint.refused("F32, F16 and BF16");

    fs::write(&path, &original[..original.len() - 1]).unwrap();
    checkpoint.refused("model.safetensors");
    fs::remove_file(&path).unwrap();
    checkpoint.refused("model.safetensors");
}
