//! Question sets: what a question is, the files that sets come in, and what is in a set.
//!
//! The door is [`QuestionSet::find`], which gives a set's questions to score and those for shots;
//! single files go through [`read_questions`] and [`write_questions`].

mod files;
mod locate;
pub(super) mod python_text;
mod question;
mod set;
pub mod starter_set;
pub mod subjects;
mod summary;
pub(super) mod wording;

pub use files::{Split, read_questions, write_questions};
pub use question::{Form, Question};
pub use set::QuestionSet;
pub use summary::{SetSummary, SubjectSummary, summarize};
