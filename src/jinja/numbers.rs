//! Numbers as text, and texts in fields of some width.

use super::budget::Budget;
use super::error::TemplateError;

/// The most digits after the point that can be asked for.
const DIGITS: usize = 1000;

/// How a number, or a text, is written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    /// The fewest characters.
    pub width: usize,
    pub fill: Option<char>,
    /// `<`, `>`, `^`, or `=` for a number's fill between sign and digits.
    pub align: Option<char>,
    /// What stands before a number that is not negative.
    pub plus: Option<char>,
    /// Digits after the point, or characters of a text.
    pub precision: Option<usize>,
    /// Whether a number's base is written before it.
    pub alternate: bool,
    /// What separates thousands, if anything.
    pub group: Option<char>,
}

/// The digits of a whole number in a base: `d`, `x`, `X`, `o` or `b`.
pub(super) fn whole(number: i64, kind: char, layout: &Layout) -> (String, String) {
    let magnitude = number.unsigned_abs();
    let (prefix, digits) = match kind {
        'x' => ("0x", format!("{magnitude:x}")),
        'X' => ("0X", format!("{magnitude:X}")),
        'o' => ("0o", format!("{magnitude:o}")),
        'b' => ("0b", format!("{magnitude:b}")),
        _ => ("", magnitude.to_string()),
    };
    let prefix = if layout.alternate { prefix } else { "" };
    (sign(number < 0, layout) + prefix, grouped(&digits, layout.group))
}

/// A number with a point: `f`, `e` or `g`, or the same in capitals.
pub(super) fn real(
    number: f64,
    kind: char,
    layout: &Layout,
) -> Result<(String, String), TemplateError> {
    let precision = layout.precision.unwrap_or(6);
    if precision > DIGITS {
        return Err(TemplateError::limit(format!("a number has at most {DIGITS} digits")));
    }
    let magnitude = number.abs();
    let digits = match kind.to_ascii_lowercase() {
        _ if number.is_nan() => "nan".to_string(),
        _ if number.is_infinite() => "inf".to_string(),
        'e' => exponential(magnitude, precision),
        'g' => general(magnitude, precision.max(1), layout.alternate),
        '%' => format!("{:.precision$}%", magnitude * 100.0),
        _ => format!("{magnitude:.precision$}"),
    };
    let digits = if kind.is_ascii_uppercase() { digits.to_uppercase() } else { digits };
    let negative = number.is_sign_negative() && !number.is_nan();
    Ok((sign(negative, layout), grouped(&digits, layout.group)))
}

fn sign(negative: bool, layout: &Layout) -> String {
    if negative { "-".to_string() } else { layout.plus.map(String::from).unwrap_or_default() }
}

fn grouped(digits: &str, group: Option<char>) -> String {
    let Some(group) = group else { return digits.to_string() };
    let whole = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let mut text = String::new();
    for (index, digit) in digits[..whole].chars().enumerate() {
        if index > 0 && (whole - index).is_multiple_of(3) {
            text.push(group);
        }
        text.push(digit);
    }
    text + &digits[whole..]
}

/// A float as Python writes it: the shortest digits that give it back.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_string();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    if number == 0.0 || (1e-4..1e16).contains(&number.abs()) {
        return format!("{number:?}");
    }
    with_signed_exponent(&format!("{number:e}"))
}

fn exponential(magnitude: f64, precision: usize) -> String {
    with_signed_exponent(&format!("{magnitude:.precision$e}"))
}

/// A number as Rust writes it, `1e5`, with Python's exponent: `1e+05`.
fn with_signed_exponent(text: &str) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}e-{exponent:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}

fn general(magnitude: f64, precision: usize, alternate: bool) -> String {
    let scientific = format!("{magnitude:.*e}", precision - 1);
    let exponent = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok());
    let exponent: i64 = exponent.unwrap_or(0);
    let trimmed = |digits: &str| match digits.contains('.') && !alternate {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => digits.to_string(),
    };
    if (-4..precision as i64).contains(&exponent) {
        let decimals = usize::try_from(precision as i64 - 1 - exponent).unwrap_or(0);
        return trimmed(&format!("{magnitude:.decimals$}"));
    }
    let text = exponential(magnitude, precision - 1);
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
    format!("{}e{exponent}", trimmed(digits))
}

/// A text, behind a number's sign, in its field.
pub(super) fn padded(
    sign: &str,
    content: &str,
    layout: &Layout,
    default_align: char,
    budget: &Budget,
) -> Result<String, TemplateError> {
    let length = sign.chars().count() + content.chars().count();
    let missing = layout.width.saturating_sub(length);
    let fill = layout.fill.unwrap_or(' ');
    budget.take(missing.saturating_mul(fill.len_utf8()).saturating_add(content.len()))?;
    let fills = |count: usize| fill.to_string().repeat(count);
    Ok(match layout.align.unwrap_or(default_align) {
        '<' => format!("{sign}{content}{}", fills(missing)),
        '^' => {
            format!("{}{sign}{content}{}", fills(missing / 2), fills(missing - missing / 2))
        }
        '=' => format!("{sign}{}{content}", fills(missing)),
        _ => format!("{}{sign}{content}", fills(missing)),
    })
}
