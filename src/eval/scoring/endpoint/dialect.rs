//! How servers tell the log-probabilities of a text that they are given.

use serde_json::{Value, json};

use super::answers::{Completion, Completions, Tokenized};
use super::choices::compare;
use super::client::{Client, Refusal};
use super::tokens::{Text, Token, Uncertain, common};

/// A way to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::eval) enum Dialect {
    /// OpenAI's `/v1/completions` with `echo` and `logprobs`, and the tokens' numbers: vLLM, SGLang.
    EchoNumbered,
    /// The same from a server that names tokens by their text alone: TensorRT-LLM.
    Echo,
    /// The same with vLLM's `prompt_logprobs`.
    PromptLogprobs,
    /// llama-server's own `/tokenize` and `/completion`, which tells the probability of a token that
    /// it generates: each token of a choice is asked for, with a bias that makes it the one.
    Llama,
}

/// The texts of a question, one a choice, as the server's tokens.
#[derive(Debug)]
pub(super) struct Texts {
    pub texts: Vec<Text>,
    /// Tokens that were sent to the server for them.
    pub tokens_run: u64,
}

/// A server that is known to tell log-probabilities.
#[derive(Debug)]
pub(in crate::eval) struct Server {
    pub client: Client,
    pub model: String,
    pub dialect: Dialect,
}

/// What a server is asked first, to see what it tells.
const PROBE: [&str; 3] = ["The sky is blue", "The sky is red", "The sky is very high"];

/// What is put behind a text to see where its tokens end: by itself it is one token or more.
const BEHIND: &str = " a";

/// Larger than the difference of any two logits.
const BIAS: f64 = 1e6;

impl Dialect {
    const ALL: [Self; 4] = [Self::EchoNumbered, Self::Echo, Self::PromptLogprobs, Self::Llama];

    /// Finds out how a server tells log-probabilities.
    pub fn find(client: &Client, model: &str) -> Result<Self, Refusal> {
        let probe = PROBE.map(str::to_string);
        let mut refusals = String::new();
        for dialect in Self::ALL {
            match dialect.try_on(client, model, &probe) {
                Ok(()) => return Ok(dialect),
                // It will not answer otherwise either.
                Err(refusal @ (Refusal::Unreachable(_) | Refusal::Interrupted(_))) => {
                    return Err(refusal);
                }
                Err(refusal) => refusals += &format!("; {}: {refusal}", dialect.described()),
            }
        }
        Err(Refusal::Failed(format!(
            "{}: gives no log-probabilities of a text that it is sent, or none that can be believed, \
             and nothing can be scored without{refusals}",
            client.address(),
        )))
    }

    /// Whether texts can be compared by what the server tells.
    fn try_on(self, client: &Client, model: &str, texts: &[String]) -> Result<(), Refusal> {
        let Texts { texts, .. } = self.score(client, model, texts)?;
        let shared = common(&texts)
            .map_err(|Uncertain| Refusal::Wrong("its tokens are parts of letters".to_string()))?;
        compare(&texts, shared).map(drop)
    }

    fn described(self) -> &'static str {
        match self {
            Self::EchoNumbered => "/v1/completions with echo, logprobs and return_token_ids",
            Self::Echo => "/v1/completions with echo and logprobs",
            Self::PromptLogprobs => "/v1/completions with prompt_logprobs",
            Self::Llama => "llama-server's /completion",
        }
    }

    fn score(self, client: &Client, model: &str, texts: &[String]) -> Result<Texts, Refusal> {
        if self == Self::Llama {
            return llama(client, texts);
        }
        let texts = texts.iter().map(|text| self.completion(client, model, text));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let tokens_run = texts.iter().map(|text| text.tokens().len() as u64).sum();
        Ok(Texts { texts, tokens_run })
    }

    /// One text by way of `/v1/completions`. At least one token is generated, which is left out.
    fn completion(self, client: &Client, model: &str, text: &str) -> Result<Text, Refusal> {
        let fields = match self {
            Self::EchoNumbered => json!({ "echo": true, "logprobs": 1, "return_token_ids": true }),
            Self::PromptLogprobs => json!({ "prompt_logprobs": 0 }),
            Self::Echo | Self::Llama => json!({ "echo": true, "logprobs": 1 }),
        };
        client.post(COMPLETIONS, &asked(model, text, fields), |answer: Completions| match self {
            Self::PromptLogprobs => answer.prompt_logprobs(text),
            _ => answer.echoed(text, self == Self::EchoNumbered),
        })
    }
}

const COMPLETIONS: &str = "/v1/completions";

/// A request for a text's log-probabilities.
fn asked(model: &str, text: &str, fields: Value) -> Value {
    let mut body = json!({ "model": model, "prompt": text, "max_tokens": 1, "temperature": 0 });
    if let (Value::Object(body), Value::Object(fields)) = (&mut body, fields) {
        body.extend(fields);
    }
    body
}

impl Server {
    /// The tokens of each text. Of those that all begin with, the log-probability may be missing.
    pub(super) fn score(&self, texts: &[String]) -> Result<Texts, Refusal> {
        self.dialect.score(&self.client, &self.model, texts)
    }

    /// Asks for the numbers of the tokens of texts, where their names do not tell them apart: vLLM
    /// tells them in place of the names.
    pub(super) fn number(&self, texts: &mut [Text]) -> Result<(), Refusal> {
        let fields = json!({ "echo": true, "logprobs": 1, "return_tokens_as_token_ids": true });
        for text in texts {
            let body = asked(&self.model, text.text(), fields.clone());
            let ids = self.client.post(COMPLETIONS, &body, Completions::numbers)?;
            if !text.number(&ids) {
                let problem = "the server makes other tokens of the same text the second time";
                return Err(Refusal::Wrong(problem.to_string()));
            }
        }
        Ok(())
    }

    /// Asks again for each text whose last token may be missing, with something behind it: this shows
    /// whether the token is missing.
    pub(super) fn confirm_ends(&self, texts: &mut [Text]) -> Result<(), Refusal> {
        for text in texts.iter_mut().filter(|text| text.may_be_cut()) {
            let longer = format!("{}{BEHIND}", text.text());
            let longer = self.dialect.completion(&self.client, &self.model, &longer)?;
            text.compare_with_longer(&longer);
        }
        Ok(())
    }
}

/// All texts of a question by way of llama-server's own paths.
fn llama(client: &Client, texts: &[String]) -> Result<Texts, Refusal> {
    let tokenize = |text: &String| {
        let body = json!({ "content": text, "add_special": true, "with_pieces": true });
        client.post("/tokenize", &body, |answer: Tokenized| answer.text(text))
    };
    let mut texts = texts.iter().map(tokenize).collect::<Result<Vec<_>, _>>()?;
    // Every token has a number, so that nothing is uncertain.
    let common = common(&texts).unwrap_or(0);
    let shortest = texts.iter().map(|text| text.tokens().len()).min().unwrap_or(0);
    // The first token has no probability, and every text is asked for its last.
    let first = common.min(shortest.saturating_sub(1)).max(1);
    let mut tokens_run = 0;
    for text in &mut texts {
        for index in first..text.tokens().len() {
            let (before, token) = (&text.tokens()[..index], &text.tokens()[index]);
            let log_probability = forced(client, before, token)?;
            text.enter(index, log_probability);
            tokens_run += index as u64;
        }
    }
    Ok(Texts { texts, tokens_run })
}

/// The log-probability of one token after others, before any sampler has changed it.
fn forced(client: &Client, before: &[Token], token: &Token) -> Result<f64, Refusal> {
    let before: Vec<_> = before.iter().map(|token| token.id).collect();
    let body = json!({
        "prompt": before,
        "n_predict": 1,
        "n_probs": 1,
        "temperature": 0,
        "logit_bias": [[token.id, BIAS]],
        "cache_prompt": true,
    });
    client.post("/completion", &body, |answer: Completion| answer.log_probability(token))
}
