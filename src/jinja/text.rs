//! Values as text: Python's `repr` and `json.dumps`.

use std::sync::LazyLock;

use regex::Regex;

use super::budget::Budget;
use super::error::TemplateError;
use super::numbers::float;
use super::value::{SequenceKind, Value};

/// The value as Python's `repr` writes it.
///
/// # Errors
/// A text past the budget, and namespaces that hold one another.
pub(super) fn representation(value: &Value, budget: &Budget) -> Result<String, TemplateError> {
    let mut text = String::new();
    represent(value, budget, &mut text)?;
    Ok(text)
}

fn represent(value: &Value, budget: &Budget, text: &mut String) -> Result<(), TemplateError> {
    let before = text.len();
    match value {
        Value::Undefined(_) => text.push_str("Undefined"),
        Value::None => text.push_str("None"),
        Value::Bool(true) => text.push_str("True"),
        Value::Bool(false) => text.push_str("False"),
        Value::Int(number) => text.push_str(&number.to_string()),
        Value::Float(number) => text.push_str(&float(*number)),
        Value::Text(content) => quote(content, budget, text)?,
        Value::Markup(content) => {
            text.push_str("Markup(");
            quote(content, budget, text)?;
            text.push(')');
        }
        Value::Sequence(sequence) => {
            let (open, close) = match sequence.kind {
                SequenceKind::Tuple if sequence.items.len() == 1 => ("(", ",)"),
                SequenceKind::Tuple => ("(", ")"),
                SequenceKind::View(name) => {
                    text.push_str(name);
                    ("([", "])")
                }
                SequenceKind::List => ("[", "]"),
                SequenceKind::Iterator | SequenceKind::Range => {
                    let problem =
                        format!("{} cannot be printed: make it a list first", value.a_type());
                    return Err(TemplateError::failed(problem));
                }
            };
            text.push_str(open);
            for (index, item) in sequence.items.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                nested(item, budget, text)?;
            }
            text.push_str(close);
        }
        Value::Dict(dict) => {
            let entries = dict.entries.iter().map(|(key, value)| (key, value));
            represent_entries(entries, budget, text)?;
        }
        Value::Namespace(namespace) => {
            text.push_str("<Namespace ");
            let attributes = namespace.attributes.borrow();
            let entries = attributes.iter().map(|(name, value)| (Value::Text(name.clone()), value));
            let entries: Vec<_> = entries.collect();
            represent_entries(entries.iter().map(|(name, value)| (name, *value)), budget, text)?;
            text.push('>');
        }
        Value::Loop(state) => text.push_str(&state.representation()),
        Value::Macro(known) => text.push_str(&format!("<Macro '{}'>", known.definition.name)),
        Value::Function(_) | Value::Method(_) => {
            return Err(TemplateError::failed("a function cannot be printed: call it"));
        }
    }
    budget.take(text.len() - before)
}

fn represent_entries<'a>(
    entries: impl Iterator<Item = (&'a Value, &'a Value)>,
    budget: &Budget,
    text: &mut String,
) -> Result<(), TemplateError> {
    text.push('{');
    for (index, (key, value)) in entries.enumerate() {
        text.push_str(if index == 0 { "" } else { ", " });
        nested(key, budget, text)?;
        text.push_str(": ");
        nested(value, budget, text)?;
    }
    text.push('}');
    Ok(())
}

fn nested(value: &Value, budget: &Budget, text: &mut String) -> Result<(), TemplateError> {
    budget.enter()?;
    let written = represent(value, budget, text);
    budget.leave();
    written
}

/// Characters that Python's `repr` does not write as they are.
static UNPRINTABLE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[\p{C}\p{Z}--\x20]$").expect("a valid pattern"));

fn quote(content: &str, budget: &Budget, text: &mut String) -> Result<(), TemplateError> {
    budget.take(content.len())?;
    let quote = if content.contains('\'') && !content.contains('"') { '"' } else { '\'' };
    text.push(quote);
    let mut buffer = [0; 4];
    for character in content.chars() {
        let code = u32::from(character);
        match character {
            '\\' => text.push_str(r"\\"),
            '\n' => text.push_str(r"\n"),
            '\r' => text.push_str(r"\r"),
            '\t' => text.push_str(r"\t"),
            _ if character == quote => text.extend(['\\', quote]),
            ' '..='~' => text.push(character),
            _ if !UNPRINTABLE.is_match(character.encode_utf8(&mut buffer)) => text.push(character),
            _ if code < 0x100 => text.push_str(&format!(r"\x{code:02x}")),
            _ if code < 0x1_0000 => text.push_str(&format!(r"\u{code:04x}")),
            _ => text.push_str(&format!(r"\U{code:08x}")),
        }
    }
    text.push(quote);
    Ok(())
}

/// How JSON is laid out.
#[derive(Debug, Clone)]
pub(super) struct JsonLayout {
    /// What one more level is indented by; all on one line without.
    pub indent: Option<String>,
    /// Between items.
    pub item_separator: String,
    /// Between a key and its value.
    pub key_separator: String,
    pub ascii_only: bool,
    pub sort_keys: bool,
}

/// The value as Python's `json.dumps` writes it.
///
/// # Errors
/// A value that JSON has no word for, and a text past the budget.
pub(super) fn json(
    value: &Value,
    layout: &JsonLayout,
    budget: &Budget,
) -> Result<String, TemplateError> {
    let mut text = String::new();
    JsonWriter { layout, budget, level: 0 }.write(value, &mut text)?;
    Ok(text)
}

struct JsonWriter<'a> {
    layout: &'a JsonLayout,
    budget: &'a Budget,
    level: usize,
}

impl JsonWriter<'_> {
    fn write(&mut self, value: &Value, text: &mut String) -> Result<(), TemplateError> {
        match value {
            Value::Text(content) | Value::Markup(content) => self.quote(content, text),
            Value::Sequence(sequence)
                if matches!(sequence.kind, SequenceKind::List | SequenceKind::Tuple) =>
            {
                self.surround(text, ['[', ']'], &sequence.items, |writer, item, text| {
                    writer.write(item, text)
                })
            }
            Value::Dict(dict) => {
                let mut entries = Vec::with_capacity(dict.entries.len());
                for (key, value) in &dict.entries {
                    entries.push((self.key(key)?, value));
                }
                if self.layout.sort_keys {
                    entries.sort_by(|(left, _), (right, _)| left.cmp(right));
                }
                self.surround(text, ['{', '}'], &entries, |writer, (key, value), text| {
                    writer.quote(key, text)?;
                    text.push_str(&writer.layout.key_separator);
                    writer.write(value, text)
                })
            }
            plain => {
                let content = self.scalar(plain)?;
                self.budget.take(content.len())?;
                text.push_str(&content);
                Ok(())
            }
        }
    }

    fn scalar(&self, value: &Value) -> Result<String, TemplateError> {
        Ok(match value {
            Value::None => "null".to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Int(number) => number.to_string(),
            Value::Float(number) if number.is_nan() => "NaN".to_string(),
            Value::Float(number) if number.is_infinite() => {
                if *number > 0.0 { "Infinity" } else { "-Infinity" }.to_string()
            }
            Value::Float(number) => float(*number),
            _ => {
                return Err(TemplateError::failed(format!(
                    "a value of type {} cannot be written as JSON",
                    value.type_name()
                )));
            }
        })
    }

    fn key(&self, key: &Value) -> Result<String, TemplateError> {
        match key {
            Value::Text(text) | Value::Markup(text) => Ok(text.to_string()),
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => self.scalar(key),
            _ => Err(TemplateError::failed(format!("{} cannot be a key in JSON", key.a_type()))),
        }
    }

    fn surround<T>(
        &mut self,
        text: &mut String,
        [open, close]: [char; 2],
        items: &[T],
        write: impl Fn(&mut Self, &T, &mut String) -> Result<(), TemplateError>,
    ) -> Result<(), TemplateError> {
        text.push(open);
        self.level += 1;
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.budget.take(self.layout.item_separator.len())?;
                text.push_str(&self.layout.item_separator);
            }
            self.new_line(text)?;
            write(self, item, text)?;
        }
        self.level -= 1;
        if !items.is_empty() {
            self.new_line(text)?;
        }
        text.push(close);
        self.budget.take(2)
    }

    fn new_line(&self, text: &mut String) -> Result<(), TemplateError> {
        let Some(indent) = &self.layout.indent else { return Ok(()) };
        self.budget.take(1 + self.level * indent.len())?;
        text.push('\n');
        text.push_str(&indent.repeat(self.level));
        Ok(())
    }

    fn quote(&self, content: &str, text: &mut String) -> Result<(), TemplateError> {
        self.budget.take(2 * content.len() + 2)?;
        text.push('"');
        for character in content.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str(r"\\"),
                '\n' => text.push_str(r"\n"),
                '\r' => text.push_str(r"\r"),
                '\t' => text.push_str(r"\t"),
                '\u{8}' => text.push_str(r"\b"),
                '\u{c}' => text.push_str(r"\f"),
                '\0'..='\u{1f}' => text.push_str(&format!(r"\u{:04x}", u32::from(character))),
                '\u{7f}'.. if self.layout.ascii_only => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        text.push_str(&format!(r"\u{unit:04x}"));
                    }
                }
                _ => text.push(character),
            }
        }
        text.push('"');
        Ok(())
    }
}

/// What Python takes for white space: Unicode's, and the four ASCII separators.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// The first `count` characters of a text, or all of it.
pub(super) fn first_characters(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(end, _)| &text[..end])
}

/// Text with HTML's characters written as entities.
pub(super) fn escaped(content: &str, budget: &Budget) -> Result<String, TemplateError> {
    budget.take(5 * content.len())?;
    let mut text = String::with_capacity(content.len());
    for character in content.chars() {
        match character {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&#34;"),
            '\'' => text.push_str("&#39;"),
            _ => text.push(character),
        }
    }
    Ok(text)
}
