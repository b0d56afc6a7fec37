//! The arguments of a call.

use std::rc::Rc;

use super::budget::Budget;
use super::error::TemplateError;
use super::value::Value;

/// Values by place and by name.
#[derive(Debug, Default)]
pub(super) struct Values {
    pub positional: Vec<Value>,
    pub named: Vec<(Rc<str>, Value)>,
}

impl Values {
    pub(super) fn of(positional: Vec<Value>) -> Self {
        Self { positional, named: Vec::new() }
    }

    /// The values of parameters with these names, in their order.
    ///
    /// # Errors
    /// More values than parameters, an unknown name, a parameter given twice. `of` says whose they
    /// are.
    pub(super) fn bind<const N: usize>(
        self,
        of: &str,
        names: [&str; N],
    ) -> Result<[Option<Value>; N], TemplateError> {
        if self.positional.len() > N {
            return Err(TemplateError::failed(format!(
                "{of} takes at most {N} arguments, but {} are given",
                self.positional.len()
            )));
        }
        let mut values = [const { None }; N];
        for (place, value) in values.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let index = names.iter().position(|known| **known == *name);
            match index.map(|index| &mut values[index]) {
                Some(place @ None) => *place = Some(value),
                Some(_) => {
                    return Err(TemplateError::failed(format!("{of} is given {name} twice")));
                }
                None => return Err(TemplateError::failed(format!("{of} takes no {name}"))),
            }
        }
        Ok(values)
    }

    /// The same where all parameters are needed.
    pub(super) fn bind_all<const N: usize>(
        self,
        of: &str,
        names: [&str; N],
    ) -> Result<[Value; N], TemplateError> {
        let values = self.bind(of, names)?;
        let mut bound = [const { Value::None }; N];
        for ((place, value), name) in bound.iter_mut().zip(values).zip(names) {
            *place = value.ok_or_else(|| {
                TemplateError::failed(format!("{of} needs an argument for {name}"))
            })?;
        }
        Ok(bound)
    }
}

/// The whole number that an argument should be.
pub(super) fn int(of: &str, value: Option<Value>, default: i64) -> Result<i64, TemplateError> {
    match value {
        None => Ok(default),
        Some(value) => value.as_int().ok_or_else(|| {
            TemplateError::failed(format!("{of} needs a whole number, not {}", value.a_type()))
        }),
    }
}

/// The text that an argument should be.
pub(super) fn text(of: &str, value: &Value) -> Result<Rc<str>, TemplateError> {
    match value {
        Value::Text(text) | Value::Markup(text) => Ok(text.clone()),
        _ => Err(TemplateError::failed(format!("{of} needs a string, not {}", value.a_type()))),
    }
}

/// The truth value of an argument; what is not given is false.
pub(super) fn truth(value: Option<Value>) -> bool {
    value.is_some_and(|value| value.truth())
}

/// An argument for which `None` means that it is not given.
pub(super) fn unless_none(value: Option<Value>) -> Option<Value> {
    value.filter(|value| !matches!(value, Value::None))
}

/// The number of characters or items that an argument should be; below 0 it is 0.
pub(super) fn count(of: &str, value: Option<Value>, default: i64) -> Result<usize, TemplateError> {
    Ok(usize::try_from(int(of, value, default)?).unwrap_or(0))
}

/// The indentation that an argument gives: as text, or as a number of spaces.
pub(super) fn indentation(
    of: &str,
    value: Option<Value>,
    default: i64,
    budget: &Budget,
) -> Result<String, TemplateError> {
    if let Some(Value::Text(indentation)) = value {
        return Ok(indentation.to_string());
    }
    let width = count(of, value, default)?;
    budget.take(width)?;
    Ok(" ".repeat(width))
}
