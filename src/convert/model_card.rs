//! What a checkpoint says about itself besides its weights: the model card's front matter and the
//! sampling parameters that its authors recommend.

use std::path::Path;

use serde_json::Value as Json;

use super::error::ConvertError;
use crate::checkpoint::optional_files::{read_object, read_optional};
use crate::gguf::{Array, Metadata, Value};

/// Fields of generation_config.json and their names in `general.sampling.*`.
const SAMPLING: [(&str, &str); 4] = [
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("temperature", "temp"),
    ("repetition_penalty", "penalty_repeat"),
];

/// Appends `general.sampling.*` from generation_config.json.
pub(super) fn append_sampling(
    metadata: &mut Metadata,
    directory: &Path,
) -> Result<(), ConvertError> {
    let path = directory.join("generation_config.json");
    let Some(config) = read_object(&path)? else { return Ok(()) };
    if let Some(top_k) = config.get("top_k").and_then(Json::as_i64) {
        let top_k = i32::try_from(top_k)
            .map_err(|_| ConvertError::unusable(&path, format!("top_k {top_k} is too large")))?;
        metadata.set("general.sampling.top_k", Value::I32(top_k));
    }
    for (field, name) in SAMPLING {
        if let Some(number) = config.get(field).and_then(Json::as_f64) {
            metadata.set(format!("general.sampling.{name}"), Value::F32(number as f32));
        }
    }
    Ok(())
}

/// Appends licence, tags and languages from the front matter of README.md.
pub(super) fn append_card(metadata: &mut Metadata, directory: &Path) -> Result<(), ConvertError> {
    let Some(bytes) = read_optional(&directory.join("README.md"))? else { return Ok(()) };
    let text = String::from_utf8_lossy(&bytes);
    let fields = front_matter(&text);
    let values = |key: &str| fields.iter().find(|(name, _)| name == key).map(|(_, values)| values);
    for (key, separator) in [("license", ","), ("license_name", " "), ("license_link", " ")] {
        if let Some(values) = values(key).filter(|values| !values.is_empty()) {
            metadata.set(format!("general.{key}"), Value::String(values.join(separator)));
        }
    }
    for (name, keys) in
        [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])]
    {
        let found: Vec<String> =
            keys.iter().filter_map(|key| values(key)).flatten().cloned().collect();
        if !found.is_empty() {
            metadata.set(format!("general.{name}"), Value::Array(Array::String(found)));
        }
    }
    Ok(())
}

/// The top-level fields between the two `---` lines, as far as they are plain texts or lists of
/// them. That is all of YAML that licences, tags and languages are written in; anything else is
/// left out.
fn front_matter(text: &str) -> Vec<(String, Vec<String>)> {
    let mut lines = text.lines();
    if lines.next() != Some("---") {
        return Vec::new();
    }
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    for line in lines.take_while(|line| *line != "---") {
        if let Some(item) = line.trim_start().strip_prefix("- ") {
            if let (Some((_, values)), Some(item)) = (fields.last_mut(), scalar(item)) {
                values.push(item);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            // Deeper fields belong to a structure that is left out.
            let is_top_level = !key.starts_with([' ', '#']);
            let key = if is_top_level { key.trim().to_string() } else { String::new() };
            fields.push((key, inline_values(value.trim())));
        }
    }
    fields
}

fn inline_values(value: &str) -> Vec<String> {
    match value.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
        Some(list) => list.split(',').filter_map(scalar).collect(),
        None => scalar(value).into_iter().collect(),
    }
}

/// A plain or quoted text.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    let quoted = |quote| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let text = quoted('"').or_else(|| quoted('\'')).unwrap_or(text);
    (!text.is_empty() && !text.starts_with(['|', '>', '{', '&', '*'])).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_lists_are_found() {
        let card = "---\nlicense: apache-2.0\nlanguage:\n- en\n- \"no\"\ntags: [a, 'b']\nmodel-index:\n\
                    - name: x\n  results:\n  - task: y\n---\nlicense: not here\n";
        let fields = front_matter(card);
        let values = |key: &str| fields.iter().find(|(name, _)| name == key).unwrap().1.clone();
        assert_eq!(values("license"), ["apache-2.0"]);
        assert_eq!(values("language"), ["en", "no"]);
        assert_eq!(values("tags"), ["a", "b"]);
        assert_eq!(fields.iter().filter(|(name, _)| name == "license").count(), 1);
        assert!(front_matter("# No front matter").is_empty());
    }
}
