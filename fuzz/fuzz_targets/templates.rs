//! Any text: the template is refused, or rendered within its bounds.

#![no_main]

use std::sync::LazyLock;

use chrono::NaiveDateTime;
use libfuzzer_sys::fuzz_target;
use quantkit::jinja;
use serde_json::{Map, Value, json};

static VARIABLES: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let call = json!({ "function": { "name": "add", "arguments": { "a": 1, "b": [2.5, null] } } });
    let variables = json!({
        "messages": [
            { "role": "system", "content": "Be brief. " },
            { "role": "user", "content": "Hi, 世界!\n<b>" },
            { "role": "assistant", "content": "", "tool_calls": [call] },
        ],
        "tools": null,
        "bos_token": "<s>",
        "add_generation_prompt": true,
    });
    variables.as_object().cloned().unwrap_or_default()
});

fuzz_target!(|template: &str| {
    if let Ok(text) = jinja::render(template, &VARIABLES, NaiveDateTime::default()) {
        assert!(text.len() <= 64 << 20);
    }
});
