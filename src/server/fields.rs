//! The fields of a JSON document, each read by its name, type and range. `null` is as good as absent.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::errors::ApiError;

/// A request's document.
#[derive(Debug, Clone, Default)]
pub struct Fields(Map<String, Value>);

impl From<Map<String, Value>> for Fields {
    fn from(fields: Map<String, Value>) -> Self {
        Self(fields)
    }
}

impl From<Fields> for Map<String, Value> {
    fn from(fields: Fields) -> Self {
        fields.0
    }
}

impl Fields {
    /// Reads a document.
    ///
    /// # Errors
    /// 400 for what is no JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(other) => Err(ApiError::bad_request(format!(
                "expected a JSON object, found {}",
                described(&other)
            ))),
            Err(error) => Err(ApiError::bad_request(format!("the body is not JSON: {error}"))),
        }
    }

    /// The field's value, unless it is `null`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Takes the field's value out, unless it is `null`.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A text.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        self.read(name, "a text", Value::as_str)
    }

    /// `true` or `false`; absent, it is `false`.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        self.flag_or(name, false)
    }

    /// `true` or `false`; absent, it is `default`.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn flag_or(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        Ok(self.read(name, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A whole number in a range.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let (least, most) = (*range.start(), *range.end());
        let expected = match most {
            i64::MAX => format!("a whole number from {least}"),
            _ => format!("a whole number from {least} to {most}"),
        };
        let whole = |value: &Value| {
            // 3.0 is a whole number too.
            let float = || value.as_f64().filter(|number| number.fract() == 0.0);
            let exact = |number: &f64| number.abs() < 9e15;
            value.as_i64().or_else(|| float().filter(exact).map(|number| number as i64))
        };
        self.read(name, &expected, |value| whole(value).filter(|number| range.contains(number)))
    }

    /// A count: a whole number from `least` on. One that no memory can hold is as good as the largest.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn count(&self, name: &str, least: usize) -> Result<Option<usize>, ApiError> {
        let least = i64::try_from(least).unwrap_or(i64::MAX);
        let number = self.integer(name, least..=i64::MAX)?;
        Ok(number.map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
    }

    /// A number in a range.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let number = |value: &Value| value.as_f64().filter(|number| range.contains(number));
        Ok(self.read(name, &expected, number)?.map(|number| number as f32))
    }

    /// A list of texts, or one text.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, ApiError> {
        let texts = self.read(name, "a text or a list of texts", |value| match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(list) => {
                list.iter().map(|text| text.as_str().map(str::to_string)).collect()
            }
            _ => None,
        })?;
        Ok(texts.unwrap_or_default())
    }

    /// A document within the document.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn object(&self, name: &str) -> Result<Option<Self>, ApiError> {
        let object = self.read(name, "an object", Value::as_object)?;
        Ok(object.map(|fields| Self(fields.clone())))
    }

    /// Refuses fields that would change the answer and that nobody honours. Each comes with the values
    /// that change nothing.
    ///
    /// # Errors
    /// 400 for the first one with another value.
    pub fn refuse(&self, unsupported: &[(&str, &[Value])]) -> Result<(), ApiError> {
        for (name, neutral) in unsupported {
            let Some(value) = self.get(name) else { continue };
            let is_empty = value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(Map::is_empty)
                || value.as_str().is_some_and(str::is_empty);
            let is_same = |other: &Value| {
                other == value || other.is_number() && other.as_f64() == value.as_f64()
            };
            if !is_empty && !neutral.iter().any(is_same) {
                let problem = "quantkit does not support it: leave it out";
                return Err(ApiError::field(name, problem));
            }
        }
        Ok(())
    }

    fn read<'a, T>(
        &'a self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(wrong(name, expected, value)),
        }
    }
}

/// The error of a field that holds something else than it should.
pub fn wrong(name: &str, expected: &str, found: &Value) -> ApiError {
    ApiError::field(name, format!("expected {expected}, found {}", described(found)))
}

/// A value in few words.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.len() <= 40 => format!("the text {text:?}"),
        Value::String(_) => "a text".to_string(),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: &Value) -> Fields {
        Fields::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let fields = fields(&json!({
            "a": -1, "b": 1e300, "c": "x", "d": 3.0, "e": null, "f": 2.5, "g": [1], "h": true,
            "i": 9_223_372_036_854_775_807_i64, "j": 18_446_744_073_709_551_615_u64,
        }));
        let message = |result: Result<Option<usize>, ApiError>| result.unwrap_err().message;
        assert_eq!(message(fields.count("a", 0)), "a: expected a whole number from 0, found -1");
        assert!(message(fields.count("b", 0)).starts_with("b: expected a whole number"));
        assert!(message(fields.count("c", 0)).contains("the text \"x\""));
        assert!(message(fields.count("f", 0)).contains("found 2.5"));
        assert!(message(fields.count("g", 0)).contains("a list of 1"));
        assert!(message(fields.count("j", 0)).starts_with("j: expected"));
        assert_eq!(fields.count("d", 0), Ok(Some(3)));
        assert_eq!(fields.count("e", 0), Ok(None));
        assert!(fields.count("i", 0).unwrap().unwrap() > 1 << 40);
        assert!(fields.number("b", 0.0..=2.0).is_err());
        assert!(fields.number("h", 0.0..=2.0).is_err());
        assert!(fields.flag("a").is_err() && fields.flag("h") == Ok(true));
        assert!(fields.texts("g").is_err());
    }

    #[test]
    fn what_changes_nothing_is_let_through() {
        let of = |value: Value| {
            let refused: &[(&str, &[Value])] = &[("best_of", &[json!(1)])];
            fields(&json!({ "best_of": value })).refuse(refused)
        };
        for neutral in [json!(null), json!(1), json!(1.0), json!([]), json!("")] {
            assert_eq!(of(neutral), Ok(()));
        }
        assert_eq!(of(json!(2)).unwrap_err().field.as_deref(), Some("best_of"));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in ["", "{", "[1]", "nul", "\u{0}", "{\"a\":NaN}"] {
            assert_eq!(Fields::parse(body.as_bytes()).unwrap_err().status.as_u16(), 400, "{body}");
        }
        assert!(Fields::parse(b"{\"a\": \"\xff\"}").is_err());
    }
}
