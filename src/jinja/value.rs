//! The values that templates work with: those of Python, as far as templates see them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::ast::{ForLoop, MacroDefinition};
use super::error::TemplateError;

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
    /// The keys, values or items of a dictionary, by Python's name of that: they have no indices.
    View(&'static str),
    /// What `range` gives.
    Range,
    /// What filters like `map` give: goes by once, and has no length.
    Iterator,
}

impl SequenceKind {
    /// Whether its values can be asked for by their places.
    pub(super) fn is_indexed(self) -> bool {
        matches!(self, Self::List | Self::Tuple | Self::Range)
    }
}

/// Values in a row.
#[derive(Debug)]
pub(super) struct Sequence {
    pub kind: SequenceKind,
    pub items: Vec<Value>,
    shape: Shape,
    /// Whether an iterator has gone by.
    pub spent: Cell<bool>,
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
    /// Whether it cannot be the key of a dictionary: it is a list or dictionary, or holds one.
    pub unhashable: bool,
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

    /// What looking for a key may have to look through, in bytes.
    pub(super) fn search_cost(&self, key: &Value) -> usize {
        key.shape().extent.saturating_add(8).saturating_mul(self.entries.len())
    }

    /// Sets the value of a key.
    pub(super) fn set(&mut self, key: Value, value: Value) -> Result<(), TemplateError> {
        key.hashable()?;
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

/// A macro with the names that it sees.
#[derive(Debug)]
pub(super) struct Macro {
    pub definition: Rc<MacroDefinition>,
    pub scope: Rc<Scope>,
}

/// The names that a template, a round of a loop or the call of a macro sets.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub names: RefCell<Vec<(Rc<str>, Value)>>,
    pub around: Option<Rc<Scope>>,
    pub depth: usize,
}

impl Value {
    pub(super) fn undefined(name: &str) -> Self {
        Self::Undefined(name.into())
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
                SequenceKind::View(name) => name,
                SequenceKind::Range => "range",
                SequenceKind::Iterator => "generator",
            },
            Self::Dict(_) => "dict",
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Function(_) | Self::Method(_) => "function",
        }
    }

    /// The type with its article, for messages: `an int`.
    pub(super) fn a_type(&self) -> String {
        let name = self.type_name();
        let article = if name.starts_with(['i', 'U']) { "an" } else { "a" };
        format!("{article} {name}")
    }

    /// Whether the value can be looked for in a dictionary.
    pub(super) fn hashable(&self) -> Result<(), TemplateError> {
        if self.shape().unhashable {
            let problem = format!("{} cannot be the key of a dictionary", self.a_type());
            return Err(TemplateError::failed(problem));
        }
        Ok(())
    }

    /// How large the value is.
    pub(super) fn shape(&self) -> Shape {
        match self {
            Self::Text(text) | Self::Markup(text) => {
                Shape { extent: text.len(), ..Shape::default() }
            }
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

    /// Refuses an undefined value, for operations that it does not have.
    pub(super) fn defined(&self) -> Result<(), TemplateError> {
        match self {
            Self::Undefined(name) => Err(TemplateError::failed(format!("{name} is undefined"))),
            _ => Ok(()),
        }
    }
}
