//! Scores a model on a question set:
//! `cargo run --release --example score -- model.gguf eval-sets/starter outputs/score`.

use anyhow::{Result, bail};
use quantkit::engine::EngineOptions;
use quantkit::eval::{DEFAULT_CACHE_BYTES, Earlier, EvalOptions, Protocol, evaluate};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, set, output] = &arguments[..] else { bail!("usage: score MODEL.gguf SET DIR") };
    let options = EvalOptions {
        model: model.into(),
        set: set.into(),
        output: output.into(),
        protocol: Protocol::Cloze,
        shots: 0,
        limit: None,
        limit_seeded: None,
        every: 1,
        subjects: Vec::new(),
        shard: None,
        cache_bytes: DEFAULT_CACHE_BYTES,
        earlier: Earlier::Resume,
        baseline: None,
        command: arguments.join(" "),
        engine: EngineOptions::default(),
    };
    let score = evaluate(&options)?.summary.overall;
    println!("{} of {} right", score.correct, score.questions);
    Ok(())
}
