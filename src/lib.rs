//! quantkit: quantize language models, and measure what is lost and what is gained.
//!
//! The modules are listed in the order in which data flows. A module may use the modules listed
//! above it, never those below it. Only [`cli`] knows about command lines.

/// Shared plumbing: progress, tables, hashing, atomically written outputs, interruption.
pub mod support;

/// S3-compatible storage in place of paths: a cache for what is read, a mirror of what is written.
pub mod storage;

/// The GGUF container: typed metadata, tensor directory, mapped reading, streaming writing.
pub mod gguf;

/// The language of chat templates: Jinja as transformers runs it, in bounded time and memory.
pub mod jinja;

/// A Hugging Face checkpoint directory: config, safetensors shards, tokenizer; and fetching one.
pub mod checkpoint;

/// Block formats, the recipe that chooses one for each tensor, and the quantization pipeline.
pub mod quant;

/// Vocabularies: the tokenizer that a GGUF file and a checkpoint both describe.
pub mod tokenizer;

/// What quantkit knows about each model family: its names, config fields, tensors and layers.
pub mod family;

/// Converts a checkpoint to GGUF, and GGUF back to a checkpoint.
pub mod convert;

/// What a model file holds, and how two of them differ.
pub mod inspect;

/// CPU kernels: a scalar version, one file per instruction set, and one place that picks a set.
pub mod kernels;

/// The decoder, which runs the layers that [`family`] describes, and its key-value cache.
pub mod model;

/// Sequences, batches, scheduler, sampler: the only door to a running model.
pub mod engine;

/// Question sets, prompts, scoring and statistics.
pub mod eval;

/// The best format for each tensor at a given size.
pub mod search;

/// Load generation and its metrics.
pub mod bench;

/// Serves running models over the protocols that people's tools speak.
pub mod server;

/// Turns the records of runs into tables, plots and pages.
pub mod report;

/// The command line, one file per subcommand: it parses arguments, calls the library and prints.
pub mod cli;
