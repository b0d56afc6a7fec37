//! Filters that give numbers.

use super::known::Known;
use crate::jinja::arguments::{self, Values};
use crate::jinja::budget::Budget;
use crate::jinja::error::TemplateError;
use crate::jinja::operators;
use crate::jinja::text::is_space;
use crate::jinja::value::Value;

pub(super) fn filter(
    name: &str,
    value: &Value,
    values: Values,
    budget: &Budget,
) -> Result<Known, TemplateError> {
    Ok(Known::Value(match name {
        "int" => {
            let [default, base] = values.bind(name, ["default", "base"])?;
            value.defined()?;
            let base = arguments::int(name, base, 10)?;
            let number = int(value, base, budget)?;
            number.map_or_else(|| default.unwrap_or(Value::Int(0)), Value::Int)
        }
        "float" => {
            let [default] = values.bind(name, ["default"])?;
            value.defined()?;
            let number = value.as_float().or_else(|| value.as_text().and_then(parsed));
            number.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float)
        }
        "abs" => {
            let [] = values.bind(name, [])?;
            match (value.as_int(), value) {
                (Some(number), _) if number >= 0 => Value::Int(number),
                (Some(_), _) => operators::negative(value)?,
                (None, Value::Float(number)) => Value::Float(number.abs()),
                _ => return Err(wrong(name, value)),
            }
        }
        "round" => {
            let [precision, method] = values.bind(name, ["precision", "method"])?;
            let precision = arguments::int(name, precision, 0)?;
            round(value, precision, method.as_ref())?
        }
        _ => return Ok(Known::Not(values)),
    }))
}

fn wrong(name: &str, value: &Value) -> TemplateError {
    TemplateError::failed(format!("{name} needs a number, not {}", value.a_type()))
}

/// Python's `float` of a text.
fn parsed(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space).replace('_', "");
    text.parse().ok()
}

fn int(value: &Value, base: i64, budget: &Budget) -> Result<Option<i64>, TemplateError> {
    if let Some(number) = value.as_int() {
        return Ok(Some(number));
    }
    let Some(text) = value.as_text() else {
        let number = value.as_float().filter(|number| number.is_finite());
        return Ok(number.map(|number| number.trunc() as i64));
    };
    budget.take(text.len())?;
    let spelled = text.trim_matches(is_space).replace('_', "").to_lowercase();
    let (sign, digits) = match spelled.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", spelled.strip_prefix('+').unwrap_or(&spelled)),
    };
    let prefix = match base {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    let digits = digits.strip_prefix(prefix).unwrap_or(digits);
    let radix = u32::try_from(base).ok().filter(|radix| (2..=36).contains(radix));
    let radix = radix.ok_or_else(|| TemplateError::failed("int knows bases from 2 to 36"))?;
    let plain = digits.starts_with(|c: char| c.is_ascii_alphanumeric());
    let whole = plain.then(|| i64::from_str_radix(&format!("{sign}{digits}"), radix).ok());
    let number = || parsed(text).filter(|number| number.is_finite());
    Ok(whole.flatten().or_else(|| number().map(|number| number.trunc() as i64)))
}

/// The most digits after the point, or before it with a negative number, that rounding works with.
const DIGITS: i64 = 300;

fn round(value: &Value, precision: i64, method: Option<&Value>) -> Result<Value, TemplateError> {
    let number = value.as_float().ok_or_else(|| wrong("round", value))?;
    let precision = precision.clamp(-DIGITS, DIGITS) as i32;
    let scale = 10f64.powi(precision);
    let rounded = match method.and_then(Value::as_text) {
        None | Some("common") => {
            if let (Some(whole), 0..) = (value.as_int(), precision) {
                return Ok(Value::Int(whole));
            }
            match usize::try_from(precision) {
                // The nearest decimal number, which only its digits tell.
                Ok(0) => number.round_ties_even(),
                Ok(digits) => format!("{number:.digits$}").parse().unwrap_or(number),
                Err(_) => {
                    let tens = 10f64.powi(-precision);
                    let rounded = (number / tens).round_ties_even() * tens;
                    return Ok(match value.as_int() {
                        Some(_) => Value::Int(rounded as i64),
                        None => Value::Float(rounded),
                    });
                }
            }
        }
        Some("ceil") => (number * scale).ceil() / scale,
        Some("floor") => (number * scale).floor() / scale,
        Some(other) => {
            return Err(TemplateError::failed(format!("round has no method \"{other}\"")));
        }
    };
    Ok(Value::Float(rounded))
}
