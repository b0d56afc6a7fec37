//! The documents that an answer comes in: one at its end, and in a stream one for each piece before.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::parameters::Parameters;
use super::{probabilities, settings};
use crate::server::generate::{Answer, End, NewToken, Reason, detokenize};
use crate::server::state::Served;
use crate::server::timings::Taken;

/// What all answers to a request share.
#[derive(Debug)]
pub struct Answers {
    pub model: Arc<Served>,
    pub parameters: Parameters,
    /// The tokens of each prompt.
    pub prompts: Vec<Vec<u32>>,
}

impl Answers {
    fn prompt(&self, index: usize) -> &[u32] {
        &self.prompts[index / self.parameters.answers]
    }

    /// A whole answer.
    pub fn whole(&self, index: usize, answer: &Answer) -> Value {
        let tokens: &[NewToken] = if self.parameters.returns_tokens { &answer.tokens } else { &[] };
        let mut document =
            self.last(index, &answer.text, tokens, &answer.end, answer.text.contains('\n'));
        if self.parameters.likeliest.is_some() {
            document["completion_probabilities"] = probabilities::document(
                self.model.vocabulary(),
                &answer.tokens,
                answer.end.end.as_ref(),
                self.parameters.after_sampling,
            );
        }
        self.chosen(document)
    }

    /// The last document of a stream: the text is told already.
    pub fn end(&self, index: usize, end: &End, has_new_line: bool) -> Value {
        let document = self.last(index, "", &[], end, has_new_line);
        self.chosen(document)
    }

    fn last(
        &self,
        index: usize,
        text: &str,
        tokens: &[NewToken],
        end: &End,
        has_new_line: bool,
    ) -> Value {
        let (kind, word) = match &end.reason {
            Reason::EndOfTurn => ("eos", ""),
            Reason::Stop(word) => ("word", word.as_str()),
            Reason::Length | Reason::ContextFull => ("limit", ""),
        };
        // The last token is generated, but not run.
        let held = (end.prompt_tokens + end.generated).saturating_sub(1).max(end.prompt_tokens);
        json!({
            "index": index,
            "content": text,
            "tokens": numbers(tokens),
            "id_slot": -1,
            "stop": true,
            "model": self.model.name,
            "tokens_predicted": end.generated,
            "tokens_evaluated": end.prompt_tokens,
            "generation_settings":
                settings::document(&self.parameters, self.model.default_new_tokens),
            "prompt": detokenize(self.model.vocabulary(), self.prompt(index), true),
            "has_new_line": has_new_line,
            "truncated": self.fills_context(end),
            "stop_type": kind,
            "stopping_word": word,
            "tokens_cached": held,
            "timings": Taken::from(end).document(),
        })
    }

    /// Whether an answer ends for want of room. One without a limit has all the room that there is.
    fn fills_context(&self, end: &End) -> bool {
        let most = self.parameters.max_new_tokens.or(self.model.default_new_tokens);
        match end.reason {
            Reason::ContextFull => true,
            Reason::Length => most.is_none(),
            Reason::EndOfTurn | Reason::Stop(_) => false,
        }
    }

    /// A piece of a stream.
    pub fn piece(&self, index: usize, text: &str, tokens: &[NewToken], taken: &Taken) -> Value {
        let mut document = json!({
            "index": index,
            "content": text,
            "tokens": numbers(tokens),
            "stop": false,
            "id_slot": -1,
            "tokens_predicted": taken.generated,
            "tokens_evaluated": taken.prompt_tokens,
        });
        if self.parameters.times_pieces {
            document["timings"] = taken.document();
        }
        if self.parameters.likeliest.is_some() && !tokens.is_empty() {
            let after_sampling = self.parameters.after_sampling;
            document["completion_probabilities"] =
                probabilities::document(self.model.vocabulary(), tokens, None, after_sampling);
        }
        document
    }

    /// How far the prompt is, as a piece of a stream without text.
    pub fn progress(&self, index: usize, done: usize, taken: &Taken) -> Value {
        let mut document = self.piece(index, "", &[], taken);
        document["prompt_progress"] = taken.progress(done);
        document
    }

    /// Those fields that the request names; `a/b` is the field `b` of the field `a`, under that whole name.
    fn chosen(&self, document: Value) -> Value {
        if self.parameters.fields.is_empty() {
            return document;
        }
        let mut chosen = Map::new();
        for name in &self.parameters.fields {
            let found = name.split('/').try_fold(&document, |inside, part| inside.get(part));
            if let Some(found) = found {
                chosen.insert(name.clone(), found.clone());
            }
        }
        Value::Object(chosen)
    }
}

fn numbers(tokens: &[NewToken]) -> Vec<u32> {
    tokens.iter().map(|token| token.token).collect()
}
