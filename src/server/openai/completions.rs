//! `/v1/completions`: a prompt goes on.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::job::{Common, Job, respond};
use super::log_probabilities;
use super::parameters::Parameters;
use crate::engine::Probabilities;
use crate::server::errors::ApiError;
use crate::server::fields::{Fields, wrong};
use crate::server::generate::{
    Answer, Answering, End, MOST_LIKELIEST, Piece, begin, detokenize, tokenize,
};
use crate::server::state::{Served, ServerState};
use crate::server::stream::{Events, Gone};

/// A prompt: its text, if it came as one, and its tokens.
#[derive(Debug, Clone)]
struct Prompt {
    text: Option<String>,
    tokens: Vec<u32>,
}

/// A request for texts that go on.
#[derive(Debug)]
struct Texts {
    common: Common,
    /// The prompt is part of the answer.
    echoes: bool,
    prompts: Vec<Prompt>,
}

pub async fn answer(
    State(state): State<Arc<ServerState>>,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let model = Arc::clone(state.model(fields.text("model")?)?);
    let parameters = Parameters::read(&fields, &["max_tokens"], &state.options.sampling)?;
    let likeliest = fields.integer("logprobs", 0..=MOST_LIKELIEST)?;
    let echoes = fields.flag("echo")?;
    let add_bos = fields.flag_or("add_special_tokens", true)?;
    if parameters.is_streamed && parameters.prompt_log_probabilities.is_some() {
        let problem = "is not told in a stream: leave out stream";
        return Err(ApiError::field("prompt_logprobs", problem));
    }
    let prompts = read_prompts(&model, fields.take("prompt"), add_bos).await?;
    parameters.check_answers(prompts.len())?;
    let likeliest = likeliest.map(|count| count as usize);
    let common = Common::new(model, parameters, likeliest, "cmpl");
    let texts = Texts { common, echoes, prompts };
    let answers = texts.begin()?;
    respond(texts, answers).await
}

/// A text, a list of texts, a list of tokens, or a list of such lists.
async fn read_prompts(
    model: &Arc<Served>,
    value: Option<Value>,
    add_bos: bool,
) -> Result<Vec<Prompt>, ApiError> {
    let expected = "a text, a list of texts, tokens' numbers, or a list of lists of them";
    let Some(value) = value else {
        return Err(ApiError::field("prompt", format!("expected {expected}, found nothing")));
    };
    let values = match value {
        Value::Array(list) if list.iter().any(|item| item.is_string() || item.is_array()) => list,
        other => vec![other],
    };
    let mut prompts = Vec::with_capacity(values.len());
    for value in values {
        let (text, tokens) = match value {
            Value::String(text) => {
                let tokens = tokenize(model, text.clone(), add_bos, true).await?;
                (Some(text), tokens)
            }
            Value::Array(list) => {
                let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
                let tokens = list.iter().map(|value| {
                    token(value).ok_or_else(|| wrong("prompt", "tokens' numbers", value))
                });
                (None, tokens.collect::<Result<_, _>>()?)
            }
            other => return Err(wrong("prompt", expected, &other)),
        };
        prompts.push(Prompt { text, tokens });
    }
    Ok(prompts)
}

impl Texts {
    /// Submits all requests, or none.
    fn begin(&self) -> Result<Vec<Answering>, ApiError> {
        let mut answers = Vec::new();
        for prompt in &self.prompts {
            for number in 0..self.common.parameters.answers {
                let mut ask = self.common.parameters.ask(prompt.tokens.clone(), number);
                ask.log_probabilities = self.common.likeliest;
                if self.echoes {
                    let told = ask.prompt_log_probabilities;
                    ask.prompt_log_probabilities = told.max(self.common.likeliest);
                }
                answers.push(begin(&self.common.model, ask)?);
            }
        }
        Ok(answers)
    }

    fn prompt(&self, index: usize) -> &Prompt {
        &self.prompts[index / self.common.parameters.answers]
    }

    /// The prompt's text, if it is part of the answer.
    fn echoed(&self, index: usize) -> String {
        let prompt = self.prompt(index);
        match &prompt.text {
            _ if !self.echoes => String::new(),
            Some(text) => text.clone(),
            None => detokenize(
                self.common.model.vocabulary(),
                &prompt.tokens,
                self.common.parameters.shows_control_tokens,
            ),
        }
    }
}

impl Job for Texts {
    const WHOLE: &'static str = "text_completion";
    const PIECE: &'static str = "text_completion";

    fn common(&self) -> &Common {
        &self.common
    }

    fn choice(&self, index: usize, answer: &Answer) -> Value {
        let Answer { text, tokens, prompt: told, end } = answer;
        let prompt = self.prompt(index);
        let echoed = self.echoed(index);
        let mut choice = json!({
            "index": index,
            "text": format!("{echoed}{text}"),
            "logprobs": null,
            "finish_reason": end.reason.openai(),
        });
        if let Some(likeliest) = self.common.likeliest {
            let mut table = log_probabilities::Completion::default();
            if self.echoes {
                let told: Vec<_> = told.iter().map(|told| cut(told, likeliest)).collect();
                table.prompt(self.common.names(), &prompt.tokens, &told);
            }
            table.new_tokens(self.common.names(), tokens, echoed.len());
            if let Some(end) = &end.end {
                table.end(self.common.names(), end, echoed.len() + text.len());
            }
            choice["logprobs"] = table.document();
        }
        if let Some(likeliest) = self.common.parameters.prompt_log_probabilities {
            let told: Vec<_> = told.iter().map(|told| cut(told, likeliest)).collect();
            choice["prompt_logprobs"] = log_probabilities::prompt(self.common.names(), &told);
        }
        if self.common.parameters.tells_numbers {
            let ids: Vec<u32> = tokens.iter().map(|token| token.token).collect();
            choice["prompt_token_ids"] = json!(prompt.tokens);
            choice["token_ids"] = json!(ids);
        }
        choice
    }

    async fn stream(
        &self,
        index: usize,
        mut answering: Answering,
        events: &Events,
    ) -> Result<Option<End>, Gone> {
        let echoed = self.echoed(index);
        let tells_prompt = self.echoes && self.common.likeliest.is_some();
        let (mut told, mut length) = (Vec::new(), 0);
        let mut is_echoed = !self.echoes;
        while let Some(piece) = events.meanwhile(answering.next()).await? {
            let taken = answering.taken();
            let piece = match piece {
                Err(error) => {
                    events.fail(&error).await?;
                    return Ok(None);
                }
                Ok(Piece::Started { .. } | Piece::Prompt { .. }) => continue,
                Ok(Piece::PromptTokens(tokens)) => {
                    told.extend(tokens);
                    continue;
                }
                Ok(piece) => piece,
            };
            let mut table = log_probabilities::Completion::default();
            let mut text = String::new();
            if !std::mem::replace(&mut is_echoed, true) {
                text += &echoed;
                if tells_prompt {
                    table.prompt(self.common.names(), &self.prompt(index).tokens, &told);
                }
            }
            let mut end = None;
            match piece {
                Piece::Delta { text: more, tokens } => {
                    table.new_tokens(self.common.names(), &tokens, echoed.len());
                    text += &more;
                    length += more.len();
                }
                Piece::End(over) => {
                    if let Some(token) = &over.end {
                        table.end(self.common.names(), token, echoed.len() + length);
                    }
                    end = Some(over);
                }
                Piece::Started { .. } | Piece::Prompt { .. } | Piece::PromptTokens(_) => {}
            }
            let finish = end.as_ref().map(|end| end.reason.openai());
            let logprobs = self.common.likeliest.map(|_| table.document());
            let choice = json!({
                "index": index,
                "text": text,
                "logprobs": logprobs,
                "finish_reason": finish,
            });
            self.send_piece(events, choice, Some(&taken)).await?;
            if end.is_some() {
                return Ok(end);
            }
        }
        Ok(None)
    }
}

/// As many of the likeliest tokens as were asked for.
fn cut(told: &Probabilities, likeliest: usize) -> Probabilities {
    let mut told = told.clone();
    told.top.truncate(likeliest);
    told
}
