//! Writes a GGUF file of any family with random weights: something of any size to measure
//! `quantize`, `bench` and other programs on. The same options make the same file.
//!
//! ```text
//! cargo run --release --example random_model -- random.gguf --tokenizer-from model.gguf
//! cargo run --release --example random_model -- gemma3.gguf --family gemma3 --tied \\
//!     --set attention.sliding_window=512
//! ```
//! The defaults make a model of 1.43 B weights (2.87 GB). Without `--tokenizer-from` the vocabulary
//! is the 256 bytes and tokens that no text contains, which is enough to load and run the model.

use std::f32::consts::TAU;
use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use clap::Parser;
use half::f16;
use quantkit::family::{Dimensions, Family, TensorSpec};
use quantkit::gguf::{Array, GgmlType, GgufFile, GgufWriter, Metadata, TensorPlan, Value};
use quantkit::support::progress::{Progress, Unit};
use rayon::prelude::*;

/// Write a GGUF file of a model family with random F16 weights
#[derive(Debug, Parser)]
struct Arguments {
    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Take the tokenizer of this GGUF file; its vocabulary replaces --vocabulary
    #[arg(long, value_name = "FILE")]
    tokenizer_from: Option<PathBuf>,
    /// The family, by its GGUF architecture
    #[arg(long, default_value = "llama")]
    family: String,
    /// A metadata key of the family, without its prefix, and its value: a whole number, a number with a
    /// point, true or false
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Give matrices the biases that the family may have
    #[arg(long)]
    biases: bool,
    /// Width of a head, where it is not that of the residual stream over the heads
    #[arg(long)]
    head_size: Option<usize>,
    /// Width of the residual stream
    #[arg(long, default_value_t = 2048)]
    hidden: usize,
    /// Width inside the feed-forward block
    #[arg(long, default_value_t = 5632)]
    feed_forward: usize,
    /// Decoder layers
    #[arg(long, default_value_t = 24)]
    layers: usize,
    /// Query heads
    #[arg(long, default_value_t = 32)]
    heads: usize,
    /// Key and value heads; as many as query heads where absent
    #[arg(long)]
    key_value_heads: Option<usize>,
    /// Tokens in the vocabulary, at least 258
    #[arg(long, default_value_t = 49_152)]
    vocabulary: usize,
    /// Longest context, in tokens
    #[arg(long, default_value_t = 4096)]
    context: usize,
    /// Use the embedding as the output matrix
    #[arg(long)]
    tied: bool,
    /// Seed of the weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Weights that one task draws; each task has a stream of random numbers of its own.
const TASK_WEIGHTS: usize = 1 << 14;
/// Weights that are drawn between two writes.
const PIECE_WEIGHTS: usize = TASK_WEIGHTS << 8;

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    let tokenizer = match &arguments.tokenizer_from {
        Some(path) => {
            let donor = GgufFile::open(path)?;
            let tokens = donor.metadata().strings("tokenizer.ggml.tokens").map_or(0, <[_]>::len);
            ensure!(tokens > 0, "{}: the file has no tokenizer", path.display());
            arguments.vocabulary = tokens;
            tokenizer_of(donor.metadata())
        }
        None => byte_tokenizer(arguments.vocabulary)?,
    };
    let metadata = arguments.metadata(&tokenizer)?;
    let tensors = arguments.tensors(&metadata)?;
    let weights: u64 = tensors.iter().map(|tensor| tensor.dimensions.iter().product::<u64>()).sum();
    let mut writer = GgufWriter::create(&arguments.output, &metadata, tensors.clone())?;
    let progress = Progress::new("drawing", weights, Unit::Items("weights"));
    for (index, tensor) in tensors.iter().enumerate() {
        write_tensor(&mut writer, tensor, arguments.seed, index as u64, &progress)?;
    }
    progress.finish();
    writer.finish()?;
    println!("{}: {weights} weights", arguments.output.display());
    Ok(())
}

impl Arguments {
    fn key_value_heads(&self) -> usize {
        self.key_value_heads.unwrap_or(self.heads)
    }

    fn metadata(&self, tokenizer: &[(String, Value)]) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        let text = |text: &str| Value::String(text.to_string());
        metadata.set("general.architecture", text(&self.family));
        metadata.set("general.type", text("model"));
        metadata.set("general.name", text("Random"));
        metadata.set("general.file_type", Value::U32(1));
        metadata.set("general.quantization_version", Value::U32(2));
        let key = |key: &str| format!("{}.{key}", self.family);
        for (name, number) in [
            ("block_count", self.layers),
            ("context_length", self.context),
            ("embedding_length", self.hidden),
            ("feed_forward_length", self.feed_forward),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.key_value_heads()),
            ("vocab_size", self.vocabulary),
        ] {
            metadata.set(key(name), Value::U32(number as u32));
        }
        if let Some(size) = self.head_size {
            metadata.set(key("attention.key_length"), Value::U32(size as u32));
            metadata.set(key("attention.value_length"), Value::U32(size as u32));
        }
        for epsilon in ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"] {
            metadata.set(key(epsilon), Value::F32(1e-5));
        }
        metadata.set(key("rope.freq_base"), Value::F32(10_000.0));
        for setting in &self.set {
            let (name, value) =
                setting.split_once('=').ok_or_else(|| anyhow!("--set {setting}: no value"))?;
            metadata.set(key(name), parsed(value)?);
        }
        for (key, value) in tokenizer {
            metadata.set(key.clone(), value.clone());
        }
        Ok(metadata)
    }

    fn tensors(&self, metadata: &Metadata) -> Result<Vec<TensorPlan>> {
        let family = Family::of_gguf(metadata).map_err(|problem| anyhow!(problem))?;
        let names = std::iter::empty();
        let dimensions = Dimensions::read(family, metadata, self.vocabulary, names)
            .map_err(|problem| anyhow!(problem))?;
        let is_wanted = |spec: &TensorSpec| match spec.gguf.as_str() {
            "output.weight" => !self.tied,
            name => !spec.optional || (self.biases && name.ends_with(".bias")),
        };
        let specs = (family.tensors)(&dimensions);
        Ok(specs.iter().filter(|spec| is_wanted(spec)).map(plan).collect())
    }
}

/// Norms and vectors are F32, matrices F16.
fn plan(spec: &TensorSpec) -> TensorPlan {
    let is_exact = spec.shape.len() < 2 || spec.gguf.ends_with("_norm.weight");
    TensorPlan {
        name: spec.gguf.clone(),
        dimensions: spec.shape.iter().rev().map(|&length| length as u64).collect(),
        ggml_type: if is_exact { GgmlType::F32 } else { GgmlType::F16 },
    }
}

/// A metadata value, by its look.
fn parsed(value: &str) -> Result<Value> {
    if let Ok(number) = value.parse::<u32>() {
        return Ok(Value::U32(number));
    }
    if let Ok(number) = value.parse::<f32>() {
        return Ok(Value::F32(number));
    }
    Ok(Value::Bool(value.parse().map_err(|_| anyhow!("{value} is no number, true or false"))?))
}

fn tokenizer_of(metadata: &Metadata) -> Vec<(String, Value)> {
    metadata
        .iter()
        .filter(|(key, _)| key.starts_with("tokenizer."))
        .map(|(key, value)| (key.to_string(), value.clone()))
        .collect()
}

/// The 256 bytes in GPT-2's alphabet, an end of text, one merged pair, as some readers expect a
/// byte-level vocabulary to have one, and tokens that nothing is cut into.
fn byte_tokenizer(vocabulary: usize) -> Result<Vec<(String, Value)>> {
    const BYTES: usize = 256;
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    const UNUSED: i32 = 5;
    ensure!(vocabulary >= BYTES + 2, "--vocabulary must be at least {}", BYTES + 2);
    let end_of_text = BYTES as u32;
    let mut tokens: Vec<String> = byte_alphabet().map(String::from).collect();
    tokens.extend(["<|endoftext|>", "th"].map(String::from));
    tokens.extend((tokens.len()..vocabulary).map(|index| format!("<|unused_{index}|>")));
    let mut kinds = vec![NORMAL; BYTES];
    kinds.extend([CONTROL, NORMAL]);
    kinds.resize(vocabulary, UNUSED);
    let entries = [
        ("model", Value::String("gpt2".to_string())),
        ("pre", Value::String("gpt-2".to_string())),
        ("tokens", Value::Array(Array::String(tokens))),
        ("token_type", Value::Array(Array::I32(kinds))),
        ("merges", Value::Array(Array::String(vec!["t h".to_string()]))),
        ("bos_token_id", Value::U32(end_of_text)),
        ("eos_token_id", Value::U32(end_of_text)),
        ("add_bos_token", Value::Bool(false)),
    ];
    Ok(entries.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).into())
}

/// GPT-2's name for each byte: itself where printable, else the next free character from U+0100.
fn byte_alphabet() -> impl Iterator<Item = char> {
    let mut replacement = '\u{100}'..;
    (0..=u8::MAX).map(move |byte| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        _ => replacement.next().expect("endless"),
    })
}

/// Norms are ones, biases zeros; the weights of a matrix have the variance that keeps activations near
/// 1.
fn write_tensor(
    writer: &mut GgufWriter,
    tensor: &TensorPlan,
    seed: u64,
    index: u64,
    progress: &Progress,
) -> Result<()> {
    let [columns, rest @ ..] = &tensor.dimensions[..] else { return Ok(()) };
    if tensor.ggml_type == GgmlType::F32 {
        let value: f32 = if tensor.name.ends_with(".bias") { 0.0 } else { 1.0 };
        let count = tensor.dimensions.iter().product::<u64>();
        let values: Vec<u8> = (0..count).flat_map(|_| value.to_le_bytes()).collect();
        return Ok(writer.write(&values)?);
    }
    let deviation = (*columns as f32).sqrt().recip();
    let weights = (columns * rest.iter().product::<u64>()) as usize;
    let mut piece = vec![0; PIECE_WEIGHTS.min(weights) * 2];
    for first in (0..weights).step_by(PIECE_WEIGHTS) {
        let count = PIECE_WEIGHTS.min(weights - first);
        piece[..count * 2].par_chunks_mut(TASK_WEIGHTS * 2).enumerate().for_each(
            |(task, bytes)| {
                let stream = (index << 32) + (first / TASK_WEIGHTS + task) as u64;
                let mut random = Random::new(seed, stream);
                for pair in bytes.chunks_mut(4) {
                    let normals = random.normals();
                    for (bytes, normal) in pair.chunks_exact_mut(2).zip(normals) {
                        bytes.copy_from_slice(&f16::from_f32(normal * deviation).to_le_bytes());
                    }
                }
            },
        );
        writer.write(&piece[..count * 2])?;
        progress.advance(count as u64);
    }
    Ok(())
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine and in every version.
struct Random(u64);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        Self(mix(mix(seed) ^ stream))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Two independent draws from the normal distribution (Box and Muller 1958).
    fn normals(&mut self) -> [f32; 2] {
        let bits = self.next();
        // In (0, 1] and [0, 1).
        let unit = |bits: u32| (bits >> 8) as f32 / (1 << 24) as f32;
        let radius = (-2.0 * (1.0 - unit(bits as u32)).ln()).sqrt();
        let (sine, cosine) = (TAU * unit((bits >> 32) as u32)).sin_cos();
        [radius * cosine, radius * sine]
    }
}

fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}
