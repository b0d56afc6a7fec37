//! `quantkit generate`.

use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::options::{EngineFlags, GlobalOptions, print_json};
use crate::engine::{
    ChatMessage, Engine, FinishReason, Generation, GenerationUpdate, Request, Sampling, generate,
    render_chat,
};
use crate::support::progress::{Progress, Unit};
use crate::support::units;

/// Generate text from a prompt or a chat turn
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quantkit generate model.Q4_K_M.gguf --chat --prompt \"Why is \
                        the sky blue?\" --temperature 0.7 --top-p 0.9")]
pub struct Arguments {
    /// The GGUF model
    #[arg(value_name = "MODEL.gguf")]
    model: PathBuf,

    /// The text to continue, or the user's turn with --chat
    #[arg(long, short, value_name = "TEXT")]
    prompt: String,

    /// Put the prompt into the model's chat template
    #[arg(long)]
    chat: bool,

    /// The system's turn before the prompt
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,

    /// Tokens to generate at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,

    #[command(flatten)]
    sampling: SamplingOptions,

    #[command(flatten)]
    engine: EngineFlags,
}

/// How tokens are chosen.
#[derive(Debug, clap::Args)]
struct SamplingOptions {
    /// 0 always takes the most likely token; higher is more varied
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,

    /// Draw from the K most likely tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,

    /// Draw from the most likely tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,

    /// Draw from tokens at least this fraction as likely as the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,

    /// Make tokens of the last 64 less likely; 1 for no penalty
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repeat_penalty: f32,

    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// The document that `--json` prints. Times are in seconds.
#[derive(Debug, Serialize)]
struct Document<'a> {
    model: String,
    prompt: &'a str,
    prompt_tokens: usize,
    text: &'a str,
    tokens: &'a [u32],
    finish_reason: FinishReason,
    timings: Timings,
}

#[derive(Debug, Serialize)]
struct Timings {
    load_seconds: f64,
    time_to_first_token_seconds: f64,
    prompt_tokens_per_second: f64,
    decode_seconds: f64,
    /// `null` when fewer than two tokens were generated.
    decode_tokens_per_second: Option<f64>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let sampling = Sampling::from(&arguments.sampling);
    sampling.check()?;
    let started = Instant::now();
    let engine = Engine::load(&arguments.model, arguments.engine.options())?;
    let load_time = started.elapsed();
    let text = prompt_text(arguments, &engine)?;
    let prompt = engine.vocabulary().encode(&text, true).context("cannot tokenize the prompt")?;
    let prompt_tokens = prompt.len();
    let max_new_tokens = arguments.max_tokens;
    let request = Request { sampling, ..Request::new(prompt, max_new_tokens) };
    let Some(generation) = stream(engine, request, !global.json)? else { return Ok(()) };
    let timings = Timings::new(prompt_tokens, &generation, load_time);
    if global.json {
        return print_json(&Document {
            model: arguments.model.display().to_string(),
            prompt: &text,
            prompt_tokens,
            text: &generation.text,
            tokens: &generation.tokens,
            finish_reason: generation.reason,
            timings,
        });
    }
    if !global.quiet {
        // Nobody may be left to read it, which is no failure of the generation.
        let summary = summary(prompt_tokens, &generation, &timings);
        let _ = writeln!(std::io::stderr(), "\n{summary}");
    }
    Ok(())
}

/// The prompt as the model sees it.
fn prompt_text(arguments: &Arguments, engine: &Engine) -> Result<String> {
    if !arguments.chat {
        return Ok(arguments.prompt.clone());
    }
    let message = |role: &str, content: &String| ChatMessage {
        role: role.to_string(),
        content: content.clone(),
    };
    let system = arguments.system.iter().map(|text| message("system", text));
    let messages: Vec<_> = system.chain([message("user", &arguments.prompt)]).collect();
    Ok(render_chat(engine.vocabulary(), &messages, true)?)
}

/// Runs the request: prints the text as it comes if `print`, else shows how far it is. Gives `None`
/// if the reader of standard output has gone away.
fn stream(engine: Engine, request: Request, print: bool) -> Result<Option<Generation>> {
    let prompt_tokens = request.prompt.len();
    let room = engine.context_length().saturating_sub(prompt_tokens);
    let new_tokens = request.max_new_tokens.min(room);
    let reading = Progress::new("Prompt", prompt_tokens as u64, Unit::Items("tokens"));
    let mut writing = None;
    let mut output = std::io::stdout().lock();
    let mut written = Ok(());
    let generation = generate(engine, request, |update| {
        match update {
            GenerationUpdate::Prompt(tokens) => reading.set(tokens as u64),
            GenerationUpdate::Tokens(tokens) => {
                reading.finish();
                if !print {
                    writing
                        .get_or_insert_with(|| {
                            Progress::new("Output", new_tokens as u64, Unit::Items("tokens"))
                        })
                        .set(tokens as u64);
                }
            }
            GenerationUpdate::Text(text) if print => {
                written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
            }
            GenerationUpdate::Text(_) => {}
        }
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    reading.finish();
    if let Some(writing) = writing {
        writing.finish();
    }
    let generation = generation?;
    if print && generation.is_some() {
        written = writeln!(output);
    }
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(None),
        written => written.map(|()| generation).context("cannot write to standard output"),
    }
}

fn summary(prompt_tokens: usize, generation: &Generation, timings: &Timings) -> String {
    let decode = match timings.decode_tokens_per_second {
        Some(rate) => format!("{rate:.1} tokens/s"),
        None => "too few for a rate".to_string(),
    };
    format!(
        "Prompt: {prompt_tokens} tokens, {:.1} tokens/s, first token after {}\n\
         Output: {} tokens, {decode}\n\
         Loading: {}",
        timings.prompt_tokens_per_second,
        units::duration(generation.prefill_time),
        generation.tokens.len(),
        units::seconds(timings.load_seconds),
    )
}

impl Timings {
    fn new(prompt_tokens: usize, generation: &Generation, load_time: Duration) -> Self {
        let prefill_seconds = generation.prefill_time.as_secs_f64();
        let decode_seconds = generation.decode_time.as_secs_f64();
        let decoded = generation.tokens.len().saturating_sub(1);
        Self {
            load_seconds: load_time.as_secs_f64(),
            time_to_first_token_seconds: prefill_seconds,
            prompt_tokens_per_second: prompt_tokens as f64 / prefill_seconds,
            decode_seconds,
            decode_tokens_per_second: (decoded > 0).then(|| decoded as f64 / decode_seconds),
        }
    }
}

impl From<&SamplingOptions> for Sampling {
    fn from(options: &SamplingOptions) -> Self {
        let SamplingOptions { temperature, top_k, top_p, min_p, repeat_penalty, seed } = *options;
        Self { temperature, top_k, top_p, min_p, repeat_penalty, seed, ..Self::default() }
    }
}
