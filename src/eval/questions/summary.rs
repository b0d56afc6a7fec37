//! What a set holds, in numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::question::{Form, Question};
use super::set::QuestionSet;
use super::subjects::Category;
use crate::eval::EvalError;
use crate::support::path_text;

/// What a set holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetSummary {
    /// The files, test before dev.
    #[serde(serialize_with = "path_text::several")]
    pub files: Vec<PathBuf>,
    /// SHA-256 over the files' contents.
    pub sha256: String,
    /// Questions to score.
    pub questions: usize,
    /// Questions to take shots from.
    pub shots: usize,
    /// Questions to score by form.
    pub forms: BTreeMap<&'static str, usize>,
    /// Questions to score by number of choices.
    pub choices: BTreeMap<usize, usize>,
    /// Questions to score by index of the right choice.
    pub answers: BTreeMap<usize, usize>,
    /// The subjects by name.
    pub subjects: Vec<SubjectSummary>,
}

/// How much of a set is on one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubjectSummary {
    /// The subject.
    pub name: String,
    /// Its category, if MMLU has the subject.
    pub category: Option<&'static str>,
    /// Questions to score.
    pub questions: usize,
    /// Questions to take shots from.
    pub shots: usize,
}

/// Counts what a set holds; `questions` are those to score.
///
/// # Errors
/// A file that cannot be read.
pub fn summarize(set: &QuestionSet, questions: &[Question]) -> Result<SetSummary, EvalError> {
    let dev = set.dev_questions()?;
    let mut subjects: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for question in questions {
        subjects.entry(&question.subject).or_default().0 += 1;
    }
    for question in &dev {
        subjects.entry(&question.subject).or_default().1 += 1;
    }
    let subject = |(name, (questions, shots)): (&str, (usize, usize))| SubjectSummary {
        name: name.to_string(),
        category: Category::of(name).map(Category::name),
        questions,
        shots,
    };
    Ok(SetSummary {
        files: set.files().map(Into::into).collect(),
        sha256: set.sha256()?,
        questions: questions.len(),
        shots: dev.len(),
        forms: counts(questions, |question| Form::name(question.form)),
        choices: counts(questions, |question| question.choices.len()),
        answers: counts(questions, |question| question.answer),
        subjects: subjects.into_iter().map(subject).collect(),
    })
}

fn counts<K: Ord>(questions: &[Question], key: impl Fn(&Question) -> K) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for question in questions {
        *counts.entry(key(question)).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_starter_set_is_counted() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/eval-sets/starter"));
        let set = QuestionSet::find(path).unwrap();
        let summary = summarize(&set, &set.test_questions().unwrap()).unwrap();
        assert_eq!((summary.questions, summary.shots, summary.files.len()), (120, 60, 2));
        assert_eq!(summary.choices, BTreeMap::from([(4, 120)]));
        assert_eq!(summary.forms, BTreeMap::from([("exam", 120)]));
        assert_eq!(summary.answers.values().sum::<usize>(), 120);
        assert_eq!(summary.subjects.len(), 12);
        let first = &summary.subjects[0];
        assert_eq!((first.name.as_str(), first.questions, first.shots), ("astronomy", 10, 5));
        assert_eq!(first.category, Some("STEM"));
    }
}
