//! Damaged and hostile files: every command that reads them ends with one clear message, soon, and
//! without a panic. Model files are attacked in the wild: CVE-2026-7482 (dimensions that outrun the
//! data) and CVE-2026-27940 (sizes that overflow) are among the cases.

use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use quantkit::eval::text::BaseLogits;

use super::support::{TinyModel, quantkit};

/// A file that must be refused.
struct Broken {
    name: &'static str,
    bytes: Vec<u8>,
    /// Part of the message.
    message: &'static str,
}

fn broken(name: &'static str, bytes: Vec<u8>, message: &'static str) -> Broken {
    Broken { name, bytes, message }
}

/// A GGUF file put together byte by byte, so that it can lie.
struct RawGguf {
    version: u32,
    tensor_count: Option<u64>,
    entry_count: Option<u64>,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

impl RawGguf {
    fn new() -> Self {
        Self {
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: vec![entry("general.architecture", 8, &string("llama"))],
            tensors: Vec::new(),
            data: vec![0x5A; 128],
        }
    }

    fn entry(mut self, bytes: Vec<u8>) -> Self {
        self.entries.push(bytes);
        self
    }

    fn tensor(mut self, bytes: Vec<u8>) -> Self {
        self.tensors.push(bytes);
        self
    }

    fn build(self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        bytes.extend(self.entries.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(self.data);
        bytes
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn entry(key: &str, value_type: u32, value: &[u8]) -> Vec<u8> {
    [&string(key), value_type.to_le_bytes().as_slice(), value].concat()
}

fn array(key: &str, element_type: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    entry(key, 9, &[&element_type.to_le_bytes(), count.to_le_bytes().as_slice(), elements].concat())
}

fn tensor(name: &str, dimensions: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((dimensions.len() as u32).to_le_bytes());
    bytes.extend(dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
    bytes.extend(type_id.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

const F32: u32 = 0;
const F16: u32 = 1;
const Q4_0: u32 = 2;
const I8: u32 = 24;

/// A file whose only fault is one tensor.
fn with_tensor(dimensions: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    RawGguf::new().tensor(tensor("token_embd.weight", dimensions, type_id, offset)).build()
}

/// A file whose only fault is one metadata entry.
fn with_entry(bytes: Vec<u8>) -> Vec<u8> {
    RawGguf::new().entry(bytes).build()
}

fn broken_headers() -> Vec<Broken> {
    let version = |version| RawGguf { version, ..RawGguf::new() }.build();
    let tensor_count = |count| RawGguf { tensor_count: Some(count), ..RawGguf::new() }.build();
    let entry_count = |count| RawGguf { entry_count: Some(count), ..RawGguf::new() }.build();
    vec![
        broken("empty", vec![], "found an empty file"),
        broken("wrong-magic", [b"GGML", &version(3)[4..]].concat(), "found \"GGML\""),
        broken("big-endian", version(3u32.swap_bytes()), "found a big-endian one"),
        broken("version-1", version(1), "found version 1"),
        broken("version-4", version(4), "found version 4"),
        broken("tensor-count-maximum", tensor_count(u64::MAX), "declares 18446744073709551615"),
        broken("tensor-count-wraps", tensor_count(1 << 59), "tensors"),
        broken("metadata-count-maximum", entry_count(u64::MAX), "declares 18446744073709551615"),
        broken("metadata-count-wraps", entry_count(1 << 60), "metadata entries"),
    ]
}

fn broken_metadata() -> Vec<Broken> {
    let long = |length: u64| length.to_le_bytes().to_vec();
    let alignment = |value: u32| with_entry(entry("general.alignment", 4, &value.to_le_bytes()));
    let not_text = [2u64.to_le_bytes().as_slice(), b"\xC3\x28"].concat();
    vec![
        broken("key-length-maximum", with_entry(long(u64::MAX)), "a metadata key of"),
        broken("key-length-2-63", with_entry(long(1 << 63)), "9223372036854775808 bytes"),
        broken("key-not-text", with_entry([&not_text, &[0; 5][..]].concat()), "UTF-8"),
        broken("string-length-2-63", with_entry(entry("a", 8, &long(1 << 63))), "\"a\""),
        broken("string-not-text", with_entry(entry("a", 8, &not_text)), "UTF-8"),
        broken("array-length-2-63", with_entry(array("a", 0, 1 << 63, &[])), "array elements"),
        broken("array-size-wraps", with_entry(array("a", 10, 1 << 61, &[0; 64])), "array elements"),
        broken("string-array-too-long", with_entry(array("a", 8, 1 << 60, &[0; 64])), "strings"),
        broken("nested-array", with_entry(array("a", 9, 1, &[0; 64])), "array of arrays"),
        broken("value-type-13", with_entry(entry("a", 13, &[0; 64])), "found 13"),
        broken("bool-2", with_entry(entry("a", 7, &[2])), "found 2"),
        broken(
            "duplicate-key",
            with_entry(entry("general.architecture", 8, &string("gpt2"))),
            "\"general.architecture\" occurs twice",
        ),
        broken("alignment-0", alignment(0), "found 0"),
        broken("alignment-24", alignment(24), "found 24"),
        broken("alignment-2-31", alignment(1 << 31), "found 2147483648"),
        broken(
            "alignment-is-text",
            with_entry(entry("general.alignment", 8, &string("32"))),
            "found string",
        ),
    ]
}

fn broken_tensors() -> Vec<Broken> {
    let two = |first: Vec<u8>, second: Vec<u8>| RawGguf::new().tensor(first).tensor(second).build();
    let dimension_count = |count: u32| {
        let bytes = [string("a"), count.to_le_bytes().to_vec(), vec![0; 64]].concat();
        RawGguf::new().tensor(bytes).build()
    };
    vec![
        broken("no-dimensions", with_tensor(&[], F32, 0), "found 0"),
        broken("five-dimensions", with_tensor(&[1; 5], F32, 0), "found 5"),
        broken("dimension-count-maximum", dimension_count(u32::MAX), "found 4294967295"),
        broken("dimension-0", with_tensor(&[32, 0], F32, 0), "a dimension of 0"),
        broken("dimension-negative", with_tensor(&[u64::MAX], I8, 0), "no file can hold"),
        broken("weights-wrap", with_tensor(&[1 << 32, 1 << 32], F32, 0), "no file can hold"),
        broken("weights-wrap-to-32", with_tensor(&[3, u64::MAX / 3], I8, 0), "no file can hold"),
        broken("bytes-wrap", with_tensor(&[1 << 62], F32, 0), "no file can hold"),
        broken("ragged-row", with_tensor(&[33], Q4_0, 0), "block of 32"),
        broken("removed-type", with_tensor(&[32], 4, 0), "type number 4"),
        broken("unknown-type", with_tensor(&[32], u32::MAX, 0), "type number 4294967295"),
        // CVE-2026-7482.
        broken(
            "dimensions-outrun-data",
            with_tensor(&[576, 49_152], F16, 0),
            "has only 128 bytes of data",
        ),
        // CVE-2026-27940: each size is possible, their padded sum is not.
        broken(
            "sizes-overflow-together",
            two(
                tensor("a", &[i64::MAX as u64], I8, 0),
                tensor("b", &[i64::MAX as u64], I8, 1 << 63),
            ),
            "bytes of data",
        ),
        broken("one-byte-too-long", with_tensor(&[129], I8, 0), "takes 129 bytes"),
        broken("offset-past-end", with_tensor(&[32], F32, 128), "from byte 128"),
        broken("offset-overflows", with_tensor(&[32], F32, u64::MAX - 31), "bytes of data"),
        broken("offset-misaligned", with_tensor(&[8], F32, 8), "alignment of 32"),
        broken("overlap", two(tensor("a", &[16], F32, 0), tensor("b", &[8], F32, 32)), "overlap"),
        broken(
            "duplicate-tensor",
            two(tensor("a", &[8], F32, 0), tensor("a", &[8], F32, 32)),
            "\"a\" is listed twice",
        ),
    ]
}

/// A safetensors file with this header and this many bytes of data.
fn safetensors(header: &str, data_bytes: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), &vec![0; data_bytes]].concat()
}

fn one_tensor(dtype: &str, shape: &str, offsets: &str, data_bytes: usize) -> Vec<u8> {
    let header =
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
    safetensors(&header, data_bytes)
}

/// Eight tensors whose sizes are possible one by one, and whose end overflows once the header's length
/// is added.
fn wrapping_offsets() -> Vec<u8> {
    let size = (1u64 << 61) - 1;
    let tensors: Vec<String> = (0..8u64)
        .map(|index| {
            let (start, end) = (index * size, (index + 1) * size);
            format!(r#""{index}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    safetensors(&format!("{{{}}}", tensors.join(",")), 32)
}

fn broken_safetensors() -> Vec<Broken> {
    let length = |length: u64| [&length.to_le_bytes(), b"{}".as_slice()].concat();
    let deep = format!(r#"{{"a":{{"dtype":{}"#, "[".repeat(100_000));
    let deep_unknown = format!(r#"{{"a":{{"unknown":{}"#, "[".repeat(100_000));
    let f32_at = |name: &str, start: u32| {
        let end = start + 8;
        format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{start},{end}]}}"#)
    };
    let two = |first, second, bytes| safetensors(&format!("{{{first},{second}}}"), bytes);
    vec![
        broken("empty", vec![], "found 0 bytes"),
        broken("seven-bytes", vec![0; 7], "found 7 bytes"),
        broken("header-length-maximum", length(u64::MAX), "18446744073709551615 bytes"),
        broken("header-length-2-63", length(1 << 63), "9223372036854775808 bytes"),
        broken("header-length-over-limit", length(100_000_001), "allows 100000000"),
        broken("header-outruns-file", length(99_999_999), "only 2 bytes follow"),
        broken("header-not-json", safetensors("{\"a\"", 0), "header"),
        broken("header-not-object", safetensors("[1]", 0), "object"),
        broken(
            "header-not-text",
            safetensors("{}", 0)[..8].iter().copied().chain(*b"\xFF\xFE").collect(),
            "header",
        ),
        broken("header-deep", safetensors(&deep, 0), "header"),
        broken("header-deep-unknown", safetensors(&deep_unknown, 0), "header"),
        broken("unknown-dtype", one_tensor("F31", "[2]", "[0,8]", 8), "\"a\""),
        broken("no-dtype", safetensors(r#"{"a":{"shape":[2],"data_offsets":[0,8]}}"#, 8), "dtype"),
        broken("negative-dimension", one_tensor("F32", "[-2]", "[0,8]", 8), "\"a\""),
        broken("shape-and-size-differ", one_tensor("F32", "[3]", "[0,8]", 8), "asks for 12"),
        broken("shape-wraps", one_tensor("U8", "[4294967296,4294967296]", "[0,0]", 0), "more than"),
        broken(
            "offsets-past-end",
            one_tensor("F32", "[1000]", "[0,4000]", 8),
            "only 8 bytes of data",
        ),
        broken("offsets-reversed", one_tensor("F32", "[2]", "[8,0]", 8), "damaged"),
        broken(
            "offset-maximum",
            one_tensor("U8", "[18446744073709551615]", "[0,18446744073709551615]", 8),
            "ends at byte 18446744073709551615",
        ),
        broken("offsets-wrap", wrapping_offsets(), "only 32 bytes of data"),
        broken("gap", two(f32_at("a", 0), f32_at("b", 16), 24), "expected to start at byte 8"),
        broken("overlap", two(f32_at("a", 0), f32_at("b", 4), 12), "expected to start at byte 8"),
        broken("duplicate-tensor", two(f32_at("a", 0), f32_at("a", 8), 16), "listed twice"),
        broken("bytes-left-over", one_tensor("F32", "[2]", "[0,8]", 9), "the file has 9"),
    ]
}

/// A part of a split model with one tensor, and what it says of the split.
fn part(name: &str, index: u16, count: u16, tensors: i32) -> RawGguf {
    RawGguf::new()
        .tensor(tensor(name, &[32], F32, 0))
        .entry(entry("split.no", 2, &index.to_le_bytes()))
        .entry(entry("split.count", 2, &count.to_le_bytes()))
        .entry(entry("split.tensors.count", 5, &tensors.to_le_bytes()))
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let part_name = |index: usize| format!("m-{:05}-of-00003.gguf", index + 1);
    let good = || [0, 1, 2].map(|index| part(["a", "b", "c"][index as usize], index, 3, 3));
    // What takes the place of part `index`, which part is opened, which one the message names.
    let opened = |replaced: Option<(usize, Vec<u8>)>,
                  opened: usize,
                  named: usize,
                  message: &str| {
        let directory = tempfile::tempdir().unwrap();
        for (index, part) in good().into_iter().enumerate() {
            let bytes = match &replaced {
                Some((place, bytes)) if *place == index => bytes.clone(),
                _ => part.build(),
            };
            // An empty file stands for a missing one.
            if !bytes.is_empty() {
                std::fs::write(directory.path().join(part_name(index)), bytes).unwrap();
            }
        }
        let mut command = quantkit();
        command.arg("inspect").arg(directory.path().join(part_name(opened)));
        match message {
            "" => _ = command.assert().success(),
            _ => assert_refused(&mut command, &directory.path().join(part_name(named)), message),
        }
    };
    let instead = |index: usize, part: RawGguf| Some((index, part.build()));
    opened(None, 0, 0, "");
    opened(None, 2, 2, "this is part 3 of 3; give the first one");
    opened(Some((1, vec![])), 0, 1, "is missing");
    opened(instead(1, part("c", 2, 3, 3)), 0, 1, "expected part 2 of 3, found part 3 of 3");
    opened(instead(2, part("c", 2, 4, 3)), 0, 2, "found part 3 of 4");
    opened(instead(2, part("c", 2, 3, 4)), 0, 2, "with 4 tensors instead of 3");
    opened(instead(1, part("a", 1, 3, 3)), 0, 1, "\"a\" is in another part");
    opened(
        instead(1, RawGguf::new().tensor(tensor("b", &[32], F32, 0))),
        0,
        1,
        "no part of several",
    );
    let two = part("b", 1, 3, 3).tensor(tensor("d", &[0x20], I8, 96));
    opened(instead(1, two), 0, 1, "overlap");
    let two = part("b", 1, 3, 3).tensor(tensor("d", &[0x10], I8, 128));
    let two = RawGguf { data: vec![0; 160], ..two };
    opened(instead(1, two), 0, 0, "should hold 3 tensors, but they hold 4");
    let mut foreign = part("b", 1, 3, 3);
    foreign.entries[0] = entry("general.architecture", 8, &string("gpt2"));
    opened(instead(1, foreign), 0, 1, "another \"general.architecture\"");
    opened(instead(1, RawGguf { version: 9, ..part("b", 1, 3, 3) }), 0, 1, "version 9");
    opened(instead(0, part("a", 3, 3, 3)), 0, 0, "split.no is 3");
    opened(instead(0, part("a", 0, 4, 3)), 0, 0, "whose name should end in");
    opened(instead(0, part("a", 0, 3, -1)), 0, 0, "split.tensors.count must be a number");
    let nameless = RawGguf::new().entry(entry("split.count", 8, &string("3")));
    opened(instead(0, nameless), 0, 0, "split.count must be a number from 0, found string");
    let numberless = RawGguf::new().entry(entry("split.count", 2, &[3, 0]));
    opened(instead(0, numberless), 0, 0, "split.no is missing");
}

fn broken_gguf() -> Vec<Broken> {
    [broken_headers(), broken_metadata(), broken_tensors()].into_iter().flatten().collect()
}

/// Runs the command, which must fail with one line that names the file and holds `message`.
fn assert_refused(command: &mut Command, path: &Path, message: &str) {
    let output = command.timeout(Duration::from_secs(20)).output().expect("the command starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    let context = format!("{}: {errors}", path.display());
    assert_eq!(output.status.code(), Some(1), "{context}");
    assert!(errors.starts_with("quantkit: error: "), "{context}");
    assert_eq!(errors.lines().count(), 1, "{context}");
    assert!(errors.len() < 1000, "{context}");
    let name = path.file_name().expect("a file").to_string_lossy();
    assert!(errors.contains(name.as_ref()), "the message names the file: {context}");
    assert!(errors.contains(message), "expected {message:?}: {context}");
    assert!(output.stdout.is_empty(), "{context}");
}

fn write_all(directory: &Path, files: &[Broken], suffix: &str) -> Vec<PathBuf> {
    let write = |file: &Broken| {
        let path = directory.join(format!("{}.{suffix}", file.name));
        std::fs::write(&path, &file.bytes).expect("room on the disk");
        path
    };
    files.iter().map(write).collect()
}

#[test]
fn inspect_refuses_broken_gguf_files() {
    let directory = tempfile::tempdir().unwrap();
    let files = broken_gguf();
    for (file, path) in files.iter().zip(write_all(directory.path(), &files, "gguf")) {
        assert_refused(quantkit().arg("inspect").arg(&path), &path, file.message);
        assert_refused(quantkit().args(["--json", "inspect"]).arg(&path), &path, file.message);
    }
}

#[test]
fn inspect_refuses_broken_safetensors_files() {
    let directory = tempfile::tempdir().unwrap();
    let files = broken_safetensors();
    for (file, path) in files.iter().zip(write_all(directory.path(), &files, "safetensors")) {
        assert_refused(quantkit().arg("inspect").arg(&path), &path, file.message);
    }
}

#[test]
fn the_raw_files_are_valid_but_for_their_fault() {
    let directory = tempfile::tempdir().unwrap();
    let good = [
        ("good.gguf", with_tensor(&[32], F32, 0)),
        ("good.safetensors", one_tensor("F32", "[2]", "[0,8]", 8)),
    ];
    for (name, bytes) in good {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        quantkit().arg("inspect").arg(&path).assert().success();
    }
}

#[test]
fn the_seeds_of_the_fuzz_targets_are_valid() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for name in ["gguf/small.gguf", "safetensors/small.safetensors"] {
        quantkit().arg("inspect").arg(seeds.join(name)).assert().success();
    }
    for name in ["small.gguf", "small.dat"] {
        let path = seeds.join("importance").join(name);
        quantkit().args(["importance", "show"]).arg(path).assert().success();
    }
    let logits = BaseLogits::open(&seeds.join("base_logits/small.logits")).unwrap();
    assert_eq!(logits.windows(None, None).count(), 3);
}

/// Checks that a command refuses every broken GGUF file and leaves nothing behind; `finish` adds the
/// arguments after the file, given the path of an output.
fn assert_gguf_corpus_refused(subcommand: &str, finish: impl Fn(&mut Command, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    let files = broken_gguf();
    let paths = write_all(directory.path(), &files, "gguf");
    let before = std::fs::read_dir(directory.path()).unwrap().count();
    for (file, path) in files.iter().zip(&paths) {
        let mut command = quantkit();
        finish(command.arg(subcommand).arg(path), &directory.path().join("output"));
        assert_refused(&mut command, path, file.message);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), before);
}

#[test]
fn quantize_refuses_broken_files_and_writes_nothing() {
    assert_gguf_corpus_refused("quantize", |command, output| {
        command.arg(output).args(["--type", "Q8_0"]);
    });
}

#[test]
fn export_refuses_broken_files_and_writes_nothing() {
    assert_gguf_corpus_refused("export", |command, output| {
        command.arg("--output").arg(output);
    });
}

#[test]
fn generate_refuses_broken_files() {
    assert_gguf_corpus_refused("generate", |command, _| {
        command.args(["--prompt", "Once", "--max-tokens", "1"]);
    });
}

#[test]
fn convert_refuses_broken_weights_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    TinyModel { layers: 1, ..TinyModel::default() }.write(&model);
    let checkpoint = directory.path().join("checkpoint");
    quantkit().arg("export").arg(&model).arg("--output").arg(&checkpoint).assert().success();
    let output = directory.path().join("out.gguf");
    let weights = checkpoint.join("model.safetensors");
    for file in broken_safetensors() {
        std::fs::write(&weights, &file.bytes).unwrap();
        let mut command = quantkit();
        command.arg("convert").arg(&checkpoint).arg("--output").arg(&output);
        assert_refused(&mut command, &weights, file.message);
    }
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_model_cut_anywhere_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("whole.gguf");
    TinyModel { layers: 1, ..TinyModel::default() }.write(&path);
    let bytes = std::fs::read(&path).unwrap();
    let cut = directory.path().join("cut.gguf");
    // The last tensor is longer than its padding, so that one byte less than it is missed too.
    let lengths = (0..40).map(|step| step * bytes.len() / 40).chain([1, 3, 4, 8, 23, 24]);
    for length in lengths {
        std::fs::write(&cut, &bytes[..length]).unwrap();
        assert_refused(quantkit().arg("inspect").arg(&cut), &cut, "");
    }
}

#[test]
fn a_huge_sparse_file_is_refused_in_little_memory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sparse.gguf");
    let strings = array("a", 8, 1 << 36, &[]);
    std::fs::write(&path, RawGguf { data: vec![], ..RawGguf::new() }.entry(strings).build())
        .unwrap();
    // Room for all the declared strings, without a byte on the disk.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert_refused(quantkit().arg("inspect").arg(&path), &path, "strings");
}

#[test]
fn files_of_other_kinds_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.bin");
    std::fs::write(&path, b"PK\x03\x04 a zip file").unwrap();
    assert_refused(quantkit().arg("inspect").arg(&path), &path, "PK\\x03\\x04");
    let absent = directory.path().join("absent.gguf");
    assert_refused(quantkit().arg("inspect").arg(&absent), &absent, "No such file");
}

#[test]
fn broken_checkpoint_directories_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let index = |map: &str| format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#);
    let refused = |files: &[(&str, &[u8])], named: &str, message: &str| {
        let checkpoint = tempfile::tempdir_in(directory.path()).unwrap();
        for (name, bytes) in files {
            std::fs::write(checkpoint.path().join(name), bytes).unwrap();
        }
        let mut command = quantkit();
        assert_refused(
            command.arg("inspect").arg(checkpoint.path()),
            &checkpoint.path().join(named),
            message,
        );
    };
    let index_name = "model.safetensors.index.json";
    let shard_name = "model-00001-of-00002.safetensors";
    let shard = one_tensor("F32", "[2]", "[0,8]", 8);

    refused(&[], "", "expected model.safetensors or model.safetensors.index.json");
    refused(&[("pytorch_model.bin", b"")], "", "save_pretrained");
    refused(&[(index_name, b"{")], index_name, "weight_map");
    refused(&[(index_name, b"{\"weight_map\":[]}")], index_name, "weight_map");
    let missing = index(&format!(r#"{{"a":"{shard_name}","b":"missing.safetensors"}}"#));
    refused(
        &[(index_name, missing.as_bytes()), (shard_name, &shard)],
        "missing.safetensors",
        "is missing; download it",
    );
    let absent_tensor = index(&format!(r#"{{"a":"{shard_name}","b":"{shard_name}"}}"#));
    refused(
        &[(index_name, absent_tensor.as_bytes()), (shard_name, &shard)],
        shard_name,
        "expected tensor \"b\"",
    );
    for outside in ["/etc/passwd", "../other.safetensors", "sub/shard.safetensors", "..", ""] {
        let map = index(&format!(r#"{{"a":"{outside}"}}"#));
        refused(&[(index_name, map.as_bytes())], index_name, "same directory");
    }
    let cut = &shard[..shard.len() - 1];
    let one = index(&format!(r#"{{"a":"{shard_name}"}}"#));
    refused(&[(index_name, one.as_bytes()), (shard_name, cut)], shard_name, "bytes of data");
}

/// The cases that are kept as files too, from which the fuzz targets start.
const SEEDS: [&str; 8] = [
    "dimensions-outrun-data.gguf",
    "sizes-overflow-together.gguf",
    "string-length-2-63.gguf",
    "nested-array.gguf",
    "overlap.gguf",
    "header-length-2-63.safetensors",
    "offsets-past-end.safetensors",
    "offsets-wrap.safetensors",
];

/// Set `QUANTKIT_WRITE_SEEDS` to write the files again.
#[test]
fn the_kept_files_are_those_of_the_corpus() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/broken");
    let corpus =
        broken_gguf().into_iter().map(|file| (format!("{}.gguf", file.name), file.bytes)).chain(
            broken_safetensors()
                .into_iter()
                .map(|file| (format!("{}.safetensors", file.name), file.bytes)),
        );
    let mut found = 0;
    for (name, bytes) in corpus.filter(|(name, _)| SEEDS.contains(&name.as_str())) {
        let path = kept.join(&name);
        if std::env::var_os("QUANTKIT_WRITE_SEEDS").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
        found += 1;
    }
    assert_eq!(found, SEEDS.len());
}
