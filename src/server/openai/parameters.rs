//! The fields that completions and chats have in common.

use serde_json::{Value, json};

use crate::engine::Sampling;
use crate::server::defaults::SamplingDefaults;
use crate::server::errors::ApiError;
use crate::server::fields::{Fields, wrong};
use crate::server::generate::{Ask, MOST_ANSWERS, MOST_LIKELIEST, MOST_STOPS};

/// What a request asks for besides its prompt.
#[derive(Debug, Clone)]
pub struct Parameters {
    pub max_new_tokens: Option<usize>,
    /// Answers for each prompt.
    pub answers: usize,
    pub stop: Vec<String>,
    pub sampling: Sampling,
    pub ignore_end: bool,
    pub is_streamed: bool,
    pub includes_usage: bool,
    pub shows_control_tokens: bool,
    pub use_cache: bool,
    /// Tokens are named `token_id:N`.
    pub names_numbers: bool,
    /// The tokens' numbers are told.
    pub tells_numbers: bool,
    pub prompt_log_probabilities: Option<usize>,
    /// Each piece of a stream has timings.
    pub times_pieces: bool,
    /// The answer has the prompt as the model reads it.
    pub tells_prompt: bool,
    /// A stream tells how far the prompt is.
    pub tells_progress: bool,
}

impl Parameters {
    /// Reads them. `length` names the field that limits the new tokens.
    pub fn read(
        fields: &Fields,
        length: &[&str],
        defaults: &SamplingDefaults,
    ) -> Result<Self, ApiError> {
        refuse(fields)?;
        let mut max_new_tokens = None;
        for name in length {
            max_new_tokens = max_new_tokens.or(fields.count(name, 0)?);
        }
        // llama-server's name, where -1 is no limit.
        let n_predict = fields.integer("n_predict", -1..=i64::MAX)?;
        let n_predict = n_predict.and_then(|count| usize::try_from(count).ok());
        let max_new_tokens = max_new_tokens.or(n_predict);
        let most = i64::try_from(MOST_ANSWERS).unwrap_or(i64::MAX);
        let answers = fields.integer("n", 1..=most)?.unwrap_or(1);
        let stream_options = fields.object("stream_options")?;
        let includes_usage = match &stream_options {
            Some(options) => options.flag("include_usage")?,
            None => false,
        };
        let stop = fields.texts("stop")?;
        if stop.len() > MOST_STOPS {
            return Err(ApiError::field("stop", format!("expected at most {MOST_STOPS} texts")));
        }
        let likeliest = fields.integer("prompt_logprobs", 0..=MOST_LIKELIEST)?;
        Ok(Self {
            max_new_tokens,
            answers: answers as usize,
            stop,
            sampling: sampling(fields, defaults)?,
            ignore_end: fields.flag("ignore_eos")?,
            is_streamed: fields.flag("stream")?,
            includes_usage,
            shows_control_tokens: !fields.flag_or("skip_special_tokens", true)?,
            use_cache: fields.flag_or("cache_prompt", true)?,
            names_numbers: fields.flag("return_tokens_as_token_ids")?,
            tells_numbers: fields.flag("return_token_ids")?,
            prompt_log_probabilities: likeliest.map(|count| count as usize),
            times_pieces: fields.flag("timings_per_token")?,
            tells_prompt: fields.flag("verbose")?,
            tells_progress: fields.flag("return_progress")?,
        })
    }

    /// A request for one answer, the one with this number.
    pub fn ask(&self, prompt: Vec<u32>, answer: usize) -> Ask {
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(answer as u64);
        Ask {
            max_new_tokens: self.max_new_tokens,
            sampling,
            stop: self.stop.clone(),
            ignore_end: self.ignore_end,
            prompt_log_probabilities: self.prompt_log_probabilities,
            use_cache: self.use_cache,
            shows_control_tokens: self.shows_control_tokens,
            ..Ask::new(prompt)
        }
    }

    /// Checks how many answers all prompts together get.
    pub fn check_answers(&self, prompts: usize) -> Result<(), ApiError> {
        match prompts.saturating_mul(self.answers) > MOST_ANSWERS {
            true => Err(ApiError::field(
                "n",
                format!("expected at most {MOST_ANSWERS} answers to all prompts together"),
            )),
            false => Ok(()),
        }
    }
}

fn sampling(fields: &Fields, defaults: &SamplingDefaults) -> Result<Sampling, ApiError> {
    let default = defaults.over(Sampling { temperature: 1.0, ..Sampling::default() });
    let top_k = fields.integer("top_k", -1..=i64::MAX)?.map(|top_k| top_k.max(0));
    let top_p = fields.number("top_p", 0.0..=1.0)?.unwrap_or(default.top_p);
    // 0 leaves the likeliest token alone, and so does the smallest number above it.
    let top_p = if top_p == 0.0 { f32::MIN_POSITIVE } else { top_p };
    let seed = fields.integer("seed", i64::MIN..=i64::MAX)?;
    let repeat_penalty = fields.number("repetition_penalty", 0.01..=100.0)?;
    let penalty = |name: &str| fields.number(name, -100.0..=100.0);
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=100.0)?.unwrap_or(default.temperature),
        top_k: top_k.map_or(default.top_k, |top_k| usize::try_from(top_k).unwrap_or(usize::MAX)),
        top_p,
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        repeat_penalty: repeat_penalty.unwrap_or(default.repeat_penalty),
        // As vLLM does, over prompt and answer.
        repeat_window: if repeat_penalty.is_some() { usize::MAX } else { default.repeat_window },
        presence_penalty: penalty("presence_penalty")?.unwrap_or(default.presence_penalty),
        frequency_penalty: penalty("frequency_penalty")?.unwrap_or(default.frequency_penalty),
        logit_bias: logit_bias(fields)?,
        seed: seed.map_or(default.seed, |seed| seed as u64),
        ..default
    })
}

/// An object with tokens' numbers as names.
fn logit_bias(fields: &Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(value) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let expected = "an object of tokens' numbers with a number from -100 to 100 each";
    let entry = |(token, bias): (&String, &Value)| {
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
        Some((token.parse().ok()?, bias as f32))
    };
    let entries = value.as_object().and_then(|map| map.iter().map(entry).collect());
    entries.ok_or_else(|| wrong("logit_bias", expected, value))
}

/// Fields that would change the answer, and that nobody honours.
fn refuse(fields: &Fields) -> Result<(), ApiError> {
    let text = json!({ "type": "text" });
    fields.refuse(&[
        ("suffix", &[]),
        ("best_of", &[json!(1)]),
        ("tools", &[]),
        ("tool_choice", &[json!("none"), json!("auto")]),
        ("functions", &[]),
        ("function_call", &[json!("none"), json!("auto")]),
        ("response_format", &[text]),
        ("modalities", &[json!(["text"])]),
        ("audio", &[]),
        ("prediction", &[]),
        ("web_search_options", &[]),
        ("reasoning_effort", &[json!("none")]),
        ("grammar", &[]),
        ("json_schema", &[]),
        ("guided_json", &[]),
        ("guided_regex", &[]),
        ("guided_choice", &[]),
        ("guided_grammar", &[]),
        ("structured_outputs", &[]),
        ("use_beam_search", &[json!(false)]),
        ("length_penalty", &[json!(1)]),
        ("min_tokens", &[json!(0)]),
        ("stop_token_ids", &[]),
        ("bad_words", &[]),
        ("allowed_token_ids", &[]),
        ("include_stop_str_in_output", &[json!(false)]),
        ("truncate_prompt_tokens", &[]),
        ("prompt_embeds", &[]),
        ("logits_processors", &[]),
        ("typical_p", &[json!(1)]),
        ("mirostat", &[json!(0)]),
        ("dry_multiplier", &[json!(0)]),
        ("xtc_probability", &[json!(0)]),
        ("lora", &[]),
        ("chat_template", &[]),
        ("chat_template_kwargs", &[]),
        ("documents", &[]),
    ])
}
