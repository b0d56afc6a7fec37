//! A question as a server scores it.

use super::client::Refusal;
use super::dialect::{Server, Token};
use crate::eval::scoring::scored::Scored;

/// A question to be scored.
#[derive(Debug)]
pub(in crate::eval) struct Job {
    /// The question's row.
    pub row: usize,
    /// The whole text for each choice.
    pub texts: Vec<String>,
}

/// What became of a job.
pub(in crate::eval) struct JobResult {
    /// The question, scored or not.
    pub scored: Scored,
    /// Tokens that the server ran.
    pub tokens_run: u64,
    /// Tokens that a scorer without prefix sharing would have run.
    pub tokens_naive: u64,
}

/// Scores one question. An error ends the run; a question that the server finds too long does not.
pub(in crate::eval) fn score_job(server: &Server, job: &Job) -> Result<JobResult, String> {
    let unscored = |reason: String| JobResult {
        scored: Scored::unscored(job.row, reason),
        tokens_run: 0,
        tokens_naive: 0,
    };
    match server.score(&job.texts) {
        Ok(texts) => match compare(&texts.tokens) {
            Ok((context_tokens, sums)) => {
                let lengths = || texts.tokens.iter().map(Vec::len);
                Ok(JobResult {
                    scored: Scored {
                        row: job.row,
                        sums,
                        context_tokens,
                        choice_tokens: lengths().map(|length| length - context_tokens).collect(),
                        dropped_tokens: 0,
                        unscored: None,
                    },
                    tokens_run: texts.tokens_run,
                    tokens_naive: lengths().map(|length| length as u64 - 1).sum(),
                })
            }
            Err(reason) => Ok(unscored(reason)),
        },
        Err(Refusal::TooLong(reason)) => Ok(unscored(reason)),
        Err(Refusal::Failed(error)) => Err(format!("row {}: {error}", job.row)),
    }
}

/// How many tokens the texts of all choices begin with, and for each choice the sum over the rest.
/// Where one text's tokens begin another's, the last one counts all the same.
fn compare(texts: &[Vec<Token>]) -> Result<(usize, Vec<f64>), String> {
    let shortest = texts.iter().map(Vec::len).min().unwrap_or(0);
    let same = |index: usize| texts.iter().all(|text| text[index].is(&texts[0][index]));
    let common = (0..shortest).take_while(|&index| same(index)).count();
    let common = common.min(shortest.saturating_sub(1));
    if common == 0 {
        return Err("the choices differ from their first token on, and a server tells no \
                    probability for a first token"
            .to_string());
    }
    let sums = texts.iter().map(|text| {
        text[common..].iter().map(|token| token.log_probability.unwrap_or(f64::NAN)).sum::<f64>()
    });
    let sums: Vec<f64> = sums.collect();
    if sums.iter().any(|sum| sum.is_nan()) {
        return Err("the server left out the probability of a token".to_string());
    }
    Ok((common, sums))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tokens: &[(&str, Option<f64>)]) -> Vec<Token> {
        let token = |&(name, log_probability): &(&str, Option<f64>)| Token {
            name: name.to_string(),
            log_probability,
        };
        tokens.iter().map(token).collect()
    }

    #[test]
    fn choices_count_from_where_their_tokens_differ() {
        let texts = [
            text(&[("<s>", None), ("A", Some(-1.0)), (" b", Some(-2.0))]),
            text(&[("<s>", None), ("A", Some(-1.1)), (" c", Some(-3.0)), ("d", Some(-0.5))]),
        ];
        assert_eq!(compare(&texts), Ok((2, vec![-2.0, -3.5])));
        // One begins the other: both keep a token.
        let texts = [texts[1][..3].to_vec(), texts[1].clone()];
        assert_eq!(compare(&texts), Ok((2, vec![-3.0, -3.5])));
    }

    #[test]
    fn what_a_server_cannot_tell_is_said() {
        let texts = [text(&[("a", None)]), text(&[("b", None), ("c", Some(-1.0))])];
        assert!(compare(&texts).unwrap_err().contains("from their first token on"));
        let texts = [text(&[("a", None), ("b", None)]), text(&[("a", None), ("c", Some(-1.0))])];
        assert!(compare(&texts).unwrap_err().contains("left out"));
    }
}
