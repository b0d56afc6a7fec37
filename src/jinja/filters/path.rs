//! Which part of an item a filter looks at.

use crate::jinja::attributes;
use crate::jinja::budget::Budget;
use crate::jinja::error::TemplateError;
use crate::jinja::value::Value;

/// The way from an item to what a filter looks at: `"function.name"`.
pub(super) struct Path {
    keys: Vec<Value>,
    default: Option<Value>,
}

impl Path {
    pub(super) fn of(
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
                let problem = format!("an attribute cannot be {}", attribute.a_type());
                return Err(TemplateError::failed(problem));
            }
        };
        Ok(Self { keys, default })
    }

    pub(super) fn find(&self, item: &Value, budget: &Budget) -> Result<Value, TemplateError> {
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
