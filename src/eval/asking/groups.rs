//! Which questions are asked together, and their texts as tokens.
//!
//! *Letter* is the task `mmlu` of lm-evaluation-harness (its `default` variant), and *chat* the same
//! through the model's chat template (its `--apply_chat_template`); *cloze* is llama.cpp's
//! `llama-perplexity --multiple-choice`; *cloze-normalized* are the harness's tasks that complete a
//! text, such as `mmlu_continuation` and `arc_easy`.

use std::collections::BTreeMap;
use std::sync::Once;

use rayon::prelude::*;
use serde::Serialize;

use super::candidates::Candidates;
use super::prompts::{
    ChatPreamble, Completion, chat_preamble, cloze_texts, completion_preamble, completions, letter,
    letter_completions, lettered, preamble,
};
use super::protocol::Protocol;
use crate::engine::{ChatMessage, EngineError, render_chat};
use crate::eval::EvalError;
use crate::eval::questions::wording::cloze_context;
use crate::eval::questions::{Form, Question, QuestionSet};
use crate::jinja::ErrorKind;
use crate::tokenizer::Vocabulary;

/// Questions that are asked with the same text before them.
#[derive(Debug)]
pub(in crate::eval) struct Group {
    asked: Asked,
    pub(in crate::eval) questions: Vec<Question>,
}

/// How the questions of a group are asked.
#[derive(Debug)]
enum Asked {
    Letter { preamble: String },
    Chat { preamble: ChatPreamble },
    Cloze,
    Completion { preamble: String },
}

/// Divides questions into groups by subject, with the subject's description and shots; cloze
/// questions, which have neither, stay together.
///
/// # Errors
/// Fewer shots than are wanted.
pub(in crate::eval) fn groups(
    questions: Vec<Question>,
    set: &QuestionSet,
    protocol: Protocol,
    shots: usize,
) -> Result<Vec<Group>, EvalError> {
    if protocol == Protocol::Cloze {
        return Ok(vec![Group { asked: Asked::Cloze, questions }]);
    }
    let dev = if shots == 0 { Vec::new() } else { set.dev_questions()? };
    let mut by_subject: BTreeMap<String, Vec<Question>> = BTreeMap::new();
    for question in questions {
        by_subject.entry(question.subject.clone()).or_default().push(question);
    }
    by_subject
        .into_iter()
        .map(|(subject, questions)| {
            let examples: Vec<&Question> =
                dev.iter().filter(|q| q.subject == subject).take(shots).collect();
            if examples.len() < shots {
                return Err(EvalError::Unusable(format!(
                    "{}: {shots} shots are wanted and the dev split has {} questions on {subject}: \
                     lower --shots, or put dev.parquet beside the test split",
                    set.path().display(),
                    examples.len()
                )));
            }
            // Sets of other forms have no subjects; their name stands in.
            let is_exam = questions.iter().any(|question| question.form == Form::Exam);
            let subject = is_exam.then_some(subject.as_str());
            let asked = match protocol {
                Protocol::Letter => Asked::Letter { preamble: preamble(subject, examples) },
                Protocol::Chat => Asked::Chat { preamble: chat_preamble(subject, examples) },
                Protocol::Cloze => Asked::Cloze,
                Protocol::ClozeNormalized => {
                    Asked::Completion { preamble: completion_preamble(subject, examples) }
                }
            };
            Ok(Group { asked, questions })
        })
        .collect()
}

impl Group {
    /// Some of the group's questions as tokens, cut to the model's context; or why one cannot be
    /// scored.
    ///
    /// # Errors
    /// A text that the model's tokenizer or this protocol can do nothing with; names the row.
    pub(in crate::eval) fn candidates(
        &self,
        questions: &[Question],
        vocabulary: &Vocabulary,
        context_length: usize,
    ) -> Result<Vec<Result<Candidates, String>>, EvalError> {
        let one = |question: &Question| {
            let candidates = self.tokens(question, vocabulary).map_err(|error| match error {
                EvalError::Unusable(text) => {
                    EvalError::Unusable(format!("row {}: {text}", question.row))
                }
                other => other,
            })?;
            Ok(candidates.fit(context_length))
        };
        questions.par_iter().map(one).collect()
    }

    /// The whole text for each choice of a question, for a server that tokenizes by itself and
    /// counts from where the choices differ; `None` under protocols that need more than that.
    pub(in crate::eval) fn whole_texts(&self, question: &Question) -> Option<Vec<String>> {
        match &self.asked {
            Asked::Letter { preamble } => {
                let completions = letter_completions(preamble, question).into_iter();
                Some(completions.map(|one| one.context + &one.continuation).collect())
            }
            Asked::Cloze => Some(cloze_texts(question)),
            Asked::Chat { .. } | Asked::Completion { .. } => None,
        }
    }

    fn tokens(
        &self,
        question: &Question,
        vocabulary: &Vocabulary,
    ) -> Result<Candidates, EvalError> {
        let completions = match &self.asked {
            Asked::Cloze => {
                let start = vocabulary.bos.or(vocabulary.eos).unwrap_or(0);
                let texts = cloze_texts(question);
                return Candidates::of_texts(&texts, start, |text| with_bos(vocabulary, text));
            }
            Asked::Letter { preamble } => letter_completions(preamble, question),
            Asked::Completion { preamble } => completions(preamble, question),
            Asked::Chat { preamble } => chat_completions(preamble, question, vocabulary)?,
        };
        Candidates::of_completions(&completions, |text| encode(vocabulary, text, true))
    }
}

/// How a question is put to a model under a protocol, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AskedText {
    /// The question's row.
    pub row: usize,
    /// For each choice, the text before what counts, and what counts.
    pub choices: Vec<(String, String)>,
}

/// How some questions of a set are put to a model, in the order of their rows.
///
/// # Errors
/// Fewer shots than are wanted; the chat protocol, whose text is the model's.
pub fn asked_texts(
    set: &QuestionSet,
    questions: Vec<Question>,
    protocol: Protocol,
    shots: usize,
) -> Result<Vec<AskedText>, EvalError> {
    let mut texts = Vec::with_capacity(questions.len());
    for group in groups(questions, set, protocol, shots)? {
        for question in &group.questions {
            let pair = |Completion { context, continuation }| (context, continuation);
            let completions = match &group.asked {
                Asked::Letter { preamble } => letter_completions(preamble, question),
                Asked::Completion { preamble } => completions(preamble, question),
                Asked::Cloze => cloze_completions(question),
                Asked::Chat { .. } => {
                    return Err(EvalError::Unusable(
                        "the chat protocol puts the letter protocol's text through the model's \
                         chat template: ask for --protocol letter"
                            .to_string(),
                    ));
                }
            };
            let choices = completions.into_iter().map(pair).collect();
            texts.push(AskedText { row: question.row, choices });
        }
    }
    texts.sort_by_key(|text| text.row);
    Ok(texts)
}

/// The cloze protocol's texts, divided before the choices. (What counts begins with the first token
/// on which they differ, which the model's tokenizer decides.)
fn cloze_completions(question: &Question) -> Vec<Completion> {
    let context = cloze_context(question);
    let divide = |text: String| match &context {
        Some(context) => {
            Completion { continuation: text[context.len()..].to_string(), context: context.clone() }
        }
        None => Completion { context: String::new(), continuation: text },
    };
    cloze_texts(question).into_iter().map(divide).collect()
}

/// The letters after the conversation, as the beginning of the assistant's turn.
fn chat_completions(
    preamble: &ChatPreamble,
    question: &Question,
    vocabulary: &Vocabulary,
) -> Result<Vec<Completion>, EvalError> {
    let ChatPreamble { system, shots } = preamble;
    let user = format!("{shots}{}", lettered(question));
    let context = chat_context(vocabulary, system, user)?;
    let completion =
        |choice| Completion { context: context.clone(), continuation: letter(choice).to_string() };
    Ok((0..question.choices.len()).map(completion).collect())
}

/// The conversation as the model's template writes it. A template that refuses the system's message
/// is left without it, as in the harness, and a warning says so.
fn chat_context(vocabulary: &Vocabulary, system: &str, user: String) -> Result<String, EvalError> {
    static TOLD: Once = Once::new();
    let turn = |role: &str, content: String| ChatMessage { role: role.to_string(), content };
    let conversation = [turn("system", system.to_string()), turn("user", user)];
    let refused = match render_chat(vocabulary, &conversation, true) {
        Err(EngineError::Template(error)) if error.kind() == ErrorKind::Raised => error,
        rendered => return Ok(rendered?),
    };
    let context = render_chat(vocabulary, &conversation[1..], true)?;
    TOLD.call_once(|| {
        tracing::warn!(
            "the model's chat template: {refused}. The line before the questions is left out, as \
             lm-evaluation-harness leaves it out"
        );
    });
    Ok(context)
}

fn encode(vocabulary: &Vocabulary, text: &str, special: bool) -> Result<Vec<u32>, EvalError> {
    vocabulary.encode(text, special).map_err(|error| EvalError::Unusable(error.to_string()))
}

/// Text as text, whatever special tokens it may spell, after the model's start token if it wants
/// one: how llama.cpp tokenizes a question.
fn with_bos(vocabulary: &Vocabulary, text: &str) -> Result<Vec<u32>, EvalError> {
    let mut tokens = encode(vocabulary, text, false)?;
    if let (true, Some(bos)) = (vocabulary.add_bos, vocabulary.bos) {
        tokens.insert(0, bos);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Array, Metadata, Value};

    /// A vocabulary of two tokens, with a chat template.
    fn vocabulary(template: &str) -> Vocabulary {
        let texts = |texts: &[&str]| {
            Value::Array(Array::String(texts.iter().map(ToString::to_string).collect()))
        };
        let mut metadata = Metadata::new();
        metadata.set("tokenizer.ggml.model", Value::String("gpt2".into()));
        metadata.set("tokenizer.ggml.pre", Value::String("gpt-2".into()));
        metadata.set("tokenizer.ggml.tokens", texts(&["a", "b"]));
        metadata.set("tokenizer.ggml.merges", texts(&[]));
        metadata.set("tokenizer.chat_template", Value::String(template.into()));
        Vocabulary::from_metadata(&metadata).unwrap()
    }

    fn context(first: &str) -> Result<String, EvalError> {
        let template = format!(
            "{{% if messages[0].role == 'system' %}}{first}{{% endif %}}\
             {{% for m in messages %}}<{{{{ m.role }}}}>{{{{ m.content }}}}{{% endfor %}}"
        );
        chat_context(&vocabulary(&template), "About birds.", "Which?".to_string())
    }

    #[test]
    fn only_a_template_that_refuses_goes_without_the_systems_message() {
        assert_eq!(context("").unwrap(), "<system>About birds.<user>Which?");
        assert_eq!(context("{{ raise_exception('no system') }}").unwrap(), "<user>Which?");
        for broken in ["{{ messages[0].x.y }}", "{{ 1 | frobnicate }}", "{% unknown %}"] {
            let error = context(broken).unwrap_err().to_string();
            assert!(error.contains("the model's chat template"), "{error}");
        }
    }
}
