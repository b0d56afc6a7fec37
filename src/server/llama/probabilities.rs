//! `completion_probabilities`: what the model, or the draw, thought of each new token.

use serde_json::{Value, json};

use crate::engine::{EndToken, Probabilities};
use crate::server::generate::NewToken;
use crate::tokenizer::Vocabulary;

/// Those of new tokens, and of the one that ended the turn.
pub fn document(
    vocabulary: &Vocabulary,
    tokens: &[NewToken],
    end: Option<&EndToken>,
    after_sampling: bool,
) -> Value {
    let new = tokens.iter().filter_map(|token| token.probabilities.as_ref());
    let told = new.chain(end.and_then(|end| end.probabilities.as_ref()));
    told.map(|told| of_token(vocabulary, told, after_sampling)).collect()
}

fn of_token(vocabulary: &Vocabulary, told: &Probabilities, after_sampling: bool) -> Value {
    let (name, top_name) =
        if after_sampling { ("prob", "top_probs") } else { ("logprob", "top_logprobs") };
    let one = |token: u32, log_probability: f64| {
        let bytes = vocabulary.token_bytes(token);
        let value = if after_sampling { log_probability.exp() } else { log_probability };
        json!({
            "id": token,
            "token": String::from_utf8_lossy(&bytes),
            "bytes": bytes,
            name: value,
        })
    };
    let mut document = one(told.token, told.log_probability);
    document[top_name] = told.top.iter().map(|&(token, value)| one(token, value)).collect();
    document
}
