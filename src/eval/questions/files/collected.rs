//! The questions of a set as they are read, within a bound: a file of a few kilobytes can unpack to
//! gigabytes.

use std::io::Read;
use std::path::Path;

use super::draft::Draft;
use crate::eval::EvalError;
use crate::eval::questions::question::Question;
use crate::support::regular_file::open_regular;
use crate::support::units;

/// The most that the questions of a split may take in memory, and that a file of them may unpack to.
/// All of MMLU takes 13 MB.
pub(super) const MOST_BYTES: usize = 512 << 20;

/// How many answers that should count from 0 there must be before it is odd that none is 0.
const FEW_ANSWERS: usize = 4;

/// The questions that have been read.
#[derive(Debug)]
pub(in crate::eval::questions) struct Collected {
    pub questions: Vec<Question>,
    /// What they take in memory.
    bytes: usize,
    most_bytes: usize,
    /// Answers that their files give as numbers that count from 0.
    counted: usize,
    /// Those of them that are 0.
    zeros: usize,
}

impl Collected {
    pub fn new() -> Self {
        Self::within(MOST_BYTES)
    }

    fn within(most_bytes: usize) -> Self {
        Self { questions: Vec::new(), bytes: 0, most_bytes, counted: 0, zeros: 0 }
    }

    /// Adds a question, or says what is wrong with it.
    pub fn add(&mut self, draft: Draft) -> Result<(), String> {
        let counts = draft.counts_from_0;
        let question = draft.check(self.questions.len())?;
        self.bytes += size(&question);
        if self.bytes > self.most_bytes {
            return Err(format!(
                "with this one the questions take more than {}, which is the most for one split of \
                 a set: cut the set into several",
                units::bytes(self.most_bytes as u64)
            ));
        }
        self.counted += usize::from(counts);
        self.zeros += usize::from(counts && question.answer == 0);
        self.questions.push(question);
        Ok(())
    }

    /// Whether the answers may count from 1 where they should count from 0.
    pub fn may_count_from_1(&self) -> bool {
        self.counted >= FEW_ANSWERS && self.zeros == 0
    }
}

/// What a question takes in memory.
fn size(question: &Question) -> usize {
    let Question { id, question: text, subject, choices, .. } = question;
    let texts = choices.iter().chain([text, subject]).chain(id).map(String::len).sum::<usize>();
    texts + size_of::<Question>() + choices.len() * size_of::<String>()
}

/// A file's text, without the byte order mark that it may begin with.
pub(super) fn read_text(path: &Path) -> Result<String, EvalError> {
    let bytes = read_bytes(path)?;
    let text =
        String::from_utf8(bytes).map_err(|_| EvalError::unusable(path, "the text is not UTF-8"))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text))
}

/// A file's bytes.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, EvalError> {
    let failed = |source| EvalError::io(path, source);
    let mut file = open_regular(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > MOST_BYTES as u64 {
        return Err(EvalError::unusable(
            path,
            format!(
                "the file takes {}; {} is the most for one file of questions: cut it into several",
                units::bytes(length),
                units::bytes(MOST_BYTES as u64)
            ),
        ));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::questions::question::Form;

    fn draft(answer: i64, counts_from_0: bool) -> Draft {
        Draft {
            id: None,
            question: "q".repeat(1000),
            subject: "s".to_string(),
            choices: vec!["a".to_string(), "b".to_string(), "c".to_string()],
            answer,
            counts_from_0,
            form: Form::Exam,
        }
    }

    #[test]
    fn the_bound_is_named() {
        let mut collected = Collected::within(3500);
        collected.add(draft(0, true)).unwrap();
        collected.add(draft(0, true)).unwrap();
        let error = collected.add(draft(0, true)).unwrap_err();
        assert!(error.contains("take more than 3.42 KiB"), "{error}");
        assert_eq!(collected.questions.len(), 2);
    }

    #[test]
    fn answers_without_a_0_are_odd_once_there_are_a_few() {
        let odd = |answers: &[i64], counts: bool| {
            let mut collected = Collected::new();
            answers.iter().for_each(|&answer| collected.add(draft(answer, counts)).unwrap());
            collected.may_count_from_1()
        };
        assert!(odd(&[1, 2, 1, 1], true));
        assert!(!odd(&[1, 2, 1], true), "too few to tell");
        assert!(!odd(&[1, 2, 1, 0], true));
        assert!(!odd(&[1, 2, 1, 1], false), "letters do not count");
    }
}
