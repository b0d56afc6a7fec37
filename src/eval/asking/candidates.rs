//! Texts as the token sequences that are scored.

use super::prompts::Completion;
use crate::eval::EvalError;
use crate::eval::questions::python_text::trim_end;

/// A context and the choices of which the most probable is to be found after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::eval) struct Candidates {
    context: Vec<u32>,
    choices: Vec<Vec<u32>>,
    /// Leading tokens of each choice that do not count; empty where all count.
    uncounted: Vec<usize>,
    dropped: usize,
}

impl Candidates {
    /// A context of at least one token, and each choice's own tokens, at least one.
    pub fn new(context: Vec<u32>, choices: Vec<Vec<u32>>) -> Self {
        debug_assert!(!context.is_empty() && choices.iter().all(|choice| !choice.is_empty()));
        Self { context, choices, uncounted: Vec::new(), dropped: 0 }
    }

    /// Sequences of which only the tokens from some point on count, given with each.
    fn partly_counted(mut sequences: Vec<(Vec<u32>, usize)>) -> Self {
        let common = sequences.iter().skip(1).fold(sequences[0].1, |common, (tokens, counted)| {
            common_prefix(&sequences[0].0[..common], &tokens[..*counted])
        });
        let context = sequences[0].0[..common].to_vec();
        for (tokens, counted) in &mut sequences {
            tokens.drain(..common);
            *counted -= common;
        }
        let (choices, uncounted) = sequences.into_iter().unzip();
        Self { context, choices, uncounted, dropped: 0 }
    }

    /// The tokens that all choices follow. Empty only where no choice's first token counts.
    pub fn context(&self) -> &[u32] {
        &self.context
    }

    /// The tokens of each choice after the context; at least one each.
    pub fn choices(&self) -> &[Vec<u32>] {
        &self.choices
    }

    /// How many tokens at the beginning of a choice do not count.
    pub fn uncounted(&self, choice: usize) -> usize {
        self.uncounted.get(choice).copied().unwrap_or(0)
    }

    /// How many tokens of each choice count; at least one each.
    pub fn counted_tokens(&self) -> Vec<usize> {
        let counted = |(choice, tokens): (usize, &Vec<u32>)| tokens.len() - self.uncounted(choice);
        self.choices.iter().enumerate().map(counted).collect()
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

    /// Tokens of the context and the longest choice, less its last token, which is never run.
    pub fn longest(&self) -> usize {
        self.context.len() + self.choices.iter().map(Vec::len).max().unwrap_or(1) - 1
    }

    /// Cuts tokens off the left until context and longest choice, less its last token, fit in
    /// `context_length` tokens: what lm-evaluation-harness does.
    pub fn fit(mut self, context_length: usize) -> Result<Self, String> {
        let excess = self.longest().saturating_sub(context_length);
        if excess > 0 && excess >= self.context.len() {
            return Err(format!(
                "one choice alone is longer than the model's context of {context_length} tokens"
            ));
        }
        self.context.drain(..excess);
        self.dropped += excess;
        Ok(self)
    }

    /// The sequences of completions, as lm-evaluation-harness makes them: white space that ends the
    /// context goes over to the continuation; both are tokenized together, and the continuation's
    /// tokens, which count, are those past the length of the context's.
    ///
    /// `encode` turns text into tokens with everything that the model expects around it.
    ///
    /// # Errors
    /// What `encode` says, and a continuation without a token of its own.
    pub fn of_completions(
        completions: &[Completion],
        encode: impl Fn(&str) -> Result<Vec<u32>, EvalError>,
    ) -> Result<Self, EvalError> {
        let mut sequences: Vec<(Vec<u32>, usize)> = Vec::with_capacity(completions.len());
        for (index, Completion { context, continuation }) in completions.iter().enumerate() {
            let before = match index.checked_sub(1).map(|before| &completions[before].context) {
                Some(same) if same == context => {
                    sequences[index - 1].0[..sequences[index - 1].1].to_vec()
                }
                _ => encode(without_end(context))?,
            };
            let tokens = encode(&format!("{context}{continuation}"))?;
            let own = tokens.get(before.len()..);
            let own = own.filter(|own| !own.is_empty() && !before.is_empty());
            let own = own.ok_or_else(|| without_tokens(context, continuation))?;
            sequences.push(([&before, own].concat(), before.len()));
        }
        Ok(Self::partly_counted(sequences))
    }

    /// The sequences of texts that a model chooses between: what all have in common is the context
    /// and does not count.
    ///
    /// Where one text's tokens are the beginning of another's, the context is one token shorter, so
    /// that every text is scored on at least its last token (llama.cpp reads past the end of the
    /// shorter one there). `start` is the token that stands in for a context when the tokenizer adds
    /// none and the texts differ from the first token on.
    ///
    /// # Errors
    /// What `encode` says, and a text without tokens.
    pub fn of_texts(
        texts: &[String],
        start: u32,
        encode: impl Fn(&str) -> Result<Vec<u32>, EvalError>,
    ) -> Result<Self, EvalError> {
        let mut sequences = texts.iter().map(|text| encode(text)).collect::<Result<Vec<_>, _>>()?;
        let common = sequences.iter().skip(1).fold(sequences[0].len(), |common, sequence| {
            common_prefix(&sequences[0][..common], sequence)
        });
        let shortest = sequences.iter().map(Vec::len).min().unwrap_or(0);
        if shortest == 0 {
            return Err(EvalError::Unusable(
                "a choice has no tokens in the model's vocabulary".to_string(),
            ));
        }
        let common = common.min(shortest - 1);
        let context = if common == 0 { vec![start] } else { sequences[0][..common].to_vec() };
        for sequence in &mut sequences {
            sequence.drain(..common);
        }
        Ok(Self::new(context, sequences))
    }
}

/// A context without the white space that ends it. One of nothing else stays as it is.
fn without_end(context: &str) -> &str {
    let kept = trim_end(context);
    if kept.is_empty() { context } else { kept }
}

fn without_tokens(context: &str, continuation: &str) -> EvalError {
    let start = context.char_indices().rev().nth(9).map_or(0, |(start, _)| start);
    EvalError::Unusable(format!(
        "the model's tokenizer has no token of its own for {continuation:?} after {:?}, so this \
         protocol cannot be used; try --protocol cloze",
        &context[start..]
    ))
}

/// How many leading tokens two sequences share.
pub(in crate::eval) fn common_prefix(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(l, r)| l == r).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token a byte.
    fn bytes(text: &str) -> Result<Vec<u32>, EvalError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    /// One token a word, with the space before it, numbered by its letters.
    fn words(text: &str) -> Result<Vec<u32>, EvalError> {
        Ok(text.split(' ').map(|word| word.bytes().fold(0, |n, b| n * 31 + u32::from(b))).collect())
    }

    fn completions(context: &str, continuations: &[&str]) -> Vec<Completion> {
        let completion = |continuation: &&str| Completion {
            context: context.to_string(),
            continuation: continuation.to_string(),
        };
        continuations.iter().map(completion).collect()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    fn lengths(candidates: &Candidates) -> Vec<usize> {
        candidates.choices().iter().map(Vec::len).collect()
    }

    #[test]
    fn continuations_follow_one_shared_context() {
        let asked = completions("Q Answer:", &[" A", " BC"]);
        let candidates = Candidates::of_completions(&asked, bytes).unwrap();
        assert_eq!(candidates.context(), bytes("Q Answer:").unwrap());
        assert_eq!(candidates.choices(), [bytes(" A").unwrap(), bytes(" BC").unwrap()]);
    }

    #[test]
    fn white_space_that_ends_a_context_goes_over_to_the_continuation() {
        let asked = completions("assistant \n", &["A", "B"]);
        let candidates = Candidates::of_completions(&asked, bytes).unwrap();
        assert_eq!(candidates.context(), bytes("assistant").unwrap());
        assert_eq!(candidates.choices(), [bytes(" \nA").unwrap(), bytes(" \nB").unwrap()]);
    }

    #[test]
    fn a_continuation_that_melts_into_its_context_is_refused() {
        let asked = completions("Is it so? Answer:", &[" A", " B"]);
        let error = Candidates::of_completions(&asked, |_| Ok(vec![1, 2])).unwrap_err().to_string();
        assert!(error.contains("no token of its own for \" A\" after \"o? Answer:\""), "{error}");
    }

    #[test]
    fn contexts_may_differ_and_do_not_count() {
        let pair = |context: &str| Completion {
            context: context.to_string(),
            continuation: " slept well.".to_string(),
        };
        let asked = [pair("Then Ann"), pair("Then Benjamin B")];
        let candidates = Candidates::of_completions(&asked, words).unwrap();
        assert_eq!(candidates.context(), words("Then").unwrap());
        assert_eq!(candidates.choices()[1], words("Benjamin B slept well.").unwrap());
        assert_eq!([candidates.uncounted(0), candidates.uncounted(1)], [1, 2]);
        assert_eq!(candidates.counted_tokens(), [2, 2]);

        let asked = [pair("Ann"), pair("Ben")];
        let candidates = Candidates::of_completions(&asked, words).unwrap();
        assert!(candidates.context().is_empty());
        assert_eq!(candidates.counted_tokens(), [2, 2]);
        assert_eq!(candidates.clone().fit(2).unwrap(), candidates);
        assert!(candidates.fit(1).is_err());
    }

    #[test]
    fn texts_count_from_where_they_differ() {
        let asked = texts(&["The sky is very blue", "The sky is very green indeed"]);
        let candidates = Candidates::of_texts(&asked, 0, words).unwrap();
        assert_eq!(candidates.context(), words("The sky is very").unwrap());
        assert_eq!(lengths(&candidates), [1, 2]);
        assert_eq!(candidates.naive_tokens(), 4 + 5);
    }

    #[test]
    fn a_text_that_begins_another_keeps_its_last_token() {
        let asked = texts(&["It is very cold", "It is very cold today", "It is very cold"]);
        let candidates = Candidates::of_texts(&asked, 0, words).unwrap();
        assert_eq!(candidates.context(), words("It is very").unwrap());
        assert_eq!(lengths(&candidates), [1, 2, 1]);
    }

    #[test]
    fn texts_without_a_common_token_get_a_start() {
        let whole = |text: &str| Ok(vec![u32::from(*text.as_bytes().last().unwrap())]);
        let candidates = Candidates::of_texts(&texts(&["x a", "x b"]), 7, whole).unwrap();
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
