//! `generation_settings`: what a request came to ask for, with all defaults.

use serde_json::{Value, json};

use super::parameters::Parameters;

/// The document. Samplers that quantkit does not have are off in it.
pub fn document(parameters: &Parameters, default_new_tokens: Option<usize>) -> Value {
    let sampling = &parameters.sampling;
    let most = parameters.max_new_tokens.or(default_new_tokens);
    let most = most.map_or(json!(-1), |most| json!(most));
    let window = match sampling.repeat_window {
        usize::MAX => json!(-1),
        window => json!(window),
    };
    // −∞ is null in JSON.
    let bias = |&(token, bias): &(u32, f32)| json!({ "bias": bias, "token": token });
    let biases: Vec<Value> = sampling.logit_bias.iter().map(bias).collect();
    json!({
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "dynatemp_range": 0.0,
        "dynatemp_exponent": 1.0,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "top_n_sigma": -1.0,
        "xtc_probability": 0.0,
        "xtc_threshold": 0.1,
        "typical_p": sampling.typical_p,
        "repeat_last_n": window,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "dry_multiplier": 0.0,
        "mirostat": 0,
        "adaptive_target": -1.0,
        "adaptive_decay": 0.9,
        "stop": parameters.stop,
        "max_tokens": most,
        "n_predict": most,
        "n_keep": 0,
        "n_discard": 0,
        "ignore_eos": parameters.ignores_end,
        "stream": parameters.is_streamed,
        "logit_bias": biases,
        "n_probs": parameters.likeliest.unwrap_or(0),
        "min_keep": 0,
        "grammar": "",
        "samplers": parameters.samplers,
        "timings_per_token": parameters.times_pieces,
        "post_sampling_probs": parameters.after_sampling,
        "backend_sampling": false,
        "lora": [],
    })
}
