//! Makes values, each of which is paid for first.

use std::rc::Rc;

use serde_json::Value as Json;

use super::budget::Budget;
use super::error::TemplateError;
use super::value::{Dict, Sequence, SequenceKind, Shape, Value};

/// Lists and dictionaries inside one another.
const NESTING: usize = 200;

impl Budget {
    /// A text as a value.
    pub(super) fn text(&self, text: impl AsRef<str>) -> Result<Value, TemplateError> {
        self.take(text.as_ref().len() + ITEM_BYTES)?;
        Ok(Value::Text(text.as_ref().into()))
    }

    /// A list as a value.
    pub(super) fn list(&self, items: Vec<Value>) -> Result<Value, TemplateError> {
        self.sequence(SequenceKind::List, items)
    }

    /// A sequence as a value.
    pub(super) fn sequence(
        &self,
        kind: SequenceKind,
        items: Vec<Value>,
    ) -> Result<Value, TemplateError> {
        self.take(items.len() * size_of::<Value>() + size_of::<Sequence>())?;
        let mut shape = shape_around(items.iter().map(Value::shape))?;
        shape.unhashable |= matches!(kind, SequenceKind::List | SequenceKind::View(_));
        Ok(Value::Sequence(Rc::new(Sequence::new(kind, items, shape))))
    }

    /// A dictionary as a value; of entries with the same key the last one counts, in the place of
    /// the first.
    pub(super) fn dict(&self, entries: Vec<(Value, Value)>) -> Result<Value, TemplateError> {
        let mut dict = Dict::default();
        for (key, value) in entries {
            // Looking for a key goes through all of them.
            self.take(size_of::<(Value, Value)>())?;
            self.read(dict.search_cost(&key))?;
            dict.set(key, value)?;
        }
        let entries = dict.entries.iter().flat_map(|(key, value)| [key.shape(), value.shape()]);
        dict.shape = Shape { unhashable: true, ..shape_around(entries)? };
        Ok(Value::Dict(Rc::new(dict)))
    }

    /// The entries of a dictionary as tuples of key and value.
    pub(super) fn pairs(&self, dict: &Dict) -> Result<Vec<Value>, TemplateError> {
        let pair = |(key, value): &(Value, Value)| {
            self.sequence(SequenceKind::Tuple, vec![key.clone(), value.clone()])
        };
        dict.entries.iter().map(pair).collect()
    }

    /// A value from outside.
    pub(super) fn json(&self, json: &Json) -> Result<Value, TemplateError> {
        Ok(match json {
            Json::Null => Value::None,
            Json::Bool(truth) => Value::Bool(*truth),
            Json::Number(number) => match number.as_i64() {
                Some(number) => Value::Int(number),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => return self.text(text),
            Json::Array(items) => {
                let items = items.iter().map(|item| self.json(item));
                return self.list(items.collect::<Result<_, _>>()?);
            }
            Json::Object(entries) => {
                let entries =
                    entries.iter().map(|(key, value)| Ok((self.text(key)?, self.json(value)?)));
                return self.dict(entries.collect::<Result<_, TemplateError>>()?);
            }
        })
    }
}

/// What each value costs besides its text.
const ITEM_BYTES: usize = 32;

/// The shape of something that holds values of these shapes.
fn shape_around(inner: impl Iterator<Item = Shape>) -> Result<Shape, TemplateError> {
    let mut around = Shape::default();
    for shape in inner {
        around.height = around.height.max(shape.height);
        around.unhashable |= shape.unhashable;
        around.extent = around.extent.saturating_add(shape.extent).saturating_add(ITEM_BYTES);
    }
    around.height += 1;
    if around.height > NESTING {
        return Err(TemplateError::limit(format!("its lists are nested more than {NESTING} deep")));
    }
    Ok(around)
}
