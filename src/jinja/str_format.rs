//! `format.format(values)`.

use std::rc::Rc;

use super::arguments::Values;
use super::attributes;
use super::budget::Budget;
use super::error::TemplateError;
use super::numbers::{Layout, float, padded, real, whole};
use super::text::{first_characters, representation};
use super::value::Value;

/// Which value stands for the next field without a name.
#[derive(Default)]
struct Next {
    automatic: usize,
    numbered: bool,
}

impl Next {
    /// The place of a field's value; nothing where it has a name.
    fn index(&mut self, field: &str) -> Result<Option<usize>, TemplateError> {
        let number = field.parse().ok();
        if !field.is_empty() {
            self.numbered |= number.is_some();
        }
        if self.numbered && (field.is_empty() || self.automatic > 0) {
            return Err(TemplateError::failed(
                "some fields of a format have numbers and some have none",
            ));
        }
        if field.is_empty() {
            self.automatic += 1;
            return Ok(Some(self.automatic - 1));
        }
        Ok(number)
    }
}

/// The values in their places in a format with `{}` and the like.
///
/// # Errors
/// A format that cannot be read, a value that is missing or of a wrong type, and a text past the
/// budget.
pub(super) fn format(
    format: &str,
    values: &Values,
    budget: &Budget,
) -> Result<String, TemplateError> {
    budget.take(format.len())?;
    let mut next = Next::default();
    let mut text = String::new();
    let mut rest = format;
    while let Some(start) = rest.find(['{', '}']) {
        text.push_str(&rest[..start]);
        let brace = &rest[start..start + 1];
        let behind = &rest[start + 1..];
        if let Some(behind) = behind.strip_prefix(brace) {
            text.push_str(brace);
            rest = behind;
            continue;
        }
        if brace == "}" {
            return Err(TemplateError::failed("a single \"}\" in a format"));
        }
        let end =
            field_end(behind).ok_or_else(|| TemplateError::failed("a single \"{\" in a format"))?;
        text.push_str(&replaced(&behind[..end], values, &mut next, budget)?);
        rest = &behind[end + 1..];
    }
    text.push_str(rest);
    Ok(text)
}

/// Where a field ends that may have fields in it.
fn field_end(text: &str) -> Option<usize> {
    let mut open = 0;
    text.char_indices().find_map(|(index, character)| {
        match character {
            '{' => open += 1,
            '}' if open == 0 => return Some(index),
            '}' => open -= 1,
            _ => {}
        }
        None
    })
}

fn replaced(
    field: &str,
    values: &Values,
    next: &mut Next,
    budget: &Budget,
) -> Result<String, TemplateError> {
    let (field, spec) = field.split_once(':').unwrap_or((field, ""));
    let (path, conversion) = match field.split_once('!') {
        Some((path, conversion)) => (path, Some(conversion)),
        None => (field, None),
    };
    let value = find(path, values, next, budget)?;
    let value = match conversion {
        None => value,
        Some("s") => Value::Text(value.display(budget)?),
        Some("r" | "a") => budget.text(representation(&value, budget)?)?,
        Some(other) => {
            return Err(TemplateError::failed(format!("a format has no conversion !{other}")));
        }
    };
    let spec = match spec.contains('{') {
        true => nested(spec, values, next, budget)?,
        false => spec.to_string(),
    };
    written(&value, &spec, budget)
}

/// A specification with plain fields in it.
fn nested(
    spec: &str,
    values: &Values,
    next: &mut Next,
    budget: &Budget,
) -> Result<String, TemplateError> {
    let mut text = String::new();
    let mut rest = spec;
    while let Some((before, behind)) = rest.split_once('{') {
        let (path, behind) = behind
            .split_once('}')
            .ok_or_else(|| TemplateError::failed("a single \"{\" in a format"))?;
        text.push_str(before);
        text.push_str(&find(path, values, next, budget)?.display(budget)?);
        rest = behind;
    }
    Ok(text + rest)
}

/// The value under `0`, `name`, `name.attribute` or `0[item]`.
fn find(
    path: &str,
    values: &Values,
    next: &mut Next,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (first, mut rest) = path.split_at(end);
    let index = next.index(first)?;
    let found = match index {
        Some(index) => values.positional.get(index),
        None => values.named.iter().find(|(name, _)| **name == *first).map(|(_, value)| value),
    };
    let missing =
        || TemplateError::failed(format!("a format asks for \"{first}\", which is not given"));
    let mut value = found.cloned().ok_or_else(missing)?;
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix('[') {
            let (key, behind) = behind
                .split_once(']')
                .ok_or_else(|| TemplateError::failed("a \"[\" in a format is not closed"))?;
            let key = match key.parse() {
                Ok(index) => Value::Int(index),
                Err(_) => budget.text(key)?,
            };
            value = attributes::item(&value, &key, budget)?;
            rest = behind;
        } else {
            let behind = rest.strip_prefix('.').unwrap_or(rest);
            let end = behind.find(['.', '[']).unwrap_or(behind.len());
            value = attributes::attribute(&value, &Rc::from(&behind[..end]), budget)?;
            rest = &behind[end..];
        }
    }
    Ok(value)
}

fn written(value: &Value, spec: &str, budget: &Budget) -> Result<String, TemplateError> {
    if spec.is_empty() {
        return Ok(value.display(budget)?.to_string());
    }
    let (layout, kind) = layout(spec)?;
    let wrong = || {
        let problem = format!("\"{spec}\" in a format does not fit {}", value.a_type());
        TemplateError::failed(problem)
    };
    if let Some(text) = value.as_text() {
        if !matches!(kind, None | Some('s')) || layout.align == Some('=') {
            return Err(wrong());
        }
        let text = layout.precision.map_or(text, |most| first_characters(text, most));
        return padded("", text, &layout, '<', budget);
    }
    let (sign, digits) = match (value.as_int(), value.as_float(), kind) {
        (Some(number), _, None | Some('d' | 'x' | 'X' | 'o' | 'b')) => {
            whole(number, kind.unwrap_or('d'), &layout)
        }
        (_, Some(number), Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
            real(number, kind.unwrap_or('g'), &layout)?
        }
        (None, Some(number), None) if layout.precision.is_some() => real(number, 'g', &layout)?,
        (None, Some(number), None) => {
            let sign = if number.is_sign_negative() { "-".to_string() } else { String::new() };
            (sign, float(number.abs()))
        }
        _ => return Err(wrong()),
    };
    padded(&sign, &digits, &layout, '>', budget)
}

/// `[[fill]align][sign][#][0][width][grouping][.precision][kind]`.
fn layout(spec: &str) -> Result<(Layout, Option<char>), TemplateError> {
    let mut layout = Layout::default();
    let mut characters: Vec<char> = spec.chars().collect();
    characters.reverse();
    let is_align = |c: Option<&char>| matches!(c, Some('<' | '>' | '=' | '^'));
    let count = characters.len();
    if count > 1 && is_align(characters.get(count - 2)) {
        layout.fill = characters.pop();
        layout.align = characters.pop();
    } else if is_align(characters.last()) {
        layout.align = characters.pop();
    }
    let skip_if = |characters: &mut Vec<char>, wanted: &[char]| {
        characters.pop_if(|character| wanted.contains(character))
    };
    layout.plus = skip_if(&mut characters, &['+', '-', ' ']).filter(|&sign| sign != '-');
    layout.alternate = skip_if(&mut characters, &['#']).is_some();
    if skip_if(&mut characters, &['0']).is_some() && layout.align.is_none() {
        layout.fill = Some('0');
        layout.align = Some('=');
    }
    let unreadable = || TemplateError::failed(format!("\"{spec}\" in a format cannot be read"));
    let number = |characters: &mut Vec<char>| -> Result<Option<usize>, TemplateError> {
        let mut digits = String::new();
        while let Some(digit) = characters.pop_if(|character| character.is_ascii_digit()) {
            digits.push(digit);
        }
        if digits.is_empty() {
            return Ok(None);
        }
        digits.parse().map(Some).map_err(|_| unreadable())
    };
    layout.width = number(&mut characters)?.unwrap_or(0);
    layout.group = skip_if(&mut characters, &[',', '_']);
    if skip_if(&mut characters, &['.']).is_some() {
        layout.precision = Some(number(&mut characters)?.ok_or_else(unreadable)?);
    }
    let kind = characters.pop();
    if !characters.is_empty() {
        return Err(unreadable());
    }
    Ok((layout, kind))
}
