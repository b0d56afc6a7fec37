//! Questions as JSON lines: an object a line with question, choices and answer, and where wanted
//! subject, id, split (test or dev) and form.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::collected::{Collected, read_text};
use super::draft::{Draft, Reading, Split, letter_index, stem};
use crate::eval::EvalError;
use crate::eval::questions::question::{Form, Question};
use crate::support::atomic_file::write_atomically;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<Split>,
    subject: Option<String>,
    question: String,
    choices: Vec<String>,
    answer: Answer,
    #[serde(default, skip_serializing_if = "is_exam")]
    form: Form,
}

/// An index from 0 or a letter from A.
#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = "expected the answer as an index from 0 or a letter from A")]
enum Answer {
    Index(i64),
    Letter(String),
}

fn is_exam(form: &Form) -> bool {
    *form == Form::Exam
}

pub(super) fn read(
    path: &Path,
    reading: Reading,
    questions: &mut Collected,
) -> Result<(), EvalError> {
    let text = read_text(path)?;
    let subject = stem(path);
    for (index, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let named =
            |error: String| EvalError::unusable(path, format!("line {}: {error}", index + 1));
        let line: Line = serde_json::from_str(text).map_err(|error| named(error.to_string()))?;
        let wanted = match reading {
            Reading::Role(split) => line.split.unwrap_or(split) == split,
            Reading::MarkedDev => line.split == Some(Split::Dev),
        };
        let draft = to_draft(line, &subject).map_err(named)?;
        if wanted {
            questions.add(draft).map_err(named)?;
        } else {
            // A line that is not wanted is checked all the same.
            draft.check(questions.questions.len()).map_err(named)?;
        }
    }
    Ok(())
}

fn to_draft(line: Line, subject: &str) -> Result<Draft, String> {
    let (answer, counts_from_0) = match line.answer {
        Answer::Index(index) => (index, true),
        Answer::Letter(letter) => {
            let index = letter_index(&letter).ok_or_else(|| {
                format!("the answer is {letter:?}; expected an index or a letter")
            })?;
            (index, false)
        }
    };
    Ok(Draft {
        id: line.id,
        question: line.question,
        subject: line.subject.unwrap_or_else(|| subject.to_string()),
        choices: line.choices,
        answer,
        counts_from_0,
        form: line.form,
    })
}

pub(super) fn write(path: &Path, questions: &[Question]) -> Result<(), EvalError> {
    let mut bytes = Vec::new();
    for question in questions {
        let line = Line {
            id: question.id.clone(),
            split: None,
            subject: Some(question.subject.clone()),
            question: question.question.clone(),
            choices: question.choices.clone(),
            answer: Answer::Index(question.answer as i64),
            form: question.form,
        };
        serde_json::to_writer(&mut bytes, &line)
            .map_err(|error| EvalError::unusable(path, error))?;
        bytes.push(b'\n');
    }
    write_atomically(path, &bytes).map_err(|source| EvalError::io(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions_of(text: &str, reading: Reading) -> Result<Vec<Question>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut collected = Collected::new();
        read(&path, reading, &mut collected).map_err(|error| error.to_string())?;
        Ok(collected.questions)
    }

    #[test]
    fn answers_are_indices_or_letters_and_the_rest_may_be_missing() {
        let text = "{\"question\":\"q\",\"choices\":[\"a\",\"b\",\"c\"],\"answer\":\"C\"}\n\n\
                    {\"id\":\"x\",\"subject\":\"s\",\"question\":\"q\",\"choices\":[\"a\",\"b\"],\
                    \"answer\":0,\"form\":\"truthful-qa\"}\n";
        let read = questions_of(text, Reading::Role(Split::Test)).unwrap();
        assert_eq!(
            (read[0].answer, read[0].subject.as_str(), read[0].form),
            (2, "mine", Form::Exam)
        );
        assert_eq!((read[1].id.as_deref(), read[1].row), (Some("x"), 1));
        assert_eq!(read[1].form, Form::TruthfulQa);
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        let line = "\u{feff}{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":1}\n";
        assert_eq!(questions_of(line, Reading::Role(Split::Test)).unwrap()[0].answer, 1);
    }

    #[test]
    fn lines_may_say_their_split() {
        let line = |split: &str, question: &str| {
            format!(
                "{{{split}\"question\":\"{question}\",\"choices\":[\"a\",\"b\"],\"answer\":0}}\n"
            )
        };
        let text = line("\"split\":\"dev\",", "shot")
            + &line("\"split\":\"test\",", "asked")
            + &line("", "open");
        let names = |reading| -> Vec<String> {
            questions_of(&text, reading).unwrap().into_iter().map(|q| q.question).collect()
        };
        assert_eq!(names(Reading::Role(Split::Test)), ["asked", "open"]);
        assert_eq!(names(Reading::Role(Split::Dev)), ["shot", "open"]);
        assert_eq!(names(Reading::MarkedDev), ["shot"]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let good = r#"{"question":"q","choices":["a","b"],"answer":1}"#;
        for (from, to, expected) in [
            ("1}", "2}", "line 2: the answer is 2; expected 0 to 1 for 2 choices"),
            ("1}", "\"?\"}", "line 2: the answer is \"?\"; expected an index or a letter"),
            ("1}", "[1]}", "line 2: expected the answer as an index from 0 or a letter from A"),
            ("\"q\"", "\" \"", "line 2: the question is empty"),
            ("\"a\"", "\"\"", "line 2: choice 0 is empty"),
            ("question", "topic", "line 2: unknown field `topic`, expected one of `id`, `split`"),
            ("}", ",\"split\":\"train\"}", "line 2: unknown variant `train`"),
        ] {
            let text = format!("{good}\n{}\n", good.replacen(from, to, 1));
            let error = questions_of(&text, Reading::Role(Split::Test)).unwrap_err();
            assert!(error.contains("mine.jsonl") && error.contains(expected), "{error}");
        }
    }
}
