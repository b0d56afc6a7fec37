//! Jinja's tests: the words after `is`.

use std::rc::Rc;

use super::arguments::Values;
use super::ast::Comparison;
use super::error::TemplateError;
use super::interpreter::Interpreter;
use super::methods;
use super::operators;
use super::value::{SequenceKind, Value};

impl Interpreter {
    /// Whether a test holds for a value.
    pub(super) fn test(
        &mut self,
        name: &str,
        value: &Value,
        values: Values,
    ) -> Result<bool, TemplateError> {
        if let Some(comparison) = comparison(name) {
            let [other] = values.bind_all(name, ["other"])?;
            return operators::compare(comparison, value, &other, &self.budget);
        }
        match name {
            "divisibleby" => {
                let [number] = values.bind_all(name, ["num"])?;
                return self.remainder_is(value, number, 0);
            }
            "sameas" => {
                let [other] = values.bind_all(name, ["other"])?;
                return Ok(is_same(value, &other));
            }
            _ => {
                let [] = values.bind(name, [])?;
            }
        }
        Ok(match name {
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => value.as_float().is_some(),
            "string" => value.as_text().is_some(),
            "escaped" => matches!(value, Value::Markup(_)),
            "mapping" => matches!(value, Value::Dict(_)),
            "sequence" => {
                matches!(value, Value::Dict(_) | Value::Undefined(_))
                    || value.as_text().is_some()
                    || value.sequence_kind().is_some_and(SequenceKind::is_indexed)
            }
            "iterable" => {
                matches!(value, Value::Dict(_) | Value::Undefined(_) | Value::Sequence(_))
                    || value.as_text().is_some()
            }
            "callable" => {
                matches!(
                    value,
                    Value::Macro(_) | Value::Function(_) | Value::Method(_) | Value::Undefined(_)
                )
            }
            "odd" => self.remainder_is(value, Value::Int(2), 1)?,
            "even" => self.remainder_is(value, Value::Int(2), 0)?,
            "lower" | "upper" => {
                let text = Value::Text(value.display(&self.budget)?);
                let method = if name == "lower" { "islower" } else { "isupper" };
                methods::call(&text, method, Values::default(), &self.budget)?.truth()
            }
            _ => {
                let problem = format!("\"{name}\" is no test that quantkit knows");
                return Err(TemplateError::failed(problem));
            }
        })
    }

    fn remainder_is(
        &self,
        value: &Value,
        number: Value,
        expected: i64,
    ) -> Result<bool, TemplateError> {
        let operator = super::ast::Operator::Modulo;
        let rest = operators::binary(operator, value, &number, &self.budget)?;
        Ok(rest.equals(&Value::Int(expected)))
    }
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        "eq" | "equalto" | "==" => Comparison::Equal,
        "ne" | "!=" => Comparison::NotEqual,
        "lt" | "lessthan" | "<" => Comparison::Less,
        "le" | "<=" => Comparison::LessOrEqual,
        "gt" | "greaterthan" | ">" => Comparison::Greater,
        "ge" | ">=" => Comparison::GreaterOrEqual,
        "in" => Comparison::In,
        _ => return None,
    })
}

/// Whether two values are one and the same.
fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::None, Value::None) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Int(left), Value::Int(right)) => left == right,
        (Value::Text(left), Value::Text(right)) => Rc::ptr_eq(left, right),
        (Value::Sequence(left), Value::Sequence(right)) => Rc::ptr_eq(left, right),
        (Value::Dict(left), Value::Dict(right)) => Rc::ptr_eq(left, right),
        (Value::Namespace(left), Value::Namespace(right)) => Rc::ptr_eq(left, right),
        _ => false,
    }
}
