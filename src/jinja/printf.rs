//! `format % values`.

use std::rc::Rc;

use super::arguments::Values;
use super::budget::Budget;
use super::error::TemplateError;
use super::numbers::{Layout, padded, real, whole};
use super::text::{first_characters, representation};
use super::value::{SequenceKind, Value};

/// The values in their places in a format with `%s` and the like.
///
/// # Errors
/// Too few or too many values, one of a wrong type, and a text past the budget.
pub(super) fn format(
    format: &str,
    values: &Values,
    budget: &Budget,
) -> Result<String, TemplateError> {
    budget.take(format.len())?;
    let mut writer = Writer { rest: format, values, used: 0, budget };
    let mut text = String::new();
    while let Some(start) = writer.rest.find('%') {
        text.push_str(&writer.rest[..start]);
        writer.rest = &writer.rest[start + 1..];
        text.push_str(&writer.next()?);
    }
    text.push_str(writer.rest);
    if writer.used < values.positional.len() && !has_items(&values.positional) {
        return Err(TemplateError::failed("a format with % has fewer places than values"));
    }
    Ok(text)
}

/// Whether the values are one that has items, of which a format need not use any.
fn has_items(values: &[Value]) -> bool {
    match values {
        [Value::Dict(_) | Value::Undefined(_)] => true,
        [Value::Sequence(sequence)] => {
            sequence.kind.is_indexed() && sequence.kind != SequenceKind::Tuple
        }
        _ => false,
    }
}

struct Writer<'a> {
    rest: &'a str,
    values: &'a Values,
    used: usize,
    budget: &'a Budget,
}

impl Writer<'_> {
    /// What stands for the specifier that comes next.
    fn next(&mut self) -> Result<String, TemplateError> {
        let name = self.name()?;
        let mut layout = self.flags();
        layout.width = self.number()?.unwrap_or(0);
        if self.skip('.') {
            layout.precision = Some(self.number()?.unwrap_or(0));
        }
        while self.skip('h') || self.skip('l') || self.skip('L') {}
        let kind = self.rest.chars().next();
        let kind = kind
            .ok_or_else(|| TemplateError::failed("a format ends in the middle of a % specifier"))?;
        self.rest = &self.rest[kind.len_utf8()..];
        if kind == '%' {
            return Ok("%".to_string());
        }
        let value = match name {
            Some(name) => self.named(&name)?,
            None => self.positional()?,
        };
        self.write(kind, &value, layout)
    }

    fn skip(&mut self, character: char) -> bool {
        let rest = self.rest.strip_prefix(character);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn name(&mut self) -> Result<Option<Rc<str>>, TemplateError> {
        let Some(behind) = self.rest.strip_prefix('(') else { return Ok(None) };
        let end = behind.find(')');
        let end = end.ok_or_else(|| TemplateError::failed("a name in a format lacks its \")\""))?;
        self.rest = &behind[end + 1..];
        Ok(Some(behind[..end].into()))
    }

    fn flags(&mut self) -> Layout {
        let mut layout = Layout::default();
        loop {
            if self.skip('-') {
                layout.align = Some('<');
            } else if self.skip('0') {
                layout.fill = Some('0');
            } else if self.skip('+') {
                layout.plus = Some('+');
            } else if self.skip(' ') {
                layout.plus = layout.plus.or(Some(' '));
            } else if self.skip('#') {
                layout.alternate = true;
            } else {
                return layout;
            }
        }
    }

    fn number(&mut self) -> Result<Option<usize>, TemplateError> {
        if self.skip('*') {
            let value = self.positional()?;
            let number = value.as_int().and_then(|number| usize::try_from(number).ok());
            let wrong = || {
                TemplateError::failed(
                    "the value for * in a format should be a whole number that is not negative",
                )
            };
            return number.map(Some).ok_or_else(wrong);
        }
        let length = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        if digits.is_empty() {
            return Ok(None);
        }
        digits
            .parse()
            .map(Some)
            .map_err(|_| TemplateError::limit("a width in a format is too large"))
    }

    fn positional(&mut self) -> Result<Value, TemplateError> {
        let value = self.values.positional.get(self.used).cloned();
        self.used += 1;
        value.ok_or_else(|| TemplateError::failed("a format with % has more places than values"))
    }

    fn named(&self, name: &str) -> Result<Value, TemplateError> {
        let found = self.values.named.iter().find(|(known, _)| **known == *name);
        let missing =
            || TemplateError::failed(format!("a format asks for \"{name}\", which is not given"));
        found.map(|(_, value)| value.clone()).ok_or_else(missing)
    }

    fn write(&self, kind: char, value: &Value, layout: Layout) -> Result<String, TemplateError> {
        let wrong = || {
            let problem = format!("%{kind} in a format does not take {}", value.a_type());
            TemplateError::failed(problem)
        };
        let numeric = |(sign, digits): (String, String)| {
            // A sign stands before zeros, and behind spaces.
            let align = layout.align.or(layout.fill.map(|_| '='));
            let fill = layout.fill.filter(|_| layout.align.is_none());
            padded(&sign, &digits, &Layout { align, fill, ..layout }, '>', self.budget)
        };
        let textual = |text: &str| {
            let text = layout.precision.map_or(text, |most| first_characters(text, most));
            padded("", text, &Layout { fill: None, ..layout }, '>', self.budget)
        };
        match kind {
            'd' | 'i' | 'u' => match (value.as_int(), value) {
                (Some(number), _) => numeric(whole(number, 'd', &layout)),
                (None, Value::Float(number)) if number.is_finite() => {
                    numeric(whole(number.trunc() as i64, 'd', &layout))
                }
                _ => Err(wrong()),
            },
            'x' | 'X' | 'o' => numeric(whole(value.as_int().ok_or_else(wrong)?, kind, &layout)),
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                numeric(real(value.as_float().ok_or_else(wrong)?, kind, &layout)?)
            }
            'c' => match (value.as_int(), value.as_text()) {
                (Some(code), _) => {
                    let character = u32::try_from(code).ok().and_then(char::from_u32);
                    textual(&character.ok_or_else(wrong)?.to_string())
                }
                (_, Some(text)) if text.chars().count() == 1 => textual(text),
                _ => Err(wrong()),
            },
            's' => textual(&value.display(self.budget)?),
            'r' | 'a' => textual(&representation(value, self.budget)?),
            _ => Err(TemplateError::failed(format!("a format has no specifier %{kind}"))),
        }
    }
}
