//! Prompts in all shapes that llama-server takes: a text, tokens' numbers, both in turn, an object around a
//! text, and lists of those.

use std::sync::Arc;

use serde_json::Value;

use crate::server::errors::ApiError;
use crate::server::fields::wrong;
use crate::server::generate::{MOST_ANSWERS, aside};
use crate::server::state::Served;
use crate::tokenizer::Vocabulary;

/// What a prompt looks like.
const EXPECTED: &str = "a text, a list of texts and tokens' numbers, or a list of such prompts";

/// How a text becomes tokens.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// The field that it stands in.
    pub field: &'static str,
    /// The token that begins every text comes first.
    pub add_bos: bool,
    /// Text that spells a special token is that token.
    pub special: bool,
}

impl Reading {
    /// That of a prompt.
    pub const PROMPT: Self = Self { field: "prompt", add_bos: true, special: true };
}

/// The tokens of each prompt, at least one prompt.
///
/// # Errors
/// 400 for what is no prompt, and for too many; 501 for pictures and sound.
pub async fn read_prompts(
    model: &Arc<Served>,
    value: Option<Value>,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let value = value.unwrap_or(Value::Null);
    let prompts = match value {
        Value::Array(list) if is_list_of_prompts(&list) => list,
        other => vec![other],
    };
    if prompts.len() > MOST_ANSWERS {
        let problem = format!("expected at most {MOST_ANSWERS} prompts, found {}", prompts.len());
        return Err(ApiError::field("prompt", problem));
    }
    let vocabulary = Arc::clone(model.vocabulary());
    aside(move || {
        let tokens = |prompt: &Value| read_tokens(&vocabulary, prompt, Reading::PROMPT);
        prompts.iter().map(tokens).collect()
    })
    .await
}

/// Texts and numbers in one list are one prompt; texts alone are one each.
fn is_list_of_prompts(list: &[Value]) -> bool {
    let is_nested = |value: &Value| value.is_array() || value.is_object();
    list.iter().any(is_nested) || (!list.is_empty() && list.iter().all(Value::is_string))
}

/// The tokens of a text, or of a list of texts and tokens' numbers.
///
/// # Errors
/// 400 for anything else; 501 for pictures and sound.
pub fn read_tokens(
    vocabulary: &Vocabulary,
    value: &Value,
    reading: Reading,
) -> Result<Vec<u32>, ApiError> {
    let Reading { field, add_bos, special } = reading;
    let encode = |text: &str, add_bos: bool| {
        let tokens = vocabulary.encode_with(text, add_bos, special);
        tokens.map_err(|error| ApiError::field(field, error))
    };
    match value {
        Value::String(text) => encode(text, add_bos),
        Value::Array(list) => {
            let mut tokens = Vec::with_capacity(list.len());
            for (index, item) in list.iter().enumerate() {
                match item {
                    Value::String(text) => tokens.extend(encode(text, add_bos && index == 0)?),
                    other => tokens.push(token_number(field, other, vocabulary.size)?),
                }
            }
            Ok(tokens)
        }
        Value::Object(object) => {
            let is_nothing =
                |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            if object.get("multimodal_data").is_some_and(|data| !is_nothing(data)) {
                let message = "multimodal_data: quantkit takes neither sound nor pictures";
                return Err(ApiError::not_implemented(message));
            }
            match object.get("prompt_string") {
                Some(Value::String(text)) => encode(text, add_bos),
                _ => Err(wrong(field, "an object with a text in prompt_string", value)),
            }
        }
        other => Err(wrong(field, EXPECTED, other)),
    }
}

/// The number of a token that the vocabulary has.
///
/// # Errors
/// 400 for anything else.
pub fn token_number(field: &str, value: &Value, vocabulary: usize) -> Result<u32, ApiError> {
    let number = value.as_u64().filter(|&number| (number as usize) < vocabulary);
    let number = number.and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| {
        let expected = format!("tokens' numbers from 0 to {}", vocabulary.saturating_sub(1));
        wrong(field, &expected, value)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_prompt_is_told_from_several() {
        let several = |value: Value| is_list_of_prompts(value.as_array().unwrap());
        assert!(several(json!(["a"])) && several(json!([[1], [2]])) && several(json!(["a", [1]])));
        assert!(several(json!([{ "prompt_string": "a" }])));
        assert!(!several(json!([1, 2])) && !several(json!([1, "a", 2])) && !several(json!([])));
    }

    #[test]
    fn a_token_is_one_of_the_vocabulary() {
        assert_eq!(token_number("tokens", &json!(3), 4).unwrap(), 3);
        for bad in [json!(4), json!(-1), json!(1.5), json!("1"), json!(1e300), json!(null)] {
            let error = token_number("tokens", &bad, 4).unwrap_err();
            assert!(
                error.message.starts_with("tokens: expected tokens' numbers from 0 to 3"),
                "{bad}"
            );
        }
    }
}
