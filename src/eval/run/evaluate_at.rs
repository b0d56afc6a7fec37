//! An evaluation from end to end, of a model that a server runs.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::earlier;
use super::options::EvalOptions;
use super::record::Settings;
use super::selected::Selected;
use super::session::{Evaluated, Session};
use crate::eval::EvalError;
use crate::eval::asking::Protocol;
use crate::eval::scoring::endpoint::{
    Client, Dialect, EndpointOptions, Job, JobResult, Refusal, Server, score_job,
};
use crate::storage::Output;
use crate::support::input_file::Inputs;
use crate::support::interrupt;

/// How often the collecting loop looks for Ctrl-C.
const GLANCE: Duration = Duration::from_millis(50);

/// [`evaluate`](super::evaluate) for a model that a server runs. Of the options, `model`,
/// `cache_bytes` and `engine` are not used.
///
/// # Errors
/// A set, baseline or output that cannot be used, a server that cannot be reached or tells no
/// log-probabilities, a journal or a finished run of other settings, an interruption.
pub fn evaluate_at(
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
        None => client.only_model()?,
    };
    let dialect = Dialect::find(&client, &model)?;
    tracing::info!("{}: {model}, by way of {dialect:?}", client.address());
    let settings = Settings {
        model: model.clone(),
        endpoint: Some(client.address()),
        device: "endpoint".to_string(),
        kv_type: "unknown".to_string(),
        ..selected.settings(options)
    };
    Session::check_journal(options, &output, &settings)?;
    if let Some(evaluated) = earlier::finished(options, &output, &settings, baseline.as_ref())? {
        output.close();
        return Ok(evaluated);
    }
    let questions = selected.questions();
    let mut session = Session::open(options, output, settings, Inputs::default(), questions)?;
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
    if let (Some(problem), None) = (session.nothing_scored(), options.shard) {
        return Err(EvalError::Unusable(format!(
            "{}: {problem} (--overwrite asks again)",
            server.client.address()
        )));
    }
    session.finish(baseline.as_ref())
}

impl From<Refusal> for EvalError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Interrupted(stop) => stop.into(),
            refusal => Self::Unusable(refusal.to_string()),
        }
    }
}

/// Asks this many questions at once, and keeps the results as they come. The workers are not waited for
/// when the scoring ends early: what they still wait for is of no use then.
fn score(
    server: &Arc<Server>,
    concurrency: usize,
    session: &mut Session<'_>,
    next: &mut dyn FnMut(&Session<'_>) -> Option<Job>,
) -> Result<(), EvalError> {
    let (jobs, waiting) = mpsc::channel::<Job>();
    let (results, finished) = mpsc::channel::<Result<JobResult, String>>();
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
                let JobResult { scored, tokens_run, tokens_naive } =
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
    results: &Sender<Result<JobResult, String>>,
) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if results.send(score_job(server, &job)).is_err() {
            return;
        }
    }
}
