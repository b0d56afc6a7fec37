//! Scoring a model that a server runs: vLLM, SGLang, TensorRT-LLM, llama-server.
//!
//! The server tokenizes. A choice's score is the sum of the log-probabilities of its text's tokens
//! after those that the texts of all choices begin with, under every protocol.

mod client;
mod dialect;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::journal::Scored;
use super::record::Settings;
use super::run::Selected;
use super::session::Session;
use super::{EvalError, EvalOptions, Evaluated, Protocol};
use crate::storage::Output;
use crate::support::interrupt;
use client::{Client, Refusal};
use dialect::{Dialect, Server, Token};

/// How to reach the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointOptions {
    /// Its address, with or without `/v1`.
    pub url: String,
    /// The name of the model, as the server knows it; its only or first one when absent.
    pub model: Option<String>,
    /// Shown as a bearer token.
    pub api_key: Option<String>,
    /// Questions in flight at once.
    pub concurrency: usize,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How often a request that failed for reasons that may pass is sent again.
    pub retries: u32,
}

/// How often the collecting loop looks for Ctrl-C.
const GLANCE: Duration = Duration::from_millis(50);

/// A question's row and the whole text for each choice.
#[derive(Debug)]
struct Job {
    row: usize,
    texts: Vec<String>,
}

/// What became of a job.
struct Outcome {
    scored: Scored,
    tokens_run: u64,
    tokens_naive: u64,
}

/// See [`super::evaluate_at`].
pub(super) fn evaluate(
    options: &EvalOptions,
    endpoint: &EndpointOptions,
) -> Result<Evaluated, EvalError> {
    if endpoint.concurrency == 0 {
        return Err(EvalError::Unusable("the concurrency must be at least 1".to_string()));
    }
    if !matches!(options.protocol, Protocol::Letter | Protocol::Cloze) {
        return Err(EvalError::Unusable(format!(
            "a server cannot be asked under the protocol {}: take letter or cloze",
            options.protocol.name()
        )));
    }
    let selected = Selected::of(options)?;
    let baseline = selected.baseline(options)?;
    let output = Output::at(&options.output)?;
    Session::check_output(&output)?;
    let client = Client::new(endpoint);
    let model = match &endpoint.model {
        Some(model) => model.clone(),
        None => client.only_model().map_err(EvalError::Unusable)?,
    };
    let dialect = Dialect::find(&client, &model).map_err(EvalError::Unusable)?;
    tracing::info!("{}: {model}, by way of {dialect:?}", client.address());
    let settings = Settings {
        model: model.clone(),
        endpoint: Some(client.address()),
        device: "endpoint".to_string(),
        kv_type: "unknown".to_string(),
        ..selected.settings(options)
    };
    Session::check_journal(options, &output, &settings)?;
    let mut session = Session::open(options, output, settings, selected.questions())?;
    let server = Arc::new(Server { client, model, dialect });
    let mut jobs = selected.blocks.iter().flat_map(|block| {
        let group = &selected.groups[block.group];
        group.questions[block.questions.clone()].iter().map(move |question| (group, question))
    });
    let mut next = |session: &Session<'_>| {
        let (group, question) = jobs.find(|(_, question)| !session.is_done(question.row))?;
        Some(Job { row: question.row, texts: group.whole_texts(question)? })
    };
    score(&server, endpoint.concurrency, &mut session, &mut next)?;
    session.finish(baseline.as_ref())
}

/// Keeps so many questions in flight and the results as they come. The workers are not waited for
/// when the scoring ends early: what they still wait for is of no use then.
fn score(
    server: &Arc<Server>,
    concurrency: usize,
    session: &mut Session<'_>,
    next: &mut dyn FnMut(&Session<'_>) -> Option<Job>,
) -> Result<(), EvalError> {
    let (jobs, waiting) = mpsc::channel::<Job>();
    let (results, finished) = mpsc::channel::<Result<Outcome, String>>();
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..concurrency {
        let (server, waiting, results) = (server.clone(), waiting.clone(), results.clone());
        thread::spawn(move || work(&server, &waiting, &results));
    }
    let mut in_flight = 0;
    loop {
        while in_flight < concurrency {
            let Some(job) = next(session) else { break };
            if jobs.send(job).is_ok() {
                in_flight += 1;
            }
        }
        if in_flight == 0 {
            return Ok(());
        }
        let outcome = finished.recv_timeout(GLANCE);
        interrupt::check()?;
        match outcome {
            Ok(outcome) => {
                in_flight -= 1;
                let Outcome { scored, tokens_run, tokens_naive } =
                    outcome.map_err(EvalError::Unusable)?;
                session.append(vec![scored], tokens_run, tokens_naive)?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(EvalError::Unusable("the threads that ask have ended".to_string()));
            }
        }
    }
}

/// Takes jobs until there are no more.
fn work(
    server: &Server,
    waiting: &Mutex<Receiver<Job>>,
    results: &Sender<Result<Outcome, String>>,
) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if results.send(score_job(server, &job)).is_err() {
            return;
        }
    }
}

/// Scores one question. An error ends the run; a question that the server finds too long does not.
fn score_job(server: &Server, job: &Job) -> Result<Outcome, String> {
    let unscored = |reason: String| Outcome {
        scored: Scored::unscored(job.row, reason),
        tokens_run: 0,
        tokens_naive: 0,
    };
    match server.score(&job.texts) {
        Ok(texts) => match compare(&texts.tokens) {
            Ok((context_tokens, sums)) => {
                let lengths = || texts.tokens.iter().map(Vec::len);
                Ok(Outcome {
                    scored: Scored {
                        row: job.row,
                        sums,
                        context_tokens,
                        choice_tokens: lengths().map(|length| length - context_tokens).collect(),
                        dropped_tokens: 0,
                        unscored: None,
                    },
                    tokens_run: texts.tokens_run,
                    tokens_naive: lengths().map(|length| length as u64 - 1).sum(),
                })
            }
            Err(reason) => Ok(unscored(reason)),
        },
        Err(Refusal::TooLong(reason)) => Ok(unscored(reason)),
        Err(Refusal::Failed(error)) => Err(format!("row {}: {error}", job.row)),
    }
}

/// How many tokens the texts of all choices begin with, and for each choice the sum over the rest.
/// Where one text's tokens begin another's, the last one counts all the same.
fn compare(texts: &[Vec<Token>]) -> Result<(usize, Vec<f64>), String> {
    let shortest = texts.iter().map(Vec::len).min().unwrap_or(0);
    let same = |index: usize| texts.iter().all(|text| text[index].is(&texts[0][index]));
    let common = (0..shortest).take_while(|&index| same(index)).count();
    let common = common.min(shortest.saturating_sub(1));
    if common == 0 {
        return Err("the choices differ from their first token on, and a server tells no \
                    probability for a first token"
            .to_string());
    }
    let sums = texts.iter().map(|text| {
        text[common..].iter().map(|token| token.log_probability.unwrap_or(f64::NAN)).sum::<f64>()
    });
    let sums: Vec<f64> = sums.collect();
    if sums.iter().any(|sum| sum.is_nan()) {
        return Err("the server left out the probability of a token".to_string());
    }
    Ok((common, sums))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tokens: &[(&str, Option<f64>)]) -> Vec<Token> {
        let token = |&(name, log_probability): &(&str, Option<f64>)| Token {
            name: name.to_string(),
            log_probability,
        };
        tokens.iter().map(token).collect()
    }

    #[test]
    fn choices_count_from_where_their_tokens_differ() {
        let texts = [
            text(&[("<s>", None), ("A", Some(-1.0)), (" b", Some(-2.0))]),
            text(&[("<s>", None), ("A", Some(-1.1)), (" c", Some(-3.0)), ("d", Some(-0.5))]),
        ];
        assert_eq!(compare(&texts), Ok((2, vec![-2.0, -3.5])));
        // One begins the other: both keep a token.
        let texts = [texts[1][..3].to_vec(), texts[1].clone()];
        assert_eq!(compare(&texts), Ok((2, vec![-3.0, -3.5])));
    }

    #[test]
    fn what_a_server_cannot_tell_is_said() {
        let texts = [text(&[("a", None)]), text(&[("b", None), ("c", Some(-1.0))])];
        assert!(compare(&texts).unwrap_err().contains("from their first token on"));
        let texts = [text(&[("a", None), ("b", None)]), text(&[("a", None), ("c", Some(-1.0))])];
        assert!(compare(&texts).unwrap_err().contains("left out"));
    }
}
