//! Expressions.

use super::Interpreter;
use crate::jinja::ast::{Comparison, Expression};
use crate::jinja::attributes;
use crate::jinja::error::TemplateError;
use crate::jinja::operators;
use crate::jinja::value::{SequenceKind, Value};

impl Interpreter {
    /// The value of an expression.
    pub(in crate::jinja) fn evaluate(
        &mut self,
        expression: &Expression,
    ) -> Result<Value, TemplateError> {
        self.budget.enter()?;
        let value = self.value_of(expression);
        self.budget.leave();
        value
    }

    fn value_of(&mut self, expression: &Expression) -> Result<Value, TemplateError> {
        Ok(match expression {
            Expression::None => Value::None,
            Expression::Bool(truth) => Value::Bool(*truth),
            Expression::Int(number) => Value::Int(*number),
            Expression::Float(number) => Value::Float(*number),
            Expression::Text(text) => Value::Text(text.clone()),
            Expression::Name(name) => {
                self.scope.get(name).unwrap_or_else(|| Value::undefined(name))
            }
            Expression::List(items) => {
                let items = self.evaluate_all(items)?;
                self.budget.list(items)?
            }
            Expression::Tuple(items) => {
                let items = self.evaluate_all(items)?;
                self.budget.sequence(SequenceKind::Tuple, items)?
            }
            Expression::Dict(entries) => {
                let mut values = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    values.push((self.evaluate(key)?, self.evaluate(value)?));
                }
                self.budget.dict(values)?
            }
            Expression::Attribute(value, name) => {
                let value = self.evaluate(value)?;
                attributes::attribute(&value, name, &self.budget)?
            }
            Expression::Item(value, key) => {
                let (value, key) = (self.evaluate(value)?, self.evaluate(key)?);
                attributes::item(&value, &key, &self.budget)?
            }
            Expression::Slice(value, bounds) => {
                let value = self.evaluate(value)?;
                let mut values = [Value::None, Value::None, Value::None];
                for (value, bound) in values.iter_mut().zip(bounds.iter()) {
                    if let Some(bound) = bound {
                        *value = self.evaluate(bound)?;
                    }
                }
                attributes::slice(&value, &values, &self.budget)?
            }
            Expression::Call(callee, arguments) => {
                let callee = self.evaluate(callee)?;
                let arguments = self.arguments(arguments)?;
                self.call(&callee, arguments)?
            }
            Expression::Filter(subject, filter) => {
                let subject = self.evaluate(subject)?;
                let arguments = self.arguments(&filter.arguments)?;
                self.filter(&filter.name, subject, arguments)?
            }
            Expression::Test { subject, name, arguments } => {
                let subject = self.evaluate(subject)?;
                let arguments = self.arguments(arguments)?;
                Value::Bool(self.test(name, &subject, arguments)?)
            }
            Expression::Not(value) => Value::Bool(!self.evaluate(value)?.truth()),
            Expression::Negative(value) => operators::negative(&self.evaluate(value)?)?,
            Expression::Positive(value) => operators::positive(&self.evaluate(value)?)?,
            Expression::Binary(operator, operands) => {
                let (left, right) = (self.evaluate(&operands.0)?, self.evaluate(&operands.1)?);
                operators::binary(*operator, &left, &right, &self.budget)?
            }
            Expression::Concat(parts) => self.concatenated(parts)?,
            Expression::Compare(first, others) => Value::Bool(self.comparisons(first, others)?),
            Expression::And(operands) => {
                let left = self.evaluate(&operands.0)?;
                if left.truth() { self.evaluate(&operands.1)? } else { left }
            }
            Expression::Or(operands) => {
                let left = self.evaluate(&operands.0)?;
                if left.truth() { left } else { self.evaluate(&operands.1)? }
            }
            Expression::Conditional(parts, otherwise) => {
                if self.evaluate(&parts.0)?.truth() {
                    self.evaluate(&parts.1)?
                } else {
                    match otherwise {
                        Some(otherwise) => self.evaluate(otherwise)?,
                        None => Value::undefined("the value of an if without else"),
                    }
                }
            }
        })
    }

    fn evaluate_all(&mut self, expressions: &[Expression]) -> Result<Vec<Value>, TemplateError> {
        expressions.iter().map(|expression| self.evaluate(expression)).collect()
    }

    fn concatenated(&mut self, parts: &[Expression]) -> Result<Value, TemplateError> {
        let mut text = String::new();
        for part in parts {
            let part = self.evaluate(part)?.display(&self.budget)?;
            self.budget.take(part.len())?;
            text.push_str(&part);
        }
        self.budget.text(text)
    }

    /// `a < b < c`: each pair holds.
    fn comparisons(
        &mut self,
        first: &Expression,
        others: &[(Comparison, Expression)],
    ) -> Result<bool, TemplateError> {
        let mut left = self.evaluate(first)?;
        for (comparison, right) in others {
            let right = self.evaluate(right)?;
            if !operators::compare(*comparison, &left, &right, &self.budget)? {
                return Ok(false);
            }
            left = right;
        }
        Ok(true)
    }
}
