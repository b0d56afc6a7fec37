//! What the scores of a question's choices say under a protocol.

use crate::eval::asking::{Protocol, completed_text};
use crate::eval::questions::Question;
use crate::eval::statistics::choices::first_largest;

/// What the sums of log-probabilities of a question's choices say.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::eval) struct Reading {
    /// What the protocol compares: the sums themselves, or by tokens or bytes.
    pub log_probabilities: Vec<f64>,
    /// The choice with the largest.
    pub prediction: usize,
    /// The choice with the largest sum, and with the largest by characters, where the protocol
    /// reports these too.
    pub others: Option<OtherReadings>,
}

/// What the harness calls `acc` and `acc_norm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherReadings {
    /// The choice with the largest sum of log-probabilities.
    pub by_sum: usize,
    /// The choice with the largest log-probability a character.
    pub by_characters: usize,
}

impl Reading {
    /// Reads the sums of a question; `counted_tokens` are each choice's.
    pub fn of(
        protocol: Protocol,
        question: &Question,
        sums: &[f64],
        counted_tokens: &[usize],
    ) -> Self {
        let lengths = |length: fn(&str) -> usize| -> Vec<usize> {
            (0..sums.len()).map(|choice| length(completed_text(question, choice))).collect()
        };
        let by = |lengths: Vec<usize>| -> Vec<f64> {
            // An empty choice is the worst there is, as in the harness, which divides by 0.
            sums.iter().zip(lengths).map(|(sum, length)| sum / length as f64).collect()
        };
        let log_probabilities = match protocol {
            Protocol::Letter | Protocol::Chat => sums.to_vec(),
            Protocol::Cloze => by(counted_tokens.to_vec()),
            Protocol::ClozeNormalized => by(lengths(str::len)),
        };
        let others = (protocol == Protocol::ClozeNormalized).then(|| OtherReadings {
            by_sum: first_largest(sums),
            by_characters: first_largest(&by(lengths(|text| text.chars().count()))),
        });
        Self { prediction: first_largest(&log_probabilities), log_probabilities, others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::questions::Form;

    #[test]
    fn sums_are_read_by_tokens_bytes_and_characters() {
        let question = Question {
            row: 0,
            id: None,
            question: "Q".to_string(),
            subject: "s".to_string(),
            choices: ["no", "äöü", "never ever"].map(str::to_string).to_vec(),
            answer: 0,
            form: Form::Continuation,
        };
        let sums = [-2.5, -3.0, -8.0];
        let reading = |protocol| Reading::of(protocol, &question, &sums, &[1, 3, 2]);
        assert_eq!(reading(Protocol::Letter).prediction, 0);
        assert_eq!(reading(Protocol::Letter).others, None);
        let cloze = reading(Protocol::Cloze);
        assert_eq!((cloze.prediction, cloze.log_probabilities), (1, vec![-2.5, -1.0, -4.0]));
        let normalized = reading(Protocol::ClozeNormalized);
        assert_eq!(normalized.log_probabilities, [-1.25, -0.5, -0.8]);
        assert_eq!(normalized.prediction, 1);
        assert_eq!(normalized.others, Some(OtherReadings { by_sum: 0, by_characters: 2 }));
    }
}
