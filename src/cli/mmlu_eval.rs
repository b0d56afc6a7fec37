//! `quantkit mmlu-eval`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::command_line::command_line;
use super::options::{EngineFlags, GlobalOptions, print_json, same_command, say};
use crate::eval::{
    self, Earlier, EndpointOptions, EvalError, EvalOptions, EvalSummary, Protocol, RunComparison,
    Score, Shard, Unfinished, evaluate, evaluate_at,
};
use crate::report::paired_tables::{self, PairedRow};
use crate::support::finished::NOTE;
use crate::support::table::{ABSENT, Align, Table};
use crate::support::units;

/// Score a model on multiple-choice questions
///
/// The set is Parquet of MMLU, MMLU-Pro, ARC, HellaSwag, TruthfulQA or WinoGrande, MMLU's CSV files,
/// JSON lines, or llama.cpp's .bin; `quantkit eval-set` shows and converts sets. DIR gets run.json, summary.json and questions.parquet, which has the
/// log-probability of every choice, and with --baseline comparison.json. Results are kept as they come: a run that was stopped goes on
/// when the same command is given again. Model, set, results and baseline may be s3://BUCKET/KEY; docs/evaluation.md
/// lists the variables.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quantkit mmlu-eval model-Q4_0.gguf --set eval-sets/starter
  quantkit mmlu-eval model-Q4_0.gguf --set eval-sets/mmlu --protocol cloze --every 14 --output outputs/q4_0
  quantkit mmlu-eval model-Q4_0.gguf --set eval-sets/starter --baseline outputs/mmlu-eval-model-F16-starter-letter
  quantkit mmlu-eval --endpoint http://localhost:8000 --set eval-sets/mmlu --concurrency 32")]
pub struct Arguments {
    /// The GGUF model
    #[arg(required_unless_present = "endpoint", conflicts_with = "endpoint")]
    model: Option<PathBuf>,

    #[command(flatten)]
    server: ServerFlags,

    #[command(flatten)]
    questions: QuestionOptions,

    /// Where the results go [default: a directory in outputs that is
    /// named after the model, the set, the protocol and the choice of questions]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Compare with an earlier run of the same questions, question by question: the directory of its
    /// results, which --output named
    #[arg(long, value_name = "RESULTS")]
    baseline: Option<PathBuf>,

    /// Score only the I-th of N parts of the questions, I from 0; `quantkit merge` joins them
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,

    /// Most memory for keys and values
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = units::parse_bytes)]
    cache: u64,

    /// Replace what is in DIR: the results of another run, or what an unfinished one has left
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    engine: EngineFlags,
}

/// The options for a model that a server runs.
#[derive(Debug, Clone, clap::Args)]
struct ServerFlags {
    /// Score the model that this server runs: vLLM, SGLang, TensorRT-LLM, llama-server. A key is taken
    /// from OPENAI_API_KEY
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// The model's name there [default: the first that the server lists]
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    endpoint_model: Option<String>,

    /// Questions in flight at once
    #[arg(long, value_name = "N", default_value_t = 8, requires = "endpoint")]
    concurrency: usize,

    /// How long a whole answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "endpoint")]
    timeout: u64,

    /// How often a request that failed is sent again, after a wait that doubles each time
    #[arg(long, value_name = "N", default_value_t = 6, requires = "endpoint")]
    retries: u32,
}

impl ServerFlags {
    fn options(&self) -> Option<EndpointOptions> {
        let key = std::env::var("OPENAI_API_KEY").ok();
        Some(EndpointOptions {
            url: self.endpoint.clone()?,
            model: self.endpoint_model.clone(),
            api_key: key.filter(|key| !key.trim().is_empty()).map(|key| key.trim().to_string()),
            concurrency: self.concurrency,
            timeout: Duration::from_secs(self.timeout),
            retries: self.retries,
        })
    }
}

/// The options that say which questions are asked, and how; `compare` has them too.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct QuestionOptions {
    /// The questions: a file (.parquet, .csv, .jsonl, .bin), or a directory with the splits of a set
    #[arg(long, value_name = "PATH")]
    pub(super) set: PathBuf,

    /// How to ask
    #[arg(long, value_enum, default_value = "letter")]
    pub(super) protocol: ProtocolChoice,

    /// Examples from the dev split before each question [default: 5 for letter and chat, else 0]
    #[arg(long, value_name = "N")]
    pub(super) shots: Option<usize>,

    /// Score at most the first N questions of each subject
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,

    /// Score N questions: those that llama-perplexity --multiple-choice-tasks N draws
    #[arg(long, value_name = "N", conflicts_with = "limit")]
    pub(super) limit_seeded: Option<usize>,

    /// Score only rows 0, K, 2K, … of the set
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = parse_every)]
    pub(super) every: usize,

    /// Score only these subjects
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(super) subjects: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum ProtocolChoice {
    /// lm-evaluation-harness's mmlu: lettered choices, the letter is the answer
    Letter,
    /// The letter question through the model's chat template
    Chat,
    /// llama.cpp's --multiple-choice: mean log-probability of each choice's text
    Cloze,
    /// The harness's tasks that complete a text: log-probability by bytes, beside the sum
    ClozeNormalized,
}

impl From<ProtocolChoice> for Protocol {
    fn from(choice: ProtocolChoice) -> Self {
        match choice {
            ProtocolChoice::Letter => Self::Letter,
            ProtocolChoice::Chat => Self::Chat,
            ProtocolChoice::Cloze => Self::Cloze,
            ProtocolChoice::ClozeNormalized => Self::ClozeNormalized,
        }
    }
}

impl QuestionOptions {
    /// How to ask, and with how many shots.
    pub(super) fn protocol_and_shots(&self) -> (Protocol, usize) {
        let protocol = Protocol::from(self.protocol);
        (protocol, self.shots.unwrap_or(protocol.default_shots()))
    }
}

fn parse_every(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&every| every > 0).ok_or("expected a number from 1".to_string())
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let questions = &arguments.questions;
    let (protocol, shots) = questions.protocol_and_shots();
    let model = arguments.model.clone().unwrap_or_default();
    let output = arguments.output.clone().unwrap_or_else(|| {
        let served = arguments.server.endpoint_model.as_deref().unwrap_or("endpoint");
        let name = model.file_stem().map_or(served.into(), |stem| stem.to_string_lossy());
        default_output(&name, questions, arguments.shard)
    });
    let options = EvalOptions {
        model,
        set: questions.set.clone(),
        protocol,
        shots,
        limit: questions.limit,
        limit_seeded: questions.limit_seeded,
        every: questions.every,
        subjects: questions.subjects.clone(),
        shard: arguments.shard,
        cache_bytes: arguments.cache,
        earlier: if arguments.overwrite { Earlier::Discard } else { Earlier::Resume },
        baseline: arguments.baseline.clone(),
        command: command_line(),
        output,
        engine: arguments.engine.options(),
    };
    let result = match arguments.server.options() {
        Some(server) => evaluate_at(&options, &server),
        None => evaluate(&options),
    };
    let evaluated = match result {
        Err(stopped @ EvalError::Interrupted(_)) => {
            return Err(stopped).context(what_is_kept(&options.output, arguments.overwrite));
        }
        result => result?,
    };
    if global.json {
        return print_json(&evaluated);
    }
    print_summary(&evaluated.summary)?;
    if let Some(comparison) = &evaluated.comparison {
        say!()?;
        print_comparison(comparison)?;
    }
    say!("Results: {}", options.output.display())?;
    if evaluated.reused { say!("{NOTE}") } else { Ok(()) }
}

fn what_is_kept(output: &Path, overwritten: bool) -> String {
    match eval::unfinished(output) {
        Ok(Some(Unfinished { done, questions, .. })) => format!(
            "{done} of {questions} questions are scored and kept in {}; {}",
            output.display(),
            same_command(overwritten)
        ),
        _ => format!("nothing was written to {}", output.display()),
    }
}

/// A directory of its own for each model, set, way of asking and choice of questions.
fn default_output(model: &str, questions: &QuestionOptions, shard: Option<Shard>) -> PathBuf {
    let (protocol, shots) = questions.protocol_and_shots();
    let mut words = vec![
        "mmlu-eval".to_string(),
        model.to_string(),
        set_name(&questions.set),
        protocol.name().to_string(),
    ];
    if protocol.takes_shots() && shots != protocol.default_shots() {
        words.push(format!("{shots}-shots"));
    }
    if questions.every > 1 {
        words.push(format!("every-{}", questions.every));
    }
    words.extend(questions.subjects.iter().take(1).cloned());
    if questions.subjects.len() > 1 {
        words.push(format!("and-{}-subjects", questions.subjects.len() - 1));
    }
    words.extend(questions.limit.map(|limit| format!("limit-{limit}")));
    words.extend(questions.limit_seeded.map(|limit| format!("seeded-{limit}")));
    words.extend(shard.map(|Shard { index, count }| format!("{index}-of-{count}")));
    Path::new("outputs").join(words.join("-").replace(['/', '\\'], "-"))
}

/// A set's name: that of its path, or of the directory above a file that is only named after its split.
fn set_name(set: &Path) -> String {
    let name = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let own = name(set).unwrap_or_default();
    let is_split = |name: &str| {
        ["test", "validation", "dev"].iter().any(|split| {
            name.strip_prefix(split).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    };
    let above = set.parent().filter(|_| is_split(&own)).and_then(name);
    above.unwrap_or(own)
}

pub(super) fn print_summary(summary: &EvalSummary) -> Result<()> {
    let mut table = Table::new([
        ("", Align::Left),
        ("questions", Align::Right),
        ("right", Align::Right),
        ("accuracy", Align::Right),
        ("± s.e.", Align::Right),
        ("chance", Align::Right),
    ]);
    add_row(&mut table, &summary.overall, "");
    for score in &summary.categories {
        add_row(&mut table, score, "  ");
    }
    for score in &summary.subject_scores {
        add_row(&mut table, score, "    ");
    }
    let asked = summary.protocol.described(summary.shots);
    say!("{} on {}: {asked}; {}\n", summary.model, summary.set, summary.selection)?;
    for score in &summary.other_scores {
        add_row(&mut table, score, "by ");
    }
    say!("{}", table.to_text())?;
    say!(
        "{} questions in {}: {:.2} questions/s, {:.0} tokens/s ({} tokens run; {} without shared \
         prefixes)",
        units::count(summary.overall.questions as u64),
        units::seconds(summary.seconds),
        summary.questions_per_second,
        summary.tokens_per_second,
        units::count(summary.tokens_run),
        units::count(summary.tokens_naive),
    )?;
    match &summary.unscored[..] {
        [] => Ok(()),
        [first, ..] => say!(
            "{} more could not be scored and are left out of every figure; row {}: {}",
            units::count(summary.unscored.len() as u64),
            first.row,
            first.reason
        ),
    }
}

/// A run against its baseline: the tables of `compare`, and the sentence.
pub(super) fn print_comparison(comparison: &RunComparison) -> Result<()> {
    let RunComparison { baseline, run, paired, left_out, .. } = comparison;
    let rows = [(run.name.clone(), paired)];
    print_paired(&baseline.name, &rows)?;
    if let Some(table) = paired_tables::subject_differences(&rows) {
        say!("{}", table.to_text())?;
    }
    let calibrated = [baseline, run];
    let calibrated =
        calibrated.iter().filter_map(|run| Some((&*run.name, run.reliability.as_ref()?)));
    say!("{}", paired_tables::reliability(calibrated).to_text())?;
    say!("{}", comparison.verdict)?;
    if !left_out.is_empty() {
        say!(
            "{} questions are left out, as only one of the two runs has scored them.",
            units::count(left_out.len() as u64)
        )?;
    }
    Ok(())
}

/// How variants compare with a baseline question by question, for a terminal.
pub(super) fn print_paired(baseline: &str, variants: &[PairedRow<'_>]) -> Result<()> {
    say!("Against {baseline}, in points:\n")?;
    say!("{}", paired_tables::differences(variants).to_text())?;
    say!("{}", paired_tables::changes(variants).to_text())?;
    match paired_tables::category_differences(variants) {
        Some(table) => say!("{}", table.to_text()),
        None => Ok(()),
    }
}

fn add_row(table: &mut Table, score: &Score, indent: &str) {
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    table.row([
        format!("{indent}{}", score.name),
        units::count(score.questions as u64),
        units::count(score.correct as u64),
        percent(score.accuracy),
        score.standard_error.map_or(ABSENT.to_string(), percent),
        percent(score.chance),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(set: &str, change: impl FnOnce(&mut QuestionOptions)) -> String {
        let mut questions = QuestionOptions {
            set: set.into(),
            protocol: ProtocolChoice::Letter,
            shots: None,
            limit: None,
            limit_seeded: None,
            every: 1,
            subjects: Vec::new(),
        };
        change(&mut questions);
        default_output("m.Q4_0", &questions, None).display().to_string()
    }

    #[test]
    fn a_default_directory_says_what_was_asked_and_how() {
        let plain = output("eval-sets/mmlu", |_| {});
        assert_eq!(plain, "outputs/mmlu-eval-m.Q4_0-mmlu-letter");
        let limited = output("eval-sets/mmlu/test-00000-of-00001.parquet", |questions| {
            questions.limit = Some(3);
            questions.shots = Some(0);
        });
        assert_eq!(limited, "outputs/mmlu-eval-m.Q4_0-mmlu-letter-0-shots-limit-3");
        let chosen = output("mine.jsonl", |questions| {
            questions.protocol = ProtocolChoice::Cloze;
            questions.every = 14;
            questions.subjects = ["anatomy", "virology", "law"].map(Into::into).to_vec();
        });
        assert_eq!(chosen, "outputs/mmlu-eval-m.Q4_0-mine-cloze-every-14-anatomy-and-2-subjects");
        assert!(output("test.parquet", |_| {}).ends_with("test-letter"));
    }
}
