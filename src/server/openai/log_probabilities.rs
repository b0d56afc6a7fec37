//! The documents that tell log-probabilities: OpenAI's old and new one, and vLLM's of a prompt.

use serde_json::{Map, Value, json};

use crate::engine::{EndToken, Probabilities};
use crate::server::generate::NewToken;
use crate::tokenizer::Vocabulary;

/// How tokens are named.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub vocabulary: &'a Vocabulary,
    /// `token_id:N` in place of their text.
    pub are_numbers: bool,
}

impl Names<'_> {
    fn of(&self, token: u32) -> String {
        if self.are_numbers {
            format!("token_id:{token}")
        } else {
            String::from_utf8_lossy(&self.vocabulary.token_bytes(token)).into_owned()
        }
    }
}

/// `logprobs` of a completion.
#[derive(Debug, Default)]
pub struct Completion {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f64>>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
}

impl Completion {
    /// The tokens of a prompt, each with the bytes of text before it. The first follows nothing.
    pub fn prompt(&mut self, names: Names<'_>, prompt: &[u32], told: &[Probabilities]) {
        let Some(&first) = prompt.first() else { return };
        let mut offset = 0;
        self.push(names, first, None, offset);
        for told in told {
            let before = self.text_offset.len() - 1;
            offset += names.vocabulary.token_bytes(prompt[before]).len();
            self.push(names, told.token, Some(told), offset);
        }
    }

    /// New tokens, behind `offset` bytes.
    pub fn new_tokens(&mut self, names: Names<'_>, tokens: &[NewToken], offset: usize) {
        for token in tokens {
            let told = token.probabilities.as_ref();
            self.push(names, token.token, told, offset + token.offset);
        }
    }

    /// The token that ended the turn, behind `offset` bytes.
    pub fn end(&mut self, names: Names<'_>, end: &EndToken, offset: usize) {
        self.push(names, end.token, end.probabilities.as_ref(), offset);
    }

    fn push(&mut self, names: Names<'_>, token: u32, told: Option<&Probabilities>, offset: usize) {
        self.tokens.push(names.of(token));
        self.token_logprobs.push(told.map(|told| told.log_probability));
        self.text_offset.push(offset);
        self.top_logprobs.push(match told {
            Some(told) => {
                let mut top = Map::new();
                // Of tokens with the same text, the likeliest.
                let own = (told.token, told.log_probability);
                for &(token, value) in told.top.iter().chain([&own]) {
                    top.entry(names.of(token)).or_insert_with(|| json!(value));
                }
                Value::Object(top)
            }
            None => Value::Null,
        });
    }

    /// The document.
    pub fn document(self) -> Value {
        let Self { tokens, token_logprobs, top_logprobs, text_offset } = self;
        json!({
            "tokens": tokens,
            "token_logprobs": token_logprobs,
            "top_logprobs": top_logprobs,
            "text_offset": text_offset,
        })
    }
}

/// `logprobs` of a chat.
pub fn chat(names: Names<'_>, tokens: &[NewToken]) -> Value {
    let one = |token: u32, value: f64| {
        json!({
            "token": names.of(token),
            "logprob": value,
            "bytes": names.vocabulary.token_bytes(token),
        })
    };
    let content = tokens.iter().filter_map(|token| token.probabilities.as_ref()).map(|told| {
        let mut entry = one(told.token, told.log_probability);
        let top: Vec<Value> = told.top.iter().map(|&(token, value)| one(token, value)).collect();
        entry["top_logprobs"] = Value::Array(top);
        entry
    });
    json!({ "content": content.collect::<Vec<_>>(), "refusal": null })
}

/// vLLM's `prompt_logprobs`: nothing for the first token.
pub fn prompt(names: Names<'_>, told: &[Probabilities]) -> Value {
    let entry = |told: &Probabilities| {
        let mut entries = Map::new();
        let one = |token: u32, value: f64, rank: usize| json!({ "logprob": value, "rank": rank, "decoded_token": names.of(token) });
        let own = one(told.token, told.log_probability, told.rank);
        entries.insert(told.token.to_string(), own);
        for (rank, &(token, value)) in (1..).zip(&told.top) {
            entries.entry(token.to_string()).or_insert_with(|| one(token, value, rank));
        }
        Value::Object(entries)
    };
    let entries = [Value::Null].into_iter().chain(told.iter().map(entry));
    Value::Array(entries.collect())
}
