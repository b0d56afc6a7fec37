//! The answers of several models, in pieces.

use std::sync::Arc;

use serde_json::{Value, json};

use super::divergence::{Divergences, Summary};
use crate::engine::{ChatMessage, Probabilities};
use crate::eval::text::divergence::PositionDivergence;
use crate::server::errors::ApiError;
use crate::server::generate::{
    Answering, End, NewToken, Piece, apply_template, begin, detokenize, tokenize,
};
use crate::server::openai::parameters::Parameters;
use crate::server::state::Served;
use crate::server::stream::{Events, Gone};
use crate::tokenizer::Vocabulary;

/// What the models are asked.
#[derive(Debug, Clone)]
pub enum Question {
    /// A text that is to go on.
    Text(String),
    /// A conversation.
    Messages(Vec<ChatMessage>),
}

impl Question {
    /// Its tokens for each model. Models with the reference's vocabulary get the reference's tokens, so
    /// that all read the same.
    ///
    /// # Errors
    /// 400 for a text that cannot be tokenized, and messages that a template refuses.
    pub async fn prompts(&self, models: &[Arc<Served>]) -> Result<Vec<Vec<u32>>, ApiError> {
        let mut prompts: Vec<Vec<u32>> = Vec::with_capacity(models.len());
        for model in models {
            let prompt = match prompts.first() {
                Some(first) if difference(models, model).is_none() => first.clone(),
                _ => self.prompt(model).await?,
            };
            prompts.push(prompt);
        }
        Ok(prompts)
    }

    async fn prompt(&self, model: &Arc<Served>) -> Result<Vec<u32>, ApiError> {
        let text = match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Messages(messages) => apply_template(model, messages.clone(), true).await,
        };
        let tokens = match text {
            Ok(text) => tokenize(model, text, true, true).await,
            Err(error) => Err(error),
        };
        tokens.map_err(|error| {
            let message = format!("{}: {}", model.name, error.message);
            ApiError { message, ..error }
        })
    }
}

/// How a model's vocabulary differs from the reference's.
fn difference(models: &[Arc<Served>], model: &Served) -> Option<String> {
    models[0].vocabulary().difference(model.vocabulary())
}

/// A request.
#[derive(Debug)]
pub struct Job {
    /// The reference first.
    pub models: Vec<Arc<Served>>,
    /// Of each model.
    pub prompts: Vec<Vec<u32>>,
    pub parameters: Parameters,
    /// Likeliest tokens that are told in each place.
    pub likeliest: usize,
    /// All models answer at the same time. They share the machine, so that none is as fast as alone.
    pub is_at_once: bool,
}

impl Job {
    /// Submits the prompt to one of the models.
    ///
    /// # Errors
    /// What it is refused with.
    pub fn begin(&self, index: usize) -> Result<Answering, ApiError> {
        let mut ask = self.parameters.ask(self.prompts[index].clone(), 0);
        ask.log_probabilities = Some(self.likeliest);
        begin(&self.models[index], ask)
    }

    /// Sends all answers, and then the comparison.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub async fn run(self: Arc<Self>, first: Answering, events: &Events) -> Result<(), Gone> {
        let names: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
        let tokens: Vec<usize> = self.prompts.iter().map(Vec::len).collect();
        events.send(&json!({ "type": "start", "models": names, "prompt_tokens": tokens })).await?;
        let mut answer = Vec::new();
        if self.is_at_once {
            let rest = (1..self.models.len()).map(|index| (index, self.begin(index)));
            let mut tasks = tokio::task::JoinSet::new();
            for (index, answering) in [(0, Ok(first))].into_iter().chain(rest) {
                let (job, events) = (Arc::clone(&self), events.clone());
                tasks.spawn(async move { (index, job.send(index, answering, &events).await) });
            }
            while let Some(Ok((index, tokens))) = tasks.join_next().await {
                let tokens = tokens?;
                if index == 0 {
                    answer = tokens;
                }
            }
        } else {
            answer = self.send(0, Ok(first), events).await?;
            for index in 1..self.models.len() {
                self.send(index, self.begin(index), events).await?;
            }
        }
        if self.models.len() > 1 && !answer.is_empty() {
            self.compare(&answer, events).await?;
        }
        events.done().await
    }

    /// Sends one answer; gives its tokens, with the one that ended the turn. None if it failed.
    async fn send(
        &self,
        index: usize,
        answering: Result<Answering, ApiError>,
        events: &Events,
    ) -> Result<Vec<u32>, Gone> {
        let mut answering = match answering {
            Ok(answering) => answering,
            Err(error) => {
                fail(index, &error, events).await?;
                return Ok(Vec::new());
            }
        };
        let vocabulary = self.models[index].vocabulary();
        let mut answer = Vec::new();
        while let Some(piece) = events.meanwhile(answering.next()).await? {
            match piece {
                Ok(Piece::Delta { text, tokens }) => {
                    answer.extend(tokens.iter().map(|token| token.token));
                    for (token, text) in with_texts(&tokens, &text) {
                        let document = token_document(index, token, text, vocabulary);
                        events.send(&document).await?;
                    }
                }
                Ok(Piece::End(end)) => {
                    answer.extend(end.end.as_ref().map(|end| end.token));
                    events.send(&end_document(index, &end, vocabulary)).await?;
                    return Ok(answer);
                }
                Ok(Piece::Started { .. } | Piece::Prompt { .. } | Piece::PromptTokens(_)) => {}
                Err(error) => {
                    fail(index, &error, events).await?;
                    return Ok(Vec::new());
                }
            }
        }
        Ok(Vec::new())
    }

    /// Lets the other models read the reference's answer.
    async fn compare(&self, answer: &[u32], events: &Events) -> Result<(), Gone> {
        let variants = self.variants(events).await?;
        if variants.is_empty() {
            return Ok(());
        }
        let mut summaries = vec![Summary::default(); variants.len()];
        let models: Vec<Arc<Served>> =
            variants.iter().map(|&index| Arc::clone(&self.models[index])).collect();
        let reference = Arc::clone(&self.models[0]);
        let waiting = Divergences::new(reference, &self.prompts[0], answer);
        let mut divergences = events.meanwhile(waiting).await?;
        loop {
            let window = match events.meanwhile(divergences.next(&models)).await? {
                Ok(Some(window)) => window,
                Ok(None) => break,
                Err(error) => {
                    for &index in &variants {
                        fail(index, &error, events).await?;
                    }
                    return Ok(());
                }
            };
            let told = variants.iter().zip(&mut summaries).zip(&window.positions);
            for ((&index, summary), positions) in told {
                summary.add(positions);
                events.send(&window_document(index, window.from, positions)).await?;
            }
        }
        for (&index, summary) in variants.iter().zip(&summaries) {
            events.send(&summary.document(index)).await?;
        }
        Ok(())
    }

    /// The models with the reference's vocabulary. Of the others, it says why they are not compared.
    async fn variants(&self, events: &Events) -> Result<Vec<usize>, Gone> {
        let mut variants = Vec::new();
        for (index, model) in self.models.iter().enumerate().skip(1) {
            let Some(difference) = difference(&self.models, model) else {
                variants.push(index);
                continue;
            };
            let problem = format!(
                "{} and {} cannot be compared token by token: {difference}",
                self.models[0].name, model.name
            );
            fail(index, &ApiError::bad_request(problem), events).await?;
        }
        Ok(variants)
    }
}

fn window_document(index: usize, from: usize, positions: &[PositionDivergence]) -> Value {
    let kl: Vec<f64> = positions.iter().map(|position| position.kl).collect();
    let same: Vec<bool> = positions.iter().map(|position| position.same_top).collect();
    json!({ "type": "divergence", "model": index, "from": from, "kl": kl, "same_top": same })
}

async fn fail(index: usize, error: &ApiError, events: &Events) -> Result<(), Gone> {
    events.send(&json!({ "type": "error", "model": index, "message": error.message })).await
}

/// Each token with its part of a text. A character that several tokens make up is with the last one.
fn with_texts<'a>(
    tokens: &'a [NewToken],
    text: &'a str,
) -> impl Iterator<Item = (&'a NewToken, &'a str)> {
    let start = tokens.first().map_or(0, |token| token.offset);
    tokens.iter().enumerate().map(move |(index, token)| {
        let from = token.offset - start;
        let to = tokens.get(index + 1).map_or(text.len(), |next| next.offset - start);
        (token, text.get(from..to).unwrap_or_default())
    })
}

fn token_document(index: usize, token: &NewToken, text: &str, vocabulary: &Vocabulary) -> Value {
    let mut document = json!({ "type": "token", "model": index, "id": token.token, "text": text });
    tell(&mut document, token.probabilities.as_ref(), vocabulary);
    document
}

fn tell(document: &mut Value, told: Option<&Probabilities>, vocabulary: &Vocabulary) {
    let Some(told) = told else { return };
    let top = told.top.iter().map(|&(token, value)| {
        json!({ "id": token, "text": detokenize(vocabulary, &[token], true), "logprob": value })
    });
    document["logprob"] = json!(told.log_probability);
    document["rank"] = json!(told.rank);
    document["top"] = Value::Array(top.collect());
}

fn end_document(index: usize, end: &End, vocabulary: &Vocabulary) -> Value {
    let timings = &end.timings;
    let tokens = end.generated - usize::from(end.end.is_some());
    let generation = timings.generation().as_secs_f64();
    let rate = (tokens > 1 && generation > 0.0).then(|| (tokens - 1) as f64 / generation);
    let mut document = json!({
        "type": "end",
        "model": index,
        "finish_reason": end.reason.openai(),
        "prompt_tokens": end.prompt_tokens,
        "cached_tokens": end.cached_tokens,
        "completion_tokens": end.generated,
        "seconds_to_first_token": timings.to_first().map(|time| time.as_secs_f64()),
        "tokens_per_second": rate,
    });
    if let Some(token) = &end.end {
        let text = detokenize(vocabulary, &[token.token], true);
        let mut last = json!({ "id": token.token, "text": text });
        tell(&mut last, token.probabilities.as_ref(), vocabulary);
        document["end_token"] = last;
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_with_the_last_of_its_tokens() {
        let token = |offset| NewToken { token: 1, bytes: Vec::new(), probabilities: None, offset };
        let tokens = [token(10), token(12), token(12), token(15)];
        let texts: Vec<&str> = with_texts(&tokens, "ab漢!").map(|(_, text)| text).collect();
        assert_eq!(texts, ["ab", "", "漢", "!"]);
    }
}
