//! A question as a server scores it.

use super::choices::compare;
use super::client::Refusal;
use super::dialect::{Server, Texts};
use super::tokens::{Text, Uncertain, common};
use crate::eval::scoring::scored::Scored;

/// A question to be scored.
#[derive(Debug)]
pub(in crate::eval) struct Job {
    /// The question's row.
    pub row: usize,
    /// The whole text for each choice.
    pub texts: Vec<String>,
}

/// What became of a job.
pub(in crate::eval) struct JobResult {
    /// The question, scored or not.
    pub scored: Scored,
    /// Tokens that the server ran.
    pub tokens_run: u64,
    /// Tokens that a scorer without prefix sharing would have run.
    pub tokens_naive: u64,
}

/// Scores one question. An error ends the run; a question that the server cannot score, or of which
/// its answer cannot be believed, does not.
pub(in crate::eval) fn score_job(server: &Server, job: &Job) -> Result<JobResult, String> {
    match score(server, job) {
        Ok(result) => Ok(result),
        Err(Refusal::Unscorable(reason) | Refusal::Wrong(reason)) => Ok(JobResult {
            scored: Scored::unscored(job.row, reason),
            tokens_run: 0,
            tokens_naive: 0,
        }),
        Err(error) => Err(format!("row {}: {error}", job.row)),
    }
}

fn score(server: &Server, job: &Job) -> Result<JobResult, Refusal> {
    let Texts { mut texts, tokens_run } = server.score(&job.texts)?;
    let shared = match common(&texts) {
        Ok(shared) => shared,
        Err(Uncertain) => settle(server, &mut texts)?,
    };
    let (context_tokens, sums) = compare(&texts, shared)?;
    let lengths = || texts.iter().map(|text| text.tokens().len());
    Ok(JobResult {
        scored: Scored {
            row: job.row,
            sums,
            context_tokens,
            choice_tokens: lengths().map(|length| length - context_tokens).collect(),
            dropped_tokens: 0,
            unscored: None,
        },
        tokens_run,
        tokens_naive: lengths().map(|length| length as u64 - 1).sum(),
    })
}

/// How many tokens all texts begin with, where the tokens' names alone do not tell: by their numbers, or
/// else by what the server makes of longer texts.
fn settle(server: &Server, texts: &mut [Text]) -> Result<usize, Refusal> {
    let problem = match server.number(texts) {
        Ok(()) => UNCERTAIN.to_string(),
        // A server that numbers no tokens can still score other questions.
        Err(Refusal::Failed(reason) | Refusal::Unscorable(reason)) => {
            server.confirm_ends(texts)?;
            format!("{UNCERTAIN}: {reason}")
        }
        Err(other) => return Err(other),
    };
    common(texts).map_err(|Uncertain| Refusal::Unscorable(problem))
}

const UNCERTAIN: &str = "the choices differ or end inside a character, and the server does not tell \
                         which tokens these are";
