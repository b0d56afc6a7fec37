//! Conversion of every family: `tests/data/families/NAME.zip` holds a checkpoint, and what llama.cpp's
//! converter makes of it (scripts/tiny_reference_models.py).

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use quantkit::gguf::{Array, GgufFile, Value};
use serde::Deserialize;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::support::quantkit;

/// What llama.cpp's converter makes of a checkpoint.
#[derive(Deserialize)]
struct Conversion {
    /// Why it refused, if it did.
    refused: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, Entry>,
    /// By the type of the matrices, then by name.
    #[serde(default)]
    tensors: BTreeMap<String, BTreeMap<String, Tensor>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    value: Json,
}

#[derive(Deserialize, PartialEq, Debug)]
struct Tensor {
    #[serde(rename = "type")]
    kind: String,
    shape: Vec<u64>,
    sha256: String,
}

/// Where quantkit's file says on purpose more than llama.cpp's, so that the model's mathematics is in it.
const OURS_ALONE: [&str; 3] =
    [".attention.scale", ".attention.sliding_window", ".attention.sliding_window_pattern"];

/// Whether a value may differ from llama.cpp's: names of one and the same pre-tokenizer rule, which a
/// tokenizer.json does not tell apart; and user-defined (4) and special (3) tokens that llama.cpp's
/// converter takes for normal ones (1), so that it would not find them in a text.
fn may_differ(key: &str, ours: &Json, theirs: &Json) -> bool {
    match key {
        "tokenizer.ggml.pre" => (ours, theirs) == (&"mpt".into(), &"olmo".into()),
        "tokenizer.ggml.token_type" => match (ours.as_array(), theirs.as_array()) {
            (Some(ours), Some(theirs)) if ours.len() == theirs.len() => {
                ours.iter().zip(theirs).all(|(a, b)| a == b || ((a == 3 || a == 4) && b == 1))
            }
            _ => false,
        },
        _ => false,
    }
}

fn archives() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families");
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut archives: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|it| it == "zip")).collect();
    archives.sort();
    archives
}

/// Unpacks a checkpoint; what llama.cpp's converter makes of it.
fn unpack(archive: &Path, directory: &Path) -> Conversion {
    let mut archive = zip::ZipArchive::new(fs::File::open(archive).unwrap()).unwrap();
    let mut conversion = None;
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).unwrap();
        let name = file.name().unwrap().into_owned();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        if name == "conversion.json" {
            conversion = Some(serde_json::from_slice(&bytes).unwrap());
        } else {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
    conversion.expect("the archive says what becomes of the checkpoint")
}

/// A file's tensors as the archive describes them.
fn tensors(file: &GgufFile) -> BTreeMap<String, Tensor> {
    let tensor = |tensor: &quantkit::gguf::TensorInfo| {
        let digest = Sha256::digest(file.tensor_bytes(tensor));
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let kind = tensor.ggml_type.name().to_string();
        let described = Tensor { kind, shape: tensor.dimensions.clone(), sha256 };
        (tensor.name.clone(), described)
    };
    file.tensors().iter().map(tensor).collect()
}

/// The type and the value as the archive has them.
fn described(value: &Value) -> (String, Json) {
    fn list<T: Clone>(kind: &str, values: &[T]) -> (String, Json)
    where
        Json: From<T>,
    {
        let values = values.iter().cloned().map(Json::from).collect();
        (format!("ARRAY.{kind}"), Json::Array(values))
    }
    match value {
        Value::U32(number) => ("UINT32".into(), (*number).into()),
        Value::F32(number) => ("FLOAT32".into(), f64::from(*number).into()),
        Value::Bool(truth) => ("BOOL".into(), (*truth).into()),
        Value::String(text) => ("STRING".into(), text.clone().into()),
        Value::Array(Array::I32(numbers)) => list("INT32", numbers),
        Value::Array(Array::Bool(truths)) => list("BOOL", truths),
        Value::Array(Array::String(texts)) => list("STRING", texts),
        Value::Array(Array::F32(numbers)) => {
            let wide: Vec<f64> = numbers.iter().map(|&number| number.into()).collect();
            list("FLOAT32", &wide)
        }
        other => panic!("llama.cpp's converter writes nothing like {other:?}"),
    }
}

/// Keys that say what the directory is called, or what the file's matrices are.
fn is_compared(key: &str) -> bool {
    key == "general.architecture" || key == "general.type" || !key.starts_with("general.")
}

/// Whether two values are the same, however their numbers are spelled.
fn is_same(ours: &Json, theirs: &Json) -> bool {
    match (ours, theirs) {
        (Json::Array(ours), Json::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| is_same(a, b))
        }
        (Json::Number(ours), Json::Number(theirs)) => ours.as_f64() == theirs.as_f64(),
        _ => ours == theirs,
    }
}

/// What differs between the metadata of a file and that of llama.cpp's.
fn metadata_differences(file: &GgufFile, expected: &BTreeMap<String, Entry>) -> Vec<String> {
    let mut ours: BTreeMap<&str, (String, Json)> = file
        .metadata()
        .iter()
        .filter(|(key, _)| is_compared(key))
        .map(|(key, value)| (key, described(value)))
        .collect();
    let mut differences = Vec::new();
    for (key, entry) in expected.iter().filter(|(key, _)| is_compared(key)) {
        match ours.remove(key.as_str()) {
            Some((kind, value)) if kind == entry.kind && is_same(&value, &entry.value) => {}
            Some((_, value)) if may_differ(key, &value, &entry.value) => {}
            Some((kind, value)) => differences.push(format!(
                "{key} is {kind} {value:.60}, not {} {:.60}",
                entry.kind, entry.value
            )),
            None => differences.push(format!("{key} is missing")),
        }
    }
    let ours = ours.into_keys().filter(|key| !OURS_ALONE.iter().any(|own| key.ends_with(own)));
    differences.extend(ours.map(|key| format!("{key} should not be there")));
    differences
}

#[test]
fn every_family_converts_to_the_bytes_of_llama_cpp_s_converter() {
    let mut problems = Vec::new();
    let archives = archives();
    assert!(archives.len() > 40, "{}", archives.len());
    for archive in archives {
        let name = archive.file_stem().unwrap().to_string_lossy().into_owned();
        let directory = tempfile::tempdir().unwrap();
        let checkpoint = directory.path().join("checkpoint");
        fs::create_dir(&checkpoint).unwrap();
        let conversion = unpack(&archive, &checkpoint);
        if conversion.refused.is_some() {
            continue;
        }
        for (kind, expected) in &conversion.tensors {
            let output = directory.path().join(format!("{kind}.gguf"));
            let mut command = quantkit();
            command.arg("convert").arg(&checkpoint).arg("--output").arg(&output);
            let done = command.args(["--dtype", kind]).output().unwrap();
            if !done.status.success() {
                problems.push(format!("{name}: {}", String::from_utf8_lossy(&done.stderr)));
                break;
            }
            let file = GgufFile::open(&output).unwrap();
            if tensors(&file) != *expected {
                problems.push(format!("{name} {kind}: other tensors"));
            }
            let differences = metadata_differences(&file, &conversion.metadata);
            problems.extend(differences.into_iter().map(|one| format!("{name} {kind}: {one}")));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
