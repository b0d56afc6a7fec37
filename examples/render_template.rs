//! Renders chat templates as quantkit does: reads objects with `template`, `variables` and `now`
//! (seconds since 1970) from standard input, a line each, and writes a line with `text` or with
//! `error` for each. `scripts/compare_templates.py` compares that with transformers.

use std::io::{BufRead, Write};

use chrono::DateTime;
use quantkit::jinja;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

#[derive(Deserialize)]
struct Case {
    template: String,
    variables: Map<String, Json>,
    now: i64,
}

fn main() -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let case: Case = serde_json::from_str(&line?)?;
        let now = DateTime::from_timestamp(case.now, 0).unwrap_or_default().naive_utc();
        let result = match jinja::render(&case.template, &case.variables, now) {
            Ok(text) => json!({ "text": text }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        writeln!(output, "{result}")?;
    }
    Ok(())
}
