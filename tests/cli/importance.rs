//! `quantkit importance` from end to end.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use quantkit::gguf::GgufFile;
use quantkit::quant::formats::dequantize_row;
use quantkit::quant::importance::{ActivationSums, FileFormat, Importance, TensorSums};
use serde_json::Value;
use tempfile::TempDir;

use super::support::{TinyModel, quantkit};
#[cfg(unix)]
use super::support::{send, start_until};

/// Of letters that the tiny vocabulary merges into nothing: each byte is the token 3 + byte.
const ALPHABET: &[u8] = b"bcdfgjkl";

/// Tokens of the chunks that most tests collect on.
const CHUNK: usize = 64;

/// A tiny model and a text.
struct Bench {
    directory: TempDir,
    text: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        Self::of(&TinyModel::default(), 20 * CHUNK + 5)
    }

    fn of(model: &TinyModel, letters: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        model.write(&directory.path().join("model.gguf"));
        let letter = |index: usize| ALPHABET[index * index % 97 * 31 % ALPHABET.len()];
        let text: Vec<u8> = (0..letters).map(letter).collect();
        fs::write(directory.path().join("text.txt"), &text).unwrap();
        Self { directory, text }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `importance model.gguf --text text.txt --output OUTPUT ARGUMENTS`, in chunks of [`CHUNK`].
    fn collect(&self, output: &str, arguments: &[&str]) -> Command {
        let mut command = quantkit();
        command.current_dir(self.directory.path()).args(["importance", "model.gguf"]);
        command.args(["--text", "text.txt", "--output", output]);
        command.args(["--context", &CHUNK.to_string()]).args(arguments);
        command
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = quantkit();
        command.current_dir(self.directory.path()).arg("importance").args(arguments);
        command
    }

    fn sums(&self, name: &str) -> ActivationSums {
        ActivationSums::read(&self.path(name)).unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}

fn tensor<'a>(sums: &'a ActivationSums, name: &str) -> &'a TensorSums {
    sums.tensors().find(|(tensor, _)| *tensor == name).unwrap().1
}

/// A tensor's weights in f32.
fn weights(file: &GgufFile, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    let mut values = vec![0.0; tensor.weights() as usize];
    dequantize_row(tensor.ggml_type, file.tensor_bytes(tensor), &mut values).unwrap();
    values
}

#[test]
fn the_first_layers_input_is_the_normed_embedding() {
    let bench = Bench::new();
    bench.collect("out.gguf", &["--chunks", "3"]).assert().success().stdout(contains("3 chunks"));
    let model = GgufFile::open(&bench.path("model.gguf")).unwrap();
    let (embedding, norm) =
        (weights(&model, "token_embd.weight"), weights(&model, "blk.0.attn_norm.weight"));
    let hidden = norm.len();
    let mut expected = vec![0f64; hidden];
    for &letter in &bench.text[..3 * CHUNK] {
        let row = &embedding[(3 + usize::from(letter)) * hidden..][..hidden];
        let square = row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
        let scale = 1.0 / (square / hidden as f64 + 1e-5).sqrt();
        for (sum, (&value, &norm)) in expected.iter_mut().zip(row.iter().zip(&norm)) {
            *sum += (f64::from(value) * scale * f64::from(norm)).powi(2);
        }
    }
    let sums = bench.sums("out.gguf");
    for part in ["attn_q", "attn_k", "attn_v"] {
        let tensor = tensor(&sums, &format!("blk.0.{part}.weight"));
        assert_eq!(tensor.counts, [3 * CHUNK as u64]);
        for (column, (&sum, expected)) in tensor.sums.iter().zip(&expected).enumerate() {
            let difference = (f64::from(sum) - expected).abs() / expected;
            assert!(difference < 1e-5, "{part}, column {column}: {sum} instead of {expected}");
        }
    }
}

#[test]
fn every_matrix_of_the_layers_is_there_and_the_output_on_demand() {
    let untied = TinyModel { tied_output: false, layers: 1, ..TinyModel::default() };
    let bench = Bench::of(&untied, 3 * CHUNK);
    let names = |name: &str| -> Vec<String> {
        bench.sums(name).tensors().map(|(name, _)| name.to_string()).collect()
    };
    bench.collect("layers.gguf", &[]).assert().success();
    let parts = ["attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up"];
    let mut expected: Vec<String> = parts.map(|part| format!("blk.0.{part}.weight")).to_vec();
    assert_eq!(names("layers.gguf"), expected);
    bench.collect("all.gguf", &["--process-output"]).assert().success();
    expected.push("output.weight".to_string());
    assert_eq!(names("all.gguf"), expected);
    let (layers, all) = (bench.sums("layers.gguf"), bench.sums("all.gguf"));
    assert_eq!(tensor(&all, "output.weight").counts, [3 * CHUNK as u64]);
    for (name, sums) in layers.tensors() {
        assert_eq!(tensor(&all, name), sums);
    }
    // A tied output has no tensor of its own.
    let tied = Bench::of(&TinyModel::default(), CHUNK);
    let result = tied.collect("out.gguf", &["--process-output"]).assert().success();
    result.stderr(contains("output matrix is its token embedding"));
}

#[test]
fn a_collection_goes_on_to_the_bytes_of_one_in_one_piece() {
    let bench = Bench::new();
    bench.collect("whole.gguf", &[]).assert().success().stdout(contains("20 chunks of 64"));
    for chunks in ["1", "11", "16", "20"] {
        bench.collect("parts.gguf", &["--resume", "--chunks", chunks]).assert().success();
        assert_eq!(bench.sums("parts.gguf").chunks().to_string(), chunks);
    }
    assert_eq!(bench.bytes("parts.gguf"), bench.bytes("whole.gguf"));
    let again = bench.collect("parts.gguf", &["--resume"]).assert().success();
    again.stdout(contains("complete already"));
    // Any number of threads gives the same sums.
    let mut single = Command::new(env!("CARGO_BIN_EXE_quantkit"));
    single.current_dir(bench.directory.path()).args(["--threads", "1", "importance"]);
    single.args(["model.gguf", "--text", "text.txt", "--output", "single.gguf"]);
    single.args(["--context", "64", "--save-every", "1"]).assert().success();
    assert_eq!(bench.bytes("single.gguf"), bench.bytes("whole.gguf"));
}

#[cfg(unix)]
#[test]
fn a_stopped_collection_is_saved_and_goes_on() {
    use std::time::{Duration, Instant};

    let model = TinyModel { hidden: 256, feed_forward: 512, layers: 4, ..TinyModel::default() };
    let bench = Bench::of(&model, 400 * CHUNK);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quantkit"));
    command
        .current_dir(bench.directory.path())
        .args(["--quiet", "--threads", "2", "importance", "model.gguf", "--text", "text.txt"])
        .args(["--output", "parts.gguf", "--context", "64", "--save-every", "1"]);
    let started = Instant::now();
    let mut child = start_until(&mut command, || {
        bench.path("parts.gguf.unfinished").exists() || started.elapsed() >= Duration::from_secs(60)
    });
    send(&child, libc::SIGTERM);
    let mut message = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut message).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{message}");
    assert!(message.contains("of 400 chunks are in parts.gguf.unfinished"), "{message}");
    assert!(!bench.path("parts.gguf").exists());
    assert!(message.contains("--resume goes on"), "{message}");
    let stopped = bench.sums("parts.gguf.unfinished").chunks();
    assert!((1..400).contains(&stopped), "{stopped}");

    // Only the same run goes on.
    fs::copy(bench.path("model.gguf"), bench.path("kept.gguf")).unwrap();
    let other = TinyModel { seed: 99, ..model };
    let refused = |arguments: &[&str], words: &str| {
        let arguments = [&["--resume"], arguments].concat();
        bench.collect("parts.gguf", &arguments).assert().failure().stderr(contains(words));
    };
    refused(&["--from-chunk", "1"], "with --from-chunk 0, not 1");
    refused(&["--process-output"], "without --process-output");
    fs::write(bench.path("text.txt"), [bench.text.as_slice(), b"b"].concat()).unwrap();
    refused(&[], "the text has changed");
    fs::write(bench.path("text.txt"), &bench.text).unwrap();
    other.write(&bench.path("model.gguf"));
    refused(&[], "with another model");
    fs::rename(bench.path("kept.gguf"), bench.path("model.gguf")).unwrap();
    bench.collect("parts.gguf", &["--resume"]).assert().success();
    for left in ["parts.gguf.run.json", "parts.gguf.unfinished"] {
        assert!(!bench.path(left).exists(), "{left}");
    }
    bench
        .collect("parts.gguf", &["--resume", "--chunks", "3"])
        .assert()
        .failure()
        .stderr(contains("holds 400 chunks already, more than the 3"));
    bench.collect("whole.gguf", &[]).assert().success();
    assert_eq!(bench.bytes("parts.gguf"), bench.bytes("whole.gguf"));
}

#[test]
fn what_does_not_go_on_is_refused() {
    let bench = Bench::new();
    bench.collect("out.gguf", &["--chunks", "2"]).assert().success();
    let kept = bench.bytes("out.gguf");
    fs::copy(bench.path("text.txt"), bench.path("other.txt")).unwrap();
    TinyModel { layers: 1, ..TinyModel::default() }.write(&bench.path("other.gguf"));
    let resume = |model: &str, text: &str, context: &str| {
        let mut command = bench.command(&[model, "--text", text, "--output", "out.gguf"]);
        command.args(["--context", context, "--resume"]);
        command.assert().failure()
    };
    resume("model.gguf", "other.txt", "64").stderr(contains("on text.txt, not on other.txt"));
    resume("model.gguf", "text.txt", "32").stderr(contains("in chunks of 32 tokens"));
    resume("other.gguf", "text.txt", "64").stderr(contains("blk.1.attn_k.weight"));
    bench.collect("out.dat", &["--chunks", "2"]).assert().success();
    let dat = bench.collect("out.dat", &["--resume"]).assert().failure();
    dat.stderr(contains("a .dat file holds means"));
    assert_eq!(bench.bytes("out.gguf"), kept);
}

#[test]
fn several_texts_are_one_and_their_first_chunks_can_be_left_out() {
    let bench = Bench::new();
    let (first, second) = bench.text.split_at(100);
    fs::write(bench.path("first.txt"), first).unwrap();
    fs::write(bench.path("second.txt"), [second, b"\n"].concat()).unwrap();
    bench.collect("whole.gguf", &["--from-chunk", "17"]).assert().success();
    let mut parts = bench.command(&["model.gguf", "--text", "first.txt", "second.txt"]);
    parts.args(["--context", "64", "--from-chunk", "17", "--output", "parts.gguf"]);
    parts.assert().success().stdout(contains("3 chunks"));
    let (whole, parts) = (bench.sums("whole.gguf"), bench.sums("parts.gguf"));
    assert!(whole.tensors().eq(parts.tensors()));
    assert_eq!(parts.datasets(), ["first.txt", "second.txt"]);
}

#[test]
fn halves_merge_to_the_whole() {
    let bench = Bench::new();
    bench.collect("whole.gguf", &[]).assert().success();
    bench.collect("first.gguf", &["--chunks", "9"]).assert().success();
    bench.collect("second.gguf", &["--from-chunk", "9"]).assert().success();
    bench.collect("second.dat", &["--from-chunk", "9"]).assert().success();
    for (second, tolerance) in [("second.gguf", 1e-6), ("second.dat", 1e-5)] {
        let merge = ["merge", "first.gguf", second, "-o", "merged.gguf"];
        bench.command(&merge).assert().success().stdout(contains("20 chunks of 64"));
        let (whole, merged) = (bench.sums("whole.gguf"), bench.sums("merged.gguf"));
        assert_eq!((merged.chunks(), merged.datasets().len()), (20, 2));
        for ((name, whole), (_, merged)) in whole.tensors().zip(merged.tensors()) {
            assert_eq!(whole.counts, merged.counts);
            for (a, b) in whole.sums.iter().zip(&merged.sums) {
                assert!((a - b).abs() <= tolerance * a, "{name}: {a} and {b}");
            }
        }
    }
}

#[test]
fn both_formats_hold_the_same_importance() {
    let bench = Bench::new();
    bench.collect("out.gguf", &[]).assert().success();
    bench.collect("out.dat", &[]).assert().success();
    bench.command(&["merge", "out.gguf", "-o", "merged.dat"]).assert().success();
    assert_eq!(bench.bytes("merged.dat"), bench.bytes("out.dat"));
    bench.collect("named.bin", &["--format", "dat"]).assert().success();
    assert_eq!(bench.bytes("named.bin"), bench.bytes("out.dat"));
    let read = |name: &str| Importance::read(&bench.path(name)).unwrap();
    let (gguf, dat) = (read("out.gguf"), read("out.dat"));
    assert_eq!((gguf.tensor_count(), gguf.chunks(), gguf.datasets()), (14, 20, dat.datasets()));
    assert_eq!((dat.tensor_count(), dat.chunks()), (14, 20));
    for (name, _) in bench.sums("out.gguf").tensors() {
        for (a, b) in gguf.of(name).unwrap().iter().zip(dat.of(name).unwrap()) {
            assert!((a - b).abs() <= 1e-6 * a, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn only_one_models_files_merge() {
    let bench = Bench::new();
    bench.collect("two.gguf", &["--chunks", "1"]).assert().success();
    let one = Bench::of(&TinyModel { layers: 1, ..TinyModel::default() }, CHUNK);
    one.collect("one.gguf", &[]).assert().success();
    let wide = Bench::of(&TinyModel { feed_forward: 192, ..TinyModel::default() }, CHUNK);
    wide.collect("wide.gguf", &[]).assert().success();
    let merge = |other: &Path| {
        let mut command = bench.command(&["merge", "two.gguf"]);
        command.arg(other).args(["-o", "merged.gguf"]).assert().failure()
    };
    merge(&one.path("one.gguf")).stderr(contains("one.gguf: collected on another model than two.gguf: it lacks the tensor blk.1.attn_k.weight"));
    merge(&wide.path("wide.gguf"))
        .stderr(contains("blk.0.ffn_down.weight has 192 columns in all, there 128"));
    assert!(!bench.path("merged.gguf").exists());
}

#[test]
fn show_puts_the_least_covered_first() {
    let bench = Bench::new();
    let mut sums = ActivationSums::new(vec!["a.txt".to_string()], 2);
    let tensors: [(&str, &[f64], u64); 3] = [
        ("blk.0.even.weight", &[8.0, 8.0, 8.0, 8.0], 4),
        ("blk.0.spiky.weight", &[4000.0, 0.0, 2.0, 0.0], 4),
        ("blk.0.uneven.weight", &[8.0, 8.0, 0.0, 0.0], 4),
    ];
    sums.add_chunk(&tensors).unwrap();
    sums.write(&bench.path("sums.gguf"), FileFormat::Gguf).unwrap();
    let result = bench.command(&["show", "sums.gguf", "--json"]).assert().success();
    let shown: Value = serde_json::from_slice(&result.get_output().stdout).unwrap();
    assert_eq!((&shown["chunks"], &shown["datasets"][0]), (&1.into(), &"a.txt".into()));
    let column = |key: &str| -> Vec<Value> {
        shown["tensors"].as_array().unwrap().iter().map(|row| row[key].clone()).collect()
    };
    let names = ["spiky", "uneven", "even"].map(|name| format!("blk.0.{name}.weight"));
    assert_eq!(column("tensor"), names);
    assert_eq!(column("total"), [1000.5, 4.0, 8.0]);
    assert_eq!(
        (column("min"), column("max")),
        (vec![0.0.into(), 0.0.into(), 2.0.into()], vec![1000.0.into(), 2.0.into(), 2.0.into()])
    );
    assert_eq!(column("never_active"), [0.5, 0.5, 0.0]);
    assert_eq!(column("hardly_active"), [0.5, 0.5, 0.0]);
    assert_eq!(column("coverage")[1..], [0.5, 1.0]);
    let table = bench.command(&["show", "sums.gguf", "--limit", "1"]).assert().success();
    table.stdout(
        contains("3 tensors, 1 chunk of 2 tokens")
            .and(contains("collected on a.txt"))
            .and(contains("The least covered, 1 of 3"))
            .and(contains("spiky"))
            .and(contains("uneven").not()),
    );
    bench.command(&["show", "sums.gguf", "--all"]).assert().success().stdout(contains("uneven"));
}

#[test]
fn bad_input_is_named() {
    let bench = Bench::new();
    fs::write(bench.path("short.txt"), "bcd").unwrap();
    fs::write(bench.path("latin.txt"), b"caf\xe9").unwrap();
    let collect = |text: &str, output: &str, more: &[&str]| {
        let mut command = bench.command(&["model.gguf", "--text", text, "--output", output]);
        command.args(more).assert().failure()
    };
    collect("short.txt", "out.gguf", &[])
        .stderr(contains("short.txt").and(contains("has 3 tokens")).and(contains("takes 512")));
    collect("text.txt", "out.gguf", &["--from-chunk", "2"]).stderr(contains("1285 tokens"));
    collect("latin.txt", "out.gguf", &[]).stderr(contains("latin.txt: expected text in UTF-8"));
    collect("missing.txt", "out.gguf", &[]).stderr(contains("missing.txt"));
    collect("text.txt", "text.txt", &[]).stderr(contains("one of the inputs"));
    collect("text.txt", "model.gguf", &[]).stderr(contains("one of the inputs"));
    quantkit()
        .current_dir(bench.directory.path())
        .args(["split", "model.gguf", "parts", "--max-tensors", "9"])
        .assert()
        .success();
    let (first, second) = ("parts-00001-of-00003.gguf", "parts-00002-of-00003.gguf");
    let onto_part = bench.command(&[first, "--text", "text.txt", "--output", second]).assert();
    onto_part.failure().stderr(contains("one of the inputs"));
    collect("text.txt", "out.gguf", &["--context", "1024"])
        .stderr(contains("the model's context holds 512 tokens"));
    assert!(!bench.path("out.gguf").exists());
    let show = |name: &str| bench.command(&["show", name]).assert().failure();
    show("model.gguf").stderr(contains("expected importance").and(contains("imatrix.datasets")));
    show("short.txt").stderr(contains("neither a GGUF file nor a legacy importance file"));
    bench.command(&[]).assert().failure().stderr(contains("--text"));
}
