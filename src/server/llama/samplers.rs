//! `samplers` and `logit_bias`: which filters act in which order, and what is added to tokens' logits.

use std::sync::Arc;

use serde_json::Value;

use super::prompts::token_number;
use crate::engine::Filter;
use crate::server::errors::ApiError;
use crate::server::fields::{Fields, wrong};
use crate::server::generate::aside;
use crate::server::state::Served;
use crate::tokenizer::Vocabulary;

/// A step of llama-server's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Penalties,
    Filter(Filter),
    /// One that requests cannot turn on, so that it changes nothing wherever it stands.
    Off,
}

/// The steps, with llama-server's names and letters.
const STEPS: [(&[&str], char, Step); 9] = [
    (&["penalties"], 'e', Step::Penalties),
    (&["dry"], 'd', Step::Off),
    (&["top_n_sigma", "top-n-sigma"], 's', Step::Off),
    (&["top_k", "top-k"], 'k', Step::Filter(Filter::TopK)),
    (&["typ_p", "typ-p", "typical_p", "typical"], 'y', Step::Filter(Filter::Typical)),
    (&["top_p", "top-p", "nucleus"], 'p', Step::Filter(Filter::TopP)),
    (&["min_p", "min-p"], 'm', Step::Filter(Filter::MinP)),
    (&["xtc"], 'x', Step::Off),
    (&["temperature", "temp"], 't', Step::Filter(Filter::Temperature)),
];

/// A chain of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The names, in their order.
    pub names: Vec<&'static str>,
    /// The filters, in their order.
    pub filters: Vec<Filter>,
    /// Whether penalties act, too.
    pub penalizes: bool,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            names: STEPS.iter().map(|(names, ..)| names[0]).collect(),
            filters: Filter::ALL.to_vec(),
            penalizes: true,
        }
    }
}

impl Chain {
    /// The chain that a request asks for: a list of names, or a text of letters.
    ///
    /// # Errors
    /// 400 for an unknown step, for one that is there twice, and for penalties behind a filter.
    pub fn read(fields: &Fields) -> Result<Self, ApiError> {
        let expected = "a list of samplers' names, or a text of their letters";
        let Some(value) = fields.get("samplers") else { return Ok(Self::default()) };
        let steps: Vec<_> = match value {
            Value::Array(list) => {
                let named = |item: &Value| {
                    let name = item.as_str().ok_or_else(|| wrong("samplers", expected, item))?;
                    let step = STEPS.iter().find(|(names, ..)| names.contains(&name));
                    step.ok_or_else(|| unknown(name))
                };
                list.iter().map(named).collect::<Result<_, _>>()?
            }
            Value::String(letters) => {
                let lettered = |letter: char| {
                    let step = STEPS.iter().find(|(_, own, _)| *own == letter);
                    step.ok_or_else(|| unknown(&letter.to_string()))
                };
                letters.chars().map(lettered).collect::<Result<_, _>>()?
            }
            other => return Err(wrong("samplers", expected, other)),
        };
        let mut chain = Self { names: Vec::new(), filters: Vec::new(), penalizes: false };
        for (names, _, step) in steps {
            let name = names[0];
            if chain.names.contains(&name) {
                let problem = format!("{name} is there twice: quantkit applies a sampler once");
                return Err(ApiError::field("samplers", problem));
            }
            chain.names.push(name);
            match step {
                Step::Penalties if chain.filters.is_empty() => chain.penalizes = true,
                Step::Penalties => {
                    let problem = "penalties come before the filters in quantkit: name them first";
                    return Err(ApiError::field("samplers", problem));
                }
                Step::Filter(filter) => chain.filters.push(*filter),
                Step::Off => {}
            }
        }
        Ok(chain)
    }
}

fn unknown(name: &str) -> ApiError {
    let known: Vec<&str> = STEPS.iter().map(|(names, ..)| names[0]).collect();
    let problem =
        format!("there is no sampler {name:?} in quantkit; there are {}", known.join(", "));
    ApiError::field("samplers", problem)
}

/// What is added to tokens' logits: a list of pairs of a token and a number, or an object. A text stands for
/// all of its tokens, `false` for: never.
///
/// # Errors
/// 400 for anything else.
pub async fn logit_bias(model: &Arc<Served>, fields: &Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(value) = fields.get("logit_bias").cloned() else { return Ok(Vec::new()) };
    let vocabulary = Arc::clone(model.vocabulary());
    aside(move || biases(&vocabulary, &value)).await
}

fn biases(vocabulary: &Vocabulary, value: &Value) -> Result<Vec<(u32, f32)>, ApiError> {
    let mut biases = Vec::new();
    match value {
        Value::Array(list) => {
            for item in list {
                match item.as_array().map(Vec::as_slice) {
                    Some([Value::String(text), bias]) => {
                        add_text(&mut biases, vocabulary, text, bias)?;
                    }
                    Some([token, bias]) => {
                        let token = token_number("logit_bias", token, vocabulary.size)?;
                        biases.push((token, read_bias(bias)?));
                    }
                    _ => return Err(no_bias(item)),
                }
            }
        }
        Value::Object(object) => {
            for (name, bias) in object {
                match name.parse::<u64>() {
                    Ok(token) => {
                        let token = Value::from(token);
                        let token = token_number("logit_bias", &token, vocabulary.size)?;
                        biases.push((token, read_bias(bias)?));
                    }
                    Err(_) => add_text(&mut biases, vocabulary, name, bias)?,
                }
            }
        }
        other => return Err(no_bias(other)),
    }
    Ok(biases)
}

/// A text stands for all of its tokens.
fn add_text(
    biases: &mut Vec<(u32, f32)>,
    vocabulary: &Vocabulary,
    text: &str,
    bias: &Value,
) -> Result<(), ApiError> {
    let bias = read_bias(bias)?;
    let tokens = vocabulary.encode_with(text, false, false);
    let tokens = tokens.map_err(|error| ApiError::field("logit_bias", error))?;
    biases.extend(tokens.into_iter().map(|token| (token, bias)));
    Ok(())
}

fn read_bias(value: &Value) -> Result<f32, ApiError> {
    if *value == Value::Bool(false) {
        return Ok(f32::NEG_INFINITY);
    }
    let number = value.as_f64().map(|bias| bias as f32).filter(|bias| bias.is_finite());
    number.ok_or_else(|| no_bias(value))
}

fn no_bias(value: &Value) -> ApiError {
    wrong("logit_bias", "pairs of a token or a text and a number or false", value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(samplers: Value) -> Result<Chain, ApiError> {
        Chain::read(&Fields::parse(json!({ "samplers": samplers }).to_string().as_bytes()).unwrap())
    }

    #[test]
    fn a_chain_is_read_by_names_and_by_letters() {
        let named = read(json!(["penalties", "min_p", "temperature", "top_k"])).unwrap();
        assert_eq!(named, read(json!("emtk")).unwrap());
        assert_eq!(named.filters, [Filter::MinP, Filter::Temperature, Filter::TopK]);
        assert!(named.penalizes && !read(json!("k")).unwrap().penalizes);
        assert_eq!(read(json!(null)).unwrap(), Chain::default());
        assert_eq!(read(json!("edskypmxt")).unwrap(), Chain::default());
        assert_eq!(read(json!([])).unwrap().filters, []);
    }

    #[test]
    fn what_is_no_chain_is_refused_by_name() {
        for bad in [json!(["top_k", "top_k"]), json!("ke"), json!("q"), json!([1]), json!(1)] {
            let error = read(bad.clone()).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("samplers"), "{bad}");
        }
        assert!(read(json!(["mirostat"])).unwrap_err().message.contains("\"mirostat\""));
    }
}
