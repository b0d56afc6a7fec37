//! `quantkit split` and `quantkit join`, and models in parts wherever a model is read.

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use quantkit::gguf::{Directory, GgufFile, GgufWriter, TensorPlan, Value, part_path};
use quantkit::support::hash::sha256_file;
use tempfile::TempDir;

use crate::support::{TinyModel, files_in, quantkit, stdout_of};

/// A directory with a tiny model, and the path of its first part of three.
fn split_model() -> (TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole.gguf");
    TinyModel::default().write(&whole);
    let prefix = directory.path().join("parts/tiny");
    quantkit()
        .arg("split")
        .args([&whole, &prefix])
        .args(["--max-tensors", "8"])
        .assert()
        .success()
        .stdout(predicate::str::contains("1 file -> 3 files: 20 tensors"));
    let first = part_path(&prefix, 0, 3);
    (directory, whole, first)
}

#[test]
fn a_split_model_is_read_as_the_whole_one() {
    let (directory, whole, first) = split_model();
    assert_eq!(
        files_in(&directory.path().join("parts")),
        ["tiny-00001-of-00003.gguf", "tiny-00002-of-00003.gguf", "tiny-00003-of-00003.gguf"]
    );
    let generated = |model: &Path| {
        let mut command = quantkit();
        command.arg("generate").arg(model);
        stdout_of(command.args(["--prompt", "the", "--max-tokens", "8", "--temperature", "0"]))
    };
    assert_eq!(generated(&first), generated(&whole));

    let (a, b) = (GgufFile::open(&whole).unwrap(), GgufFile::open(&first).unwrap());
    assert_eq!(b.part_paths().count(), 3);
    assert_eq!(b.metadata().get("split.count"), Some(&Value::U16(3)));
    assert_eq!(a.tensors().len(), b.tensors().len());
    for (one, other) in a.tensors().iter().zip(b.tensors()) {
        assert_eq!((&one.name, &one.dimensions), (&other.name, &other.dimensions));
        assert_eq!(a.tensor_bytes(one), b.tensor_bytes(other), "{}", one.name);
    }

    let same = |from: &Path, to: &str| {
        let output = directory.path().join(to);
        let mut command = quantkit();
        command.arg("quantize").arg(from).arg(&output).args(["--type", "Q8_0"]);
        command.assert().success();
        sha256_file(&output).unwrap()
    };
    assert_eq!(same(&first, "a.gguf"), same(&whole, "b.gguf"));
    let checkpoint = |from: &Path, to: &str| {
        let output = directory.path().join(to);
        quantkit().arg("export").arg(from).arg("--output").arg(&output).assert().success();
        sha256_file(&output.join("model.safetensors")).unwrap()
    };
    assert_eq!(checkpoint(&first, "a"), checkpoint(&whole, "b"));
    let shown = stdout_of(quantkit().args(["--json", "inspect"]).arg(&first));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["files"], &shown["totals"]["tensors"]), (&3.into(), &20.into()));
}

#[test]
fn a_model_is_joined_from_its_parts() {
    let (directory, whole, first) = split_model();
    let joined = directory.path().join("joined.gguf");
    let mut command = quantkit();
    let printed = stdout_of(command.args(["--json", "join"]).args([&first, &joined]));
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(report["inputs"].as_array().unwrap().len(), 3);
    let (a, b) = (GgufFile::open(&whole).unwrap(), GgufFile::open(&joined).unwrap());
    for (one, other) in a.tensors().iter().zip(b.tensors()) {
        assert_eq!((&one.name, one.offset), (&other.name, other.offset));
        assert_eq!(a.tensor_bytes(one), b.tensor_bytes(other), "{}", one.name);
    }
    assert_eq!(b.metadata().get("split.count"), Some(&Value::U16(0)));

    // Divided again, in its old place or from its parts, it has the same parts.
    let again = directory.path().join("again/tiny");
    for input in [&joined, &first] {
        let mut command = quantkit();
        command.arg("split").args([input, &again]).args(["--max-tensors", "8"]).assert().success();
        for index in 0..3 {
            let path = part_path(&again, index, 3);
            let old = first.with_file_name(path.file_name().unwrap());
            assert_eq!(sha256_file(&path).unwrap(), sha256_file(&old).unwrap());
        }
    }
}

/// SHA-256 of what llama.cpp's llama-gguf-split makes of `tests/data/quantize_input.gguf`: its only
/// part of at most 1 MB, and its two parts of at most 30 tensors. It gives the latter no identity.
const REFERENCE_BY_SIZE: [&str; 1] =
    ["093e4d0d25e35a9394418fdbe6b2b401f7e9987ad37f50241bea1d477efd9649"];
const REFERENCE_BY_TENSORS: [&str; 2] = [
    "26292b86f6fe49be042414292182e4a68210fdffaabdd0c6e7107ebd085cbf95",
    "73eba911b259bf7edc30e5f4d4e2815c36434410c3c36568af92b747fd1e3da6",
];
/// The same of either when it is joined again.
const REFERENCE_JOINED: &str = "9c98835e35a424c626d200cb664f8dd6d2730e7d05a4ab4d83475142f211935b";

/// Writes a part again without the key that says which parts it belongs to.
fn copy_without_identity(part: &Path, copy: &Path) {
    let bytes = std::fs::read(part).unwrap();
    let Directory { metadata, tensors, data_start, .. } = Directory::parse(part, &bytes).unwrap();
    let mut without = metadata.clone();
    without.remove("quantkit.split.identity");
    let plans = tensors.iter().map(TensorPlan::of).collect();
    let mut writer = GgufWriter::create(copy, &without, plans).unwrap();
    for tensor in &tensors {
        let start = (data_start + tensor.offset) as usize;
        writer.write(&bytes[start..start + tensor.bytes() as usize]).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn parts_are_those_of_llama_gguf_split() {
    let directory = tempfile::tempdir().unwrap();
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/quantize_input.gguf");
    let check = |limit: [&str; 2], expected: &[&str]| {
        let prefix = directory.path().join(limit[0]);
        quantkit().arg("split").args([&input, &prefix]).args(limit).assert().success();
        let parts: Vec<PathBuf> = (0..expected.len())
            .map(|index| part_path(&prefix, index as u64, expected.len() as u64))
            .collect();
        for (path, sha256) in parts.iter().zip(expected) {
            let plain = directory.path().join("plain.gguf");
            copy_without_identity(path, &plain);
            assert_eq!(sha256_file(&plain).unwrap(), *sha256, "{}", path.display());
        }
        let joined = directory.path().join("joined.gguf");
        quantkit().arg("join").args([&parts[0], &joined]).assert().success();
        assert_eq!(sha256_file(&joined).unwrap(), REFERENCE_JOINED);
    };
    check(["--max-size", "1M"], &REFERENCE_BY_SIZE);
    check(["--max-tensors", "30"], &REFERENCE_BY_TENSORS);
}

#[test]
fn what_cannot_be_split_or_joined_is_refused() {
    let (directory, whole, first) = split_model();
    let prefix = directory.path().join("parts/tiny");
    let before = files_in(directory.path());
    let refused = |arguments: &[&std::ffi::OsStr], message: &str| {
        quantkit()
            .args(arguments)
            .assert()
            .failure()
            .stderr(predicate::str::contains(message))
            .stdout("");
        assert_eq!(files_in(directory.path()), before);
        assert_eq!(files_in(&directory.path().join("parts")).len(), 3);
    };
    let joined = directory.path().join("joined.gguf");
    let (whole, first, joined) = (whole.as_os_str(), first.as_os_str(), joined.as_os_str());
    refused(&["join".as_ref(), whole, joined], "no part of a split model");
    refused(&["join".as_ref(), first, first], "is read, so it cannot be written");
    let split = ["split".as_ref(), first, prefix.as_os_str()];
    let (by_tensors, eight) = ("--max-tensors".as_ref(), "8".as_ref());
    refused(&[&split[..], &[by_tensors, eight]].concat(), "is read, so it cannot be written");
    refused(&split, "--max-size");
    refused(&[&split[..], &[by_tensors, "0".as_ref()]].concat(), "0");
    refused(&[&split[..], &["--max-size".as_ref(), "2X".as_ref()]].concat(), "500M, 2G or 1.5GiB");
}

#[test]
fn parts_of_two_models_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // Two models that only their weights tell apart.
    for (name, seed) in [("one", 1), ("two", 2)] {
        TinyModel { seed, ..TinyModel::default() }.write(&at("whole.gguf"));
        let mut command = quantkit();
        command.arg("split").args([at("whole.gguf"), at(name)]).args(["--max-tensors", "8"]);
        command.assert().success();
    }
    let part = |name: &str, index| part_path(&at(name), index, 3);
    let refused = |named: &Path| {
        let message = predicate::str::contains("were not written together")
            .and(predicate::str::contains(named.to_string_lossy()));
        quantkit().arg("inspect").arg(part("one", 0)).assert().failure().stderr(message);
    };
    let own = std::fs::read(part("one", 1)).unwrap();
    std::fs::copy(part("two", 1), part("one", 1)).unwrap();
    refused(&part("one", 1));
    // One of another tool, which does not say what it belongs to.
    copy_without_identity(&part("two", 1), &part("one", 1));
    refused(&part("one", 1));
    std::fs::write(part("one", 1), own).unwrap();
    quantkit().arg("inspect").arg(part("one", 0)).assert().success();
    // All of another tool.
    for index in 0..3 {
        copy_without_identity(&part("two", index), &at("plain.gguf"));
        std::fs::rename(at("plain.gguf"), part("two", index)).unwrap();
    }
    quantkit().arg("inspect").arg(part("two", 0)).assert().success();
}

#[test]
fn a_set_takes_the_place_of_another() {
    let (directory, _, first) = split_model();
    let parts = directory.path().join("parts");
    let before = files_in(&parts);
    let other = directory.path().join("other.gguf");
    TinyModel { seed: 2, ..TinyModel::default() }.write(&other);
    let old = std::fs::read(&first).unwrap();
    let mut command = quantkit();
    command.arg("split").arg(&other).arg(parts.join("tiny")).args(["--max-tensors", "8"]);
    command.assert().success();
    assert_eq!(files_in(&parts), before);
    assert_ne!(std::fs::read(&first).unwrap(), old);
    quantkit().arg("inspect").arg(&first).assert().success();
}
