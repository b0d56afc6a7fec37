//! Filters that give texts.

use super::known::Known;
use crate::jinja::arguments::{self, Values};
use crate::jinja::budget::Budget;
use crate::jinja::error::TemplateError;
use crate::jinja::methods;
use crate::jinja::printf;
use crate::jinja::text::{JsonLayout, escaped, first_characters, is_space, json};
use crate::jinja::value::Value;

pub(super) fn filter(
    name: &str,
    value: &Value,
    values: Values,
    budget: &Budget,
) -> Result<Known, TemplateError> {
    Ok(Known::Value(match name {
        "tojson" => to_json(value, values, budget)?,
        "string" => {
            let [] = values.bind(name, [])?;
            match value {
                Value::Markup(_) => value.clone(),
                _ => Value::Text(value.display(budget)?),
            }
        }
        "safe" => {
            let [] = values.bind(name, [])?;
            Value::Markup(value.display(budget)?)
        }
        "escape" | "e" | "forceescape" => {
            let [] = values.bind(name, [])?;
            match value {
                Value::Markup(_) if name != "forceescape" => value.clone(),
                _ => Value::Markup(escaped(&value.display(budget)?, budget)?.into()),
            }
        }
        "upper" | "lower" | "capitalize" => {
            methods::call(&Value::Text(value.display(budget)?), name, values, budget)?
        }
        "center" => {
            let [width] = values.bind(name, ["width"])?;
            let width = vec![width.unwrap_or(Value::Int(80))];
            methods::call(&Value::Text(value.display(budget)?), name, Values::of(width), budget)?
        }
        "title" => {
            let [] = values.bind(name, [])?;
            let in_word = |c| !is_space(c) && !"-({[<".contains(c);
            budget.text(methods::titled(&value.display(budget)?, in_word))?
        }
        "trim" => {
            let [characters] = values.bind(name, ["chars"])?;
            let text = value.display(budget)?;
            budget.text(methods::stripped(&text, "strip", characters.as_ref())?)?
        }
        "replace" => {
            let [old, new, count] = values.bind(name, ["old", "new", "count"])?;
            let missing = || TemplateError::failed("replace needs an old and a new string");
            let old = old.ok_or_else(missing)?.display(budget)?;
            let new = new.ok_or_else(missing)?.display(budget)?;
            let count = arguments::int(name, arguments::unless_none(count), -1)?;
            let text = value.display(budget)?;
            budget.text(methods::replaced(&text, &old, &new, count, budget)?)?
        }
        "format" => {
            let format = value.display(budget)?;
            budget.text(printf::format(&format, &values, budget)?)?
        }
        "indent" => indent(value, values, budget)?,
        "truncate" => truncate(value, values, budget)?,
        "wordcount" => {
            let [] = values.bind(name, [])?;
            let text = value.display(budget)?;
            let words = text.split(|c: char| c != '_' && !c.is_alphanumeric());
            Value::Int(words.filter(|word| !word.is_empty()).count() as i64)
        }
        "urlencode" => url_encode(value, values, budget)?,
        _ => return Ok(Known::Not(values)),
    }))
}

/// transformers' `tojson`: Python's `json.dumps` without escapes for HTML.
fn to_json(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii_only, indent, separators, sort_keys] = values.bind("tojson", names)?;
    let indent = match arguments::unless_none(indent) {
        Some(indent) => Some(arguments::indentation("tojson", Some(indent), 0, budget)?),
        None => None,
    };
    let (mut item_separator, mut key_separator) =
        (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string());
    if let Some(separators) = arguments::unless_none(separators) {
        let separators = separators.iterate(budget)?;
        let [items, key] = &separators.items[..] else {
            return Err(TemplateError::failed("tojson needs two separators"));
        };
        item_separator = arguments::text("tojson", items)?.to_string();
        key_separator = arguments::text("tojson", key)?.to_string();
    }
    let layout = JsonLayout {
        indent,
        item_separator,
        key_separator,
        ascii_only: arguments::truth(ascii_only),
        sort_keys: arguments::truth(sort_keys),
    };
    Ok(Value::Text(json(value, &layout, budget)?.into()))
}

fn indent(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let [width, first, blank] = values.bind("indent", ["width", "first", "blank"])?;
    let indentation = arguments::indentation("indent", width, 4, budget)?;
    let (first, blank) = (arguments::truth(first), arguments::truth(blank));
    let text = arguments::text("indent", value)?;
    let ended = budget.text([&*text, "\n"].concat())?;
    let lines = methods::call(&ended, "splitlines", Values::default(), budget)?;
    let mut indented = String::new();
    for (index, line) in lines.iterate(budget)?.items.iter().enumerate() {
        let line = line.as_text().unwrap_or_default();
        budget.take(1 + indentation.len() + line.len())?;
        if index > 0 {
            indented.push('\n');
        }
        if (index == 0 && first) || (index > 0 && (blank || !line.is_empty())) {
            indented.push_str(&indentation);
        }
        indented.push_str(line);
    }
    budget.text(indented)
}

fn truncate(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let names = ["length", "killwords", "end", "leeway"];
    let [length, kill_words, end, leeway] = values.bind("truncate", names)?;
    let length = arguments::count("truncate", length, 255)?;
    let leeway = arguments::count("truncate", arguments::unless_none(leeway), 5)?;
    let end = end.map_or_else(|| Ok("...".into()), |end| arguments::text("truncate", &end))?;
    let leeway = length.saturating_add(leeway);
    if value.as_text().is_none() && value.length(budget)? <= leeway {
        return Ok(value.clone());
    }
    let text = arguments::text("truncate", value)?;
    let kept = length
        .checked_sub(end.chars().count())
        .ok_or_else(|| TemplateError::failed("truncate needs a length that its end fits into"))?;
    budget.take(text.len())?;
    if text.chars().count() <= leeway {
        return Ok(value.clone());
    }
    let cut = first_characters(&text, kept);
    let cut = match arguments::truth(kill_words) {
        true => cut,
        false => cut.rsplit_once(' ').map_or(cut, |(before, _)| before),
    };
    budget.text([cut, &*end].concat())
}

fn url_encode(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let [] = values.bind("urlencode", [])?;
    let pairs = match value {
        Value::Dict(_) => methods::call(value, "items", Values::default(), budget)?,
        Value::Sequence(_) | Value::Undefined(_) => value.clone(),
        _ => return budget.text(url_quoted(&value.display(budget)?, false, budget)?),
    };
    let mut encoded = String::new();
    for (index, pair) in pairs.iterate(budget)?.items.iter().enumerate() {
        let pair = pair.iterate(budget)?;
        let [key, value] = &pair.items[..] else {
            return Err(TemplateError::failed("urlencode needs pairs of a key and a value"));
        };
        encoded.push_str(if index == 0 { "" } else { "&" });
        encoded.push_str(&url_quoted(&key.display(budget)?, true, budget)?);
        encoded.push('=');
        encoded.push_str(&url_quoted(&value.display(budget)?, true, budget)?);
    }
    budget.text(encoded)
}

/// A text as URLs write it; within a query, spaces are `+`, and slashes are escaped too.
fn url_quoted(text: &str, in_query: bool, budget: &Budget) -> Result<String, TemplateError> {
    budget.take(3 * text.len())?;
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                quoted.push(byte.into());
            }
            b'/' if !in_query => quoted.push('/'),
            b' ' if in_query => quoted.push('+'),
            _ => quoted.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(quoted)
}
