//! What several end-to-end tests need: the built binary, and tiny models to run it on.

#![allow(dead_code)] // Each test file uses its own part.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use assert_cmd::Command;
use half::f16;
use quantkit::gguf::{Array, GgmlType, GgufWriter, Metadata, TensorPlan, Value};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

/// Sends a signal to a child that has not been waited for.
#[cfg(unix)]
pub fn send(child: &Child, signal: i32) {
    // SAFETY: the child was not waited for yet, so its number is its own.
    unsafe { libc::kill(child.id() as i32, signal) };
}

/// Starts a run, and comes back once it has got so far, or has ended.
#[cfg(unix)]
pub fn start_until(command: &mut Process, so_far: impl Fn() -> bool) -> Child {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !so_far() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

/// What a command that succeeds prints.
pub fn stdout_of(command: &mut Command) -> String {
    let assert = command.assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).expect("text")
}

/// Line breaks in a file; 0 where there is none.
pub fn count_lines(path: impl AsRef<Path>) -> usize {
    fs::read(path).map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count())
}

/// The names in a directory, sorted.
pub fn files_in(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The bytes of a part of a split model, without what it has in common with the others.
pub fn without_identity(part: &Path) -> Vec<u8> {
    const KEY: &[u8] = b"quantkit.split.identity";
    let mut bytes = fs::read(part).expect("a part");
    let key = bytes.windows(KEY.len()).position(|window| window == KEY).expect("it has the key");
    // The value's type and length lie between.
    let start = key + KEY.len() + 4 + 8;
    bytes[start..start + 32].fill(b'0');
    bytes
}

/// The built binary, quiet about progress and with two threads.
pub fn quantkit() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantkit"));
    command.args(["--quiet", "--threads", "2"]);
    command
}

/// A model of the llama family with random weights. It babbles, but it does so reproducibly, and
/// has every part that a real one has.
#[derive(Debug, Clone)]
pub struct TinyModel {
    /// Width of the residual stream. A multiple of 256 makes super-block formats possible.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Context length.
    pub context: usize,
    /// F32, F16 or BF16: the type of the matrices.
    pub weights: GgmlType,
    /// Whether the output matrix is the token embedding.
    pub tied_output: bool,
    /// Seed of the weights.
    pub seed: u64,
}

impl Default for TinyModel {
    fn default() -> Self {
        Self {
            hidden: 64,
            feed_forward: 128,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            context: 512,
            weights: GgmlType::F16,
            tied_output: true,
            seed: 1,
        }
    }
}

/// A tiny model `f16.gguf`, its variants `Q8_0.gguf` and `Q4_0.gguf`, and a text `text.txt`.
pub struct VariantBench {
    dir: TempDir,
}

impl VariantBench {
    pub fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        TinyModel::default().write(&bench.path("f16.gguf"));
        for recipe in ["Q8_0", "Q4_0"] {
            let mut quantize = quantkit();
            quantize.arg("quantize").arg(bench.path("f16.gguf"));
            quantize.arg(bench.path(&format!("{recipe}.gguf"))).args(["--type", recipe]);
            quantize.assert().success();
        }
        let text: String = (0..400).map(|n| format!("the {} on a tin\n", n * n % 97)).collect();
        fs::write(bench.path("text.txt"), text).unwrap();
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Merges of the tiny vocabulary; the byte-level alphabet writes a space as Ġ.
const MERGES: [(&str, &str); 8] = [
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġt", "he"),
    ("Ġ", "a"),
    ("i", "n"),
    ("e", "r"),
    ("o", "n"),
    ("Ġ", "A"),
];

/// Special tokens, which come first: beginning, end of text and end of turn.
const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

const CHAT_TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + \
    '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

impl TinyModel {
    /// Writes the model as a GGUF file.
    pub fn write(&self, path: &Path) {
        let tensors = self.tensors();
        let plans = tensors.iter().map(|(plan, _)| plan.clone()).collect();
        let mut writer = GgufWriter::create(path, &self.metadata(), plans).expect("a new file");
        let mut random = StdRng::seed_from_u64(self.seed);
        for (plan, deviation) in &tensors {
            writer.write(&random_bytes(plan, *deviation, &mut random)).expect("room on the disk");
        }
        writer.finish().expect("all tensors written");
    }

    /// Number of tokens in the vocabulary.
    pub fn vocabulary_size(&self) -> usize {
        SPECIALS.len() + 256 + MERGES.len()
    }

    fn head_size(&self) -> usize {
        self.hidden / self.heads
    }

    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new();
        let text = |text: &str| Value::String(text.to_string());
        let number = |number: usize| Value::U32(number as u32);
        let architecture = [
            ("context_length", self.context),
            ("embedding_length", self.hidden),
            ("block_count", self.layers),
            ("feed_forward_length", self.feed_forward),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("rope.dimension_count", self.head_size()),
            ("vocab_size", self.vocabulary_size()),
        ];
        metadata.set("general.architecture", text("llama"));
        metadata.set("general.name", text("Tiny"));
        metadata.set("general.file_type", number(1));
        for (key, value) in architecture {
            metadata.set(format!("llama.{key}"), number(value));
        }
        metadata.set("llama.rope.freq_base", Value::F32(10_000.0));
        metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        let tokens = vocabulary_tokens();
        let kinds = (0..tokens.len()).map(|index| if index < SPECIALS.len() { 3 } else { 1 });
        let merges = MERGES.iter().map(|(left, right)| format!("{left} {right}"));
        metadata.set("tokenizer.ggml.model", text("gpt2"));
        metadata.set("tokenizer.ggml.pre", text("smollm"));
        metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds.collect())));
        metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        metadata.set("tokenizer.ggml.merges", Value::Array(Array::String(merges.collect())));
        metadata.set("tokenizer.ggml.bos_token_id", number(1));
        metadata.set("tokenizer.ggml.eos_token_id", number(2));
        metadata.set("tokenizer.ggml.unknown_token_id", number(0));
        metadata.set("tokenizer.ggml.padding_token_id", number(2));
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
        metadata.set("tokenizer.chat_template", text(CHAT_TEMPLATE));
        metadata
    }

    /// Every tensor with the standard deviation of its weights; 0 for norms, which are near 1.
    fn tensors(&self) -> Vec<(TensorPlan, f32)> {
        let Self { hidden, feed_forward, heads, kv_heads, .. } = *self;
        let (queries, keys) = (heads * self.head_size(), kv_heads * self.head_size());
        let matrix = |name: String, columns: usize, rows: usize| {
            let dimensions = vec![columns as u64, rows as u64];
            let plan = TensorPlan { name, dimensions, ggml_type: self.weights };
            (plan, 1.0 / (columns as f32).sqrt())
        };
        let norm = |name: String| {
            let dimensions = vec![hidden as u64];
            (TensorPlan { name, dimensions, ggml_type: GgmlType::F32 }, 0.0)
        };
        let vocabulary = self.vocabulary_size();
        let mut tensors = vec![matrix("token_embd.weight".into(), hidden, vocabulary)];
        for layer in 0..self.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            tensors.extend([
                norm(name("attn_norm")),
                matrix(name("attn_q"), hidden, queries),
                matrix(name("attn_k"), hidden, keys),
                matrix(name("attn_v"), hidden, keys),
                matrix(name("attn_output"), queries, hidden),
                norm(name("ffn_norm")),
                matrix(name("ffn_gate"), hidden, feed_forward),
                matrix(name("ffn_up"), hidden, feed_forward),
                matrix(name("ffn_down"), feed_forward, hidden),
            ]);
        }
        tensors.push(norm("output_norm.weight".into()));
        if !self.tied_output {
            tensors.push(matrix("output.weight".into(), hidden, vocabulary));
        }
        tensors
    }
}

fn random_bytes(plan: &TensorPlan, deviation: f32, random: &mut StdRng) -> Vec<u8> {
    let count: u64 = plan.dimensions.iter().product();
    // The sum of four uniform draws is close enough to a normal one; its variance is 4/12.
    let mut draw = || (0..4).map(|_| random.random::<f32>() - 0.5).sum::<f32>() * 3f32.sqrt();
    let values = (0..count).map(|_| match deviation {
        0.0 => 1.0 + 0.1 * draw(),
        _ => deviation * draw(),
    });
    match plan.ggml_type {
        GgmlType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        GgmlType::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
        GgmlType::BF16 => {
            values.flat_map(|value| half::bf16::from_f32(value).to_le_bytes()).collect()
        }
        other => panic!("tiny models are not written as {other}"),
    }
}

/// Specials, the 256 bytes in the byte-level alphabet of GPT-2, and the merged tokens.
fn vocabulary_tokens() -> Vec<String> {
    let specials = SPECIALS.iter().map(ToString::to_string);
    let merged = MERGES.iter().map(|(left, right)| format!("{left}{right}"));
    specials.chain(byte_alphabet().into_iter().map(String::from)).chain(merged).collect()
}

/// GPT-2's name for each byte: itself where printable, else the next free character from U+0100.
fn byte_alphabet() -> Vec<char> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut replacement = '\u{100}'..;
    (0..=255u8)
        .map(
            |byte| {
                if printable(byte) {
                    char::from(byte)
                } else {
                    replacement.next().expect("endless")
                }
            },
        )
        .collect()
}
