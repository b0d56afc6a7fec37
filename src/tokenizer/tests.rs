//! Vocabularies against the tokens that tokenizers and sentencepiece give
//! (scripts/tokenizer_reference.py), converted, exported and converted back.

use std::path::Path;

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokenizers::Tokenizer;

use super::{TokenizerError, Vocabulary, from_checkpoint, to_checkpoint};
use crate::gguf::{Array, Metadata, Value};

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers").join(name)
}

fn reference(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap()
}

fn texts(reference: &Json) -> Vec<&str> {
    reference["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn ids(row: &Json) -> Vec<u32> {
    row.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The metadata of a checkpoint with these files.
fn converted(
    architecture: &str,
    files: &[(&str, Json)],
    model: Option<&str>,
    vocab_size: usize,
) -> Result<Metadata, TokenizerError> {
    let directory = TempDir::new().unwrap();
    for (name, content) in files {
        std::fs::write(directory.path().join(name), content.to_string()).unwrap();
    }
    if let Some(model) = model {
        std::fs::copy(data(model), directory.path().join("tokenizer.model")).unwrap();
    }
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String(architecture.into()));
    from_checkpoint::append(&mut metadata, directory.path(), vocab_size)?;
    Ok(metadata)
}

/// tokenizer.json of a byte-level rule.
fn byte_level_json(reference: &Json, rule: &Json) -> Json {
    json!({
        "added_tokens": [],
        "normalizer": rule["normalizer"],
        "pre_tokenizer": rule["pre_tokenizer"],
        "model": {
            "type": "BPE", "ignore_merges": rule["ignore_merges"], "fuse_unk": false,
            "byte_fallback": false, "vocab": reference["vocab"], "merges": reference["merges"],
        },
    })
}

/// The texts' tokens by the vocabulary in the metadata, and by what `export` makes of it.
#[track_caller]
fn assert_tokens(name: &str, metadata: &Metadata, texts: &[&str], expected: &Json) {
    let vocabulary = Vocabulary::from_metadata(metadata).unwrap();
    let exported = to_checkpoint::tokenizer_json(&vocabulary).unwrap();
    let mut exported: Tokenizer = exported.parse().unwrap();
    exported.set_encode_special_tokens(true);
    for (text, row) in texts.iter().zip(expected.as_array().unwrap()) {
        let expected = ids(row);
        assert_eq!(vocabulary.encode(text, false).unwrap(), expected, "{name}: {text:?}");
        // A tokenizer.json cannot keep a unigram model from spelling `</s>` with `</s>`.
        if metadata.string("tokenizer.ggml.model") == Some("t5") && text.contains("</s>") {
            continue;
        }
        let exported = exported.encode_fast(*text, false).unwrap();
        assert_eq!(exported.get_ids(), expected, "{name}, exported: {text:?}");
    }
}

/// What `export` writes is converted to the same metadata again.
fn assert_converts_back(metadata: &Metadata) {
    let text = |key: &str| metadata.string(key).unwrap_or_default().to_string();
    let vocabulary = Vocabulary::from_metadata(metadata).unwrap();
    let exported = to_checkpoint::tokenizer_json(&vocabulary).unwrap();
    let files = [("tokenizer.json", exported.parse().unwrap())];
    let architecture = text("general.architecture");
    let back = converted(&architecture, &files, None, vocabulary.size).unwrap();
    for key in ["tokenizer.ggml.model", "tokenizer.ggml.pre"] {
        assert_eq!(back.string(key).unwrap_or_default(), text(key));
    }
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        assert_eq!(back.strings(key), metadata.strings(key), "{key}");
    }
}

#[test]
fn every_byte_level_rule_gives_the_reference_tokens() {
    let reference = reference("byte_level.json");
    let size = reference["vocab"].as_object().unwrap().len();
    for rule in reference["rules"].as_array().unwrap() {
        let name = rule["pre"].as_str().unwrap();
        let architecture = rule["architecture"].as_str().unwrap();
        let files = [("tokenizer.json", byte_level_json(&reference, rule))];
        let metadata = converted(architecture, &files, None, size).unwrap();
        assert_eq!(metadata.string("tokenizer.ggml.model"), Some("gpt2"));
        assert_eq!(metadata.string("tokenizer.ggml.pre"), Some(name));
        let metadata = without_bos(metadata);
        assert_tokens(name, &metadata, &texts(&reference), &rule["ids"]);
        assert_converts_back(&metadata);
    }
}

/// Some rules expect `bos`, which these small vocabularies do not name.
fn without_bos(mut metadata: Metadata) -> Metadata {
    metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    metadata
}

#[test]
fn every_sentencepiece_kind_gives_the_reference_tokens() {
    let reference = reference("sentencepiece.json");
    for case in reference["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let metadata = match case.get("unigram") {
            Some(pieces) => unigram(pieces, case["remove_extra_whitespaces"].as_bool().unwrap()),
            None => {
                let architecture = case["architecture"].as_str().unwrap();
                let size = case["vocab_size"].as_u64().unwrap() as usize;
                let files: Vec<_> = case
                    .get("json")
                    .map(|json| ("tokenizer.json", json.clone()))
                    .into_iter()
                    .collect();
                converted(architecture, &files, case["model"].as_str(), size).unwrap()
            }
        };
        let mut metadata = metadata;
        metadata.set("tokenizer.ggml.bos_token_id", Value::U32(1));
        assert_tokens(name, &metadata, &texts(&reference), &case["ids"]);
    }
}

/// The metadata of a T5-like vocabulary.
fn unigram(pieces: &Json, remove_extra_whitespaces: bool) -> Metadata {
    let pieces = pieces.as_array().unwrap();
    let texts = pieces.iter().map(|piece| piece[0].as_str().unwrap().to_string()).collect();
    let scores = pieces.iter().map(|piece| piece[1].as_f64().unwrap() as f32).collect();
    let types = pieces.iter().map(|piece| piece[2].as_i64().unwrap() as i32).collect();
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", Value::String("t5".into()));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(texts)));
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    metadata.set("tokenizer.ggml.add_space_prefix", Value::Bool(true));
    let key = "tokenizer.ggml.remove_extra_whitespaces";
    metadata.set(key, Value::Bool(remove_extra_whitespaces));
    metadata
}

/// A metadata value as the reference writes it.
fn described(value: &Value) -> Json {
    match value {
        Value::U32(number) => json!({ "type": "UINT32", "value": number }),
        Value::Bool(truth) => json!({ "type": "BOOL", "value": truth }),
        Value::String(text) => json!({ "type": "STRING", "value": text }),
        Value::Array(Array::String(texts)) => json!({ "type": "ARRAY", "value": texts }),
        Value::Array(Array::I32(numbers)) => json!({ "type": "ARRAY", "value": numbers }),
        Value::Array(Array::F32(numbers)) => {
            let numbers: Vec<f64> = numbers.iter().map(|&number| number.into()).collect();
            json!({ "type": "ARRAY", "value": numbers })
        }
        other => panic!("{other:?} is no value of a tokenizer"),
    }
}

#[test]
fn the_metadata_of_every_family_is_that_of_the_reference_converter() {
    for case in reference("metadata.json").as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let files: Vec<_> = case["files"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, content)| (name.as_str(), content.clone()))
            .collect();
        let architecture = case["architecture"].as_str().unwrap();
        let size = case["vocab_size"].as_u64().unwrap() as usize;
        let metadata = converted(architecture, &files, case["model"].as_str(), size).unwrap();
        let found: Vec<(&str, Json)> =
            metadata.iter().skip(1).map(|(key, value)| (key, described(value))).collect();
        let expected: Vec<(&str, Json)> = case["metadata"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (key.as_str(), value.clone()))
            .collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_file_of_templates_wins_over_tokenizer_config() {
    let directory = TempDir::new().unwrap();
    let case = &reference("metadata.json")[1];
    for (name, content) in case["files"].as_object().unwrap() {
        std::fs::write(directory.path().join(name), content.to_string()).unwrap();
    }
    let converted = || {
        let mut metadata = Metadata::new();
        from_checkpoint::append(&mut metadata, directory.path(), 12).unwrap();
        metadata
    };
    assert!(converted().string("tokenizer.chat_template").unwrap().contains("bos_token"));
    std::fs::write(directory.path().join("chat_template.jinja"), "of the file").unwrap();
    let metadata = converted();
    assert_eq!(metadata.string("tokenizer.chat_template"), Some("of the file"));
    assert_eq!(metadata.get("tokenizer.chat_template.tool_use"), None);
    let more = directory.path().join("additional_chat_templates");
    std::fs::create_dir(&more).unwrap();
    std::fs::write(more.join("rag.jinja"), "another").unwrap();
    let metadata = converted();
    assert_eq!(metadata.string("tokenizer.chat_template"), Some("of the file"));
    assert_eq!(metadata.string("tokenizer.chat_template.rag"), Some("another"));
}

/// tokenizer.json of SentencePiece's kind, changed.
fn changed_sentencepiece(change: impl FnOnce(&mut Json)) -> Result<Metadata, TokenizerError> {
    let reference = reference("sentencepiece.json");
    let cases = reference["cases"].as_array().unwrap();
    let case = cases.iter().find(|case| case["name"] == "json_prefix").unwrap();
    let mut json = case["json"].clone();
    change(&mut json);
    converted("llama", &[("tokenizer.json", json)], None, 520)
}

#[test]
fn what_a_sentencepiece_file_cannot_say_is_refused_by_name() {
    let refused = |named: &str, change: &dyn Fn(&mut Json)| {
        let error = changed_sentencepiece(change).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains(named), "{error}");
    };
    let normalizers = |json: &mut Json, first: Json| {
        json["normalizer"]["normalizers"].as_array_mut().unwrap().insert(0, first);
    };
    refused("NFKC", &|json| normalizers(json, json!({ "type": "NFKC" })));
    refused("Lowercase", &|json| normalizers(json, json!({ "type": "Lowercase" })));
    refused("Replace", &|json| {
        let replace = json!({ "type": "Replace", "pattern": { "String": "\n" }, "content": "\n " });
        normalizers(json, replace);
    });
    refused("Digits", &|json| {
        json["pre_tokenizer"] = json!({ "type": "Digits", "individual_digits": true });
    });
    refused("\"split\":true", &|json| {
        json["normalizer"] = Json::Null;
        json["pre_tokenizer"] = json!({ "type": "Metaspace", "replacement": "▁", "split": true });
    });
    refused("spaces as ▁", &|json| json["normalizer"] = Json::Null);
    refused("end_of_word_suffix", &|json| json["model"]["end_of_word_suffix"] = json!("</w>"));
    refused("##", &|json| json["model"]["continuing_subword_prefix"] = json!("##"));
    refused("Unigram", &|json| json["model"]["type"] = json!("Unigram"));
}

#[test]
fn what_a_byte_level_file_cannot_say_is_refused_by_name() {
    let reference = reference("byte_level.json");
    let size = reference["vocab"].as_object().unwrap().len();
    let rule = &reference["rules"][0];
    for (option, value) in [
        ("end_of_word_suffix", json!("</w>")),
        ("continuing_subword_prefix", json!("##")),
        ("ignore_merges", json!(rule["ignore_merges"] != true)),
    ] {
        let mut json = byte_level_json(&reference, rule);
        json["model"][option] = value;
        let architecture = rule["architecture"].as_str().unwrap();
        let error = converted(architecture, &[("tokenizer.json", json)], None, size).unwrap_err();
        assert!(error.to_string().contains(option), "{error}");
    }
}

#[test]
fn the_prefix_is_that_of_the_normalizer() {
    let prefix = |change: &dyn Fn(&mut Json)| {
        changed_sentencepiece(change).unwrap().bool("tokenizer.ggml.add_space_prefix")
    };
    let metaspace = |scheme: &'static str| {
        move |json: &mut Json| {
            json["normalizer"] = Json::Null;
            json["pre_tokenizer"] = json!({
                "type": "Metaspace", "replacement": "▁", "split": false, "prepend_scheme": scheme,
            });
        }
    };
    assert_eq!(prefix(&|_| {}), None);
    assert_eq!(prefix(&metaspace("always")), None);
    assert_eq!(prefix(&metaspace("first")), None);
    assert_eq!(prefix(&metaspace("never")), Some(false));
    let without =
        |json: &mut Json| json["normalizer"] = json["normalizer"]["normalizers"][1].clone();
    assert_eq!(prefix(&without), Some(false));
}

#[test]
fn keys_of_a_wrong_type_are_refused_by_name() {
    let metadata = changed_sentencepiece(|_| {}).unwrap();
    for (key, value) in [
        ("add_bos_token", Value::U8(1)),
        ("add_eos_token", Value::U8(0)),
        ("add_space_prefix", Value::U8(1)),
        ("eos_token_id", Value::F32(2.0)),
        ("bos_token_id", Value::String("<s>".into())),
        ("unknown_token_id", Value::Bool(true)),
        ("model", Value::U32(1)),
        ("tokens", Value::Array(Array::U8(vec![1]))),
        ("scores", Value::Array(Array::F64(vec![0.0; 520]))),
        ("token_type", Value::Array(Array::F32(vec![0.0; 520]))),
    ] {
        let key = format!("tokenizer.ggml.{key}");
        let mut wrong = metadata.clone();
        wrong.set(&key, value);
        let error = Vocabulary::from_metadata(&wrong).unwrap_err().to_string();
        assert!(error.contains(&key) && error.contains("found a value of type"), "{error}");
    }
}

#[test]
fn a_role_that_templates_alone_read_may_name_no_token() {
    let mut metadata = changed_sentencepiece(|_| {}).unwrap();
    let role = |metadata: &Metadata, name| {
        let vocabulary = Vocabulary::from_metadata(metadata).unwrap();
        vocabulary.roles.iter().find(|(role, _)| *role == name).map(|&(_, id)| id)
    };
    metadata.set("tokenizer.ggml.padding_token_id", Value::U32(3));
    assert_eq!(role(&metadata, "pad_token"), Some(3));
    metadata.set("tokenizer.ggml.padding_token_id", Value::U32(1_000_000));
    assert_eq!(role(&metadata, "pad_token"), None);
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(1_000_000));
    assert!(Vocabulary::from_metadata(&metadata).is_err());
}
