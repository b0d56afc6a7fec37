//! What servers answer, and how their answers become texts. Of an answer nothing is kept but what is
//! asked for.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::client::{Refusal, SHOWN_CHARACTERS};
use super::spelling::Name;
use super::tokens::{Text, Token, check_values};

/// How vLLM names tokens when it is asked for their numbers.
const NUMBER_NAME: &str = "token_id:";

/// The answer of `/v1/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct Completions {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Choice {
    logprobs: Option<Logprobs>,
    prompt_logprobs: Option<Vec<Option<BTreeMap<u64, Told>>>>,
    prompt_token_ids: Option<Vec<u64>>,
}

#[derive(Debug, Deserialize)]
struct Logprobs {
    #[serde(default)]
    tokens: Vec<String>,
    #[serde(default)]
    token_logprobs: Vec<Option<f64>>,
}

#[derive(Debug, Deserialize)]
struct Told {
    logprob: f64,
    decoded_token: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Usage {
    prompt_tokens: Option<usize>,
}

impl Completions {
    /// The first choice.
    fn choice(&mut self) -> Result<Choice, Refusal> {
        if let Some(error) = &self.error {
            let said: String = error.to_string().chars().take(SHOWN_CHARACTERS).collect();
            return Err(Refusal::Malformed(format!("the answer is an error: {said}")));
        }
        if self.choices.is_empty() {
            return Err(Refusal::Malformed("the answer has no choices".to_string()));
        }
        Ok(self.choices.swap_remove(0))
    }

    /// The names and log-probabilities of the tokens of the text, without the one that was generated.
    fn prompt(&self, logprobs: Logprobs) -> Result<Vec<(String, Option<f64>)>, Refusal> {
        let Logprobs { tokens, token_logprobs } = logprobs;
        let (names, values) = (tokens.len(), token_logprobs.len());
        if names == 0 || names != values {
            return Err(without_log_probabilities());
        }
        let counted = self.usage.as_ref().and_then(|usage| usage.prompt_tokens);
        // At most one token is asked for.
        let count = counted.unwrap_or(names - 1);
        if !(names - 1..=names).contains(&count) {
            return Err(Refusal::Wrong(format!(
                "usage counts {count} tokens of the text, the answer has {names} with at most one \
                 that was generated"
            )));
        }
        Ok(tokens.into_iter().zip(token_logprobs).take(count).collect())
    }

    /// `choices[0].logprobs` of an answer that echoes the text. With `numbered`, the tokens' numbers
    /// must be there.
    pub fn echoed(mut self, text: &str, numbered: bool) -> Result<Text, Refusal> {
        let choice = self.choice()?;
        let told = self.prompt(choice.logprobs.ok_or_else(without_log_probabilities)?)?;
        let token =
            |(name, log_probability)| Token { id: None, name: Name::Text(name), log_probability };
        let mut read =
            Text::new(text, told.into_iter().map(token).collect()).map_err(Refusal::Wrong)?;
        match choice.prompt_token_ids {
            Some(ids) if read.number(&ids) => {}
            Some(ids) => {
                return Err(Refusal::Wrong(format!(
                    "{} token numbers came back for {} tokens",
                    ids.len(),
                    read.tokens().len()
                )));
            }
            None if numbered => {
                return Err(Refusal::Unscorable("the answer has no token numbers".to_string()));
            }
            None => {}
        }
        ends_with_value(read)
    }

    /// The tokens' numbers where they are named by these.
    pub fn numbers(mut self) -> Result<Vec<u64>, Refusal> {
        let choice = self.choice()?;
        let told = self.prompt(choice.logprobs.ok_or_else(without_log_probabilities)?)?;
        let number = |(name, _): &(String, _)| name.strip_prefix(NUMBER_NAME)?.parse().ok();
        let numbers = told.iter().map(number).collect::<Option<Vec<u64>>>();
        numbers.ok_or_else(|| Refusal::Unscorable("it does not tell their numbers".to_string()))
    }

    /// `choices[0].prompt_logprobs`: nothing for the first token, and for each other its number, name
    /// and log-probability.
    pub fn prompt_logprobs(mut self, text: &str) -> Result<Text, Refusal> {
        let list = self.choice()?.prompt_logprobs.ok_or_else(without_log_probabilities)?;
        let mut tokens = Vec::with_capacity(list.len());
        for entry in list {
            let mut told = entry.into_iter().flatten();
            tokens.push(match (told.next(), told.next()) {
                (None, _) => Token { id: None, name: Name::Untold, log_probability: None },
                (Some((id, Told { logprob, decoded_token: Some(name) })), None) => {
                    Token { id: Some(id), name: Name::Text(name), log_probability: Some(logprob) }
                }
                (Some(_), None) => return Err(Refusal::Wrong("a token has no text".to_string())),
                (Some(_), Some(_)) => {
                    let problem = "prompt_logprobs has more tokens at a place than were asked for";
                    return Err(Refusal::Wrong(problem.to_string()));
                }
            });
        }
        ends_with_value(Text::new(text, tokens).map_err(Refusal::Wrong)?)
    }
}

/// A text whose last token, which counts for every choice, has its log-probability.
fn ends_with_value(text: Text) -> Result<Text, Refusal> {
    match text.tokens().last() {
        Some(Token { log_probability: Some(_), .. }) => Ok(text),
        _ => Err(without_log_probabilities()),
    }
}

fn without_log_probabilities() -> Refusal {
    Refusal::Wrong("the answer has no log-probabilities of the text".to_string())
}

/// The answer of llama-server's `/tokenize`.
#[derive(Debug, Deserialize)]
pub(super) struct Tokenized {
    #[serde(default)]
    tokens: Vec<Piece>,
}

#[derive(Debug, Deserialize)]
struct Piece {
    id: u64,
    piece: PieceText,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PieceText {
    Text(String),
    /// Where the token begins or ends inside a character.
    Bytes(Vec<u8>),
}

impl Tokenized {
    /// The text, without log-probabilities.
    pub fn text(self, text: &str) -> Result<Text, Refusal> {
        let token = |Piece { id, piece }| {
            let bytes = match piece {
                PieceText::Text(text) => text.into_bytes(),
                PieceText::Bytes(bytes) => bytes,
            };
            Token { id: Some(id), name: Name::Bytes(bytes), log_probability: None }
        };
        Text::new(text, self.tokens.into_iter().map(token).collect()).map_err(Refusal::Wrong)
    }
}

/// The answer of llama-server's `/completion`.
#[derive(Debug, Deserialize)]
pub(super) struct Completion {
    #[serde(default)]
    completion_probabilities: Vec<Generated>,
}

#[derive(Debug, Deserialize)]
struct Generated {
    id: u64,
    logprob: f64,
}

impl Completion {
    /// The log-probability of the token that the server was made to generate.
    pub fn log_probability(&self, token: &Token) -> Result<f64, Refusal> {
        match (self.completion_probabilities.first(), &token.name) {
            (Some(told), _) if Some(told.id) == token.id => {
                check_values([told.logprob].into_iter()).map_err(Refusal::Wrong)?;
                Ok(told.logprob)
            }
            (None, Name::Bytes(bytes)) if str::from_utf8(bytes).is_err() => {
                Err(Refusal::Unscorable(format!(
                    "a token of a choice ends inside a character ({}), and the server tells no \
                     probability of such tokens",
                    number_of(token)
                )))
            }
            _ => Err(Refusal::Wrong(format!(
                "/completion does not tell the log-probability of the {}",
                number_of(token)
            ))),
        }
    }
}

fn number_of(token: &Token) -> String {
    token.id.map_or("token".to_string(), |id| format!("token {id}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn echoed(answer: &Value, text: &str) -> Result<Vec<Option<f64>>, Refusal> {
        let answer: Completions = serde_json::from_value(answer.clone()).unwrap();
        let read = answer.echoed(text, false)?;
        Ok(read.tokens().iter().map(|token| token.log_probability).collect())
    }

    fn answer(names: &[&str], values: &[Option<f64>], prompt_tokens: Option<usize>) -> Value {
        json!({
            "choices": [{"text": "x", "logprobs": {"tokens": names, "token_logprobs": values}}],
            "usage": prompt_tokens.map(|count| json!({"prompt_tokens": count})),
        })
    }

    fn wrong<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
        match result {
            Err(Refusal::Wrong(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    const NAMES: [&str; 4] = ["<s>", "The", " sky", " is"];
    const VALUES: [Option<f64>; 4] = [None, Some(-1.5), Some(-0.25), Some(-3.0)];

    #[test]
    fn echoed_tokens_end_where_the_generated_one_begins() {
        let whole = VALUES.to_vec();
        assert_eq!(echoed(&answer(&NAMES, &VALUES, Some(4)), "The sky is"), Ok(whole.clone()));
        assert_eq!(echoed(&answer(&NAMES, &VALUES, Some(3)), "The sky"), Ok(whole[..3].to_vec()));
        assert_eq!(echoed(&answer(&NAMES, &VALUES, None), "The sky"), Ok(whole[..3].to_vec()));
    }

    #[test]
    fn an_answer_about_something_else_is_wrong() {
        let reason = |names: &[&str], text, count| {
            wrong(echoed(&answer(names, &VALUES[..names.len()], count), text))
        };
        // Another text, a shorter one, the tail alone.
        assert!(reason(&NAMES, "The sea is", Some(4)).contains("the text has \" sea is\""));
        assert!(reason(&NAMES, "The sky is blue", Some(4)).contains("goes on with \" blue\""));
        assert!(reason(&NAMES[2..], "The sky is", Some(2)).contains("token"));
        // The last token may be the generated one.
        assert!(reason(&NAMES, "The sky is", None).contains("goes on with \" is\""));
        assert!(reason(&NAMES, "The sky is", Some(3)).contains("goes on with \" is\""));
        assert!(reason(&NAMES, "The sky", Some(2)).contains("usage counts 2 tokens"));
        assert!(reason(&NAMES, "The sky is", Some(5)).contains("usage counts 5 tokens"));
    }

    #[test]
    fn values_must_be_those_of_a_model() {
        let reason = |values: [Option<f64>; 4]| {
            wrong(echoed(&answer(&NAMES, &values, Some(4)), "The sky is"))
        };
        assert!(reason([Some(0.0); 4]).contains("all log-probabilities are 0"));
        assert!(reason([None, Some(1.5), Some(0.25), Some(3.0)]).contains("above 0"));
        assert!(reason([None, Some(-1.5), Some(-0.25), None]).contains("no log-probabilities"));
        let none = wrong(echoed(&json!({"choices": [{"logprobs": null}]}), "The"));
        assert!(none.contains("no log-probabilities"));
        let error = echoed(&json!({"error": {"message": "loading"}}), "The");
        assert!(matches!(error, Err(Refusal::Malformed(said)) if said.contains("loading")));
    }

    #[test]
    fn numbers_are_taken_where_they_are_told() {
        let mut numbered = answer(&NAMES, &VALUES, Some(4));
        numbered["choices"][0]["prompt_token_ids"] = json!([1, 20, 30, 40]);
        let read = |answer: &Value| -> Result<Text, Refusal> {
            serde_json::from_value::<Completions>(answer.clone())
                .unwrap()
                .echoed("The sky is", true)
        };
        let ids: Vec<_> = read(&numbered).unwrap().tokens().iter().map(|token| token.id).collect();
        assert_eq!(ids, [Some(1), Some(20), Some(30), Some(40)]);
        numbered["choices"][0]["prompt_token_ids"] = json!([1, 20]);
        assert!(wrong(read(&numbered)).contains("2 token numbers came back for 4 tokens"));
        let unnumbered = read(&answer(&NAMES, &VALUES, Some(4)));
        assert!(matches!(unnumbered, Err(Refusal::Unscorable(_))));

        let named = answer(&["token_id:1", "token_id:20", " and"], &VALUES[..3], Some(2));
        let numbers = |answer| serde_json::from_value::<Completions>(answer).unwrap().numbers();
        assert_eq!(numbers(named), Ok(vec![1, 20]));
        let refused = numbers(answer(&NAMES, &VALUES, Some(4)));
        assert!(matches!(refused, Err(Refusal::Unscorable(_))));
    }

    #[test]
    fn prompt_logprobs_are_read_by_number() {
        let told = |entries: Value| {
            let answer = json!({"choices": [{"prompt_logprobs": entries}]});
            serde_json::from_value::<Completions>(answer).unwrap().prompt_logprobs("The sky")
        };
        let sky = json!({"42": {"logprob": -2.0, "rank": 7, "decoded_token": " sky"}});
        let read = told(json!([null, sky])).unwrap();
        let tokens: Vec<_> =
            read.tokens().iter().map(|token| (token.id, token.log_probability)).collect();
        assert_eq!(tokens, [(None, None), (Some(42), Some(-2.0))]);
        assert!(wrong(told(json!([null, {"42": {"logprob": -2.0}}]))).contains("no text"));
        let two = json!({"42": {"logprob": -2.0}, "43": {"logprob": -1.0}});
        assert!(wrong(told(json!([null, two]))).contains("more tokens"));
        let sea = json!({"43": {"logprob": -2.0, "decoded_token": " sea"}});
        assert!(wrong(told(json!([null, sea]))).contains("goes on with \"The sky\""));
    }

    #[test]
    fn a_token_that_ends_inside_a_character_cannot_be_scored() {
        let answer = json!({"tokens": [
            {"id": 1, "piece": "<s>"}, {"id": 5, "piece": [0xE5, 0xA4]}, {"id": 6, "piece": [0xA9]},
        ]});
        let tokenized: Tokenized = serde_json::from_value(answer).unwrap();
        let text = tokenized.text("天").unwrap();
        let asked = |answer: Value, index: usize| {
            let answer: Completion = serde_json::from_value(answer).unwrap();
            answer.log_probability(&text.tokens()[index])
        };
        let refused = asked(json!({"content": ""}), 1);
        assert!(matches!(refused, Err(Refusal::Unscorable(said)) if said.contains("(token 5)")));
        assert!(wrong(asked(json!({"content": ""}), 0)).contains("token 1"));
        let told =
            |id, logprob| json!({"completion_probabilities": [{"id": id, "logprob": logprob}]});
        assert_eq!(asked(told(6, -1.5), 2), Ok(-1.5));
        assert!(wrong(asked(told(7, -1.5), 2)).contains("token 6"));
        assert!(wrong(asked(told(6, 1.5), 2)).contains("above 0"));
    }
}
