//! What values give: their items, their length, their text.

use std::rc::Rc;

use super::budget::Budget;
use super::error::TemplateError;
use super::text::representation;
use super::value::{Sequence, SequenceKind, Value};

impl Value {
    /// The values that a loop over this one goes through.
    pub(super) fn iterate(&self, budget: &Budget) -> Result<Rc<Sequence>, TemplateError> {
        let items = match self {
            Self::Sequence(sequence) => {
                budget.step(1)?;
                let first_time = !sequence.spent.get();
                sequence.spent.set(sequence.kind == SequenceKind::Iterator);
                if first_time {
                    return Ok(sequence.clone());
                }
                Vec::new()
            }
            Self::Undefined(_) => Vec::new(),
            Self::Dict(dict) => dict.entries.iter().map(|(key, _)| key.clone()).collect(),
            Self::Text(text) | Self::Markup(text) => {
                // Each character becomes a text of its own.
                budget.take(text.len() * 3 * size_of::<Self>())?;
                let mut buffer = [0; 4];
                text.chars().map(|c| Self::Text((&*c.encode_utf8(&mut buffer)).into())).collect()
            }
            _ => {
                let problem = format!("a value of type {} has no items", self.type_name());
                return Err(TemplateError::failed(problem));
            }
        };
        match budget.list(items)? {
            Self::Sequence(sequence) => Ok(sequence),
            _ => unreachable!("a list is a sequence"),
        }
    }

    /// The number of items, where the value has one.
    pub(super) fn length(&self, budget: &Budget) -> Result<usize, TemplateError> {
        match self {
            Self::Undefined(_) => Ok(0),
            Self::Text(text) | Self::Markup(text) => {
                budget.read(text.len())?;
                Ok(text.chars().count())
            }
            Self::Sequence(sequence) if sequence.kind != SequenceKind::Iterator => {
                Ok(sequence.items.len())
            }
            Self::Dict(dict) => Ok(dict.entries.len()),
            Self::Loop(state) => Ok(state.items.items.len()),
            _ => Err(TemplateError::failed(format!(
                "a value of type {} has no length",
                self.type_name()
            ))),
        }
    }

    /// The value as Python's `str` writes it.
    pub(super) fn display(&self, budget: &Budget) -> Result<Rc<str>, TemplateError> {
        match self {
            Self::Text(text) | Self::Markup(text) => Ok(text.clone()),
            Self::Undefined(_) => Ok("".into()),
            _ => Ok(representation(self, budget)?.into()),
        }
    }
}
