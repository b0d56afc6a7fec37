//! How a question becomes text under each protocol.
//!
//! The wording is that of lm-evaluation-harness's tasks: `mmlu`, `mmlu_continuation`, `arc_easy`,
//! `hellaswag`, `truthfulqa_mc1` and `winogrande`.

use crate::eval::questions::python_text::trim;
use crate::eval::questions::wording::cloze_context;
use crate::eval::questions::{Form, Question};

/// A context, and the text after it whose probability counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::eval) struct Completion {
    pub context: String,
    pub continuation: String,
}

/// The lettered prompt without its shots: question, choices and `Answer:`.
pub(super) fn lettered(question: &Question) -> String {
    let mut text = trim(&question.question).to_string();
    for (letter, choice) in ('A'..='Z').zip(&question.choices) {
        text.push_str(&format!("\n{letter}. {choice}"));
    }
    text + "\nAnswer:"
}

/// The line that opens every lettered prompt of a subject, and its shots with their answers.
pub(super) fn preamble<'a>(
    subject: Option<&str>,
    shots: impl IntoIterator<Item = &'a Question>,
) -> String {
    let mut text = description("multiple choice questions", subject);
    for shot in shots {
        text += &format!("{} {}\n\n", lettered(shot), letter(shot.answer));
    }
    text
}

/// `about` is what the questions are; sets without subjects have none in the line.
fn description(about: &str, subject: Option<&str>) -> String {
    let subject = subject.map(|subject| format!(" about {}", subject.replace('_', " ")));
    format!("The following are {about} (with answers){}.\n\n", subject.unwrap_or_default())
}

/// The letter of a choice.
pub(super) fn letter(choice: usize) -> char {
    ('A'..='Z').nth(choice).unwrap_or('?')
}

/// The completions of the letter protocol: a letter for each choice.
pub(super) fn letter_completions(preamble: &str, question: &Question) -> Vec<Completion> {
    let context = format!("{preamble}{}", lettered(question));
    let completion = |choice| Completion {
        context: context.clone(),
        continuation: format!(" {}", letter(choice)),
    };
    (0..question.choices.len()).map(completion).collect()
}

/// A lettered question as a conversation: the subject's line for the system, shots and question for
/// the user.
pub(super) fn chat_preamble<'a>(
    subject: Option<&str>,
    shots: impl IntoIterator<Item = &'a Question>,
) -> ChatPreamble {
    let system = description("multiple choice questions", subject);
    let whole = preamble(subject, shots);
    ChatPreamble { shots: whole[system.len()..].to_string(), system }
}

/// What all lettered questions of a subject begin with in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChatPreamble {
    /// The system's message.
    pub system: String,
    /// The beginning of the user's message.
    pub shots: String,
}

/// The line that opens every completion of a subject, where the set has subjects, and its shots with
/// their right choices.
pub(super) fn completion_preamble<'a>(
    subject: Option<&str>,
    shots: impl IntoIterator<Item = &'a Question>,
) -> String {
    let opening = subject.map(|subject| description("questions", Some(subject)));
    let mut text = opening.unwrap_or_default();
    for shot in shots {
        let Completion { context, continuation } = completion("", shot, shot.answer);
        text += &format!("{context}{continuation}\n\n");
    }
    text
}

/// The completions of the normalized cloze protocol: the text of each choice after the question, or
/// for a sentence with a blank, what follows it after each choice.
pub(super) fn completions(preamble: &str, question: &Question) -> Vec<Completion> {
    (0..question.choices.len()).map(|choice| completion(preamble, question, choice)).collect()
}

fn completion(preamble: &str, question: &Question, choice: usize) -> Completion {
    let own = match (question.form, cloze_context(question)) {
        (Form::Exam, _) => format!("Question: {}\nAnswer:", trim(&question.question)),
        (_, Some(context)) => context,
        (_, None) => {
            let before = question.question.split('_').next().unwrap_or_default();
            format!("{before}{}", question.choices[choice])
        }
    };
    Completion {
        context: format!("{preamble}{own}"),
        continuation: format!(" {}", completed_text(question, choice)),
    }
}

/// The text whose probability the normalized cloze protocol asks for, without the space before it.
pub(in crate::eval) fn completed_text(question: &Question, choice: usize) -> &str {
    match question.form {
        Form::Blank => {
            let rest = question.question.split_once('_').map(|(_, rest)| rest);
            trim(rest.unwrap_or_default())
        }
        _ => &question.choices[choice],
    }
}

/// The texts of the cloze protocol, one a choice.
pub(super) fn cloze_texts(question: &Question) -> Vec<String> {
    match cloze_context(question) {
        Some(context) => {
            question.choices.iter().map(|choice| format!("{context} {choice}")).collect()
        }
        None => question.choices.iter().map(|choice| fill(question, choice)).collect(),
    }
}

/// A sentence with a choice in place of its blank.
fn fill(question: &Question, choice: &str) -> String {
    question.question.replacen('_', choice, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(text: &str, choices: &[&str], answer: usize) -> Question {
        Question {
            row: 0,
            id: None,
            question: text.to_string(),
            subject: "high_school_physics".to_string(),
            choices: choices.iter().map(ToString::to_string).collect(),
            answer,
            form: Form::Exam,
        }
    }

    fn formed(form: Form, text: &str, choices: &[&str]) -> Question {
        Question { form, ..question(text, choices, 0) }
    }

    #[test]
    fn a_lettered_prompt_is_spelled_as_the_harness_spells_it() {
        let shot = question(" What falls? ", &["up", "an apple ", "no", "sky"], 1);
        let asked = question("What\nrises?\n", &["heat", "lead", "iron", "gold"], 0);
        let preamble = preamble(Some("high_school_physics"), [&shot]);
        let completions = letter_completions(&preamble, &asked);
        assert_eq!(
            completions[2].context,
            "The following are multiple choice questions (with answers) about high school \
             physics.\n\nWhat falls?\nA. up\nB. an apple \nC. no\nD. sky\nAnswer: B\n\nWhat\n\
             rises?\nA. heat\nB. lead\nC. iron\nD. gold\nAnswer:"
        );
        let continuations: Vec<&str> =
            completions.iter().map(|completion| completion.continuation.as_str()).collect();
        assert_eq!(continuations, [" A", " B", " C", " D"]);
    }

    #[test]
    fn ten_choices_go_to_j() {
        let asked = question("Q", &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"], 9);
        let completions = letter_completions("", &asked);
        assert!(completions[0].context.ends_with("\nI. 8\nJ. 9\nAnswer:"));
        assert_eq!(completions[9].continuation, " J");
        assert_eq!(
            preamble(None, [&asked]).lines().next(),
            Some("The following are multiple choice questions (with answers).")
        );
    }

    #[test]
    fn cloze_texts_are_worded_by_form() {
        let texts = |form, text| cloze_texts(&formed(form, text, &["an apple", "no"]));
        assert_eq!(texts(Form::Exam, "What falls? "), ["What falls?  an apple", "What falls?  no"]);
        assert_eq!(texts(Form::Continuation, "See")[1], "See no");
        assert_eq!(texts(Form::Arc, "What?")[1], "Question: What?\nAnswer: no");
        assert_eq!(
            texts(Form::Blank, "I saw _ there, not _."),
            ["I saw an apple there, not _.", "I saw no there, not _."]
        );
        let truthful = texts(Form::TruthfulQa, "Why?");
        assert!(truthful[0].starts_with("Q: What is human life expectancy"), "{}", truthful[0]);
        assert!(truthful[0].ends_with("Barcelona, Spain.\n\nQ: Why?\nA: an apple"));
    }

    #[test]
    fn completions_are_spelled_as_the_harness_spells_them() {
        let shot = question(" What falls? ", &["up", "an apple"], 1);
        let asked = question("What rises? ", &["heat", "lead"], 0);
        let preamble = completion_preamble(Some("high_school_physics"), [&shot]);
        let both = completions(&preamble, &asked);
        assert_eq!(
            both[1].context,
            "The following are questions (with answers) about high school physics.\n\nQuestion: \
             What falls?\nAnswer: an apple\n\nQuestion: What rises?\nAnswer:"
        );
        assert_eq!([&*both[0].continuation, &*both[1].continuation], [" heat", " lead"]);

        let arc = formed(Form::Arc, "Why? ", &["So.", "Not so."]);
        let preamble = completion_preamble(None, [&arc]);
        assert_eq!(preamble, "Question: Why? \nAnswer: So.\n\n");
    }

    #[test]
    fn a_blank_is_filled_before_what_counts() {
        let asked = formed(Form::Blank, "Then _ slept _ well. ", &["Ann", "Ben"]);
        let both = completions("", &asked);
        assert_eq!((&*both[1].context, &*both[1].continuation), ("Then Ben", " slept _ well."));
        assert_eq!(both[0].continuation, both[1].continuation);
    }

    #[test]
    fn a_conversation_has_the_line_and_the_rest_apart() {
        let shot = question("What falls?", &["up", "an apple"], 1);
        let turns = chat_preamble(Some("virology"), [&shot]);
        assert!(turns.system.ends_with("(with answers) about virology.\n\n"));
        assert_eq!(turns.shots, "What falls?\nA. up\nB. an apple\nAnswer: B\n\n");
    }
}
