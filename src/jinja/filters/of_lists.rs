//! Filters of lists and dictionaries.

use std::cmp::Ordering;

use super::known::Known;
use super::path::Path;
use crate::jinja::arguments::{self, Values};
use crate::jinja::ast::Operator;
use crate::jinja::attributes;
use crate::jinja::budget::Budget;
use crate::jinja::error::TemplateError;
use crate::jinja::operators;
use crate::jinja::value::{SequenceKind, Value};

pub(super) fn filter(
    name: &str,
    value: &Value,
    values: Values,
    budget: &Budget,
) -> Result<Known, TemplateError> {
    Ok(Known::Value(match name {
        "first" | "last" => {
            let [] = values.bind(name, [])?;
            let items = value.iterate(budget)?;
            let item = if name == "first" { items.items.first() } else { items.items.last() };
            item.cloned().unwrap_or_else(|| Value::undefined("an item of an empty sequence"))
        }
        "list" => {
            let [] = values.bind(name, [])?;
            budget.list(value.iterate(budget)?.items.clone())?
        }
        "items" => {
            let [] = values.bind(name, [])?;
            items(value, budget)?
        }
        "join" => join(value, values, budget)?,
        "reverse" => {
            let [] = values.bind(name, [])?;
            match value.as_text() {
                Some(text) => budget.text(text.chars().rev().collect::<String>())?,
                None => {
                    let items = value.iterate(budget)?.items.iter().rev().cloned().collect();
                    budget.sequence(SequenceKind::Iterator, items)?
                }
            }
        }
        "sort" => sort(value, values, budget)?,
        "dictsort" => dict_sort(value, values, budget)?,
        "unique" => unique(value, values, budget)?,
        "min" | "max" => extreme(name, value, values, budget)?,
        "sum" => sum(value, values, budget)?,
        "groupby" => group_by(value, values, budget)?,
        "batch" => batch(value, values, budget)?,
        "slice" => slice(value, values, budget)?,
        "attr" => {
            let [attribute] = values.bind_all(name, ["name"])?;
            let attribute = arguments::text(name, &attribute)?;
            match value {
                Value::Dict(dict) if dict.get(&Value::Text(attribute.clone())).is_some() => {
                    Value::undefined(&attribute)
                }
                _ => attributes::attribute(value, &attribute, budget)?,
            }
        }
        _ => return Ok(Known::Not(values)),
    }))
}

fn items(value: &Value, budget: &Budget) -> Result<Value, TemplateError> {
    let pairs = match value {
        Value::Undefined(_) => Vec::new(),
        Value::Dict(dict) => budget.pairs(dict)?,
        _ => {
            let problem = format!("items needs a dictionary, not {}", value.a_type());
            return Err(TemplateError::failed(problem));
        }
    };
    budget.sequence(SequenceKind::Iterator, pairs)
}

fn join(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let [separator, attribute] = values.bind("join", ["d", "attribute"])?;
    let separator = match separator {
        Some(separator) => separator.display(budget)?,
        None => "".into(),
    };
    let path = Path::of(&attribute.unwrap_or(Value::None), None, budget)?;
    let mut joined = String::new();
    for (index, item) in value.iterate(budget)?.items.iter().enumerate() {
        let item = path.find(item, budget)?.display(budget)?;
        budget.take(separator.len() + item.len())?;
        joined.push_str(if index == 0 { "" } else { &separator });
        joined.push_str(&item);
    }
    budget.text(joined)
}

/// What items are put in order by.
struct Keys {
    paths: Vec<Path>,
    case_sensitive: bool,
}

/// How keys are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// As lists, of which equal items are passed over.
    AsLists,
    /// One by one: two that have no order are an error even if they are equal.
    Alone,
}

impl Keys {
    fn of(
        attribute: Option<Value>,
        case_sensitive: Option<Value>,
        budget: &Budget,
    ) -> Result<Self, TemplateError> {
        let paths = match attribute {
            Some(Value::Text(attributes)) => {
                budget.take(attributes.len() * size_of::<Path>())?;
                let paths = attributes
                    .split(',')
                    .map(|attribute| Path::of(&Value::Text(attribute.into()), None, budget));
                paths.collect::<Result<_, _>>()?
            }
            attribute => vec![Path::of(&attribute.unwrap_or(Value::None), None, budget)?],
        };
        Ok(Self { paths, case_sensitive: arguments::truth(case_sensitive) })
    }

    fn find(&self, item: &Value, budget: &Budget) -> Result<Vec<Value>, TemplateError> {
        let key = |path: &Path| {
            let key = path.find(item, budget)?;
            if self.case_sensitive { Ok(key) } else { without_case(key, budget) }
        };
        self.paths.iter().map(key).collect()
    }

    /// Items with their keys.
    fn keyed(
        &self,
        value: &Value,
        budget: &Budget,
    ) -> Result<Vec<(Vec<Value>, Value)>, TemplateError> {
        let items = value.iterate(budget)?;
        budget.take(items.items.len() * 4 * size_of::<Value>())?;
        let keyed = |item: &Value| Ok((self.find(item, budget)?, item.clone()));
        items.items.iter().map(keyed).collect()
    }
}

/// A text in lower case, for comparisons that ignore case; other values as they are.
fn without_case(value: Value, budget: &Budget) -> Result<Value, TemplateError> {
    match &value {
        Value::Text(text) | Value::Markup(text) => {
            budget.take(3 * text.len())?;
            Ok(Value::Text(text.to_lowercase().into()))
        }
        _ => Ok(value),
    }
}

/// Puts items in the order of their keys; equal ones stay in the order in which they came.
fn sort_by_keys(
    keyed: &mut Vec<(Vec<Value>, Value)>,
    compared: Compared,
    reverse: bool,
    budget: &Budget,
) -> Result<(), TemplateError> {
    let wanted = if reverse { Ordering::Greater } else { Ordering::Less };
    merge_sort(keyed, &mut |(left, _), (right, _)| {
        Ok(compare_keys(left, right, compared, budget)? == wanted)
    })
}

/// Sorts by whether one item goes before another. (The standard library's sort does not take a
/// comparison that may fail, or that contradicts itself, as that of what is no number does.)
fn merge_sort<T>(
    items: &mut Vec<T>,
    before: &mut impl FnMut(&T, &T) -> Result<bool, TemplateError>,
) -> Result<(), TemplateError> {
    if items.len() < 2 {
        return Ok(());
    }
    let mut behind = items.split_off(items.len() / 2);
    merge_sort(items, before)?;
    merge_sort(&mut behind, before)?;
    let mut left = std::mem::take(items).into_iter().peekable();
    let mut right = behind.into_iter().peekable();
    while let (Some(one), Some(other)) = (left.peek(), right.peek()) {
        let next = if before(other, one)? { right.next() } else { left.next() };
        items.extend(next);
    }
    items.extend(left);
    items.extend(right);
    Ok(())
}

fn compare_keys(
    left: &[Value],
    right: &[Value],
    compared: Compared,
    budget: &Budget,
) -> Result<Ordering, TemplateError> {
    for (left, right) in left.iter().zip(right) {
        budget.read(left.shape().extent.min(right.shape().extent))?;
        if compared == Compared::Alone || !left.equals(right) {
            // Nothing is said of what is no number.
            return Ok(operators::ordering(left, right)?.unwrap_or(Ordering::Equal));
        }
    }
    Ok(Ordering::Equal)
}

fn sort(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let names = ["reverse", "case_sensitive", "attribute"];
    let [reverse, case_sensitive, attribute] = values.bind("sort", names)?;
    let keys = Keys::of(attribute, case_sensitive, budget)?;
    sorted(value, &keys, Compared::AsLists, reverse, budget)
}

/// A list of the items in the order of their keys.
fn sorted(
    value: &Value,
    keys: &Keys,
    compared: Compared,
    reverse: Option<Value>,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    let mut keyed = keys.keyed(value, budget)?;
    sort_by_keys(&mut keyed, compared, arguments::truth(reverse), budget)?;
    budget.list(keyed.into_iter().map(|(_, item)| item).collect())
}

fn dict_sort(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let names = ["case_sensitive", "by", "reverse"];
    let [case_sensitive, by, reverse] = values.bind("dictsort", names)?;
    let index = match by.as_ref().map(|by| by.as_text()) {
        None | Some(Some("key")) => 0,
        Some(Some("value")) => 1,
        _ => return Err(TemplateError::failed("dictsort sorts by \"key\" or by \"value\"")),
    };
    value.defined()?;
    let pairs = items(value, budget)?;
    let keys = Keys::of(Some(Value::Int(index)), case_sensitive, budget)?;
    sorted(&pairs, &keys, Compared::Alone, reverse, budget)
}

fn unique(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let [case_sensitive, attribute] = values.bind("unique", ["case_sensitive", "attribute"])?;
    let mut seen: Vec<Value> = Vec::new();
    let mut kept = Vec::new();
    for (mut key, item) in Keys::of(attribute, case_sensitive, budget)?.keyed(value, budget)? {
        let Some(key) = key.pop() else { continue };
        key.hashable()?;
        budget.read((64 + key.shape().extent).saturating_mul(seen.len()))?;
        if !seen.iter().any(|known| known.equals(&key)) {
            seen.push(key);
            kept.push(item);
        }
    }
    budget.sequence(SequenceKind::Iterator, kept)
}

fn extreme(
    name: &str,
    value: &Value,
    values: Values,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    let [case_sensitive, attribute] = values.bind(name, ["case_sensitive", "attribute"])?;
    let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
    let mut best: Option<(Vec<Value>, Value)> = None;
    for (key, item) in Keys::of(attribute, case_sensitive, budget)?.keyed(value, budget)? {
        let better = match &best {
            Some((known, _)) => compare_keys(&key, known, Compared::Alone, budget)? == wanted,
            None => true,
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(|| Value::undefined("an item of an empty sequence"), |(_, item)| item))
}

fn sum(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let [attribute, start] = values.bind("sum", ["attribute", "start"])?;
    let path = Path::of(&attribute.unwrap_or(Value::None), None, budget)?;
    let mut sum = start.unwrap_or(Value::Int(0));
    for item in &value.iterate(budget)?.items {
        sum = operators::binary(Operator::Add, &sum, &path.find(item, budget)?, budget)?;
    }
    Ok(sum)
}

fn group_by(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let names = ["attribute", "default", "case_sensitive"];
    let [attribute, default, case_sensitive] = values.bind("groupby", names)?;
    let attribute = attribute.ok_or_else(|| TemplateError::failed("groupby needs an attribute"))?;
    let keys = Keys {
        paths: vec![Path::of(&attribute, default, budget)?],
        case_sensitive: arguments::truth(case_sensitive),
    };
    let mut keyed = keys.keyed(value, budget)?;
    sort_by_keys(&mut keyed, Compared::Alone, false, budget)?;
    let same = |(left, _): &(Vec<Value>, Value), (right, _): &(Vec<Value>, Value)| {
        left.iter().zip(right).all(|(left, right)| left.equals(right))
    };
    let mut groups = Vec::new();
    for group in keyed.chunk_by(same) {
        let items: Vec<Value> = group.iter().map(|(_, item)| item.clone()).collect();
        let key = keys.paths[0].find(&items[0], budget)?;
        let pair = vec![key, budget.list(items)?];
        groups.push(budget.sequence(SequenceKind::Tuple, pair)?);
    }
    budget.list(groups)
}

/// How many items a filter is asked to put together.
fn count(of: &str, value: Option<Value>) -> Result<usize, TemplateError> {
    let count = arguments::count(of, Some(value.unwrap_or(Value::None)), 0)?;
    if count == 0 {
        return Err(TemplateError::failed(format!("{of} needs a number above 0")));
    }
    Ok(count)
}

fn batch(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let [length, fill] = values.bind("batch", ["linecount", "fill_with"])?;
    let length = count("batch", length)?;
    let fill = arguments::unless_none(fill);
    let mut batches = Vec::new();
    for items in value.iterate(budget)?.items.chunks(length) {
        let mut items = items.to_vec();
        if let Some(fill) = &fill {
            let missing = length - items.len();
            budget.take(missing.saturating_mul(size_of::<Value>()))?;
            items.extend(std::iter::repeat_n(fill.clone(), missing));
        }
        batches.push(budget.list(items)?);
    }
    budget.sequence(SequenceKind::Iterator, batches)
}

fn slice(value: &Value, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let [slices, fill] = values.bind("slice", ["slices", "fill_with"])?;
    let slices = count("slice", slices)?;
    let fill = arguments::unless_none(fill);
    budget.take(slices.saturating_mul(size_of::<Value>()))?;
    let items = value.iterate(budget)?;
    let (each, extra) = (items.items.len() / slices, items.items.len() % slices);
    let mut rest = &items.items[..];
    let mut parts = Vec::with_capacity(slices);
    for index in 0..slices {
        let (part, behind) = rest.split_at(each + usize::from(index < extra));
        rest = behind;
        let mut part = part.to_vec();
        if let Some(fill) = &fill
            && index >= extra
        {
            part.push(fill.clone());
        }
        parts.push(budget.list(part)?);
    }
    budget.sequence(SequenceKind::Iterator, parts)
}
