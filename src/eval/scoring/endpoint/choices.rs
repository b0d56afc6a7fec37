//! What the log-probabilities of a question's texts say of its choices.

use super::client::Refusal;
use super::tokens::{Text, all_alike};

/// How many tokens come before what counts, and for each choice the sum over the rest; the texts begin
/// with `shared` tokens. Where one text's tokens begin another's, the last one counts all the same.
///
/// # Errors
/// Texts that have no common token, answers that do not tell choices apart.
pub(super) fn compare(texts: &[Text], shared: usize) -> Result<(usize, Vec<f64>), Refusal> {
    let shortest = texts.iter().map(|text| text.tokens().len()).min().unwrap_or(0);
    let shared = shared.min(shortest.saturating_sub(1));
    if shared == 0 {
        let problem = "the choices differ from their first token on, and a server tells no \
                       probability for a first token";
        return Err(Refusal::Unscorable(problem.to_string()));
    }
    let sums = texts.iter().map(|text| {
        text.tokens()[shared..].iter().map(|token| token.log_probability).sum::<Option<f64>>()
    });
    let left_out = || Refusal::Wrong("the server left out the probability of a token".to_string());
    let sums = sums.collect::<Option<Vec<f64>>>().ok_or_else(left_out)?;
    check_differences(texts, &sums)?;
    Ok((shared, sums))
}

/// Choices whose texts differ must have other tokens, and not all the same probability.
fn check_differences(texts: &[Text], sums: &[f64]) -> Result<(), Refusal> {
    let ids = |text: &Text| text.tokens().iter().map(|token| token.id).collect::<Option<Vec<_>>>();
    let mut different: Vec<(&Text, f64)> = Vec::with_capacity(texts.len());
    for (text, &sum) in texts.iter().zip(sums) {
        if different.iter().any(|(other, _)| other.text() == text.text()) {
            continue;
        }
        let own = ids(text);
        if own.is_some() && different.iter().any(|(other, _)| ids(other) == own) {
            let problem = "the server makes the same tokens of different choices";
            return Err(Refusal::Unscorable(problem.to_string()));
        }
        different.push((text, sum));
    }
    match all_alike(different.iter().map(|&(_, sum)| sum)) {
        Some(sum) => Err(Refusal::Wrong(format!("all choices have the log-probability {sum}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokens::common;
    use super::super::tokens::tests::text;
    use super::*;

    fn compared(texts: &[Text]) -> Result<(usize, Vec<f64>), Refusal> {
        compare(texts, common(texts).unwrap())
    }

    #[test]
    fn choices_count_from_where_their_tokens_differ() {
        let texts = [
            text(&[("<s>", None), ("A", Some(-1.0)), (" b", Some(-2.0))]),
            text(&[("<s>", None), ("A", Some(-1.1)), (" c", Some(-3.0)), ("d", Some(-0.5))]),
        ];
        assert_eq!(compared(&texts), Ok((2, vec![-2.0, -3.5])));
        // One begins the other: both keep a token.
        let shorter = text(&[("<s>", None), ("A", Some(-1.1)), (" c", Some(-3.0))]);
        assert_eq!(compared(&[shorter, texts[1].clone()]), Ok((2, vec![-3.0, -3.5])));
    }

    #[test]
    fn what_a_server_cannot_tell_is_said() {
        let texts = [text(&[("a", None)]), text(&[("b", None), ("c", Some(-1.0))])];
        let error = compared(&texts).unwrap_err();
        assert!(matches!(error, Refusal::Unscorable(said) if said.contains("first token on")));
        let texts = [text(&[("a", None), ("b", None)]), text(&[("a", None), ("c", Some(-1.0))])];
        let error = compared(&texts).unwrap_err();
        assert!(matches!(error, Refusal::Wrong(said) if said.contains("left out")));
    }

    #[test]
    fn choices_differ_where_their_texts_do() {
        let choice = |name: &str, value| text(&[("a", None), (name, Some(value))]);
        let same = [choice("b", -1.0), choice("c", -1.0), choice("d", -1.0)];
        let error = compared(&same).unwrap_err();
        assert!(matches!(error, Refusal::Wrong(said) if said.contains("all choices have")));
        // Two may be alike by chance, and the same text is.
        assert!(compared(&same[..2]).is_ok());
        assert!(compared(&[same[0].clone(), same[0].clone(), same[0].clone()]).is_ok());
        // The tokens are the same, the texts are not.
        let mut tokens = [choice("b", -1.0), choice("B", -1.0)];
        assert!(tokens.iter_mut().all(|text| text.number(&[1, 2])));
        let error = compared(&tokens).unwrap_err();
        assert!(matches!(error, Refusal::Unscorable(said) if said.contains("same tokens")));
    }
}
