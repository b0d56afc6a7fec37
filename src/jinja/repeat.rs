//! The variable `loop`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::ast::ForLoop;
use super::scope::Scope;
use super::value::{Sequence, Value};

/// Where a loop is.
#[derive(Debug)]
pub(super) struct LoopState {
    pub items: Rc<Sequence>,
    /// The round, from 0.
    pub index: Cell<usize>,
    /// Loops of the same recursive tag around this one.
    pub depth: usize,
    /// What a recursive loop runs again when it is called, and where.
    pub again: Option<(Rc<ForLoop>, Rc<Scope>)>,
    /// What `loop.changed` was asked about last, as text.
    pub last_asked: RefCell<Option<String>>,
}

impl LoopState {
    /// An attribute of `loop`.
    pub(super) fn attribute(&self, name: &str) -> Option<Value> {
        let (index, length) = (self.index.get(), self.items.items.len());
        let number = |number: usize| Some(Value::Int(number as i64));
        let neighbour = |index: Option<usize>| {
            let item = index.and_then(|index| self.items.items.get(index)).cloned();
            Some(item.unwrap_or_else(|| Value::undefined("there is no such item: it")))
        };
        match name {
            "index" => number(index + 1),
            "index0" => number(index),
            "revindex" => number(length - index),
            "revindex0" => number(length - index - 1),
            "first" => Some(Value::Bool(index == 0)),
            "last" => Some(Value::Bool(index + 1 == length)),
            "length" => number(length),
            "depth" => number(self.depth + 1),
            "depth0" => number(self.depth),
            "previtem" => neighbour(index.checked_sub(1)),
            "nextitem" => neighbour(Some(index + 1)),
            _ => None,
        }
    }

    /// The loop as Python writes it.
    pub(super) fn representation(&self) -> String {
        format!("<LoopContext {}/{}>", self.index.get() + 1, self.items.items.len())
    }
}
