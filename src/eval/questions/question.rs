//! A question, and how sets word theirs.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

/// One multiple-choice question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its row in its split, from 0, counted over all files of the split.
    pub row: usize,
    /// The set's own name for it, where the set has names.
    pub id: Option<String>,
    /// The question; what else it may be, its form says.
    pub question: String,
    /// The subject, as MMLU spells it (`high_school_physics`); the set's name where it has none.
    pub subject: String,
    /// The choices; from 2 to 26.
    pub choices: Vec<String>,
    /// The index of the right choice.
    pub answer: usize,
    /// How the set words its questions.
    pub form: Form,
}

/// How a set words its questions, which decides how choices are put to a model as text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A question of an exam and its answers: MMLU.
    #[default]
    Exam,
    /// A text and its continuations: HellaSwag, llama.cpp's task files.
    Continuation,
    /// A question that is put as "Question: … Answer:": ARC.
    Arc,
    /// A question that follows TruthfulQA's six examples.
    TruthfulQa,
    /// A sentence with a blank, `_`, and what may stand there: WinoGrande.
    Blank,
}

impl Form {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exam => "exam",
            Self::Continuation => "continuation",
            Self::Arc => "arc",
            Self::TruthfulQa => "truthful-qa",
            Self::Blank => "blank",
        }
    }

    /// The form of a name; an error lists the names.
    pub(super) fn from_name(name: &str) -> Result<Self, String> {
        let all = [Self::Exam, Self::Continuation, Self::Arc, Self::TruthfulQa, Self::Blank];
        all.into_iter().find(|form| form.name() == name).ok_or_else(|| {
            let names = all.map(Self::name).join(", ");
            format!("no form is called {name:?}; expected one of {names}")
        })
    }
}

impl Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
