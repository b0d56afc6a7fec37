//! Filters: Jinja's own, and transformers' `tojson`.

mod known;
mod of_lists;
mod of_numbers;
mod of_texts;
mod path;

use known::Known;
use path::Path;

use super::arguments::{self, Values};
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
                let boolean = arguments::truth(boolean);
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
                let mut values = values;
                for group in [of_texts::filter, of_lists::filter, of_numbers::filter] {
                    match group(name, &value, values, &self.budget)? {
                        Known::Value(value) => return Ok(value),
                        Known::Not(unused) => values = unused,
                    }
                }
                let problem = format!("\"{name}\" is no filter that quantkit knows");
                Err(TemplateError::failed(problem))
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
