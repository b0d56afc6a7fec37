//! The values that templates work with: those of Python, as far as templates see them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde_json::Value as Json;

use super::budget::Budget;
use super::error::TemplateError;
use super::macros::Macro;
use super::repeat::LoopState;
use super::text::representation;

/// A value. Texts, lists and dictionaries never change, as in transformers' sandbox.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// What is not there; its name, for messages.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    /// Text that counts as HTML already: what is added to it is escaped.
    Markup(Rc<str>),
    Sequence(Rc<Sequence>),
    Dict(Rc<Dict>),
    Namespace(Rc<Namespace>),
    Loop(Rc<LoopState>),
    Macro(Rc<Macro>),
    Function(Function),
    Method(Rc<Method>),
}

/// Functions that a template can call by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    RaiseException,
    StrftimeNow,
}

/// What a sequence is to Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SequenceKind {
    List,
    Tuple,
    /// The keys, values or items of a dictionary: no sequence that has an order of its own.
    View,
    /// What filters like `map` give: goes by once, and has no length.
    Iterator,
}

/// Values in a row.
#[derive(Debug)]
pub(super) struct Sequence {
    pub kind: SequenceKind,
    pub items: Vec<Value>,
    shape: Shape,
    /// Whether an iterator has gone by.
    spent: Cell<bool>,
}

impl Sequence {
    pub(super) fn new(kind: SequenceKind, items: Vec<Value>, shape: Shape) -> Self {
        Self { kind, items, shape, spent: Cell::new(false) }
    }
}

/// How large a value is. The same list may be in others many times over, so that this cannot be
/// found by going through it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shape {
    /// How many lists and the like are inside one another.
    pub height: usize,
    /// How much there is to look through when the value is compared or written, in bytes.
    pub extent: usize,
}

impl Shape {
    fn one_more(self) -> Self {
        Self { height: self.height + 1, ..self }
    }
}

/// Values by keys, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Dict {
    pub entries: Vec<(Value, Value)>,
    pub shape: Shape,
}

impl Dict {
    pub(super) fn get(&self, key: &Value) -> Option<&Value> {
        self.entries.iter().find(|(known, _)| known.equals(key)).map(|(_, value)| value)
    }

    /// Sets the value of a key.
    pub(super) fn set(&mut self, key: Value, value: Value) -> Result<(), TemplateError> {
        if matches!(&key, Value::Dict(_)) || key.sequence_kind() == Some(SequenceKind::List) {
            let problem = format!("a {} cannot be the key of a dictionary", key.type_name());
            return Err(TemplateError::failed(problem));
        }
        match self.entries.iter_mut().find(|(known, _)| known.equals(&key)) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key, value)),
        }
        Ok(())
    }
}

/// What `namespace()` gives: the one thing that changes.
#[derive(Debug, Default)]
pub(super) struct Namespace {
    pub attributes: RefCell<Vec<(Rc<str>, Value)>>,
}

/// A method of a value, not called yet.
#[derive(Debug)]
pub(super) struct Method {
    pub receiver: Value,
    pub name: Rc<str>,
}

impl Value {
    pub(super) fn undefined(name: &str) -> Self {
        Self::Undefined(name.into())
    }

    /// A value from outside.
    pub(super) fn of_json(json: &Json, budget: &Budget) -> Result<Self, TemplateError> {
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(truth) => Self::Bool(*truth),
            Json::Number(number) => match number.as_i64() {
                Some(number) => Self::Int(number),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => return budget.text(text),
            Json::Array(items) => {
                let items = items.iter().map(|item| Self::of_json(item, budget));
                return budget.list(items.collect::<Result<_, _>>()?);
            }
            Json::Object(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, value)| Ok((budget.text(key)?, Self::of_json(value, budget)?)));
                return budget.dict(entries.collect::<Result<_, TemplateError>>()?);
            }
        })
    }

    /// The text, where the value is one.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// The number, where the value is a whole one; truth values are 0 and 1.
    pub(super) fn as_int(&self) -> Option<i64> {
        match *self {
            Self::Int(number) => Some(number),
            Self::Bool(truth) => Some(truth.into()),
            _ => None,
        }
    }

    /// The number, where the value is one.
    pub(super) fn as_float(&self) -> Option<f64> {
        match *self {
            Self::Float(number) => Some(number),
            _ => self.as_int().map(|number| number as f64),
        }
    }

    pub(super) fn sequence_kind(&self) -> Option<SequenceKind> {
        match self {
            Self::Sequence(sequence) => Some(sequence.kind),
            _ => None,
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// What Python calls the value's type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::Markup(_) => "Markup",
            Self::Sequence(sequence) => match sequence.kind {
                SequenceKind::List => "list",
                SequenceKind::Tuple => "tuple",
                SequenceKind::View => "dict view",
                SequenceKind::Iterator => "generator",
            },
            Self::Dict(_) => "dict",
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Function(_) | Self::Method(_) => "function",
        }
    }

    /// How large the value is.
    pub(super) fn shape(&self) -> Shape {
        match self {
            Self::Text(text) | Self::Markup(text) => Shape { height: 0, extent: text.len() },
            Self::Sequence(sequence) => sequence.shape,
            Self::Dict(dict) => dict.shape,
            Self::Loop(state) => state.items.shape.one_more(),
            Self::Method(method) => method.receiver.shape().one_more(),
            _ => Shape::default(),
        }
    }

    /// Whether the value counts as true.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(truth) => *truth,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) | Self::Markup(text) => !text.is_empty(),
            Self::Sequence(sequence) => {
                sequence.kind == SequenceKind::Iterator || !sequence.items.is_empty()
            }
            Self::Dict(dict) => !dict.entries.is_empty(),
            _ => true,
        }
    }

    /// Whether two values are equal. Callers pay for [`Value::shape`]'s extent first.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Sequence(left), Self::Sequence(right)) => {
                Rc::ptr_eq(left, right)
                    || left.kind == right.kind
                        && left.items.len() == right.items.len()
                        && left.items.iter().zip(&right.items).all(|(l, r)| l.equals(r))
            }
            (Self::Dict(left), Self::Dict(right)) => {
                let same = |(key, value): &(Self, Self)| {
                    right.get(key).is_some_and(|other| value.equals(other))
                };
                left.entries.len() == right.entries.len() && left.entries.iter().all(same)
            }
            (Self::Namespace(left), Self::Namespace(right)) => Rc::ptr_eq(left, right),
            (Self::Loop(left), Self::Loop(right)) => Rc::ptr_eq(left, right),
            (Self::Macro(left), Self::Macro(right)) => Rc::ptr_eq(left, right),
            (Self::Function(left), Self::Function(right)) => left == right,
            _ => match (self.as_int(), other.as_int()) {
                (Some(left), Some(right)) => left == right,
                _ => match (self.as_text(), other.as_text()) {
                    (Some(left), Some(right)) => left == right,
                    _ => matches!(
                        (self.as_float(), other.as_float()),
                        (Some(left), Some(right)) if left == right
                    ),
                },
            },
        }
    }

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
                budget.take(text.len() * size_of::<Self>())?;
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

    /// Something is done with the value that nothing undefined can do.
    pub(super) fn defined(&self) -> Result<(), TemplateError> {
        match self {
            Self::Undefined(name) => Err(TemplateError::failed(format!("{name} is undefined"))),
            _ => Ok(()),
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
