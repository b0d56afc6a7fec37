//! `quantkit export`: a directory that others load, whatever the type of the GGUF file.

use std::fs;
use std::path::Path;

use half::f16;
use predicates::str::contains;
use quantkit::gguf::{GgufFile, GgufWriter, Metadata, TensorPlan, Value as MetadataValue};
use quantkit::quant::formats::dequantize_row;
use quantkit::tokenizer::Vocabulary;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::support::{TinyModel, quantkit};

fn export(model: &Path, output: &Path, dtype: &str) -> assert_cmd::assert::Assert {
    quantkit()
        .arg("export")
        .arg(model)
        .arg("--output")
        .arg(output)
        .args(["--dtype", dtype])
        .assert()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Copies a GGUF file with other metadata and names of tensors.
fn rewrite(
    from: &Path,
    to: &Path,
    edit: impl FnOnce(&mut Metadata),
    rename: impl Fn(&str) -> String,
) {
    let file = GgufFile::open(from).unwrap();
    let mut metadata = file.metadata().clone();
    edit(&mut metadata);
    let plans = file.tensors().iter().map(|tensor| TensorPlan {
        name: rename(&tensor.name),
        dimensions: tensor.dimensions.clone(),
        ggml_type: tensor.ggml_type,
    });
    let mut writer = GgufWriter::create(to, &metadata, plans.collect()).unwrap();
    for tensor in file.tensors() {
        writer.write(file.tensor_bytes(tensor)).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn quantized_weights_come_out_as_their_values_in_hugging_face_order() {
    let directory = tempfile::tempdir().unwrap();
    let [full, quantized, output] =
        ["full.gguf", "q8.gguf", "checkpoint"].map(|name| directory.path().join(name));
    TinyModel::default().write(&full);
    quantkit()
        .arg("quantize")
        .args([&full, &quantized])
        .args(["--type", "Q8_0"])
        .assert()
        .success();
    export(&quantized, &output, "f32").success().stdout(contains("LlamaForCausalLM"));

    let file = GgufFile::open(&quantized).unwrap();
    let bytes = fs::read(output.join("model.safetensors")).unwrap();
    let exported = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let rows = |gguf: &str, hugging_face: &str| {
        let info = file.tensor(gguf).unwrap();
        let mut values = vec![0.0; info.weights() as usize];
        dequantize_row(info.ggml_type, file.tensor_bytes(info), &mut values).unwrap();
        let expected: Vec<Vec<f32>> =
            values.chunks_exact(info.columns()).map(<[f32]>::to_vec).collect();
        let data = exported.tensor(hugging_face).unwrap().data();
        let values: Vec<f32> =
            data.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        (expected, values.chunks_exact(info.columns()).map(<[f32]>::to_vec).collect::<Vec<_>>())
    };
    let (down, exported_down) =
        rows("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight");
    assert_eq!(down, exported_down);
    // Heads are 16 rows: pairs of neighbours in GGUF, two halves at Hugging Face.
    let (queries, exported_queries) =
        rows("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight");
    for (row, expected) in [(0, 0), (1, 2), (7, 14), (8, 1), (15, 15), (16, 16), (24, 17)] {
        assert_eq!(exported_queries[row], queries[expected], "row {row}");
    }
}

#[test]
fn the_directory_says_what_the_file_says() {
    let directory = tempfile::tempdir().unwrap();
    let [model, output] = ["tiny.gguf", "checkpoint"].map(|name| directory.path().join(name));
    TinyModel::default().write(&model);
    fs::create_dir(&output).unwrap();
    export(&model, &output, "f16").success();

    let config = json(&output.join("config.json"));
    for (key, expected) in [
        ("architectures", serde_json::json!(["LlamaForCausalLM"])),
        ("model_type", "llama".into()),
        ("hidden_size", 64.into()),
        ("num_key_value_heads", 2.into()),
        ("vocab_size", 267.into()),
        ("rms_norm_eps", 1e-5.into()),
        ("rope_theta", 10_000.0.into()),
        ("tie_word_embeddings", true.into()),
        ("eos_token_id", 2.into()),
        ("torch_dtype", "float16".into()),
    ] {
        assert_eq!(config[key], expected, "{key}");
    }
    assert_eq!(json(&output.join("generation_config.json"))["eos_token_id"], 2);
    let tokenizer_config = json(&output.join("tokenizer_config.json"));
    assert_eq!(tokenizer_config["eos_token"], "<|im_end|>");
    assert_eq!(tokenizer_config["added_tokens_decoder"]["1"]["special"], true);
    assert!(tokenizer_config["chat_template"].as_str().unwrap().contains("add_generation_prompt"));

    let vocabulary = Vocabulary::from_metadata(GgufFile::open(&model).unwrap().metadata()).unwrap();
    let tokenizer = Tokenizer::from_file(output.join("tokenizer.json")).unwrap();
    for text in ["the 2024 on\n\n  in", "<|im_start|>user\nnaïve 😀<|im_end|>", " A  a"] {
        let tokens = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokens.get_ids(), vocabulary.encode(text, true).unwrap());
        assert_eq!(tokenizer.decode(tokens.get_ids(), false).unwrap(), text);
    }
}

#[test]
fn a_vocabulary_that_begins_with_bos_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let [model, with_bos, output] =
        ["tiny.gguf", "bos.gguf", "checkpoint"].map(|name| directory.path().join(name));
    TinyModel::default().write(&model);
    let add_bos = |metadata: &mut Metadata| {
        metadata.set("tokenizer.ggml.add_bos_token", MetadataValue::Bool(true));
    };
    rewrite(&model, &with_bos, add_bos, str::to_string);
    export(&with_bos, &output, "f16").success();
    let tokenizer = Tokenizer::from_file(output.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.encode("the", true).unwrap().get_ids()[0], 1);
    assert_ne!(tokenizer.encode("the", false).unwrap().get_ids()[0], 1);

    let converted = directory.path().join("converted.gguf");
    quantkit().arg("convert").arg(&output).arg("--output").arg(&converted).assert().success();
    let file = GgufFile::open(&converted).unwrap();
    assert_eq!(file.metadata().bool("tokenizer.ggml.add_bos_token"), Some(true));
}

#[test]
fn halves_are_rounded_from_the_file_s_values() {
    let directory = tempfile::tempdir().unwrap();
    let [model, output] = ["tiny.gguf", "checkpoint"].map(|name| directory.path().join(name));
    TinyModel::default().write(&model);
    export(&model, &output, "f16").success();
    let file = GgufFile::open(&model).unwrap();
    let norm = file.tensor_bytes(file.tensor("output_norm.weight").unwrap());
    let expected: Vec<u8> = norm
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .flat_map(|value| f16::from_f32(value).to_le_bytes())
        .collect();
    let bytes = fs::read(output.join("model.safetensors")).unwrap();
    let exported = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(exported.tensor("model.norm.weight").unwrap().data(), expected);
}

#[test]
fn the_scaling_that_the_engine_applies_is_exported() {
    let directory = tempfile::tempdir().unwrap();
    let [model, scaled] = ["tiny.gguf", "scaled.gguf"].map(|name| directory.path().join(name));
    TinyModel::default().write(&model);
    let yarn = ("scaling.type", MetadataValue::String("yarn".into()));
    let number = MetadataValue::F32;
    let context = GgufFile::open(&model).unwrap().metadata().unsigned("llama.context_length");
    for (index, (keys, expected)) in [
        (
            vec![("scaling.factor", number(4.0))],
            serde_json::json!({ "rope_type": "linear", "factor": 4.0 }),
        ),
        (
            vec![("scale_linear", number(2.5))],
            serde_json::json!({ "rope_type": "linear", "factor": 2.5 }),
        ),
        (
            vec![
                yarn,
                ("scaling.yarn_attn_factor", number(1.5)),
                ("scaling.attn_factor", number(0.5)),
            ],
            serde_json::json!({ "rope_type": "yarn", "factor": 1.0, "attention_factor": 0.75,
                                "original_max_position_embeddings": context }),
        ),
        (
            vec![
                ("scaling.type", MetadataValue::String("none".into())),
                ("scaling.factor", number(4.0)),
            ],
            serde_json::Value::Null,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let edit = |metadata: &mut Metadata| {
            for (key, value) in keys {
                metadata.set(format!("llama.rope.{key}"), value);
            }
        };
        rewrite(&model, &scaled, edit, str::to_string);
        let output = directory.path().join(format!("checkpoint-{index}"));
        export(&scaled, &output, "f16").success();
        assert_eq!(json(&output.join("config.json"))["rope_scaling"], expected);
    }
}

#[test]
fn the_largest_number_stands_for_no_token() {
    let directory = tempfile::tempdir().unwrap();
    let [model, padded, output] =
        ["tiny.gguf", "padded.gguf", "checkpoint"].map(|name| directory.path().join(name));
    TinyModel::default().write(&model);
    let edit = |metadata: &mut Metadata| {
        metadata.set("tokenizer.ggml.padding_token_id", MetadataValue::U32(u32::MAX));
    };
    rewrite(&model, &padded, edit, str::to_string);
    export(&padded, &output, "f16").success();
    for name in ["config.json", "generation_config.json"] {
        assert_eq!(json(&output.join(name))["pad_token_id"], serde_json::Value::Null);
    }
}

#[test]
fn a_directory_with_content_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let [model, output] = ["tiny.gguf", "checkpoint"].map(|name| directory.path().join(name));
    TinyModel::default().write(&model);
    fs::create_dir(&output).unwrap();
    fs::write(output.join("config.json"), "mine").unwrap();
    export(&model, &output, "f16").failure().stderr(contains("not empty"));
    assert_eq!(fs::read(output.join("config.json")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(&output).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_exported_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let [model, broken, output] =
        ["tiny.gguf", "broken.gguf", "checkpoint"].map(|name| directory.path().join(name));
    TinyModel::default().write(&model);
    for (key, value, message) in [
        (
            "general.architecture",
            MetadataValue::String("mamba".into()),
            "\"mamba\" is not supported; quantkit knows",
        ),
        ("tokenizer.ggml.pre", MetadataValue::String("klingon".into()), "smollm"),
        ("llama.embedding_length", MetadataValue::U32(32), "the metadata asks for [267, 32]"),
        ("llama.block_count", MetadataValue::U32(1), "none of a llama model with 1 layers"),
        ("llama.block_count", MetadataValue::U32(3), "tensor \"blk.2."),
        ("llama.block_count", MetadataValue::U32(u32::MAX), "block_count"),
        ("llama.rope.dimension_count", MetadataValue::U32(8), "llama.rope.dimension_count is 8"),
        ("llama.attention.scale", MetadataValue::F32(0.5), "llama.attention.scale is 0.5"),
        ("llama.rope.scaling.attn_factor", MetadataValue::F32(2.0), "with yarn scaling only"),
        ("tokenizer.ggml.padding_token_id", MetadataValue::U32(267), "there are 267 tokens"),
    ] {
        let value = value.clone();
        // The width of a head is then no longer derived from the rotary dimension.
        let edit = |metadata: &mut Metadata| {
            metadata.set("llama.attention.key_length", MetadataValue::U32(16));
            metadata.set(key, value);
        };
        rewrite(&model, &broken, edit, str::to_string);
        export(&broken, &output, "f16").failure().stderr(contains(message));
    }
    let unknown = |name: &str| name.replace("blk.1.ffn_up", "blk.1.ffn_sideways");
    rewrite(&model, &broken, |_| (), unknown);
    export(&broken, &output, "f16").failure().stderr(contains("\"blk.1.ffn_sideways.weight\""));
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["broken.gguf", "tiny.gguf"]);
}
