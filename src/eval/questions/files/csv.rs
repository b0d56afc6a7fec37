//! The CSV files of MMLU's original release: a file a subject, `SUBJECT_test.csv`, without header;
//! question, four choices, the letter of the right one.

use std::path::Path;

use super::collected::{Collected, read_text};
use super::draft::{Draft, letter_index, stem};
use crate::eval::EvalError;
use crate::eval::questions::question::Form;

const COLUMNS: usize = 6;

pub(super) fn read(path: &Path, questions: &mut Collected) -> Result<(), EvalError> {
    let text = read_text(path)?;
    let subject = subject(path);
    let rows = records(&text).map_err(|e| EvalError::unusable(path, e))?;
    for (line, fields) in rows {
        to_draft(fields, &subject)
            .and_then(|draft| questions.add(draft))
            .map_err(|error| EvalError::unusable(path, format!("line {line}: {error}")))?;
    }
    Ok(())
}

/// The file's name without extension and split.
fn subject(path: &Path) -> String {
    let stem = stem(path);
    let subject = ["_test", "_dev", "_val"].iter().find_map(|split| stem.strip_suffix(split));
    subject.unwrap_or(&stem).to_string()
}

fn to_draft(mut fields: Vec<String>, subject: &str) -> Result<Draft, String> {
    let columns = fields.len();
    let (Some(letter), COLUMNS) = (fields.pop(), columns) else {
        return Err(format!(
            "{columns} columns; expected {COLUMNS} without a header: question, four choices, and \
             the letter of the right one"
        ));
    };
    let answer = letter_index(&letter)
        .filter(|&answer| answer < 4)
        .ok_or_else(|| format!("the answer is {letter:?}; expected A, B, C or D"))?;
    let question = fields.remove(0);
    Ok(Draft {
        id: None,
        question,
        subject: subject.to_string(),
        choices: fields,
        answer,
        counts_from_0: false,
        form: Form::Exam,
    })
}

/// The records of a CSV text (RFC 4180) with the line that each begins on, from 1. Empty lines are
/// skipped.
fn records(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let mut records = Vec::new();
    let (mut fields, mut field) = (Vec::new(), String::new());
    let (mut line, mut first_line, mut quoted, mut was_quoted) = (1, 1, false, false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() && !was_quoted => (quoted, was_quoted) = (true, true),
            ',' if !quoted => {
                fields.push(std::mem::take(&mut field));
                was_quoted = false;
            }
            '\r' if !quoted && characters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                if !fields.is_empty() || was_quoted || !field.is_empty() {
                    fields.push(std::mem::take(&mut field));
                    records.push((first_line, std::mem::take(&mut fields)));
                }
                line += 1;
                (first_line, was_quoted) = (line, false);
            }
            other => {
                line += usize::from(other == '\n');
                field.push(other);
            }
        }
    }
    if quoted {
        return Err(format!("line {first_line}: a quotation mark is never closed"));
    }
    if !fields.is_empty() || was_quoted || !field.is_empty() {
        fields.push(field);
        records.push((first_line, fields));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<(usize, Vec<String>)> {
        records(text).unwrap()
    }

    #[test]
    fn quotes_commas_and_line_breaks_are_read() {
        let text = "a,\"b, \"\"c\"\"\",\"d\r\ne\"\r\n\n,x \"y\",\"\"";
        let expected = [
            (1, vec!["a".to_string(), "b, \"c\"".into(), "d\r\ne".into()]),
            (4, vec![String::new(), "x \"y\"".into(), String::new()]),
        ];
        assert_eq!(fields(text), expected);
        assert_eq!(fields(&format!("{text}\n")), expected);
        assert!(fields("").is_empty());
        assert_eq!(records("a\n\"b\nc").unwrap_err(), "line 2: a quotation mark is never closed");
    }

    #[test]
    fn a_file_is_a_subject() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("high_school_physics_test.csv");
        std::fs::write(&path, "\u{feff}What falls?,up,an apple,\"no, sky\",x,B\nQ,1,2,3,4,D\n")
            .unwrap();
        let mut collected = Collected::new();
        read(&path, &mut collected).unwrap();
        let questions = collected.questions;
        assert_eq!(questions[0].subject, "high_school_physics");
        assert_eq!(questions[0].question, "What falls?");
        assert_eq!(questions[0].choices, ["up", "an apple", "no, sky", "x"]);
        assert_eq!((questions[0].answer, questions[1].answer, questions[1].row), (1, 3, 1));
    }

    #[test]
    fn a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("virology_test.csv");
        for (text, expected) in [
            ("Q,1,2,3,4,A\nQ,1,2,3,B", "line 2: 5 columns; expected 6 without a header"),
            ("question,A,B,C,D,answer", "line 1: the answer is \"answer\"; expected A, B, C or D"),
            ("Q,1,2,,4,A", "line 1: choice 2 is empty"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path, &mut Collected::new()).unwrap_err().to_string();
            assert!(error.contains("virology_test.csv") && error.contains(expected), "{error}");
        }
    }
}
