//! Reader and writer against each other, against another reader, and against random bytes.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::support::hash::sha256_bytes;

type Tensor = (TensorPlan, Vec<u8>);

fn write(path: &Path, metadata: &Metadata, tensors: &[Tensor]) -> Result<(), GgufError> {
    let plans = tensors.iter().map(|(plan, _)| plan.clone()).collect();
    let mut writer = GgufWriter::create(path, metadata, plans)?;
    for (_, bytes) in tensors {
        // In two pieces, as callers may.
        let (first, second) = bytes.split_at(bytes.len() / 3);
        writer.write(first)?;
        writer.write(second)?;
    }
    writer.finish()
}

fn tensor(name: &str, dimensions: &[u64], ggml_type: GgmlType) -> Tensor {
    let weights: u64 = dimensions.iter().product();
    let bytes = weights as usize / ggml_type.block_size() * ggml_type.block_bytes();
    let plan = TensorPlan { name: name.to_string(), dimensions: dimensions.to_vec(), ggml_type };
    (plan, (0..bytes).map(|index| (index * 7 + name.len()) as u8).collect())
}

/// A small valid file: every kind of value, and tensors whose sizes need padding.
fn sample() -> (Metadata, Vec<Tensor>) {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("llama".into()));
    metadata.set("zeta.before.alpha", Value::U8(3));
    metadata.set("alpha", Value::I64(-1));
    metadata.set("general.alignment", Value::U32(64));
    metadata.set("wide", Value::U64(u64::MAX));
    metadata.set("small", Value::F32(1e-5));
    metadata.set("double", Value::F64(0.1));
    metadata.set("truth", Value::Bool(true));
    metadata.set("tokens", Value::Array(Array::String(vec!["<s>".into(), "é".into(), "".into()])));
    metadata.set("scores", Value::Array(Array::F32(vec![0.0, -1.5, f32::INFINITY])));
    metadata.set("flags", Value::Array(Array::Bool(vec![true, false])));
    metadata.set("none", Value::Array(Array::I32(vec![])));
    let tensors = vec![
        tensor("token_embd.weight", &[32, 5], GgmlType::Q4_0),
        tensor("output_norm.weight", &[3], GgmlType::F32),
        tensor("blk.0.ffn_up.weight", &[256, 2, 3], GgmlType::Q4_K),
        tensor("blk.0.ffn_down.weight", &[5, 1, 2, 3], GgmlType::BF16),
    ];
    (metadata, tensors)
}

fn sample_bytes() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sample.gguf");
    let (metadata, tensors) = sample();
    write(&path, &metadata, &tensors).unwrap();
    std::fs::read(&path).unwrap()
}

fn assert_holds(file: &GgufFile, metadata: &Metadata, tensors: &[Tensor]) {
    let keys = |metadata: &Metadata| -> Vec<String> {
        metadata.iter().map(|(key, _)| key.to_string()).collect()
    };
    assert_eq!(keys(file.metadata()), keys(metadata), "in the same order");
    for ((key, found), (_, written)) in file.metadata().iter().zip(metadata.iter()) {
        assert!(found.is_identical(written), "{key}: {found:?} is not {written:?}");
    }
    assert_eq!(file.tensors().len(), tensors.len());
    for (found, (plan, bytes)) in file.tensors().iter().zip(tensors) {
        assert_eq!(found.name, plan.name);
        assert_eq!(found.dimensions, plan.dimensions);
        assert_eq!(found.ggml_type, plan.ggml_type);
        assert_eq!(file.tensor(&plan.name), Some(found));
        assert_eq!(file.tensor_bytes(found), bytes);
        assert_eq!(file.tensor_bytes(found).as_ptr().align_offset(8), 0);
    }
}

#[test]
fn what_is_written_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sample.gguf");
    let (metadata, tensors) = sample();
    write(&path, &metadata, &tensors).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_holds(&file, &metadata, &tensors);
    assert_eq!((file.version(), file.alignment()), (3, 64));
    assert_eq!(file.tensor("no such tensor"), None);
    assert_eq!(file.file_bytes() % 64, 0, "the last tensor is padded too, as ggml does");
}

#[test]
fn an_independent_reader_agrees() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sample.gguf");
    let (metadata, tensors) = sample();
    write(&path, &metadata, &tensors).unwrap();

    let mut container =
        gguf_rs::get_gguf_container_array_size(path.to_str().unwrap(), u64::MAX).unwrap();
    let model = container.decode().unwrap();
    assert_eq!(model.get_version(), "v3");
    let read = model.metadata();
    assert_eq!(read.len(), metadata.len());
    assert_eq!(read["general.architecture"], "llama");
    assert_eq!(read["wide"], u64::MAX);
    assert_eq!(read["alpha"], -1);
    assert_eq!(read["truth"], true);
    assert_eq!(read["tokens"], serde_json::json!(["<s>", "é", ""]));
    assert_eq!(model.alignment(), 64);
    let bytes = std::fs::read(&path).unwrap();
    for (found, (plan, data)) in model.tensors().iter().zip(&tensors) {
        assert_eq!(found.name, plan.name);
        assert_eq!(found.kind, plan.ggml_type.id());
        assert_eq!(found.shape[..plan.dimensions.len()], plan.dimensions);
        let start = (model.data_offset() + found.offset) as usize;
        assert_eq!(&bytes[start..start + data.len()], data);
    }
}

#[test]
fn version_2_is_read() {
    let mut bytes = sample_bytes();
    bytes[4] = 2;
    let directory = Directory::parse(Path::new("v2.gguf"), &bytes).unwrap();
    assert_eq!((directory.version, directory.tensors.len()), (2, 4));
}

#[test]
fn every_shorter_file_is_refused() {
    let bytes = sample_bytes();
    let (_, tensors) = sample();
    let last = tensors.last().unwrap().1.len();
    let padding = last.next_multiple_of(64) - last;
    for length in 0..bytes.len() - padding {
        let error = Directory::parse(Path::new("cut.gguf"), &bytes[..length]).unwrap_err();
        assert!(error.to_string().starts_with("cut.gguf: "), "{error}");
    }
    // Padding after the last tensor holds nothing: files without it are in use.
    assert!(Directory::parse(Path::new("cut.gguf"), &bytes[..bytes.len() - padding]).is_ok());
}

#[test]
fn the_writer_refuses_what_no_reader_accepts_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("refused.gguf");
    let empty = Metadata::new();
    let refusal = |metadata: &Metadata, tensors: &[Tensor]| {
        write(&path, metadata, tensors).unwrap_err().to_string()
    };

    let good = tensor("a", &[32], GgmlType::Q4_0);
    let renamed = |name: &str| (TensorPlan { name: name.into(), ..good.0.clone() }, vec![]);
    let reshaped = |dimensions: &[u64]| {
        (TensorPlan { dimensions: dimensions.to_vec(), ..good.0.clone() }, vec![])
    };
    assert!(refusal(&empty, &[good.clone(), good.clone()]).contains("planned twice"));
    assert!(refusal(&empty, &[renamed(&"x".repeat(64))]).contains("64 bytes"));
    assert!(refusal(&empty, &[reshaped(&[33])]).contains("block of 32"));
    assert!(refusal(&empty, &[reshaped(&[32, 0])]).contains("dimension of 0"));
    assert!(refusal(&empty, &[reshaped(&[])]).contains("1 to 4 dimensions"));
    assert!(refusal(&empty, &[reshaped(&[32, 1, 1, 1, 1])]).contains("1 to 4 dimensions"));
    assert!(refusal(&empty, &[reshaped(&[1 << 32, 1 << 32])]).contains("no file can hold"));

    let mut crooked = Metadata::new();
    crooked.set("general.alignment", Value::U32(48));
    assert!(refusal(&crooked, std::slice::from_ref(&good)).contains("power of two"));
    crooked.set("general.alignment", Value::U64(32));
    assert!(refusal(&crooked, std::slice::from_ref(&good)).contains("must be a u32"));

    let with_bytes = |count: usize| (good.0.clone(), vec![0; count]);
    assert!(refusal(&empty, &[with_bytes(17)]).contains("only 17 were given"));
    assert!(refusal(&empty, &[with_bytes(19)]).contains("19 were given"));
    let mut writer = GgufWriter::create(&path, &empty, vec![good.0.clone()]).unwrap();
    writer.write(&good.1).unwrap();
    assert!(writer.write(&[0]).unwrap_err().to_string().contains("after the last tensor"));
    drop(writer);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_model_is_known_by_the_file_that_was_opened() {
    let directory = tempfile::tempdir().unwrap();
    let [path, other] = ["model.gguf", "other.gguf"].map(|name| directory.path().join(name));
    for (path, name) in [(&path, "one"), (&other, "another")] {
        let mut metadata = Metadata::new();
        metadata.set("general.name", Value::String(name.to_string()));
        GgufWriter::create(path, &metadata, Vec::new()).unwrap().finish().unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    let file = GgufFile::open(&path).unwrap();
    std::fs::rename(&other, &path).unwrap();
    let ModelIdentity { sha256, bytes: length, inputs } = identify(&file).unwrap();
    assert_eq!((sha256, length), (sha256_bytes(&bytes), bytes.len() as u64));
    inputs.check().unwrap();
    let replaced = identify(&GgufFile::open(&path).unwrap()).unwrap();
    assert_ne!(replaced.sha256, sha256_bytes(&bytes));
}

#[test]
fn directories_and_missing_files_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let error = GgufFile::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("this is a directory"), "{error}");
    let error = GgufFile::open(&directory.path().join("absent.gguf")).unwrap_err().to_string();
    assert!(error.contains("absent.gguf"), "{error}");
}

fn any_array() -> impl Strategy<Value = Array> {
    prop_oneof![
        vec(any::<u8>(), 0..5).prop_map(Array::U8),
        vec(any::<i8>(), 0..5).prop_map(Array::I8),
        vec(any::<u16>(), 0..5).prop_map(Array::U16),
        vec(any::<i16>(), 0..5).prop_map(Array::I16),
        vec(any::<u32>(), 0..5).prop_map(Array::U32),
        vec(any::<i32>(), 0..5).prop_map(Array::I32),
        vec(any::<u32>().prop_map(f32::from_bits), 0..5).prop_map(Array::F32),
        vec(any::<bool>(), 0..5).prop_map(Array::Bool),
        vec(any::<String>(), 0..5).prop_map(Array::String),
        vec(any::<u64>(), 0..5).prop_map(Array::U64),
        vec(any::<i64>(), 0..5).prop_map(Array::I64),
        vec(any::<u64>().prop_map(f64::from_bits), 0..5).prop_map(Array::F64),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
        any::<bool>().prop_map(Value::Bool),
        any::<String>().prop_map(Value::String),
        any_array().prop_map(Value::Array),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
    ]
}

fn any_metadata() -> impl Strategy<Value = Metadata> {
    let alignment = proptest::option::of((3u32..10).prop_map(|power| 1 << power));
    (vec((any::<String>(), any_value()), 0..8), alignment).prop_map(|(entries, alignment)| {
        let mut metadata = Metadata::new();
        for (key, value) in entries {
            metadata.set(key, value);
        }
        if let Some(alignment) = alignment {
            metadata.set("general.alignment", Value::U32(alignment));
        }
        metadata
    })
}

fn any_tensors() -> impl Strategy<Value = Vec<Tensor>> {
    let ggml_type = (0u32..40).prop_filter_map("ggml has removed this type", GgmlType::from_id);
    let shape = (ggml_type, 1u64..4, vec(1u64..4, 0..4)).prop_map(|(ggml_type, blocks, rest)| {
        let columns = blocks * ggml_type.block_size() as u64;
        (ggml_type, std::iter::once(columns).chain(rest).collect::<Vec<_>>())
    });
    vec(shape, 0..6).prop_map(|shapes| {
        let named = |(index, (ggml_type, dimensions)): (usize, (GgmlType, Vec<u64>))| {
            tensor(&format!("tensor.{index}"), &dimensions, ggml_type)
        };
        shapes.into_iter().enumerate().map(named).collect()
    })
}

proptest! {
    #[test]
    fn any_metadata_and_tensors_survive(metadata in any_metadata(), tensors in any_tensors()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("any.gguf");
        write(&path, &metadata, &tensors).unwrap();
        assert_holds(&GgufFile::open(&path).unwrap(), &metadata, &tensors);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = Directory::parse(Path::new("random.gguf"), &bytes);
        let with_header = [b"GGUF\x03\0\0\0".as_slice(), &bytes].concat();
        let _ = Directory::parse(Path::new("random.gguf"), &with_header);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is changed in a valid file: it is refused, or all its tensors lie in the file.
    #[test]
    fn mutated_files_never_reach_past_their_end(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        thread_local!(static SAMPLE: Vec<u8> = sample_bytes());
        let mut bytes = SAMPLE.with(Clone::clone);
        // Most of the file is tensor data, whose content does not matter here.
        let directory_bytes = Directory::parse(Path::new("sample"), &bytes).unwrap().data_start;
        for (index, value) in changes {
            let index = index.index(directory_bytes as usize);
            bytes[index] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(directory) = Directory::parse(Path::new("mutated.gguf"), &bytes) {
            for tensor in &directory.tensors {
                let end = directory.data_start + tensor.offset + tensor.bytes();
                prop_assert!(end <= bytes.len() as u64);
            }
        }
    }
}
