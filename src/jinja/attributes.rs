//! Attributes, items and slices.

use std::rc::Rc;

use super::arguments;
use super::budget::Budget;
use super::error::TemplateError;
use super::method_names;
use super::value::{Method, Value};

/// `value.name`: a method or attribute, or else the item with that name.
pub(super) fn attribute(
    value: &Value,
    name: &Rc<str>,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    value.defined()?;
    if let Some(found) = own_attribute(value, name) {
        return Ok(found);
    }
    let found = match value {
        Value::Dict(dict) => {
            let key = Value::Text(name.clone());
            budget.read(dict.search_cost(&key))?;
            dict.get(&key).cloned()
        }
        _ => None,
    };
    Ok(found.unwrap_or_else(|| missing(value, name)))
}

/// `value[key]`: an item, or else the attribute with that name.
pub(super) fn item(value: &Value, key: &Value, budget: &Budget) -> Result<Value, TemplateError> {
    value.defined()?;
    let found = match value {
        Value::Dict(dict) => {
            budget.read(dict.search_cost(key))?;
            dict.get(key).cloned()
        }
        Value::Sequence(sequence) if sequence.kind.is_indexed() => {
            let index = key.as_int().and_then(|index| inside(index, sequence.items.len()));
            index.map(|index| sequence.items[index].clone())
        }
        Value::Text(text) | Value::Markup(text) => match key.as_int() {
            Some(index) => {
                budget.read(text.len())?;
                let index = inside(index, text.chars().count());
                match index.and_then(|index| text.chars().nth(index)) {
                    Some(character) => Some(budget.text(character.encode_utf8(&mut [0; 4]))?),
                    None => None,
                }
            }
            None => None,
        },
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    match key {
        Value::Text(name) => Ok(own_attribute(value, name).unwrap_or_else(|| missing(value, name))),
        _ => Ok(Value::undefined("the item with such a key")),
    }
}

/// The place of an index that may count from the end.
fn inside(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(length as i64)? } else { index };
    usize::try_from(index).ok().filter(|&index| index < length)
}

fn missing(value: &Value, name: &str) -> Value {
    Value::undefined(&format!("\"{name}\" of a value of type {}", value.type_name()))
}

/// What belongs to the value itself, not to what it holds.
fn own_attribute(value: &Value, name: &Rc<str>) -> Option<Value> {
    if let Value::Namespace(namespace) = value {
        let attributes = namespace.attributes.borrow();
        let found = attributes.iter().find(|(known, _)| known == name);
        return found.map(|(_, value)| value.clone());
    }
    if let Value::Loop(state) = value
        && let Some(found) = state.attribute(name)
    {
        return Some(found);
    }
    if let Value::Macro(known) = value
        && **name == *"name"
    {
        return Some(Value::Text(known.definition.name.clone()));
    }
    if method_names::changes(value, name) || name.starts_with("__") {
        return Some(Value::undefined(&format!(
            "\"{name}\" of {}, which templates may not use,",
            value.a_type()
        )));
    }
    if method_names::exists(value, name) {
        let method = Method { receiver: value.clone(), name: name.clone() };
        return Some(Value::Method(Rc::new(method)));
    }
    None
}

/// `value[start:end:step]`.
pub(super) fn slice(
    value: &Value,
    bounds: &[Value; 3],
    budget: &Budget,
) -> Result<Value, TemplateError> {
    value.defined()?;
    match value {
        Value::Text(text) | Value::Markup(text) => {
            budget.take(text.len() * size_of::<char>())?;
            let characters: Vec<char> = text.chars().collect();
            let places = places(bounds, characters.len())?;
            budget.text(places.map(|place| characters[place]).collect::<String>())
        }
        Value::Sequence(sequence) if sequence.kind.is_indexed() => {
            let places = places(bounds, sequence.items.len())?;
            let items = places.map(|place| sequence.items[place].clone()).collect();
            budget.sequence(sequence.kind, items)
        }
        _ => Err(TemplateError::failed(format!("{} cannot be sliced", value.a_type()))),
    }
}

/// The places of a slice in order.
fn places(
    bounds: &[Value; 3],
    length: usize,
) -> Result<impl Iterator<Item = usize>, TemplateError> {
    let mut numbers = [None; 3];
    for (number, bound) in numbers.iter_mut().zip(bounds) {
        *number = match bound {
            Value::None => None,
            _ => Some(arguments::int("a slice", Some(bound.clone()), 0)?),
        };
    }
    let length = length as i64;
    let step = numbers[2].unwrap_or(1);
    if step == 0 {
        return Err(TemplateError::failed("a slice cannot have a step of 0"));
    }
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |bound: Option<i64>, default: i64| match bound {
        None => default,
        Some(bound) if bound < 0 => bound.saturating_add(length).max(lowest),
        Some(bound) => bound.min(highest),
    };
    let (first, end) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (start, end) = (clamp(numbers[0], first), clamp(numbers[1], end));
    let going = move |&place: &i64| if step > 0 { place < end } else { place > end };
    let next = move |&place: &i64| place.checked_add(step);
    Ok(std::iter::successors(Some(start), next).take_while(going).map(|place| place as usize))
}
