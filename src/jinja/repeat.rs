//! The attributes of the variable `loop`.

use super::value::{LoopState, Value};

impl LoopState {
    /// An attribute of `loop`.
    pub(super) fn attribute(&self, name: &str) -> Option<Value> {
        let (index, length) = (self.index.get(), self.items.items.len());
        let number = |number: usize| Some(Value::Int(number as i64));
        let neighbour =
            |index: Option<usize>| {
                let item = index.and_then(|index| self.items.items.get(index)).cloned();
                Some(item.unwrap_or_else(|| {
                    Value::undefined("the item before the first or after the last")
                }))
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
