//! The two file formats, sound and broken.

use super::*;
use crate::gguf::{GgmlType, GgufFile, GgufWriter, Metadata, TensorInfo, TensorPlan, Value};

/// A legacy file of one tensor with these values, then whatever follows.
fn dat(name: &str, calls: i32, values: &[f32], rest: &[u8]) -> Vec<u8> {
    let mut bytes = 1i32.to_le_bytes().to_vec();
    bytes.extend((name.len() as i32).to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend(calls.to_le_bytes());
    bytes.extend((values.len() as i32).to_le_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(rest);
    bytes
}

fn read(bytes: &[u8]) -> Result<Importance, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("importance");
    std::fs::write(&path, bytes).unwrap();
    Importance::read(&path).map_err(|error| error.to_string())
}

#[test]
fn a_legacy_file_holds_means_times_calls() {
    let origin = [&8i32.to_le_bytes()[..], &5i32.to_le_bytes(), b"a.txt"].concat();
    let importance = read(&dat("blk.0.attn_q.weight", 8, &[4.0, 2.0, 0.0], &origin)).unwrap();
    assert_eq!(importance.of("blk.0.attn_q.weight"), Some(&[0.5, 0.25, 0.0][..]));
    assert_eq!((importance.tensor_count(), importance.chunks()), (1, 8));
    assert_eq!(importance.datasets(), ["a.txt"]);
    // Old files end after the tensors, or hold the means themselves.
    let importance = read(&dat("x", 0, &[4.0], &[])).unwrap();
    assert_eq!((importance.of("x"), importance.chunks()), (Some(&[4.0][..]), 0));
    assert!(importance.of("y").is_none() && importance.datasets().is_empty());
}

#[test]
fn broken_legacy_files_say_what_is_wrong() {
    let sound = dat("x", 1, &[1.0, 2.0], &[]);
    let huge = [&sound[..13], &i32::MAX.to_le_bytes(), &sound[17..]].concat();
    for (bytes, expected) in [
        (b"".to_vec(), "neither a GGUF file nor a legacy importance file"),
        (b"hello, world".to_vec(), "neither a GGUF file nor a legacy importance file"),
        (0i32.to_le_bytes().to_vec(), "declares no tensor"),
        ((-1i32).to_le_bytes().to_vec(), "found -1"),
        (sound[..sound.len() - 1].to_vec(), "only 7 bytes follow"),
        (huge, "only 8 bytes follow"),
        (dat("x", -1, &[1.0], &[]), "found -1"),
        (dat("x", 1, &[], &[0; 8]), "0 sums"),
        (dat("x", 1, &[1.0, f32::NAN], &[]), "\"x\" has NaN at column 1"),
        (dat("x", 1, &[f32::INFINITY], &[]), "\"x\" has inf at column 0"),
        (dat("x", 1, &[0.0, 0.0, -1.0], &[]), "\"x\" has -1 at column 2"),
        (dat("x", 1, &[1.0], &[1, 0, 0, 0, 0, 0, 0, 0, 9]), "1 bytes follow the end"),
        (dat("x", 1, &[1.0], &[1, 0, 0, 0, 9, 0, 0, 0, 9]), "only 1 bytes follow"),
    ] {
        let error = read(&bytes).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// Two matrices, one of them with three experts, the second of which met nothing.
fn collected() -> ActivationSums {
    let mut sums = ActivationSums::new(vec!["a.txt".into(), "b.txt".into()], 8);
    for chunk in [[1.0, 4.0, 0.0], [2.0, 8.0, 0.0], [3.0, 0.0, 0.0]] {
        sums.add_chunk(&[("blk.0.attn_q.weight", &chunk, 8)]).unwrap();
    }
    let experts = TensorSums { sums: vec![4.0, 8.0, 0.0, 0.0, 3.0, 0.0], counts: vec![16, 0, 30] };
    sums.tensors.insert("blk.0.ffn_down_exps.weight".to_string(), experts);
    sums
}

fn written(sums: &ActivationSums, format: FileFormat) -> (ActivationSums, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("importance");
    sums.write(&path, format).unwrap();
    (ActivationSums::read(&path).unwrap(), std::fs::read(&path).unwrap())
}

#[test]
fn gguf_files_hold_everything() {
    let sums = collected();
    let (read, bytes) = written(&sums, FileFormat::Gguf);
    assert_eq!(read, sums);
    let importance = Importance::from_sums(read, "a.gguf".as_ref());
    assert_eq!(importance.of("blk.0.attn_q.weight"), Some(&[0.25, 0.5, 0.0][..]));
    assert_eq!(
        importance.of("blk.0.ffn_down_exps.weight"),
        Some(&[0.25, 0.5, 1.0, 1.0, 0.1, 0.0][..])
    );
    assert_eq!(bytes.len() % 32, 0, "the last tensor is padded too");
}

#[test]
fn legacy_files_hold_the_means() {
    let (read, bytes) = written(&collected(), FileFormat::Dat);
    let importance = Importance::from_sums(read, "a.dat".as_ref());
    assert_eq!(importance.of("blk.0.attn_q.weight"), Some(&[0.25, 0.5, 0.0][..]));
    assert_eq!(
        importance.of("blk.0.ffn_down_exps.weight"),
        Some(&[0.25, 0.5, 1.0, 1.0, 0.1, 0.0][..])
    );
    assert_eq!((importance.chunks(), importance.datasets()), (3, &["b.txt".to_string()][..]));
    // Calls are rounded up: 30 tokens of 8 a chunk.
    let calls = bytes.windows(8).filter(|window| window == b"\x04\0\0\0\x06\0\0\0").count();
    assert_eq!(calls, 1);
}

#[test]
fn a_legacy_tensor_without_data_is_left_out() {
    let mut sums = collected();
    sums.tensors.insert("none".into(), TensorSums { sums: vec![0.0; 4], counts: vec![0, 0] });
    assert_eq!(written(&sums, FileFormat::Dat).0.tensors().len(), 2);
    assert_eq!(written(&sums, FileFormat::Gguf).0.tensors().len(), 3);
}

/// The sound GGUF file with some of its parts changed.
fn broken_gguf(change: impl FnOnce(&mut Metadata, &mut Vec<(TensorPlan, Vec<f32>)>)) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("importance.gguf");
    collected().write(&path, FileFormat::Gguf).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let mut metadata = file.metadata().clone();
    let tensors = file.tensors().iter().map(|tensor| {
        let (values, _) = file.tensor_bytes(tensor).as_chunks::<4>();
        let TensorInfo { name, dimensions, ggml_type, .. } = tensor.clone();
        let plan = TensorPlan { name, dimensions, ggml_type };
        (plan, values.iter().map(|&value| f32::from_le_bytes(value)).collect())
    });
    let mut tensors = tensors.collect();
    change(&mut metadata, &mut tensors);
    let plans = tensors.iter().map(|(plan, _)| plan.clone()).collect();
    let mut writer = GgufWriter::create(&path, &metadata, plans).unwrap();
    for (plan, values) in &tensors {
        let bytes: Vec<u8> = match plan.ggml_type {
            GgmlType::F16 => values.iter().flat_map(|_| [0; 2]).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    ActivationSums::read(&path).unwrap_err().to_string()
}

#[test]
fn broken_gguf_files_say_what_is_wrong() {
    type Tensors = Vec<(TensorPlan, Vec<f32>)>;
    type Change = fn(&mut Metadata, &mut Tensors);
    let cases: [(Change, &str); 11] = [
        (|metadata, _| drop(metadata.remove("imatrix.datasets")), "imatrix.datasets"),
        (|metadata, _| metadata.set("imatrix.datasets", Value::U32(1)), "imatrix.datasets"),
        (|metadata, _| metadata.set("imatrix.chunk_count", Value::I32(-1)), "imatrix.chunk_count"),
        (|metadata, _| metadata.set("imatrix.chunk_size", Value::U32(0)), "chunk_size is 0"),
        (|_, tensors| tensors.clear(), "no tensor"),
        (|_, tensors| drop(tensors.remove(0)), "attn_q.weight\" has counts but no .in_sum2"),
        (|_, tensors| drop(tensors.remove(1)), "attn_q.weight\" has sums but no .counts"),
        (|_, tensors| tensors[0].0.ggml_type = GgmlType::F16, "in_sum2 is F16; expected F32"),
        (
            |_, tensors| tensors[0].1[1] = f32::NEG_INFINITY,
            "\"blk.0.attn_q.weight\" has -inf at column 1;",
        ),
        (
            |_, tensors| tensors[2].1[5] = f32::NAN,
            "\"blk.0.ffn_down_exps.weight\" has NaN at column 1 of expert 2;",
        ),
        (|_, tensors| tensors[1].1[0] = -1.0, "has a count that is not a number of activations"),
    ];
    for (change, expected) in cases {
        let error = broken_gguf(change);
        assert!(error.contains("importance.gguf: ") && error.contains(expected), "{error}");
    }
    let error = broken_gguf(|_, tensors| {
        (tensors[3].0.dimensions, tensors[3].1) = (vec![4], vec![1.0; 4]);
    });
    assert!(error.contains("6 sums and 4 counts"), "{error}");
}

#[test]
fn additions_keep_to_the_tensors_and_to_numbers() {
    let mut sums = ActivationSums::new(Vec::new(), 4);
    sums.add_chunk(&[("a", &[1.0, 2.0], 4), ("b", &[3.0], 4)]).unwrap();
    let before = sums.clone();
    type Chunk<'a> = &'a [(&'a str, &'a [f64], u64)];
    let cases: [(Chunk<'_>, &str); 5] = [
        (&[("a", &[1.0, 2.0], 4)], "has the tensor b"),
        (&[("a", &[1.0, 2.0], 4), ("b", &[3.0], 4), ("c", &[3.0], 4)], "lacks the tensor c"),
        (&[("a", &[1.0], 4), ("b", &[3.0], 4)], "a has 2 columns in the importance so far, 1 in"),
        (&[("a", &[1.0, f64::NAN], 4), ("b", &[3.0], 4)], "a in column 1 are not finite"),
        (&[("a", &[1.0, 2.0], 4), ("b", &[1e39], 4)], "b in column 0 are not finite"),
    ];
    for (tensors, expected) in cases {
        let error = sums.add_chunk(tensors).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(sums, before);
    }
    sums.add_chunk(&[("a", &[0.5, 0.0], 8), ("b", &[1.0], 8)]).unwrap();
    assert_eq!((sums.chunks(), &sums.tensors["a"].counts[..]), (2, &[12][..]));
    assert_eq!((&sums.tensors["a"].sums[..], sums.tensors["b"].sums[0]), (&[1.5, 2.0][..], 4.0));
}

#[test]
fn merging_adds_up_and_counts_legacy_chunks_in_tokens() {
    let gguf = collected();
    let legacy = ActivationSums {
        tensors: gguf
            .tensors
            .iter()
            .map(|(name, sums)| {
                let sums = vec![2.0; sums.sums.len()];
                (name.clone(), TensorSums { sums, counts: vec![2] })
            })
            .collect(),
        datasets: vec!["c.txt".into()],
        chunks: 2,
        chunk_tokens: None,
    };
    let parts = vec![("a.gguf".into(), gguf.clone()), ("b.dat".into(), legacy)];
    let merged = ActivationSums::merge(parts.clone(), None).unwrap();
    let attention = &merged.tensors["blk.0.attn_q.weight"];
    assert_eq!((&attention.sums[..], &attention.counts[..]), (&[22.0, 28.0, 16.0][..], &[40][..]));
    let experts = &merged.tensors["blk.0.ffn_down_exps.weight"];
    assert_eq!(experts.sums, [20.0, 24.0, 16.0, 16.0, 19.0, 16.0]);
    assert_eq!(experts.counts, [32, 16, 46]);
    assert_eq!((merged.chunks(), merged.chunk_tokens()), (46 / 8, Some(8)));
    assert_eq!(merged.datasets(), ["a.txt", "b.txt", "c.txt"]);
    let longer = ActivationSums::merge(parts, Some(100)).unwrap();
    assert_eq!(longer.tensors["blk.0.attn_q.weight"].counts, [224]);

    let huge = TensorSums { sums: vec![f32::MAX], counts: vec![1] };
    let huge = ActivationSums { tensors: [("x".to_string(), huge)].into(), ..gguf };
    let error = ActivationSums::merge(vec![("a".into(), huge.clone()), ("b".into(), huge)], None)
        .unwrap_err();
    assert!(error.to_string().contains("\"x\" has inf at column 0"), "{error}");
}

#[test]
fn unseen_experts_are_not_covered() {
    let rows = collected().coverage();
    assert_eq!(rows[0].tensor, "blk.0.ffn_down_exps.weight");
    assert_eq!((rows[0].experts, rows[0].unseen_experts, rows[0].count), (3, 1, 0));
    assert_eq!((rows[0].never_active, rows[1].never_active), (0.5, 1.0 / 3.0));
    assert!(rows[0].coverage < 0.5 && rows[1].coverage < 2.0 / 3.0);
}
