//! What the readers of all kinds of files share.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::eval::questions::question::{Form, Question};
use crate::support::units;

/// Choices are lettered A, B, C, …
pub(super) const MOST_CHOICES: usize = 26;
/// The longest text of a question, in bytes: no model reads as much.
const LONGEST_TEXT: usize = 16 << 20;

/// Which questions of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Those to score.
    Test,
    /// Those to take shots from.
    Dev,
}

/// Which questions of a file are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::eval::questions) enum Reading {
    /// All of them; a line of JSON that says it is of another split than this one is left out.
    Role(Split),
    /// Only lines of JSON that say they are for shots.
    MarkedDev,
}

/// A question as a file has it, not yet checked.
#[derive(Debug)]
pub(super) struct Draft {
    pub id: Option<String>,
    pub question: String,
    pub subject: String,
    pub choices: Vec<String>,
    /// Index of the right choice.
    pub answer: i64,
    /// Whether the file gives the answer as a number that counts from 0.
    pub counts_from_0: bool,
    pub form: Form,
}

impl Draft {
    /// The question of this row, or what is wrong with it.
    pub fn check(self, row: usize) -> Result<Question, String> {
        for (text, name) in [(&self.question, "question"), (&self.subject, "subject")] {
            if text.trim().is_empty() {
                return Err(format!("the {name} is empty"));
            }
        }
        let count = self.choices.len();
        if !(2..=MOST_CHOICES).contains(&count) {
            return Err(format!("{count} choices; expected 2 to {MOST_CHOICES}"));
        }
        if let Some(empty) = self.choices.iter().position(|choice| choice.trim().is_empty()) {
            return Err(format!("choice {empty} is empty"));
        }
        let answer = usize::try_from(self.answer)
            .ok()
            .filter(|&answer| answer < count)
            .ok_or_else(|| {
                let last = count - 1;
                format!("the answer is {}; expected 0 to {last} for {count} choices", self.answer)
            })?;
        let Self { id, question, subject, choices, form, .. } = self;
        if form == Form::Blank && !question.contains('_') {
            return Err("the sentence has no blank, which is written _".to_string());
        }
        Ok(Question { row, id, question, subject, choices, answer, form })
    }
}

/// A text of a file, if it is not too long: it may be there a million times, and each time is a copy.
pub(super) fn bounded(text: &str) -> Result<String, String> {
    if text.len() <= LONGEST_TEXT {
        return Ok(text.to_string());
    }
    let (length, most) = (units::bytes(text.len() as u64), units::bytes(LONGEST_TEXT as u64));
    Err(format!("a text takes {length}; {most} is the most for one"))
}

/// The index that a letter stands for: 0 for A.
pub(super) fn letter_index(text: &str) -> Option<i64> {
    match text.trim().as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(i64::from(letter - b'A')),
        _ => None,
    }
}

/// The set's name where it has no subjects: the file's, without its extension.
pub(super) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
