//! How servers tell the log-probabilities of a text that they are given.

use serde_json::{Value, json};

use super::client::{Client, Refusal};

/// A way to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::eval) enum Dialect {
    /// OpenAI's `/v1/completions` with `echo` and `logprobs`: vLLM, SGLang, TensorRT-LLM.
    Echo,
    /// The same with vLLM's `prompt_logprobs`.
    PromptLogprobs,
    /// llama-server's own `/tokenize` and `/completion`, which tells the probability of a token that
    /// it generates: each token of a choice is asked for, with a bias that makes it the one.
    Llama,
}

/// A token of a text, and its log-probability where the server tells one: for all but the first.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::eval) struct Token {
    /// Its text or its number, whichever the server names it by.
    pub name: String,
    /// Natural logarithm.
    pub log_probability: Option<f64>,
}

impl Token {
    /// Whether both are the same token.
    pub fn is(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// The tokens of a question's texts, one a choice.
#[derive(Debug)]
pub(in crate::eval) struct Texts {
    pub tokens: Vec<Vec<Token>>,
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
const PROBE: [&str; 2] = ["The sky is blue", "The sky is red"];

/// Larger than the difference of any two logits.
const BIAS: f64 = 1e6;

impl Dialect {
    /// Finds out how a server tells log-probabilities.
    pub fn find(client: &Client, model: &str) -> Result<Self, String> {
        let mut refusals = Vec::new();
        for dialect in [Self::Echo, Self::PromptLogprobs, Self::Llama] {
            let probe = PROBE.map(str::to_string);
            match dialect.score(client, model, &probe) {
                Ok(texts) if texts.tokens.iter().all(|text| told(text)) => return Ok(dialect),
                Ok(_) => refusals.push("no log-probabilities came back".to_string()),
                Err(Refusal::Failed(error) | Refusal::TooLong(error)) => {
                    // A server that cannot be reached will not be reached otherwise either.
                    if error.contains("cannot be reached") || error.contains("OPENAI_API_KEY") {
                        return Err(error);
                    }
                    refusals.push(error);
                }
            }
        }
        Err(format!(
            "{}: gives no log-probabilities of a text that it is sent, without which nothing can be \
             scored: /v1/completions with echo and logprobs: {}; with prompt_logprobs: {}; \
             llama-server's /completion: {}",
            client.address(),
            refusals[0],
            refusals[1],
            refusals[2]
        ))
    }

    fn score(self, client: &Client, model: &str, texts: &[String]) -> Result<Texts, Refusal> {
        match self {
            Self::Echo | Self::PromptLogprobs => {
                let tokens = texts.iter().map(|text| completion(client, model, text, self));
                let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
                let tokens_run = tokens.iter().map(|text| text.len() as u64).sum();
                Ok(Texts { tokens, tokens_run })
            }
            Self::Llama => llama(client, texts),
        }
    }
}

impl Server {
    /// The tokens of each text. Of those that all begin with, the log-probability may be missing.
    pub fn score(&self, texts: &[String]) -> Result<Texts, Refusal> {
        self.dialect.score(&self.client, &self.model, texts)
    }
}

/// Whether the last token's log-probability is there.
fn told(text: &[Token]) -> bool {
    text.len() > 1 && text.last().is_some_and(|token| token.log_probability.is_some())
}

/// One text by way of `/v1/completions`. At least one token is generated, which is left out.
fn completion(
    client: &Client,
    model: &str,
    text: &str,
    dialect: Dialect,
) -> Result<Vec<Token>, Refusal> {
    let mut body = json!({
        "model": model,
        "prompt": text,
        "max_tokens": 1,
        "temperature": 0,
    });
    let more = if dialect == Dialect::Echo {
        json!({ "echo": true, "logprobs": 1 })
    } else {
        json!({ "prompt_logprobs": 0 })
    };
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    let answer = client.post("/v1/completions", &body)?;
    let tokens = match dialect {
        Dialect::PromptLogprobs => prompt_logprobs(&answer),
        _ => echoed(&answer),
    };
    tokens.ok_or_else(|| {
        Refusal::Failed("the answer has no log-probabilities of the text".to_string())
    })
}

/// `choices[0].logprobs`, without what was generated.
fn echoed(answer: &Value) -> Option<Vec<Token>> {
    let logprobs = &answer["choices"][0]["logprobs"];
    let names = logprobs["tokens"].as_array()?;
    let values = logprobs["token_logprobs"].as_array()?;
    if names.len() != values.len() {
        return None;
    }
    let prompt = match answer["usage"]["prompt_tokens"].as_u64() {
        Some(count) if count <= names.len() as u64 => count as usize,
        _ => names.len().saturating_sub(1),
    };
    let tokens = names.iter().zip(values).take(prompt);
    tokens
        .map(|(name, value)| {
            Some(Token { name: name.as_str()?.to_string(), log_probability: value.as_f64() })
        })
        .collect()
}

/// `choices[0].prompt_logprobs`: for each token but the first, its number and log-probability.
fn prompt_logprobs(answer: &Value) -> Option<Vec<Token>> {
    let list = answer["choices"][0]["prompt_logprobs"].as_array()?;
    list.iter()
        .map(|entry| {
            let Some((name, told)) = entry.as_object().and_then(|entry| entry.iter().next()) else {
                return Some(Token { name: String::new(), log_probability: None });
            };
            Some(Token { name: name.clone(), log_probability: Some(told["logprob"].as_f64()?) })
        })
        .collect()
}

/// All texts of a question by way of llama-server's own paths.
fn llama(client: &Client, texts: &[String]) -> Result<Texts, Refusal> {
    let failed = |problem: &str| Refusal::Failed(format!("{}: {problem}", client.address()));
    let mut numbers: Vec<Vec<u64>> = Vec::with_capacity(texts.len());
    for text in texts {
        let answer = client.post("/tokenize", &json!({ "content": text, "add_special": true }))?;
        let tokens = answer["tokens"]
            .as_array()
            .and_then(|tokens| tokens.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
        numbers.push(tokens.ok_or_else(|| failed("/tokenize gives no tokens"))?);
    }
    let shortest = numbers.iter().map(Vec::len).min().unwrap_or(0);
    let same = |index: usize| numbers.iter().all(|text| text[index] == numbers[0][index]);
    let common = (0..shortest).take_while(|&index| same(index)).count();
    // The first token has no probability, and every text is asked for its last.
    let first = common.min(shortest.saturating_sub(1)).max(1);
    let mut tokens_run = 0;
    let mut tokens = Vec::with_capacity(texts.len());
    for text in &numbers {
        let mut told: Vec<Token> = text
            .iter()
            .map(|number| Token { name: number.to_string(), log_probability: None })
            .collect();
        for index in first..text.len() {
            told[index].log_probability = Some(forced(client, &text[..index], text[index])?);
            tokens_run += index as u64;
        }
        tokens.push(told);
    }
    Ok(Texts { tokens, tokens_run })
}

/// The log-probability of one token after others, before any sampler has changed it.
fn forced(client: &Client, before: &[u64], token: u64) -> Result<f64, Refusal> {
    let body = json!({
        "prompt": before,
        "n_predict": 1,
        "n_probs": 1,
        "temperature": 0,
        "logit_bias": [[token, BIAS]],
        "cache_prompt": true,
    });
    let answer = client.post("/completion", &body)?;
    let told = &answer["completion_probabilities"][0];
    match (told["id"].as_u64(), told["logprob"].as_f64()) {
        (Some(id), Some(value)) if id == token => Ok(value),
        _ => Err(Refusal::Failed(format!(
            "{}: /completion does not tell the log-probability of the token {token}",
            client.address()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoed_tokens_end_where_the_generated_ones_begin() {
        let mut answer = json!({"choices": [{"logprobs": {
            "tokens": ["The", " sky", " is"], "token_logprobs": [null, -1.5, -0.25],
        }}]});
        let names = |answer: &Value| -> Vec<(String, Option<f64>)> {
            let tokens = echoed(answer).unwrap();
            tokens.into_iter().map(|token| (token.name, token.log_probability)).collect()
        };
        let two = [("The".to_string(), None), (" sky".to_string(), Some(-1.5))];
        assert_eq!(names(&answer), two);
        answer["usage"] = json!({"prompt_tokens": 3, "completion_tokens": 0});
        assert_eq!(names(&answer).len(), 3);
        assert_eq!(echoed(&json!({"choices": [{"logprobs": null}]})), None);
    }

    #[test]
    fn prompt_logprobs_are_read_by_number() {
        let answer = json!({"choices": [{"prompt_logprobs": [
            null, {"42": {"logprob": -2.0, "rank": 7, "decoded_token": " b"}},
        ]}]});
        let tokens = prompt_logprobs(&answer).unwrap();
        assert_eq!(tokens[0].log_probability, None);
        assert_eq!(tokens[1], Token { name: "42".into(), log_probability: Some(-2.0) });
        assert_eq!(prompt_logprobs(&json!({"choices": [{}]})), None);
    }
}
