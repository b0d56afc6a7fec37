//! How a question becomes text under each protocol, and text becomes the token sequences that are
//! scored.
//!
//! *Letter* is the task `mmlu` of lm-evaluation-harness (its `default` variant), *cloze* is
//! llama.cpp's `llama-perplexity --multiple-choice`.

use super::EvalError;
use super::question_set::Question;

/// A context and the choices of which the most probable is to be found after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidates {
    context: Vec<u32>,
    choices: Vec<Vec<u32>>,
    dropped: usize,
}

impl Candidates {
    /// A context of at least one token, and each choice's own tokens, at least one.
    pub fn new(context: Vec<u32>, choices: Vec<Vec<u32>>) -> Self {
        debug_assert!(!context.is_empty() && choices.iter().all(|choice| !choice.is_empty()));
        Self { context, choices, dropped: 0 }
    }

    /// The tokens that all choices follow; at least one.
    pub fn context(&self) -> &[u32] {
        &self.context
    }

    /// The scored tokens of each choice; at least one each.
    pub fn choices(&self) -> &[Vec<u32>] {
        &self.choices
    }

    /// Tokens that [`Candidates::fit`] cut off.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Tokens that the model reads when every choice is run by itself: all but each last one,
    /// after which nothing is asked.
    pub fn naive_tokens(&self) -> u64 {
        self.choices.iter().map(|choice| (self.context.len() + choice.len() - 1) as u64).sum()
    }

    /// Cuts tokens off the left until context and longest choice, less its last token, fit in
    /// `context_length` tokens: what lm-evaluation-harness does.
    pub fn fit(mut self, context_length: usize) -> Result<Self, String> {
        let longest = self.choices.iter().map(Vec::len).max().unwrap_or(1);
        let excess = (self.context.len() + longest - 1).saturating_sub(context_length);
        if excess >= self.context.len() {
            return Err(format!(
                "one choice alone is longer than the model's context of {context_length} tokens"
            ));
        }
        self.context.drain(..excess);
        self.dropped += excess;
        Ok(self)
    }
}

/// The lettered prompt without its shots: question, choices and `Answer:`.
pub(super) fn lettered(question: &Question) -> String {
    let mut text = python_strip(&question.question).to_string();
    for (letter, choice) in ('A'..='Z').zip(&question.choices) {
        text.push_str(&format!("\n{letter}. {choice}"));
    }
    text + "\nAnswer:"
}

/// The line that opens every lettered prompt of a subject, and its shots with their answers.
pub(super) fn preamble<'a>(subject: &str, shots: impl IntoIterator<Item = &'a Question>) -> String {
    let mut text = format!(
        "The following are multiple choice questions (with answers) about {}.\n\n",
        subject.replace('_', " ")
    );
    for shot in shots {
        text += &format!("{} {}\n\n", lettered(shot), letter(shot.answer));
    }
    text
}

fn letter(choice: usize) -> char {
    ('A'..='Z').nth(choice).unwrap_or('?')
}

/// What Python's `str.strip` removes: white space and the four ASCII separators.
fn python_strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

/// The sequences of the letter protocol. `encode` turns text into tokens with everything that the
/// model expects around it.
///
/// As in the harness, context and answer are tokenized together and the answer's tokens are those
/// past the length of the context's.
pub(super) fn letter_candidates(
    preamble: &str,
    question: &Question,
    encode: impl Fn(&str) -> Result<Vec<u32>, EvalError>,
) -> Result<Candidates, EvalError> {
    let prompt = format!("{preamble}{}", lettered(question));
    let context = encode(&prompt)?;
    let mut choices = Vec::with_capacity(question.choices.len());
    for choice in 0..question.choices.len() {
        let letter = letter(choice);
        let whole = encode(&format!("{prompt} {letter}"))?;
        let Some(answer) = whole.get(context.len()..).filter(|tokens| !tokens.is_empty()) else {
            return Err(EvalError::Unusable(format!(
                "row {}: the model's tokenizer has no token of its own for \" {letter}\" after \
                 \"Answer:\", so the letter protocol cannot be used; try --protocol cloze",
                question.row
            )));
        };
        choices.push(answer.to_vec());
    }
    Ok(Candidates::new(context, choices))
}

/// The sequences of the cloze protocol: question, a space, choice. What all have in common is the
/// context and does not count.
///
/// Where one choice's tokens are the beginning of another's, the context is one token shorter, so
/// that every choice is scored on at least its last token (llama.cpp reads past the end of the
/// shorter one there). `encode` is as in [`letter_candidates`], but takes text that spells a
/// special token for text; `start` is the token that stands in for a context when the tokenizer
/// adds none and the choices differ from the first token on.
pub(super) fn cloze_candidates(
    question: &Question,
    start: u32,
    encode: impl Fn(&str) -> Result<Vec<u32>, EvalError>,
) -> Result<Candidates, EvalError> {
    let mut sequences = Vec::with_capacity(question.choices.len());
    for choice in &question.choices {
        sequences.push(encode(&format!("{} {choice}", question.question))?);
    }
    let common = sequences.iter().skip(1).fold(sequences[0].len(), |common, sequence| {
        common_prefix(&sequences[0][..common], sequence)
    });
    let shortest = sequences.iter().map(Vec::len).min().unwrap_or(0);
    if shortest == 0 {
        return Err(EvalError::Unusable(format!(
            "row {}: a choice has no tokens in the model's vocabulary",
            question.row
        )));
    }
    let common = common.min(shortest - 1);
    let context = if common == 0 { vec![start] } else { sequences[0][..common].to_vec() };
    for sequence in &mut sequences {
        sequence.drain(..common);
    }
    Ok(Candidates::new(context, sequences))
}

/// How many leading tokens two sequences share.
pub(super) fn common_prefix(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(l, r)| l == r).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(text: &str, choices: &[&str], answer: usize) -> Question {
        Question {
            row: 0,
            question: text.to_string(),
            subject: "high_school_physics".to_string(),
            choices: choices.iter().map(ToString::to_string).collect(),
            answer,
        }
    }

    /// One token a byte.
    fn bytes(text: &str) -> Result<Vec<u32>, EvalError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    /// One token a word, with the space before it, numbered by its letters.
    fn words(text: &str) -> Result<Vec<u32>, EvalError> {
        Ok(text.split(' ').map(|word| word.bytes().fold(0, |n, b| n * 31 + u32::from(b))).collect())
    }

    fn lengths(candidates: &Candidates) -> Vec<usize> {
        candidates.choices().iter().map(Vec::len).collect()
    }

    #[test]
    fn a_lettered_prompt_is_spelled_as_the_harness_spells_it() {
        let shot = question(" What falls? ", &["up", "an apple ", "no", "sky"], 1);
        let asked = question("What\nrises?\n", &["heat", "lead", "iron", "gold"], 0);
        let prompt = preamble("high_school_physics", [&shot]) + &lettered(&asked);
        assert_eq!(
            prompt,
            "The following are multiple choice questions (with answers) about high school \
             physics.\n\nWhat falls?\nA. up\nB. an apple \nC. no\nD. sky\nAnswer: B\n\nWhat\n\
             rises?\nA. heat\nB. lead\nC. iron\nD. gold\nAnswer:"
        );
    }

    #[test]
    fn letters_follow_one_shared_context() {
        let asked = question("Q", &["w", "x", "y"], 0);
        let candidates = letter_candidates("P ", &asked, bytes).unwrap();
        assert_eq!(candidates.context(), bytes("P Q\nA. w\nB. x\nC. y\nAnswer:").unwrap());
        assert_eq!(
            candidates.choices(),
            [bytes(" A").unwrap(), bytes(" B").unwrap(), bytes(" C").unwrap()]
        );
    }

    #[test]
    fn a_letter_that_melts_into_its_context_is_refused() {
        let asked = question("Q", &["w", "x"], 0);
        let error = letter_candidates("", &asked, |_| Ok(vec![1, 2])).unwrap_err().to_string();
        assert!(error.contains("no token of its own for \" A\""), "{error}");
    }

    #[test]
    fn cloze_choices_count_from_where_they_differ() {
        let asked = question("The sky is", &["very blue", "very green indeed"], 0);
        let candidates = cloze_candidates(&asked, 0, words).unwrap();
        assert_eq!(candidates.context(), words("The sky is very").unwrap());
        assert_eq!(lengths(&candidates), [1, 2]);
        assert_eq!(candidates.naive_tokens(), 4 + 5);
    }

    #[test]
    fn a_choice_that_begins_another_keeps_its_last_token() {
        let asked = question("It is", &["very cold", "very cold today", "very cold"], 0);
        let candidates = cloze_candidates(&asked, 0, words).unwrap();
        assert_eq!(candidates.context(), words("It is very").unwrap());
        assert_eq!(lengths(&candidates), [1, 2, 1]);
    }

    #[test]
    fn choices_without_a_common_token_get_a_start() {
        let asked = question("x", &["a", "b"], 0);
        let whole = |text: &str| Ok(vec![u32::from(*text.as_bytes().last().unwrap())]);
        let candidates = cloze_candidates(&asked, 7, whole).unwrap();
        assert_eq!(candidates.context(), [7]);
        assert_eq!(candidates.choices(), [[97], [98]]);
    }

    #[test]
    fn long_questions_lose_their_left_end() {
        let candidates = Candidates::new(vec![1, 2, 3], vec![vec![4, 5], vec![6, 7, 8]]);
        let fitted = candidates.clone().fit(3).unwrap();
        assert_eq!((fitted.context(), fitted.dropped()), ([3].as_slice(), 2));
        assert_eq!(fitted.choices(), candidates.choices());
        assert_eq!(candidates.clone().fit(5).unwrap(), candidates);
        assert!(candidates.fit(2).unwrap_err().contains("context of 2 tokens"));
    }
}
