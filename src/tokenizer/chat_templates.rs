//! A checkpoint's chat templates → `tokenizer.chat_template*`.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::error::TokenizerError;
use super::files::TokenizerFiles;
use crate::checkpoint::config::ConfigError;
use crate::checkpoint::optional_files::{read_object, read_optional};
use crate::gguf::{Array, Metadata, Value};

/// Appends the template of chat_template.jinja, or else of tokenizer_config.json, as transformers
/// does, or else of chat_template.json.
pub(super) fn append(
    metadata: &mut Metadata,
    files: &TokenizerFiles<'_>,
) -> Result<(), TokenizerError> {
    let template = match read_text(&files.directory.join("chat_template.jinja"))? {
        Some(template) => Some(with_additional(files.directory, template)?),
        None => match files.config_field("chat_template") {
            Some(template) => Some(template.clone()),
            None => read_object(&files.directory.join("chat_template.json"))?
                .and_then(|mut object| object.remove("chat_template")),
        },
    };
    match template {
        Some(Json::String(template)) => {
            metadata.set("tokenizer.chat_template", Value::String(template));
        }
        Some(Json::Array(named)) => append_named(metadata, &named),
        _ => {}
    }
    Ok(())
}

/// The template, with those of the directory `additional_chat_templates` where there are any.
fn with_additional(directory: &Path, template: String) -> Result<Json, TokenizerError> {
    let others = templates_in(&directory.join("additional_chat_templates"))?;
    if others.is_empty() {
        return Ok(Json::String(template));
    }
    let mut named = vec![serde_json::json!({ "name": "default", "template": template })];
    for path in others {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        if let (Some(name), Some(template)) = (name, read_text(&path)?) {
            named.push(serde_json::json!({ "name": name, "template": template }));
        }
    }
    Ok(Json::Array(named))
}

/// The templates in a directory, by name; none where there is no directory.
fn templates_in(directory: &Path) -> Result<Vec<PathBuf>, TokenizerError> {
    let failed = |source| ConfigError::Io { path: directory.to_path_buf(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error).into()),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "jinja") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_text(path: &Path) -> Result<Option<String>, TokenizerError> {
    let Some(bytes) = read_optional(path)? else { return Ok(None) };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| TokenizerError::unusable(path, "the chat template is not valid UTF-8"))
}

/// Several templates: the one called `default` is the template, the others keep their names.
fn append_named(metadata: &mut Metadata, named: &[Json]) {
    let mut names = Vec::new();
    let mut default = None;
    for entry in named {
        let text = |key: &str| entry.get(key).and_then(Json::as_str);
        let (Some(name), Some(template)) = (text("name"), text("template")) else { continue };
        if name == "default" {
            default = Some(template);
            continue;
        }
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let key = format!("tokenizer.chat_template.{name}");
        metadata.set(key, Value::String(template.to_string()));
        names.push(name);
    }
    if !names.is_empty() {
        metadata.set("tokenizer.chat_templates", Value::Array(Array::String(names)));
    }
    if let Some(template) = default {
        metadata.set("tokenizer.chat_template", Value::String(template.to_string()));
    }
}
