//! Metadata values as they are shown: abbreviated, and safe to print.

use std::fmt;

use serde::Serialize;

use crate::gguf::{Array, Value};

/// How much of a long value is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Arrays with more elements are cut to this many.
    pub elements: usize,
}

impl Limits {
    /// Everything.
    pub const NONE: Self = Self { elements: usize::MAX };
    /// The beginning of long arrays.
    pub const SHORT: Self = Self { elements: 8 };
}

/// A metadata value, perhaps cut, in the precision that the file has.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ShownValue {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// An f32, kept apart so that it prints with its own few digits.
    Single(f32),
    /// An f64.
    Double(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// The first elements of an array.
    Elements(Vec<ShownValue>),
}

impl ShownValue {
    /// The value within limits.
    pub fn new(value: &Value, limits: Limits) -> Self {
        match value {
            Value::U8(number) => Self::Unsigned((*number).into()),
            Value::U16(number) => Self::Unsigned((*number).into()),
            Value::U32(number) => Self::Unsigned((*number).into()),
            Value::U64(number) => Self::Unsigned(*number),
            Value::I8(number) => Self::Signed((*number).into()),
            Value::I16(number) => Self::Signed((*number).into()),
            Value::I32(number) => Self::Signed((*number).into()),
            Value::I64(number) => Self::Signed(*number),
            Value::F32(number) => Self::Single(*number),
            Value::F64(number) => Self::Double(*number),
            Value::Bool(truth) => Self::Bool(*truth),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(array) => Self::Elements(elements(array, limits.elements)),
        }
    }
}

fn elements(array: &Array, limit: usize) -> Vec<ShownValue> {
    fn first<T: Clone>(
        elements: &[T],
        limit: usize,
        show: impl Fn(T) -> ShownValue,
    ) -> Vec<ShownValue> {
        elements.iter().take(limit).cloned().map(show).collect()
    }
    use ShownValue::{Bool, Double, Signed, Single, Text, Unsigned};
    match array {
        Array::U8(numbers) => first(numbers, limit, |number| Unsigned(number.into())),
        Array::U16(numbers) => first(numbers, limit, |number| Unsigned(number.into())),
        Array::U32(numbers) => first(numbers, limit, |number| Unsigned(number.into())),
        Array::U64(numbers) => first(numbers, limit, Unsigned),
        Array::I8(numbers) => first(numbers, limit, |number| Signed(number.into())),
        Array::I16(numbers) => first(numbers, limit, |number| Signed(number.into())),
        Array::I32(numbers) => first(numbers, limit, |number| Signed(number.into())),
        Array::I64(numbers) => first(numbers, limit, Signed),
        Array::F32(numbers) => first(numbers, limit, Single),
        Array::F64(numbers) => first(numbers, limit, Double),
        Array::Bool(truths) => first(truths, limit, Bool),
        Array::String(texts) => first(texts, limit, Text),
    }
}

/// On one line, with text quoted and its control characters escaped: a file must not be able to
/// write escape sequences to a terminal.
impl fmt::Display for ShownValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(number) => write!(formatter, "{number}"),
            Self::Signed(number) => write!(formatter, "{number}"),
            Self::Single(number) => write!(formatter, "{number:?}"),
            Self::Double(number) => write!(formatter, "{number:?}"),
            Self::Bool(truth) => write!(formatter, "{truth}"),
            Self::Text(text) => write!(formatter, "{text:?}"),
            Self::Elements(elements) => {
                formatter.write_str("[")?;
                for (index, element) in elements.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(formatter, "{separator}{element}")?;
                }
                formatter.write_str("]")
            }
        }
    }
}
