//! Which questions are asked together, and their texts as tokens.
//!
//! *Letter* is the task `mmlu` of lm-evaluation-harness (its `default` variant), *cloze* is
//! llama.cpp's `llama-perplexity --multiple-choice`.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::candidates::Candidates;
use super::prompts::{cloze_texts, letter_completions, preamble};
use super::question_set::{Form, Question, QuestionSet};
use super::{EvalError, Protocol};
use crate::convert::vocabulary::Vocabulary;

/// Questions that are asked with the same text before them.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) asked: Asked,
    pub(super) questions: Vec<Question>,
}

/// How the questions of a group are asked.
#[derive(Debug)]
pub(super) enum Asked {
    Letter { preamble: String },
    Cloze,
}

/// Divides questions into groups: letter questions go by subject, with the subject's description and
/// shots; cloze questions stay together.
///
/// # Errors
/// Fewer shots than are wanted.
pub(super) fn groups(
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
            let preamble = preamble(is_exam.then_some(subject.as_str()), examples);
            Ok(Group { asked: Asked::Letter { preamble }, questions })
        })
        .collect()
}

impl Group {
    /// Some of the group's questions as tokens, cut to the model's context; or why one cannot be
    /// scored.
    ///
    /// # Errors
    /// A text that the model's tokenizer or this protocol can do nothing with; names the row.
    pub(super) fn candidates(
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

    /// The whole text for each choice of a question, for a server that tokenizes by itself.
    pub(super) fn whole_texts(&self, question: &Question) -> Vec<String> {
        match &self.asked {
            Asked::Letter { preamble } => {
                let completions = letter_completions(preamble, question).into_iter();
                completions.map(|one| one.context + &one.continuation).collect()
            }
            Asked::Cloze => cloze_texts(question),
        }
    }

    fn tokens(
        &self,
        question: &Question,
        vocabulary: &Vocabulary,
    ) -> Result<Candidates, EvalError> {
        match &self.asked {
            Asked::Letter { preamble } => {
                let completions = letter_completions(preamble, question);
                Candidates::of_completions(&completions, |text| encode(vocabulary, text, true))
            }
            Asked::Cloze => {
                let start = vocabulary.bos.or(vocabulary.eos).unwrap_or(0);
                let texts = cloze_texts(question);
                Candidates::of_texts(&texts, start, |text| with_bos(vocabulary, text))
            }
        }
    }
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
