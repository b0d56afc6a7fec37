//! The task file of llama.cpp's `llama-perplexity --multiple-choice`.
//!
//! Numbers are little-endian and 32 bits wide. First the number of tasks, then each task's offset
//! from the beginning of the file. A task is a question and two lists of answers: those of which one
//! is right, and those of which several may be (none in files of ours, and passed over in those of
//! others). A list is its length, the answers, and a label each: 1 for right, 0 for wrong. A text is
//! its length in bytes and the bytes.

use std::path::Path;

use super::collected::Collected;
use super::draft::{Draft, bounded, stem};
use crate::eval::EvalError;
use crate::eval::questions::question::{Form, Question};
use crate::eval::questions::wording::cloze_context;
use crate::support::atomic_file::write_atomically;
use crate::support::mapped::map_file;

/// More answers than this to a question, llama.cpp takes for a damaged file.
const MOST_ANSWERS: u32 = 100;

pub(super) fn read(path: &Path, questions: &mut Collected) -> Result<(), EvalError> {
    let map = map_file(path).map_err(|source| EvalError::io(path, source))?;
    let subject = stem(path);
    let offsets = offsets(&map).map_err(|error| {
        EvalError::unusable(
            path,
            format!("not a task file of llama.cpp's --multiple-choice: {error}"),
        )
    })?;
    for (task, offset) in offsets.into_iter().enumerate() {
        read_task(&map, offset as usize, &subject)
            .and_then(|draft| questions.add(draft))
            .map_err(|error| EvalError::unusable(path, format!("task {task}: {error}")))?;
    }
    Ok(())
}

fn offsets(bytes: &[u8]) -> Result<Vec<u32>, String> {
    let mut cursor = Cursor { bytes, position: 0 };
    let count = cursor.number()?;
    let table = (count as usize).checked_mul(4).and_then(|length| cursor.take(length).ok());
    let table = table.ok_or_else(|| {
        format!("it says that it has {count} tasks, which do not fit in its {} bytes", bytes.len())
    })?;
    if count == 0 {
        return Err("it has no tasks".to_string());
    }
    let offsets = table.as_chunks::<4>().0.iter();
    Ok(offsets.map(|offset| u32::from_le_bytes(*offset)).collect())
}

fn read_task(bytes: &[u8], offset: usize, subject: &str) -> Result<Draft, String> {
    let mut cursor = Cursor { bytes, position: offset };
    let question = cursor.text()?;
    let (choices, labels) = cursor.answers()?;
    cursor.answers()?;
    let right: Vec<usize> = (0..labels.len()).filter(|&index| labels[index] == 1).collect();
    let &[answer] = right.as_slice() else {
        return Err(format!("{} of its answers are labelled right; expected one", right.len()));
    };
    Ok(Draft {
        id: None,
        question,
        subject: subject.to_string(),
        choices,
        answer: answer as i64,
        counts_from_0: false,
        form: Form::Continuation,
    })
}

struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.position.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.position..end)).ok_or_else(|| {
            format!(
                "{length} bytes at offset {} lie beyond the end of the file, {}",
                self.position,
                self.bytes.len()
            )
        })?;
        self.position += length;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.number()? as usize;
        let at = self.position;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|_| format!("the text at offset {at} is not UTF-8"))?;
        bounded(text)
    }

    fn answers(&mut self) -> Result<(Vec<String>, Vec<u32>), String> {
        let count = self.number()?;
        if count > MOST_ANSWERS {
            return Err(format!("{count} answers; expected at most {MOST_ANSWERS}"));
        }
        let texts = (0..count).map(|_| self.text()).collect::<Result<_, _>>()?;
        let labels = (0..count).map(|_| self.number()).collect::<Result<_, _>>()?;
        Ok((texts, labels))
    }
}

pub(super) fn write(path: &Path, questions: &[Question]) -> Result<(), EvalError> {
    let bytes = encode(questions).map_err(|error| EvalError::unusable(path, error))?;
    write_atomically(path, &bytes).map_err(|source| EvalError::io(path, source))
}

fn encode(questions: &[Question]) -> Result<Vec<u8>, String> {
    if questions.is_empty() {
        return Err("a task file cannot be without tasks".to_string());
    }
    let number = |value: usize| {
        u32::try_from(value).map(u32::to_le_bytes).map_err(|_| {
            "a task file is at most 4 GiB, and this set is larger: write it as .parquet".to_string()
        })
    };
    let mut offsets = number(questions.len())?.to_vec();
    let first = offsets.len() + 4 * questions.len();
    let mut tasks = Vec::new();
    for question in questions {
        let Some(text) = cloze_context(question) else {
            return Err(format!(
                "row {}: a sentence with a blank is not a text and its continuations, which is all \
                 that a task file holds: write the set as .parquet or .jsonl",
                question.row
            ));
        };
        offsets.extend(number(first + tasks.len())?);
        tasks.extend(number(text.len())?);
        tasks.extend(text.as_bytes());
        tasks.extend(number(question.choices.len())?);
        for choice in &question.choices {
            tasks.extend(number(choice.len())?);
            tasks.extend(choice.as_bytes());
        }
        for choice in 0..question.choices.len() {
            tasks.extend(number(usize::from(choice == question.answer))?);
        }
        tasks.extend(number(0)?);
    }
    offsets.extend(tasks);
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(row: usize, choices: &[&str], answer: usize) -> Question {
        Question {
            row,
            id: None,
            question: format!("Was ist {row}?"),
            subject: "tasks".to_string(),
            choices: choices.iter().map(ToString::to_string).collect(),
            answer,
            form: Form::Continuation,
        }
    }

    /// Two tasks, byte by byte as `multiple_choice_score` in llama.cpp's perplexity.cpp reads them.
    fn two_tasks() -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 12, 0, 0, 0, 61, 0, 0, 0];
        let task = |question: &str, choices: [&str; 2], labels: [u8; 2]| {
            let text = |text: &str| [&[text.len() as u8, 0, 0, 0], text.as_bytes()].concat();
            let mut bytes = text(question);
            bytes.extend([2, 0, 0, 0]);
            bytes.extend(text(choices[0]));
            bytes.extend(text(choices[1]));
            bytes.extend([labels[0], 0, 0, 0, labels[1], 0, 0, 0, 0, 0, 0, 0]);
            bytes
        };
        bytes.extend(task("Was ist 0?", ["eins", "drüben"], [0, 1]));
        bytes.extend(task("Was ist 1?", ["x", "y"], [1, 0]));
        bytes
    }

    fn read_bytes(bytes: &[u8]) -> Result<Vec<Question>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tasks.bin");
        std::fs::write(&path, bytes).unwrap();
        let mut collected = Collected::new();
        read(&path, &mut collected).map_err(|error| error.to_string())?;
        Ok(collected.questions)
    }

    #[test]
    fn the_layout_is_that_of_llama_cpp() {
        let questions = [question(0, &["eins", "drüben"], 1), question(1, &["x", "y"], 0)];
        assert_eq!(encode(&questions).unwrap(), two_tasks());
        assert_eq!(read_bytes(&two_tasks()).unwrap(), questions);
    }

    #[test]
    fn answers_of_which_several_may_be_right_are_passed_over() {
        let mut bytes = two_tasks();
        let length = bytes.len();
        bytes[length - 4] = 1;
        bytes.extend([1, 0, 0, 0, b'z', 1, 0, 0, 0]);
        assert_eq!(read_bytes(&bytes).unwrap().len(), 2);
    }

    #[test]
    fn damage_is_named() {
        let change = |at: usize, value: u8| {
            let mut bytes = two_tasks();
            bytes[at] = value;
            read_bytes(&bytes).unwrap_err()
        };
        assert!(change(0, 0).contains("tasks.bin: not a task file"), "{}", change(0, 0));
        assert!(change(0, 200).contains("says that it has 200 tasks"));
        assert!(change(4, 250).contains("task 0: 4 bytes at offset 250 lie beyond the end"));
        assert!(change(18, 0xff).contains("task 0: the text at offset 16 is not UTF-8"));
        assert!(change(26, 101).contains("task 0: 101 answers; expected at most 100"));
        let labels = two_tasks().len() - 12;
        assert!(change(labels, 0).contains("task 1: 0 of its answers are labelled right"));
        let whole = two_tasks();
        for length in 0..whole.len() {
            assert!(read_bytes(&whole[..length]).is_err(), "cut to {length} bytes");
        }
    }

    #[test]
    fn what_it_cannot_hold_is_refused() {
        let blank = Question { form: Form::Blank, ..question(3, &["a", "b"], 0) };
        assert!(encode(&[blank]).unwrap_err().starts_with("row 3: a sentence with a blank"));
        assert!(encode(&[]).unwrap_err().contains("without tasks"));
    }
}
