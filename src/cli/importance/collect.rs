//! `quantkit importance MODEL`: runs calibration text through the model.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::files::{Format, content};
use super::run_record::{self, CalibrationRun, Earlier};
use crate::cli::options::{DeviceOptions, GlobalOptions, print_json, say};
use crate::engine::Engine;
use crate::eval::text::TextFile;
use crate::eval::text::calibration::{CollectOptions, OUTPUT_MATRIX, collect};
use crate::gguf::{self, GgufFile};
use crate::quant::importance::{ActivationSums, DEFAULT_CHUNK_TOKENS};
use crate::support::path_text;
use crate::support::same_file::is_same_file;
use crate::support::{atomic_file, units};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The GGUF model, best in F16 or BF16
    #[arg(required = true)]
    model: Option<PathBuf>,

    /// The calibration text: UTF-8, one or more files
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    text: Vec<PathBuf>,

    /// Where the importance goes [default: MODEL with .imatrix.gguf at the end]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The file's format [default: dat for *.dat, else gguf]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// Collect on at most N chunks of the text [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,

    /// Tokens of a chunk [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,

    /// Leave out the first N chunks of the text
    #[arg(long, value_name = "N", default_value_t = 0)]
    from_chunk: u32,

    /// Also collect for the output matrix
    #[arg(long)]
    process_output: bool,

    /// Save progress after every N chunks
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..))]
    save_every: u32,

    /// Go on from what a stopped run has left beside the output, or from the GGUF file of a complete
    /// run
    #[arg(long)]
    resume: bool,

    #[command(flatten)]
    device: DeviceOptions,
}

/// What was collected.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(serialize_with = "path_text::one")]
    model: &'a Path,
    #[serde(serialize_with = "path_text::one")]
    output: &'a Path,
    datasets: &'a [String],
    tensors: usize,
    chunks: u32,
    chunk_tokens: u32,
    /// Chunks that were in the file already.
    resumed_chunks: u32,
    /// Wall time of the new chunks.
    seconds: f64,
    tokens_per_second: f64,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let Some(model) = &arguments.model else { bail!("which model? Name its GGUF file") };
    let default_output = model.with_extension("imatrix.gguf");
    let output = arguments.output.as_deref().unwrap_or(&default_output);
    let format = Format::of(arguments.format, output);
    let file = GgufFile::open(model)?;
    refuse_inputs(output, &file, &arguments.text)?;
    atomic_file::check_writable(output)
        .with_context(|| format!("cannot write {}", output.display()))?;
    let texts = arguments.text.iter().map(|path| TextFile::read(path));
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    let identity = gguf::identify(&file)?;
    let run = CalibrationRun::of(&identity, &texts, arguments.from_chunk, arguments.process_output);
    let earlier = if arguments.resume { run.earlier_sums(output, format)? } else { None };

    let mut engine = Engine::load_file(file, arguments.device.options())?;
    let chunk_tokens = chunk_tokens(arguments, &engine)?;
    let names: Vec<_> = arguments.text.iter().map(|path| path.display().to_string()).collect();
    let mut has_begun = earlier.as_ref().is_some_and(|earlier| earlier.path != output);
    let mut sums = match earlier {
        Some(Earlier { sums, path }) => continued(sums, &names, chunk_tokens)
            .with_context(|| format!("{} cannot be continued", path.display()))?,
        None => ActivationSums::new(names, chunk_tokens),
    };
    let options = CollectOptions {
        texts,
        chunk_tokens: chunk_tokens as usize,
        first_chunk: arguments.from_chunk as usize,
        chunks: arguments.chunks.map(|chunks| chunks as usize),
        process_output: arguments.process_output,
        save_every: arguments.save_every as usize,
    };
    let resumed_chunks = sums.chunks();
    let started = Instant::now();
    let mut save = |sums: &ActivationSums| {
        identity.inputs.check()?;
        if !std::mem::replace(&mut has_begun, true) {
            run.begin(output)?;
        }
        run_record::keep(sums, output)
    };
    let result = collect(&mut engine, &options, &mut sums, &mut save);
    // A stopped run keeps the chunks since the last save, too.
    let wanted = result.as_ref().map_or(u32::MAX, |&chunks| chunks as u32);
    if (resumed_chunks + 1..wanted).contains(&sums.chunks()) {
        save(&sums)?;
    }
    let chunks = result? as u32;
    if sums.chunks() < chunks {
        bail!("{}", how_to_go_on(&sums, chunks, output));
    }
    if sums.chunks() > chunks {
        bail!(
            "{} holds {} chunks already, more than the {chunks} that are wanted; leave out --resume \
             to collect anew",
            output.display(),
            sums.chunks(),
        );
    }
    identity.inputs.check()?;
    sums.write(output, format.into())?;
    run_record::remove(output);
    note_few_chunks(arguments.chunks, chunks);
    if arguments.process_output && sums.tensors().all(|(name, _)| name != OUTPUT_MATRIX) {
        tracing::warn!(
            "the model's output matrix is its token embedding, for which nothing is collected"
        );
    }
    let report = report(model, output, &sums, resumed_chunks, started.elapsed());
    if global.json { print_json(&report) } else { print_report(&report, &sums) }
}

fn refuse_inputs(output: &Path, model: &GgufFile, texts: &[PathBuf]) -> Result<()> {
    let mut inputs = model.part_paths().chain(texts.iter().map(PathBuf::as_path));
    if inputs.any(|input| is_same_file(output, input)) {
        bail!("{}: the output is one of the inputs; give it another name", output.display());
    }
    Ok(())
}

fn chunk_tokens(arguments: &Arguments, engine: &Engine) -> Result<u32> {
    let longest = u32::try_from(engine.context_length()).unwrap_or(u32::MAX);
    match arguments.context {
        Some(context) if context > longest => {
            bail!("--context {context}: the model's context holds {longest} tokens")
        }
        Some(context) => Ok(context),
        None => Ok(DEFAULT_CHUNK_TOKENS.min(longest)),
    }
}

fn note_few_chunks(wanted: Option<u32>, chunks: u32) {
    if let Some(wanted) = wanted.filter(|&wanted| wanted > chunks) {
        tracing::warn!("the text has {chunks} chunks, fewer than the {wanted} asked for");
    }
}

/// Checks that a run with these chunks of this text has written `earlier`.
fn continued(
    earlier: ActivationSums,
    names: &[String],
    chunk_tokens: u32,
) -> Result<ActivationSums> {
    if earlier.datasets() != names {
        let others = earlier.datasets().join(", ");
        bail!("it was collected on {others}, not on {}", names.join(", "));
    }
    if earlier.chunk_tokens() != Some(chunk_tokens) {
        bail!("it was not collected in chunks of {chunk_tokens} tokens");
    }
    let tokens = u64::from(earlier.chunks()) * u64::from(chunk_tokens);
    if let Some((name, _)) = earlier.tensors().find(|(_, tensor)| tensor.counts != [tokens]) {
        bail!("{name} was not collected on {} chunks exactly", earlier.chunks());
    }
    Ok(earlier)
}

fn how_to_go_on(sums: &ActivationSums, chunks: u32, output: &Path) -> String {
    match sums.chunks() {
        0 => "no chunk was complete, nothing is saved".to_string(),
        done => format!(
            "{done} of {chunks} chunks are in {}; the same command with --resume goes on",
            run_record::unfinished_path(output).display()
        ),
    }
}

fn report<'a>(
    model: &'a Path,
    output: &'a Path,
    sums: &'a ActivationSums,
    resumed_chunks: u32,
    elapsed: Duration,
) -> Report<'a> {
    let (chunks, chunk_tokens) = (sums.chunks(), sums.chunk_tokens().unwrap_or_default());
    let seconds = elapsed.as_secs_f64();
    let tokens = f64::from(chunks - resumed_chunks) * f64::from(chunk_tokens);
    Report {
        model,
        output,
        datasets: sums.datasets(),
        tensors: sums.tensors().len(),
        chunks,
        chunk_tokens,
        resumed_chunks,
        seconds,
        tokens_per_second: tokens / seconds,
    }
}

fn print_report(report: &Report<'_>, sums: &ActivationSums) -> Result<()> {
    let output = report.output.display();
    let content = content(sums);
    if report.chunks == report.resumed_chunks {
        return say!("{output}: {content}, complete already");
    }
    say!(
        "{output}: {content}, in {} ({:.0} tokens/s)",
        units::seconds(report.seconds),
        report.tokens_per_second
    )
}
