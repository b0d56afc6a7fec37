//! Operators, as Python has them.

use std::cmp::Ordering;

use super::arguments::Values;
use super::ast::{Comparison, Operator};
use super::budget::Budget;
use super::error::TemplateError;
use super::printf;
use super::text::escaped;
use super::value::{SequenceKind, Value};

/// `left operator right`.
pub(super) fn binary(
    operator: Operator,
    left: &Value,
    right: &Value,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    if operator == Operator::Modulo
        && let Some(format) = left.as_text()
    {
        return budget.text(printf::format(format, &printf_values(right), budget)?);
    }
    left.defined()?;
    right.defined()?;
    let numbers = || numeric(operator, left, right);
    match operator {
        Operator::Add => match add(left, right, budget)? {
            Some(sum) => Ok(sum),
            None => numbers(),
        },
        Operator::Multiply => match repeat(left, right, budget)? {
            Some(product) => Ok(product),
            None => numbers(),
        },
        _ => numbers(),
    }
}

fn unsupported(operator: Operator, left: &Value, right: &Value) -> TemplateError {
    TemplateError::failed(format!(
        "{operator:?} does not work between {} and {}",
        left.type_name(),
        right.type_name()
    ))
}

/// The operand on the right of `%`: one value, the values of a tuple, or a dictionary by its names.
fn printf_values(right: &Value) -> Values {
    match right {
        Value::Sequence(sequence) if sequence.kind == SequenceKind::Tuple => {
            Values::of(sequence.items.clone())
        }
        Value::Dict(dict) => {
            let named = dict.entries.iter().filter_map(|(key, value)| match key {
                Value::Text(name) => Some((name.clone(), value.clone())),
                _ => None,
            });
            Values { positional: vec![right.clone()], named: named.collect() }
        }
        _ => Values::of(vec![right.clone()]),
    }
}

fn add(left: &Value, right: &Value, budget: &Budget) -> Result<Option<Value>, TemplateError> {
    match (left, right) {
        (Value::Text(l), Value::Text(r)) => {
            budget.take(l.len() + r.len())?;
            Ok(Some(Value::Text([&**l, &**r].concat().into())))
        }
        // Plain text that is added to HTML is escaped.
        (Value::Markup(_), Value::Text(_) | Value::Markup(_))
        | (Value::Text(_), Value::Markup(_)) => {
            let part = |value: &Value| match value {
                Value::Text(text) => escaped(text, budget),
                _ => Ok(value.as_text().unwrap_or_default().to_string()),
            };
            let text = part(left)? + &part(right)?;
            budget.take(text.len())?;
            Ok(Some(Value::Markup(text.into())))
        }
        (Value::Sequence(l), Value::Sequence(r))
            if l.kind == r.kind && matches!(l.kind, SequenceKind::List | SequenceKind::Tuple) =>
        {
            budget.take((l.items.len() + r.items.len()) * size_of::<Value>())?;
            let items = l.items.iter().chain(&r.items).cloned().collect();
            Ok(Some(budget.sequence(l.kind, items)?))
        }
        _ => Ok(None),
    }
}

fn repeat(left: &Value, right: &Value, budget: &Budget) -> Result<Option<Value>, TemplateError> {
    let (repeated, count) = match (left.as_int(), right.as_int()) {
        (None, Some(count)) => (left, count),
        (Some(count), None) => (right, count),
        _ => return Ok(None),
    };
    let count = usize::try_from(count).unwrap_or(0);
    match repeated {
        Value::Text(text) | Value::Markup(text) => {
            budget.take(text.len().saturating_mul(count))?;
            Ok(Some(Value::Text(text.repeat(count).into())))
        }
        Value::Sequence(sequence)
            if matches!(sequence.kind, SequenceKind::List | SequenceKind::Tuple) =>
        {
            let length = sequence.items.len().saturating_mul(count);
            budget.take(length.saturating_mul(size_of::<Value>()))?;
            let items = sequence.items.iter().cycle().take(length).cloned().collect();
            Ok(Some(budget.sequence(sequence.kind, items)?))
        }
        _ => Ok(None),
    }
}

fn numeric(operator: Operator, left: &Value, right: &Value) -> Result<Value, TemplateError> {
    if let (Some(l), Some(r)) = (left.as_int(), right.as_int()) {
        return whole(operator, l, r);
    }
    let (Some(l), Some(r)) = (left.as_float(), right.as_float()) else {
        return Err(unsupported(operator, left, right));
    };
    let by_zero = || TemplateError::failed("division by zero");
    Ok(Value::Float(match operator {
        Operator::Add => l + r,
        Operator::Subtract => l - r,
        Operator::Multiply => l * r,
        Operator::Divide if r == 0.0 => return Err(by_zero()),
        Operator::Divide => l / r,
        Operator::FloorDivide | Operator::Modulo if r == 0.0 => return Err(by_zero()),
        Operator::FloorDivide => (l / r).floor(),
        Operator::Modulo => {
            let rest = l % r;
            if rest != 0.0 && (rest < 0.0) != (r < 0.0) { rest + r } else { rest }
        }
        Operator::Power => l.powf(r),
    }))
}

fn whole(operator: Operator, l: i64, r: i64) -> Result<Value, TemplateError> {
    let number = match operator {
        Operator::Add => l.checked_add(r),
        Operator::Subtract => l.checked_sub(r),
        Operator::Multiply => l.checked_mul(r),
        Operator::Divide | Operator::FloorDivide | Operator::Modulo if r == 0 => {
            return Err(TemplateError::failed("division by zero"));
        }
        Operator::Divide => return Ok(Value::Float(l as f64 / r as f64)),
        Operator::FloorDivide => l.checked_div_euclid(r).map(|quotient| {
            // Python rounds down; Euclid's quotient goes with a remainder that is not negative.
            if r < 0 && l.rem_euclid(r) != 0 { quotient - 1 } else { quotient }
        }),
        Operator::Modulo => {
            l.checked_rem_euclid(r).map(|rest| if r < 0 && rest != 0 { rest + r } else { rest })
        }
        Operator::Power if r < 0 => return Ok(Value::Float((l as f64).powf(r as f64))),
        Operator::Power => u32::try_from(r).ok().and_then(|r| l.checked_pow(r)),
    };
    let too_large = || TemplateError::failed("a whole number does not fit into 64 bits");
    number.map(Value::Int).ok_or_else(too_large)
}

/// `-value`.
pub(super) fn negative(value: &Value) -> Result<Value, TemplateError> {
    value.defined()?;
    match (value.as_int(), value.as_float()) {
        (Some(number), _) => numeric(Operator::Subtract, &Value::Int(0), &Value::Int(number)),
        (None, Some(number)) => Ok(Value::Float(-number)),
        (None, None) => Err(TemplateError::failed(format!("{} cannot be negated", value.a_type()))),
    }
}

/// `+value`.
pub(super) fn positive(value: &Value) -> Result<Value, TemplateError> {
    value.defined()?;
    match (value.as_int(), value) {
        (Some(number), _) => Ok(Value::Int(number)),
        (None, Value::Float(_)) => Ok(value.clone()),
        _ => Err(TemplateError::failed(format!("{} is not a number", value.a_type()))),
    }
}

/// Whether a comparison holds.
pub(super) fn compare(
    comparison: Comparison,
    left: &Value,
    right: &Value,
    budget: &Budget,
) -> Result<bool, TemplateError> {
    budget.read(left.shape().extent.min(right.shape().extent))?;
    let order =
        |holds: fn(Ordering) -> bool| ordering(left, right).map(|found| found.is_some_and(holds));
    match comparison {
        Comparison::Equal => Ok(left.equals(right)),
        Comparison::NotEqual => Ok(!left.equals(right)),
        Comparison::Less => order(Ordering::is_lt),
        Comparison::LessOrEqual => order(Ordering::is_le),
        Comparison::Greater => order(Ordering::is_gt),
        Comparison::GreaterOrEqual => order(Ordering::is_ge),
        Comparison::In => contains(right, left, budget),
        Comparison::NotIn => contains(right, left, budget).map(|found| !found),
    }
}

/// How two values stand to each other; `None` for what is not a number.
pub(super) fn ordering(left: &Value, right: &Value) -> Result<Option<Ordering>, TemplateError> {
    left.defined()?;
    right.defined()?;
    if let (Some(l), Some(r)) = (left.as_int(), right.as_int()) {
        return Ok(Some(l.cmp(&r)));
    }
    if let (Some(l), Some(r)) = (left.as_float(), right.as_float()) {
        return Ok(l.partial_cmp(&r));
    }
    if let (Some(l), Some(r)) = (left.as_text(), right.as_text()) {
        return Ok(Some(l.cmp(r)));
    }
    match (left, right) {
        (Value::Sequence(l), Value::Sequence(r)) if l.kind == r.kind => {
            for (l, r) in l.items.iter().zip(&r.items) {
                if !l.equals(r) {
                    return ordering(l, r);
                }
            }
            Ok(Some(l.items.len().cmp(&r.items.len())))
        }
        _ => Err(TemplateError::failed(format!(
            "{} and {} cannot be put in order",
            left.a_type(),
            right.a_type()
        ))),
    }
}

/// Whether `value` is in `container`.
pub(super) fn contains(
    container: &Value,
    value: &Value,
    budget: &Budget,
) -> Result<bool, TemplateError> {
    if let Value::Dict(dict) = container {
        value.hashable()?;
        budget.read(dict.search_cost(value))?;
        return Ok(dict.get(value).is_some());
    }
    budget.read(container.shape().extent.saturating_add(value.shape().extent))?;
    match container {
        Value::Text(text) | Value::Markup(text) => match value.as_text() {
            Some(part) => Ok(text.contains(part)),
            None => Err(TemplateError::failed(format!(
                "a string cannot contain a value of type {}",
                value.type_name()
            ))),
        },
        _ => Ok(container.iterate(budget)?.items.iter().any(|item| item.equals(value))),
    }
}
