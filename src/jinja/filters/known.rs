//! What a group of filters answers to a name.

use crate::jinja::arguments::Values;
use crate::jinja::value::Value;

/// What a filter gives, or the arguments back where the name is another's.
pub(super) enum Known {
    Value(Value),
    Not(Values),
}
