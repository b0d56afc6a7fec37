//! Filters: Jinja's own, and transformers' `tojson`.

mod of_lists;
mod of_numbers;
mod of_texts;

use std::rc::Rc;

use super::arguments::{self, Values};
use super::attributes;
use super::budget::Budget;
use super::error::TemplateError;
use super::interpreter::Interpreter;
use super::value::{SequenceKind, Value};

impl Interpreter {
    /// What a filter makes of a value.
    pub(super) fn filter(
        &mut self,
        name: &str,
        value: Value,
        values: Values,
    ) -> Result<Value, TemplateError> {
        self.budget.read(value.shape().extent.min(1 << 20))?;
        match name {
            // They do not look at what counts as false.
            "map" | "select" | "reject" | "selectattr" | "rejectattr" if !value.truth() => {
                self.budget.sequence(SequenceKind::Iterator, Vec::new())
            }
            "map" => self.map(&value, values),
            "select" | "reject" | "selectattr" | "rejectattr" => self.select(name, &value, values),
            "default" | "d" => {
                let [default, boolean] = values.bind("default", ["default_value", "boolean"])?;
                let boolean = boolean.is_some_and(|boolean| boolean.truth());
                Ok(match value.is_undefined() || (boolean && !value.truth()) {
                    true => default.unwrap_or_else(|| Value::Text("".into())),
                    false => value,
                })
            }
            "length" | "count" => {
                let [] = values.bind(name, [])?;
                Ok(Value::Int(value.length(&self.budget)? as i64))
            }
            _ => {
                let known = of_texts::filter(name, &value, values, &self.budget)?;
                let known = match known {
                    Known::Value(value) => return Ok(value),
                    Known::Not(values) => of_lists::filter(name, &value, values, &self.budget)?,
                };
                let known = match known {
                    Known::Value(value) => return Ok(value),
                    Known::Not(values) => of_numbers::filter(name, &value, values, &self.budget)?,
                };
                match known {
                    Known::Value(value) => Ok(value),
                    Known::Not(_) => {
                        let problem = format!("\"{name}\" is no filter that quantkit knows");
                        Err(TemplateError::failed(problem))
                    }
                }
            }
        }
    }

    /// `map('filter', …)` or `map(attribute='name')`.
    fn map(&mut self, value: &Value, mut values: Values) -> Result<Value, TemplateError> {
        let items = value.iterate(&self.budget)?;
        let mut mapped = Vec::with_capacity(items.items.len());
        if values.positional.is_empty() {
            let [attribute, default] = values.bind("map", ["attribute", "default"])?;
            let attribute = attribute
                .ok_or_else(|| TemplateError::failed("map needs a filter or an attribute"))?;
            let path = Path::of(&attribute, default, &self.budget)?;
            for item in &items.items {
                mapped.push(path.find(item, &self.budget)?);
            }
        } else {
            let name = arguments::text("map", &values.positional.remove(0))?;
            for item in &items.items {
                self.budget.read(values.positional.len() * size_of::<Value>())?;
                let arguments =
                    Values { positional: values.positional.clone(), named: values.named.clone() };
                mapped.push(self.deeper_filter(&name, item.clone(), arguments)?);
            }
        }
        self.budget.sequence(SequenceKind::Iterator, mapped)
    }

    /// A filter that was named by a text may name the next one.
    fn deeper_filter(
        &mut self,
        name: &str,
        value: Value,
        values: Values,
    ) -> Result<Value, TemplateError> {
        self.budget.enter()?;
        let result = self.filter(name, value, values);
        self.budget.leave();
        result
    }

    /// `select('test', …)` and its like: the items, or those with an attribute, for which a test
    /// holds, or does not.
    fn select(
        &mut self,
        of: &str,
        value: &Value,
        mut values: Values,
    ) -> Result<Value, TemplateError> {
        let wanted = of.starts_with("select");
        let path = if of.ends_with("attr") {
            if values.positional.is_empty() {
                return Err(TemplateError::failed(format!("{of} needs an attribute")));
            }
            Some(Path::of(&values.positional.remove(0), None, &self.budget)?)
        } else {
            None
        };
        let test = match values.positional.is_empty() {
            true => None,
            false => Some(arguments::text(of, &values.positional.remove(0))?),
        };
        let mut selected = Vec::new();
        for item in &value.iterate(&self.budget)?.items {
            self.budget.read(values.positional.len() * size_of::<Value>())?;
            let subject = match &path {
                Some(path) => path.find(item, &self.budget)?,
                None => item.clone(),
            };
            let holds = match &test {
                Some(test) => {
                    let positional = values.positional.clone();
                    let named = values.named.clone();
                    self.test(test, &subject, Values { positional, named })?
                }
                None => subject.truth(),
            };
            if holds == wanted {
                selected.push(item.clone());
            }
        }
        self.budget.sequence(SequenceKind::Iterator, selected)
    }
}

/// What a filter gives, or the arguments back where the name is another's.
enum Known {
    Value(Value),
    Not(Values),
}

/// The way from an item to what a filter looks at: `"function.name"`.
struct Path {
    keys: Vec<Value>,
    default: Option<Value>,
}

impl Path {
    fn of(
        attribute: &Value,
        default: Option<Value>,
        budget: &Budget,
    ) -> Result<Self, TemplateError> {
        budget.take(attribute.shape().extent.saturating_mul(2 * size_of::<Value>()))?;
        let key = |part: &str| match part.parse::<u32>() {
            Ok(index) => Value::Int(index.into()),
            Err(_) => Value::Text(part.into()),
        };
        let keys = match attribute {
            Value::None => Vec::new(),
            Value::Text(path) | Value::Markup(path) => path.split('.').map(key).collect(),
            Value::Int(_) => vec![attribute.clone()],
            _ => {
                let problem = format!("an attribute is no {}", attribute.type_name());
                return Err(TemplateError::failed(problem));
            }
        };
        Ok(Self { keys, default })
    }

    fn find(&self, item: &Value, budget: &Budget) -> Result<Value, TemplateError> {
        let mut value = item.clone();
        for key in &self.keys {
            value = attributes::item(&value, key, budget)?;
            if let (true, Some(default)) = (value.is_undefined(), &self.default) {
                value = default.clone();
            }
        }
        Ok(value)
    }
}

/// A text in lower case, for comparisons that ignore case; other values as they are.
fn without_case(value: Value, budget: &Budget) -> Result<Value, TemplateError> {
    match &value {
        Value::Text(text) | Value::Markup(text) => {
            budget.take(3 * text.len())?;
            Ok(Value::Text(Rc::from(text.to_lowercase())))
        }
        _ => Ok(value),
    }
}
