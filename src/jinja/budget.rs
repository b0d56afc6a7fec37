//! What a template may use up. A model's file must not be able to hang its reader or to take its
//! memory.

use std::cell::Cell;
use std::rc::Rc;

use super::error::TemplateError;
use super::value::{Dict, Sequence, SequenceKind, Shape, Value};

/// Expressions, rounds of loops, and the like.
const STEPS: u64 = 10_000_000;
/// Bytes of all texts and lists that are ever made, whether they are still there or not.
const BYTES: usize = 128 << 20;
/// Bytes that are looked through for the price of a step.
const BYTES_A_STEP: usize = 64;
/// Expressions, statements and calls inside one another.
const DEPTH: usize = 800;
/// Lists and dictionaries inside one another.
const NESTING: usize = 200;

/// Counts what is used.
#[derive(Debug, Default)]
pub(super) struct Budget {
    steps: Cell<u64>,
    bytes: Cell<usize>,
    depth: Cell<usize>,
}

impl Budget {
    /// Counts steps.
    pub(super) fn step(&self, count: u64) -> Result<(), TemplateError> {
        let steps = self.steps.get().saturating_add(count);
        self.steps.set(steps);
        if steps > STEPS {
            return Err(TemplateError::limit(format!("it takes more than {STEPS} steps")));
        }
        Ok(())
    }

    /// Counts looking through so many bytes.
    pub(super) fn read(&self, bytes: usize) -> Result<(), TemplateError> {
        self.step(1 + (bytes / BYTES_A_STEP) as u64)
    }

    /// Counts the memory of something that is about to be made.
    pub(super) fn take(&self, bytes: usize) -> Result<(), TemplateError> {
        self.read(bytes)?;
        let bytes = self.bytes.get().saturating_add(bytes);
        self.bytes.set(bytes);
        if bytes > BYTES {
            return Err(TemplateError::limit(format!(
                "it makes more than {} MiB of text and lists",
                BYTES >> 20
            )));
        }
        Ok(())
    }

    /// Goes one level deeper; [`Budget::leave`] comes back.
    pub(super) fn enter(&self) -> Result<(), TemplateError> {
        self.step(1)?;
        if self.depth.get() >= DEPTH {
            return Err(TemplateError::limit(format!("it is nested more than {DEPTH} deep")));
        }
        self.depth.set(self.depth.get() + 1);
        Ok(())
    }

    /// Comes back from one level.
    pub(super) fn leave(&self) {
        self.depth.set(self.depth.get() - 1);
    }

    /// A text as a value.
    pub(super) fn text(&self, text: impl AsRef<str>) -> Result<Value, TemplateError> {
        self.take(text.as_ref().len())?;
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
        let shape = shape_around(items.iter().map(Value::shape))?;
        Ok(Value::Sequence(Rc::new(Sequence::new(kind, items, shape))))
    }

    /// A dictionary as a value; of entries with the same key the last one counts, in the place of
    /// the first.
    pub(super) fn dict(&self, entries: Vec<(Value, Value)>) -> Result<Value, TemplateError> {
        let mut dict = Dict::default();
        for (key, value) in entries {
            // Looking for a key goes through all of them.
            self.take(size_of::<(Value, Value)>() + dict.entries.len())?;
            dict.set(key, value)?;
        }
        let entries = dict.entries.iter().flat_map(|(key, value)| [key.shape(), value.shape()]);
        dict.shape = shape_around(entries)?;
        Ok(Value::Dict(Rc::new(dict)))
    }
}

/// What a value costs that is in another one, besides its text.
const ITEM_BYTES: usize = 32;

/// The shape of something that holds values of these shapes.
fn shape_around(inner: impl Iterator<Item = Shape>) -> Result<Shape, TemplateError> {
    let mut around = Shape::default();
    for shape in inner {
        around.height = around.height.max(shape.height);
        around.extent = around.extent.saturating_add(shape.extent).saturating_add(ITEM_BYTES);
    }
    around.height += 1;
    if around.height > NESTING {
        return Err(TemplateError::limit(format!("its lists are more than {NESTING} deep")));
    }
    Ok(around)
}
