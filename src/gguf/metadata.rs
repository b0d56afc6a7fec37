//! Typed metadata in the file's own order.

/// One metadata value with the exact type that the file gives it.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of one element type, kept flat so that a vocabulary costs no more than its text.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// The type of a metadata value, by the format's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// In the order of the format's numbers, 0 to 12.
const VALUE_TYPES: [(ValueType, &str); 13] = [
    (ValueType::U8, "u8"),
    (ValueType::I8, "i8"),
    (ValueType::U16, "u16"),
    (ValueType::I16, "i16"),
    (ValueType::U32, "u32"),
    (ValueType::I32, "i32"),
    (ValueType::F32, "f32"),
    (ValueType::Bool, "bool"),
    (ValueType::String, "string"),
    (ValueType::Array, "array"),
    (ValueType::U64, "u64"),
    (ValueType::I64, "i64"),
    (ValueType::F64, "f64"),
];

impl ValueType {
    /// The type with the format's number, if there is one.
    pub fn from_id(id: u32) -> Option<Self> {
        VALUE_TYPES.get(id as usize).map(|row| row.0)
    }

    /// The format's number.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// A short name: `u32`, `string`.
    pub fn name(self) -> &'static str {
        VALUE_TYPES[self as usize].1
    }
}

impl Value {
    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Whether type and value are the same, floating-point numbers bit by bit.
    pub fn is_identical(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F32(a), Self::F32(b)) => a.to_bits() == b.to_bits(),
            (Self::F64(a), Self::F64(b)) => a.to_bits() == b.to_bits(),
            (Self::Array(a), Self::Array(b)) => {
                a.element_type() == b.element_type()
                    && a.len() == b.len()
                    && a.first_difference(b).is_none()
            }
            _ => self == other,
        }
    }
}

impl Array {
    /// The type of the elements.
    pub fn element_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(elements) => elements.len(),
            Self::I8(elements) => elements.len(),
            Self::U16(elements) => elements.len(),
            Self::I16(elements) => elements.len(),
            Self::U32(elements) => elements.len(),
            Self::I32(elements) => elements.len(),
            Self::F32(elements) => elements.len(),
            Self::Bool(elements) => elements.len(),
            Self::String(elements) => elements.len(),
            Self::U64(elements) => elements.len(),
            Self::I64(elements) => elements.len(),
            Self::F64(elements) => elements.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first element in which two arrays of one type and length differ.
    pub fn first_difference(&self, other: &Self) -> Option<usize> {
        fn position<T>(a: &[T], b: &[T], same: impl Fn(&T, &T) -> bool) -> Option<usize> {
            if a.len() != b.len() {
                return None;
            }
            a.iter().zip(b).position(|(a, b)| !same(a, b))
        }
        match (self, other) {
            (Self::U8(a), Self::U8(b)) => position(a, b, u8::eq),
            (Self::I8(a), Self::I8(b)) => position(a, b, i8::eq),
            (Self::U16(a), Self::U16(b)) => position(a, b, u16::eq),
            (Self::I16(a), Self::I16(b)) => position(a, b, i16::eq),
            (Self::U32(a), Self::U32(b)) => position(a, b, u32::eq),
            (Self::I32(a), Self::I32(b)) => position(a, b, i32::eq),
            (Self::F32(a), Self::F32(b)) => position(a, b, |a, b| a.to_bits() == b.to_bits()),
            (Self::Bool(a), Self::Bool(b)) => position(a, b, bool::eq),
            (Self::String(a), Self::String(b)) => position(a, b, String::eq),
            (Self::U64(a), Self::U64(b)) => position(a, b, u64::eq),
            (Self::I64(a), Self::I64(b)) => position(a, b, i64::eq),
            (Self::F64(a), Self::F64(b)) => position(a, b, |a, b| a.to_bits() == b.to_bits()),
            _ => None,
        }
    }
}

/// Key-value pairs in file order; keys are unique.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// No entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pairs whose keys the caller knows to be unique.
    pub(super) fn from_unique(entries: Vec<(String, Value)>) -> Self {
        Self { entries }
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Replaces the value under `key`, or appends it.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.entries.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Removes `key` and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let index = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(index).1)
    }

    /// All pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The text under `key`.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The non-negative whole number under `key`, whatever its width.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        match *self.get(key)? {
            Value::U8(number) => Some(number.into()),
            Value::U16(number) => Some(number.into()),
            Value::U32(number) => Some(number.into()),
            Value::U64(number) => Some(number),
            Value::I8(number) => number.try_into().ok(),
            Value::I16(number) => number.try_into().ok(),
            Value::I32(number) => number.try_into().ok(),
            Value::I64(number) => number.try_into().ok(),
            _ => None,
        }
    }

    /// The floating-point number under `key`, as `f64`.
    pub fn float(&self, key: &str) -> Option<f64> {
        match *self.get(key)? {
            Value::F32(number) => Some(number.into()),
            Value::F64(number) => Some(number),
            _ => None,
        }
    }

    /// The truth value under `key`.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match *self.get(key)? {
            Value::Bool(truth) => Some(truth),
            _ => None,
        }
    }

    /// The array of strings under `key`.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.get(key)? {
            Value::Array(Array::String(texts)) => Some(texts),
            _ => None,
        }
    }

    /// The array of `f32` under `key`.
    pub fn floats(&self, key: &str) -> Option<&[f32]> {
        match self.get(key)? {
            Value::Array(Array::F32(numbers)) => Some(numbers),
            _ => None,
        }
    }

    /// The array of `i32` under `key`.
    pub fn integers(&self, key: &str) -> Option<&[i32]> {
        match self.get(key)? {
            Value::Array(Array::I32(numbers)) => Some(numbers),
            _ => None,
        }
    }
}
