//! Options that every subcommand shares.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::{DeviceChoice, EngineOptions};
use crate::eval::{Earlier, EvalError, WindowJournalOptions};
use crate::gguf::{self, GgmlType, GgufFile};
use crate::kernels::attention::KvType;
use crate::kernels::matmul::ActivationBits;
use crate::quant::formats;
use crate::storage;
use crate::support::atomic_file::write_atomically;
use crate::support::finished::{self, NOTE, Outcome};
use crate::support::{interrupt, printable};

/// What a reading that was stopped has so far.
const JOURNAL_NAME: &str = "journal.jsonl";

/// Options that stand before or after any subcommand.
#[derive(Debug, Clone, clap::Args)]
pub struct GlobalOptions {
    /// Print the result as one JSON document on standard output
    #[arg(long, global = true)]
    pub json: bool,

    /// Show no progress bars
    #[arg(long, short, global = true)]
    pub quiet: bool,

    /// Log to standard error; twice for more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Threads to compute with [default: physical cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

/// The options of the subcommands that run a model for its results.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineFlags {
    #[command(flatten)]
    device: DeviceOptions,

    #[command(flatten)]
    kernels: KernelFlags,
}

impl EngineFlags {
    /// What they say.
    pub fn options(&self) -> EngineOptions {
        let KernelFlags { kv_type, activations } = self.kernels;
        EngineOptions { device: self.device.device.0, kv_type, activations }
    }
}

/// How the CPU computes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct KernelFlags {
    /// Elements of the key-value cache on the CPU: i8 takes half the memory and time of i16
    #[arg(long, value_name = "TYPE", value_parser = kv_type_parser(),
          long_help = "Elements of the key-value cache on the CPU, i16 or i8 [default: i16]. Each \
                       row has a scale of its own: i16 is more precise than f16; i8 takes half the \
                       memory. On a CUDA device the cache holds f16.")]
    pub(super) kv_type: Option<KvType>,

    /// Bits that activations are rounded to in products with quantized weights: 16 is nearly exact
    #[arg(long, value_name = "BITS", default_value = "8", value_parser = activations_parser(),
          long_help = "Bits that activations are rounded to in products with quantized weights, 8 \
                       or 16. 8 is fast and what llama.cpp does. 16 is nearly exact, so that what is \
                       measured is due to the weights alone; products take up to twice the time. \
                       Weights in F32, F16 and BF16 are multiplied with activations in f32 either \
                       way. On a CUDA device it is 8.")]
    pub(super) activations: ActivationBits,
}

/// Where the subcommands that read a text keep what they find.
#[derive(Debug, Clone, clap::Args)]
pub struct ReadingFlags {
    /// Write the result into this directory, and what has been read so far: a run that was stopped
    /// goes on when the same command is given again
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Replace what is in DIR: the result of another run, or what an unfinished one has left
    #[arg(long, requires = "output")]
    overwrite: bool,
}

impl ReadingFlags {
    /// Where in the directory the run keeps what it has.
    pub(super) fn journal(&self) -> Result<Option<WindowJournalOptions>> {
        let Some(directory) = &self.output else { return Ok(None) };
        if storage::is_address(directory) {
            bail!("{}: give a directory on this machine", directory.display());
        }
        let earlier = if self.overwrite { Earlier::Discard } else { Earlier::Resume };
        Ok(Some(WindowJournalOptions { path: directory.join(JOURNAL_NAME), earlier }))
    }

    /// The result that is in the directory, if it is the one that is asked for. `wanted` is only made
    /// where there is one, and gives what it is held against.
    pub(super) fn earlier<T: DeserializeOwned, W>(
        &self,
        name: &str,
        wanted: impl FnOnce() -> Result<W>,
        mismatch: impl Fn(&T, &W) -> Option<&'static str>,
    ) -> Result<Option<T>> {
        let (Some(directory), Some(journal)) = (&self.output, self.journal()?) else {
            return Ok(None);
        };
        let path = directory.join(name);
        // A run whose journal is there has begun to replace the result.
        if self.overwrite || journal.path.exists() || !path.exists() {
            return Ok(None);
        }
        let wanted = wanted()?;
        finished::read(&path, |found| mismatch(found, &wanted)).map_err(anyhow::Error::msg)
    }

    /// What is said of an error of the run: where to go on from, if it was stopped.
    pub(super) fn explain(&self, error: EvalError) -> anyhow::Error {
        match &self.output {
            Some(directory) if interrupt::requested() => {
                anyhow::Error::new(error).context(format!(
                    "what has been read is kept in {}; {}",
                    directory.display(),
                    same_command(self.overwrite)
                ))
            }
            _ => error.into(),
        }
    }

    /// Writes the result, if it is wanted; what the run has kept is then of no more use.
    pub(super) fn keep(&self, name: &str, result: &impl Serialize) -> Result<()> {
        let Some(directory) = &self.output else { return Ok(()) };
        let path = directory.join(name);
        let text = serde_json::to_string_pretty(result).context("cannot write the result")? + "\n";
        write_atomically(&path, text.as_bytes())
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        self.journal()?.map_or(Ok(()), |journal| Ok(journal.remove()?))
    }
}

/// Takes a number of bits.
fn activations_parser() -> impl TypedValueParser<Value = ActivationBits> {
    PossibleValuesParser::new(["8", "16"]).map(|bits| {
        let all = ActivationBits::ALL.into_iter();
        let mut wanted = all.filter(|choice| choice.bits().to_string() == bits);
        wanted.next().expect("the parser has only let these numbers through")
    })
}

/// Takes the name of a type of the key-value cache.
fn kv_type_parser() -> impl TypedValueParser<Value = KvType> {
    PossibleValuesParser::new(KvType::ALL.map(KvType::name)).map(|name| {
        let kind = KvType::ALL.into_iter().find(|kind| kind.name() == name);
        kind.expect("the parser has only let these names through")
    })
}

impl DeviceOptions {
    /// What they say.
    pub fn options(&self) -> EngineOptions {
        EngineOptions { device: self.device.0, ..EngineOptions::default() }
    }
}

/// The device option of the subcommands that run a model.
#[derive(Debug, Clone, clap::Args)]
pub struct DeviceOptions {
    /// Where the model runs: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: Device,
}

/// `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy)]
pub struct Device(pub DeviceChoice);

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let choice = match text {
            "cpu" => DeviceChoice::Cpu,
            "cuda" => DeviceChoice::Cuda(0),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(number)) => DeviceChoice::Cuda(number),
                _ => return Err(format!("expected cpu, cuda or cuda:N, found {text}")),
            },
        };
        Ok(Self(choice))
    }
}

/// The formats that weights can be quantized to, by name.
pub(super) fn format_names() -> impl Iterator<Item = &'static str> {
    formats::known().filter(|&format| formats::can_quantize(format)).map(GgmlType::name)
}

/// Takes the name of one of [`format_names`].
pub(super) fn format_parser() -> impl TypedValueParser<Value = GgmlType> {
    let names: Vec<&str> = format_names().collect();
    PossibleValuesParser::new(names).map(|name| {
        GgmlType::from_name(&name).expect("the parser has only let names of formats through")
    })
}

/// How a run that was stopped goes on.
pub(super) fn same_command(overwritten: bool) -> &'static str {
    if overwritten {
        "the same command without --overwrite goes on from there"
    } else {
        "the same command goes on from there"
    }
}

/// The hash that results name a model by.
pub(super) fn model_sha256(model: &Path) -> Result<String> {
    Ok(gguf::identify(&GgufFile::open(model)?)?.sha256)
}

/// Prints text on standard output, with what steers a terminal escaped. Unlike `print!` it does not
/// panic when that fails; a reader that has gone away wants no more, which is no error.
pub fn print_text(text: &str) -> Result<()> {
    print(&printable::lines(text))
}

fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// `println!` by way of [`print_text`]: gives a `Result`.
macro_rules! say {
    () => { $crate::cli::options::print_text("\n") };
    ($($words:tt)+) => {
        $crate::cli::options::print_text(&format!("{}\n", format_args!($($words)+)))
    };
}
pub(super) use say;

/// Prints one JSON document on standard output.
pub fn print_json(document: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document).context("cannot write the result as JSON")?;
    print(&printable::json(&(text + "\n")))
}

/// Prints a result, and whether it was there already.
pub(super) fn print_outcome<T: Serialize>(
    outcome: &Outcome<T>,
    global: &GlobalOptions,
    print: impl FnOnce(&T) -> Result<()>,
) -> Result<()> {
    if global.json {
        return print_json(outcome);
    }
    print(&outcome.result)?;
    if outcome.reused { say!("{NOTE}") } else { Ok(()) }
}

/// Logs go to standard error: warnings by default, `-v` information, `-vv` everything of ours.
/// `RUST_LOG` overrides.
pub(super) fn start_logging(verbose: u8) {
    let level = ["warn", "quantkit=info,warn", "quantkit=trace,info"][usize::from(verbose.min(2))];
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// Sizes the process's thread pool.
pub(super) fn start_threads(threads: Option<u16>) -> Result<()> {
    let threads = threads.map_or_else(num_cpus::get_physical, usize::from);
    if threads == 0 {
        bail!("the number of threads must be at least 1");
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("quantkit-{index}"))
        .build_global()
        .context("cannot start the thread pool")
}
