//! What a request to `/completion` asks for besides its prompt.

use std::sync::Arc;

use serde_json::{Value, json};

use super::samplers::{Chain, logit_bias};
use crate::engine::Sampling;
use crate::server::defaults::SamplingDefaults;
use crate::server::errors::ApiError;
use crate::server::fields::{Fields, wrong};
use crate::server::generate::{Ask, MOST_ANSWERS, MOST_LIKELIEST, MOST_STOPS};
use crate::server::state::Served;

/// The seed that stands for a random one, beside -1.
const RANDOM_SEED: i64 = u32::MAX as i64;

/// Numbers that belong to samplers that are off. They change nothing, but must be numbers.
const OF_WHAT_IS_OFF: [&str; 8] = [
    "dynatemp_exponent",
    "xtc_threshold",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "mirostat_tau",
    "mirostat_eta",
    "adaptive_decay",
];

/// What a request asks for.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// New tokens at most; `None` for what the server says.
    pub max_new_tokens: Option<usize>,
    /// Answers to each prompt.
    pub answers: usize,
    pub stop: Vec<String>,
    pub sampling: Sampling,
    /// The samplers' names, in their order.
    pub samplers: Vec<&'static str>,
    /// Tokens that end a turn never come.
    pub ignores_end: bool,
    pub is_streamed: bool,
    pub uses_cache: bool,
    /// Log-probabilities are told, with this many likeliest tokens.
    pub likeliest: Option<usize>,
    /// They are those of the draw.
    pub after_sampling: bool,
    pub returns_tokens: bool,
    /// A stream tells how far the prompt is.
    pub tells_progress: bool,
    /// Each piece of a stream has timings.
    pub times_pieces: bool,
    /// The fields of the answer, all if empty.
    pub fields: Vec<String>,
}

impl Parameters {
    /// Reads them.
    ///
    /// # Errors
    /// 400 for a field that holds something else than it should, and for what quantkit does not do; 501 for
    /// what it does not do at all.
    pub async fn read(
        fields: &Fields,
        model: &Arc<Served>,
        defaults: &SamplingDefaults,
    ) -> Result<Self, ApiError> {
        refuse(fields, model)?;
        let names = ["n_predict", "max_completion_tokens", "max_tokens"];
        let max_new_tokens = first(fields, &names, -1..=i64::MAX)?;
        let answers = first(fields, &["n_cmpl", "n"], 1..=MOST_ANSWERS as i64)?.unwrap_or(1);
        let likeliest = first(fields, &["n_probs", "logprobs"], 0..=MOST_LIKELIEST)?;
        let stop = fields.texts("stop")?;
        if stop.len() > MOST_STOPS {
            return Err(ApiError::field("stop", format!("expected at most {MOST_STOPS} texts")));
        }
        let ignores_end = fields.flag("ignore_eos")?;
        let chain = Chain::read(fields)?;
        let mut sampling = sampling(fields, defaults)?;
        sampling.order.clone_from(&chain.filters);
        if !chain.penalizes {
            sampling = Sampling {
                repeat_penalty: 1.0,
                presence_penalty: 0.0,
                frequency_penalty: 0.0,
                ..sampling
            };
        }
        sampling.logit_bias = logit_bias(model, fields).await?;
        if ignores_end {
            let ends = model.vocabulary().end_of_generation.iter();
            sampling.logit_bias.extend(ends.map(|&end| (end, f32::NEG_INFINITY)));
        }
        let response_fields = match fields.get("response_fields") {
            Some(list @ Value::Array(_)) => list,
            Some(other) => return Err(wrong("response_fields", "a list of fields' names", other)),
            None => &Value::Null,
        };
        let is_text =
            response_fields.as_array().is_none_or(|list| list.iter().all(Value::is_string));
        if !is_text {
            return Err(wrong("response_fields", "a list of fields' names", response_fields));
        }
        Ok(Self {
            max_new_tokens: max_new_tokens.and_then(|count| usize::try_from(count).ok()),
            answers: answers as usize,
            stop: stop.into_iter().filter(|stop| !stop.is_empty()).collect(),
            sampling,
            samplers: chain.names,
            ignores_end,
            is_streamed: fields.flag("stream")?,
            uses_cache: fields.flag_or("cache_prompt", true)?,
            likeliest: likeliest.filter(|&count| count > 0).map(|count| count as usize),
            after_sampling: fields.flag("post_sampling_probs")?,
            returns_tokens: fields.flag("return_tokens")?,
            tells_progress: fields.flag("return_progress")?,
            times_pieces: fields.flag("timings_per_token")?,
            fields: fields.texts("response_fields")?,
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
            ignore_end: self.ignores_end,
            log_probabilities: self.likeliest,
            after_sampling: self.after_sampling,
            use_cache: self.uses_cache,
            ..Ask::new(prompt)
        }
    }
}

/// The first of these fields that is there: llama-server has several names for some.
fn first(
    fields: &Fields,
    names: &[&str],
    range: std::ops::RangeInclusive<i64>,
) -> Result<Option<i64>, ApiError> {
    let mut found = None;
    for name in names {
        found = found.or(fields.integer(name, range.clone())?);
    }
    Ok(found)
}

fn sampling(fields: &Fields, defaults: &SamplingDefaults) -> Result<Sampling, ApiError> {
    let default = defaults.over(Sampling {
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        counts_recent: true,
        ..Sampling::default()
    });
    let count = |number: i64, negative: usize| usize::try_from(number).unwrap_or(negative);
    let top_k = fields.integer("top_k", -1..=i64::MAX)?.map(|number| count(number, 0));
    // 0 leaves the likeliest token alone, and so does the smallest number above it.
    let top_p = fields.number("top_p", 0.0..=1.0)?.map(|p| p.max(f32::MIN_POSITIVE));
    let window = fields.integer("repeat_last_n", -1..=i64::MAX)?;
    let window = window.map(|number| count(number, usize::MAX));
    let seed = fields.integer("seed", -1..=i64::MAX)?;
    let is_random = |seed: &i64| *seed == -1 || *seed == RANDOM_SEED;
    let penalty = |name: &str| fields.number(name, -100.0..=100.0);
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=100.0)?.unwrap_or(default.temperature),
        top_k: top_k.unwrap_or(default.top_k),
        top_p: top_p.unwrap_or(default.top_p),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        typical_p: fields.number("typical_p", 0.0..=1.0)?.unwrap_or(default.typical_p),
        repeat_penalty: fields
            .number("repeat_penalty", 0.01..=100.0)?
            .unwrap_or(default.repeat_penalty),
        repeat_window: window.unwrap_or(default.repeat_window),
        presence_penalty: penalty("presence_penalty")?.unwrap_or(default.presence_penalty),
        frequency_penalty: penalty("frequency_penalty")?.unwrap_or(default.frequency_penalty),
        seed: match seed {
            Some(seed) if is_random(&seed) => u64::from(rand::random::<u32>()),
            Some(seed) => seed.unsigned_abs(),
            None => default.seed,
        },
        ..default
    })
}

/// Refuses what would change the answer and what nobody honours.
fn refuse(fields: &Fields, model: &Served) -> Result<(), ApiError> {
    for name in ["grammar", "json_schema", "grammar_triggers", "lora", "tools", "multimodal_data"] {
        let is_empty = |value: &Value| match value {
            Value::Array(list) => list.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if fields.get(name).is_some_and(|value| !is_empty(value)) {
            let error = ApiError::not_implemented(format!("{name}: quantkit has no such thing"));
            return Err(ApiError { field: Some(name.to_string()), ..error });
        }
    }
    fields.refuse(&[
        ("dynatemp_range", &[json!(0)]),
        ("xtc_probability", &[json!(0)]),
        ("top_n_sigma", &[json!(-1), json!(0)]),
        ("mirostat", &[json!(0)]),
        ("dry_multiplier", &[json!(0)]),
        ("adaptive_target", &[json!(-1)]),
        ("min_keep", &[json!(0), json!(1)]),
        ("t_max_predict_ms", &[json!(-1), json!(0)]),
        ("t_max_prompt_ms", &[json!(-1), json!(0)]),
        ("n_indent", &[json!(0)]),
        ("n_cache_reuse", &[json!(0)]),
        ("sse_ping_interval", &[json!(-1)]),
        ("preserved_tokens", &[]),
        ("grammar_lazy", &[json!(false)]),
        ("reasoning_budget_tokens", &[json!(-1)]),
        // What llama-server once had.
        ("tfs_z", &[json!(1)]),
        ("penalize_nl", &[json!(false)]),
        ("system_prompt", &[]),
        ("image_data", &[]),
    ])?;
    for name in OF_WHAT_IS_OFF {
        fields.number(name, -1e9..=1e9)?;
    }
    fields.texts("dry_sequence_breakers")?;
    // No context is ever shifted, so that these change nothing.
    fields.integer("n_keep", -1..=i64::MAX)?;
    fields.integer("n_discard", 0..=i64::MAX)?;
    // All slots share one cache, so that it does not matter which one a request runs in.
    let last = i64::try_from(model.service.facts().max_batch).unwrap_or(i64::MAX) - 1;
    fields.integer("id_slot", -1..=last)?;
    // Where the sampler runs does not change what it draws.
    fields.flag("backend_sampling")?;
    fields.flag("verbose")?;
    Ok(())
}
