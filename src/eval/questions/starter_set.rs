//! The starter set that comes with quantkit: `eval-sets/starter/questions.jsonl` is its source, and
//! the Parquet files beside it are built from that (`cargo run --release --example
//! build_starter_set`).

use std::path::Path;

use super::question::Question;
use super::set::QuestionSet;
use crate::eval::EvalError;

/// The questions of the source file, by split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StarterSet {
    /// The questions to score.
    pub test: Vec<Question>,
    /// The questions to take shots from.
    pub dev: Vec<Question>,
}

/// Reads the source: JSON lines that say their split.
///
/// # Errors
/// The file cannot be read, or a line is no question; names the line.
pub fn read_source(path: &Path) -> Result<StarterSet, EvalError> {
    let set = QuestionSet::find(path)?;
    Ok(StarterSet { test: set.test_questions()?, dev: set.dev_questions()? })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::subjects::Category;
    use super::*;

    fn directory() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/eval-sets/starter"))
    }

    fn source() -> StarterSet {
        read_source(&directory().join("questions.jsonl")).unwrap()
    }

    #[test]
    fn the_committed_parquet_is_built_from_the_source() {
        let set = QuestionSet::find(directory()).unwrap();
        let source = source();
        assert_eq!(set.test_questions().unwrap(), source.test);
        assert_eq!(set.dev_questions().unwrap(), source.dev);
    }

    #[test]
    fn the_set_keeps_its_promises() {
        let StarterSet { test, dev } = source();
        assert!(test.len() >= 120, "{} test questions", test.len());
        let subjects: BTreeSet<&str> = test.iter().map(|q| q.subject.as_str()).collect();
        assert!(subjects.len() >= 12, "{} subjects", subjects.len());
        let mut categories = BTreeSet::new();
        for subject in &subjects {
            let category = Category::of(subject);
            categories.insert(category.unwrap_or_else(|| panic!("{subject} is not of MMLU")));
            let shots = dev.iter().filter(|q| q.subject == *subject).count();
            assert_eq!(shots, 5, "{subject} has 5 questions for shots");
        }
        assert_eq!(categories.len(), 4);
        assert_eq!(dev.len(), 5 * subjects.len());
        assert!(test.iter().chain(&dev).all(|q| q.choices.len() == 4));
    }

    #[test]
    fn answers_are_spread_and_questions_are_not_repeated() {
        let StarterSet { test, dev } = source();
        for split in [&test, &dev] {
            let mut letters: BTreeMap<usize, usize> = BTreeMap::new();
            for question in split {
                *letters.entry(question.answer).or_default() += 1;
            }
            for answer in 0..4 {
                let share = letters.get(&answer).copied().unwrap_or(0) as f64 / split.len() as f64;
                assert!((0.2..0.3).contains(&share), "answer {answer} has a share of {share}");
            }
        }
        let mut seen = BTreeSet::new();
        for question in test.iter().chain(&dev) {
            assert!(seen.insert(&question.question), "twice: {}", question.question);
            let choices: BTreeSet<&String> = question.choices.iter().collect();
            assert_eq!(choices.len(), question.choices.len(), "{:?}", question.choices);
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("questions.jsonl");
        let good =
            r#"{"split":"test","subject":"s","question":"q","choices":["a","b"],"answer":1}"#;
        for (bad, expected) in [
            (good.replace("1}", "2}"), "the answer is 2; expected 0 to 1 for 2 choices"),
            (good.replace("test", "train"), "unknown variant `train`"),
            (good.replace("subject", "topic"), "unknown field `topic`"),
        ] {
            std::fs::write(&path, format!("{good}\n\n{bad}\n")).unwrap();
            let error = read_source(&path).unwrap_err().to_string();
            assert!(error.contains("line 3: ") && error.contains(expected), "{error}");
        }
    }
}
