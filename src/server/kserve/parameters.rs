//! What a request asks of a model: from its inputs and parameters.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::tensors::Input;
use crate::engine::Sampling;
use crate::server::defaults::SamplingDefaults;
use crate::server::errors::ApiError;
use crate::server::fields::Fields;
use crate::server::generate::{Ask, MOST_ANSWERS, MOST_STOPS, tokenize};
use crate::server::state::Served;

/// The prompt's usual name.
pub const PROMPT: &str = "text_input";

/// The answer's usual name.
pub const OUTPUT: &str = "text_output";

/// New tokens where neither the request nor the server says: vLLM's default.
const NEW_TOKENS: usize = 16;

/// The parameters, each with the type that its tensor has.
pub const PARAMETERS: [(&str, &str); 16] = [
    ("max_tokens", "INT32"),
    ("temperature", "FP32"),
    ("top_k", "INT32"),
    ("top_p", "FP32"),
    ("min_p", "FP32"),
    ("repetition_penalty", "FP32"),
    ("presence_penalty", "FP32"),
    ("frequency_penalty", "FP32"),
    ("seed", "UINT64"),
    ("random_seed", "UINT64"),
    ("stop", "BYTES"),
    ("stop_words", "BYTES"),
    ("ignore_eos", "BOOL"),
    ("exclude_input_in_output", "BOOL"),
    ("stream", "BOOL"),
    ("sampling_parameters", "BYTES"),
];

/// Parameters of the protocol that change nothing with these values.
const WITHOUT_EFFECT: [(&str, Value); 1] = [("priority", Value::Null)];

/// One prompt and what is wanted of it.
#[derive(Debug)]
pub struct Wanted {
    /// The prompt.
    pub prompt: String,
    /// The answer begins with the prompt.
    pub echoes: bool,
    /// In pieces.
    pub is_streamed: bool,
    max_new_tokens: Option<usize>,
    sampling: Sampling,
    stop: Vec<String>,
    ignore_end: bool,
}

impl Wanted {
    /// The request to the model.
    ///
    /// # Errors
    /// 400 for a text that cannot be tokenized.
    pub async fn ask(&self, model: &Arc<Served>) -> Result<Ask, ApiError> {
        let prompt = tokenize(model, self.prompt.clone(), true, true).await?;
        Ok(Ask {
            max_new_tokens: self.max_new_tokens.or(model.default_new_tokens).or(Some(NEW_TOKENS)),
            sampling: self.sampling.clone(),
            stop: self.stop.clone(),
            ignore_end: self.ignore_end,
            ..Ask::new(prompt)
        })
    }
}

/// The prompts, their shape, and what is wanted of each.
///
/// # Errors
/// 400 for what is missing, wrong or not supported.
pub fn read(
    mut inputs: Vec<Input>,
    parameters: &Map<String, Value>,
    defaults: &SamplingDefaults,
) -> Result<(Vec<i64>, Vec<Wanted>), ApiError> {
    let Input { shape, elements, .. } = inputs.remove(prompt_input(&inputs)?);
    let count = elements.len();
    if count == 0 || count > MOST_ANSWERS {
        let problem = format!("expected 1 to {MOST_ANSWERS} texts, found {count}");
        return Err(ApiError::bad_request(problem));
    }
    let mut wanted = Vec::with_capacity(count);
    for (index, prompt) in elements.into_iter().enumerate() {
        let mut told = parameters.clone();
        for input in &inputs {
            told.insert(input.name.clone(), of_prompt(input, index, count)?);
        }
        let Value::String(prompt) = prompt else {
            return Err(ApiError::bad_request("the prompt is not a text"));
        };
        wanted.push(of_told(prompt, told, defaults)?);
    }
    Ok((shape, wanted))
}

/// Which input is the prompt.
fn prompt_input(inputs: &[Input]) -> Result<usize, ApiError> {
    let is_parameter = |name: &str| PARAMETERS.iter().any(|(known, _)| *known == name);
    if let Some(index) = inputs.iter().position(|input| input.name == PROMPT) {
        return match inputs[index].datatype.as_str() {
            "BYTES" => Ok(index),
            other => Err(ApiError::bad_request(format!("{PROMPT}: expected BYTES, found {other}"))),
        };
    }
    let mut texts = inputs
        .iter()
        .enumerate()
        .filter(|(_, input)| input.datatype == "BYTES" && !is_parameter(&input.name));
    match (texts.next(), texts.next()) {
        (Some((index, _)), None) => Ok(index),
        (None, _) => Err(ApiError::bad_request(format!(
            "expected the prompt in an input {PROMPT:?} of type BYTES"
        ))),
        (Some((_, one)), Some((_, other))) => Err(ApiError::bad_request(format!(
            "{:?} or {:?} may be the prompt: call it {PROMPT:?}",
            one.name, other.name
        ))),
    }
}

/// A parameter's value for one of the prompts: one for all, or one each. Stop words may be several for all.
fn of_prompt(input: &Input, index: usize, prompts: usize) -> Result<Value, ApiError> {
    match &input.elements[..] {
        [only] => Ok(only.clone()),
        all if all.len() == prompts => Ok(all[index].clone()),
        all if prompts == 1 => Ok(json!(all)),
        all => Err(ApiError::bad_request(format!(
            "{}: expected one value, or one for each of {prompts} prompts, found {}",
            input.name,
            all.len()
        ))),
    }
}

fn of_told(
    prompt: String,
    mut told: Map<String, Value>,
    defaults: &SamplingDefaults,
) -> Result<Wanted, ApiError> {
    if let Some(text) = told.remove("sampling_parameters") {
        let parsed = text.as_str().map(serde_json::from_str::<Map<String, Value>>);
        let Some(Ok(more)) = parsed else {
            let problem = "expected a JSON object as a text";
            return Err(ApiError::field("sampling_parameters", problem));
        };
        for (name, value) in more {
            told.entry(name).or_insert(value);
        }
    }
    for (name, value) in &told {
        let is_known = PARAMETERS.iter().any(|(known, _)| known == name);
        let is_neutral = WITHOUT_EFFECT.iter().any(|(known, _)| known == name)
            && (value.is_null() || value.as_f64() == Some(0.0));
        if !is_known && !is_neutral && !value.is_null() {
            return Err(ApiError::field(name, "quantkit does not support it: leave it out"));
        }
    }
    let fields = Fields::from(told);
    // vLLM writes -1 where all tokens may be drawn.
    let top_k = fields.integer("top_k", -1..=i64::MAX)?;
    let top_k = top_k.map(|count| usize::try_from(count).unwrap_or(0));
    let base = defaults.over(Sampling { temperature: 1.0, ..Sampling::default() });
    let seed = match fields.integer("seed", 0..=i64::MAX)? {
        None => fields.integer("random_seed", 0..=i64::MAX)?,
        seed => seed,
    };
    let sampling = Sampling {
        temperature: fields.number("temperature", 0.0..=1e6)?.unwrap_or(base.temperature),
        top_k: top_k.unwrap_or(base.top_k),
        top_p: fields.number("top_p", f64::MIN_POSITIVE..=1.0)?.unwrap_or(base.top_p),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(base.min_p),
        repeat_penalty: fields
            .number("repetition_penalty", f64::MIN_POSITIVE..=1e6)?
            .unwrap_or(base.repeat_penalty),
        presence_penalty: fields
            .number("presence_penalty", -1e6..=1e6)?
            .unwrap_or(base.presence_penalty),
        frequency_penalty: fields
            .number("frequency_penalty", -1e6..=1e6)?
            .unwrap_or(base.frequency_penalty),
        seed: seed.map_or(base.seed, i64::unsigned_abs),
        ..base
    };
    let stop: Vec<String> = [fields.texts("stop")?, fields.texts("stop_words")?].concat();
    let stop: Vec<String> = stop.into_iter().filter(|text| !text.is_empty()).collect();
    if stop.len() > MOST_STOPS {
        return Err(ApiError::field("stop", format!("expected at most {MOST_STOPS} texts")));
    }
    Ok(Wanted {
        prompt,
        echoes: !fields.flag("exclude_input_in_output")?,
        is_streamed: fields.flag("stream")?,
        max_new_tokens: fields.count("max_tokens", 0)?,
        sampling,
        stop,
        ignore_end: fields.flag("ignore_eos")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, datatype: &str, elements: &[Value]) -> Input {
        let shape = vec![elements.len() as i64];
        Input {
            name: name.to_string(),
            datatype: datatype.to_string(),
            shape,
            elements: elements.to_vec(),
        }
    }

    fn of(inputs: Vec<Input>, parameters: Value) -> Result<Vec<Wanted>, String> {
        let Value::Object(parameters) = parameters else { panic!("an object") };
        let read = read(inputs, &parameters, &SamplingDefaults::default());
        read.map(|(_, wanted)| wanted).map_err(|error| error.message)
    }

    #[test]
    fn parameters_come_from_inputs_from_the_request_and_from_json() {
        let inputs = vec![
            input("INPUT_TEXT", "BYTES", &[json!("a"), json!("b")]),
            input("max_tokens", "INT32", &[json!(3), json!(4)]),
            input("temperature", "FP32", &[json!(0.5)]),
        ];
        let json = json!({"sampling_parameters": "{\"top_k\": -1, \"temperature\": 9}", "seed": 7});
        let wanted = of(inputs, json).unwrap();
        assert_eq!(wanted.iter().map(|w| w.max_new_tokens).collect::<Vec<_>>(), [Some(3), Some(4)]);
        assert_eq!((wanted[1].prompt.as_str(), wanted[1].sampling.seed), ("b", 7));
        assert_eq!((wanted[0].sampling.temperature, wanted[0].sampling.top_k), (0.5, 0));
        assert!(wanted[0].echoes);
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        let prompt = || input("text_input", "BYTES", &[json!("a")]);
        assert!(of(vec![], json!({})).unwrap_err().contains("text_input"));
        let two = vec![input("a", "BYTES", &[json!("x")]), input("b", "BYTES", &[json!("y")])];
        assert!(of(two, json!({})).unwrap_err().contains("may be the prompt"));
        assert!(of(vec![prompt()], json!({"beam_width": 4})).unwrap_err().contains("beam_width"));
        assert!(of(vec![prompt()], json!({"sequence_id": 4})).unwrap_err().contains("sequence_id"));
        assert!(of(vec![prompt()], json!({"priority": 0})).is_ok());
        let negative = of(vec![prompt()], json!({"max_tokens": -5})).unwrap_err();
        assert!(negative.contains("max_tokens"), "{negative}");
        let text = of(vec![prompt()], json!({"sampling_parameters": "{"})).unwrap_err();
        assert!(text.contains("sampling_parameters"), "{text}");
        let numbers = input("max_tokens", "INT32", &[json!(1), json!(2)]);
        let prompts = input("text_input", "BYTES", &[json!("a"), json!("b"), json!("c")]);
        assert!(of(vec![prompts, numbers], json!({})).unwrap_err().contains("each of 3 prompts"));
        assert!(of(vec![input("text_input", "INT8", &[json!(1)])], json!({})).is_err());
    }
}
