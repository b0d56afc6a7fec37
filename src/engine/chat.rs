//! Chat templates: messages in, the model's own prompt format out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::EngineError;
use crate::jinja;
use crate::tokenizer::Vocabulary;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// The conversation in the model's chat format, with the opening of the assistant's turn if
/// `add_generation_prompt`: as transformers' `apply_chat_template` gives it. Where the template
/// spells the beginning-of-sequence token that [`Vocabulary::encode`] puts first anyway, it is left
/// out, so that it appears once.
///
/// # Errors
/// A model without a template, and whatever the template raises.
pub fn render_chat(
    vocabulary: &Vocabulary,
    messages: &[ChatMessage],
    add_generation_prompt: bool,
) -> Result<String, EngineError> {
    let template = vocabulary.chat_template.as_deref().ok_or_else(|| {
        EngineError::Unusable(
            "the model has no chat template (tokenizer.chat_template): give it a plain prompt"
                .to_string(),
        )
    })?;
    let variables = variables(vocabulary, messages, add_generation_prompt);
    let now = chrono::Local::now().naive_local();
    let rendered = jinja::render(template, &variables, now)?;
    let bos = vocabulary.bos.filter(|_| vocabulary.add_bos).and_then(|bos| vocabulary.piece(bos));
    match bos.and_then(|bos| rendered.strip_prefix(bos)) {
        Some(rest) => Ok(rest.to_string()),
        None => Ok(rendered),
    }
}

/// What transformers gives a template; `tools` and `documents` are there as `None`.
fn variables(
    vocabulary: &Vocabulary,
    messages: &[ChatMessage],
    add_generation_prompt: bool,
) -> Map<String, Json> {
    let mut variables = Map::new();
    for &(role, id) in &vocabulary.roles {
        variables.insert(role.to_string(), json!(vocabulary.piece(id)));
    }
    variables.insert("messages".to_string(), json!(messages));
    variables.insert("tools".to_string(), Json::Null);
    variables.insert("documents".to_string(), Json::Null);
    variables.insert("add_generation_prompt".to_string(), json!(add_generation_prompt));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Array, Metadata, Value};

    fn rendered(template: &str, add_bos: bool) -> Result<String, EngineError> {
        let texts = |texts: &[&str]| {
            Value::Array(Array::String(texts.iter().map(ToString::to_string).collect()))
        };
        let mut metadata = Metadata::new();
        metadata.set("tokenizer.ggml.model", Value::String("gpt2".into()));
        metadata.set("tokenizer.ggml.pre", Value::String("gpt-2".into()));
        metadata.set("tokenizer.ggml.tokens", texts(&["<s>", "</s>", "<pad>"]));
        metadata.set("tokenizer.ggml.merges", texts(&[]));
        for (id, role) in [(0, "bos"), (1, "eos"), (2, "padding")] {
            metadata.set(format!("tokenizer.ggml.{role}_token_id"), Value::U32(id));
        }
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(add_bos));
        metadata.set("tokenizer.chat_template", Value::String(template.into()));
        let vocabulary = Vocabulary::from_metadata(&metadata).unwrap();
        let messages = [ChatMessage { role: "user".into(), content: "Hi".into() }];
        render_chat(&vocabulary, &messages, true)
    }

    #[test]
    fn a_template_finds_what_transformers_gives_it() {
        let template = "{{ messages[0].content }} {{ eos_token }} {{ pad_token }} \
                        {{ unk_token is defined }} {{ tools is none and documents is none }} \
                        {{ add_generation_prompt }}";
        assert_eq!(rendered(template, true).unwrap(), "Hi </s> <pad> False True True");
    }

    #[test]
    fn the_start_token_appears_once() {
        let template = "{{ bos_token }}{{ messages[0].content }}";
        assert_eq!(rendered(template, true).unwrap(), "Hi");
        assert_eq!(rendered(template, false).unwrap(), "<s>Hi");
    }

    #[test]
    fn what_is_wrong_with_a_template_is_told() {
        let error = rendered("{{ messages[0].x.y }}", true).unwrap_err().to_string();
        assert!(error.starts_with("the model's chat template: \"x\" of a value"), "{error}");
        let error = rendered("{{ raise_exception('no') }}", true).unwrap_err();
        assert!(matches!(error, EngineError::Template(_)), "{error}");
    }
}
