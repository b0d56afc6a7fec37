//! Python's methods of texts, lists and dictionaries.

use super::arguments::{self, Values};
use super::budget::Budget;
use super::error::TemplateError;
use super::numbers::{Layout, padded};
use super::str_format;
use super::text::{first_characters, is_space, representation};
use super::value::{Dict, LoopState, Sequence, SequenceKind, Value};

/// Calls a method.
pub(super) fn call(
    value: &Value,
    name: &str,
    values: Values,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    match value {
        Value::Text(text) | Value::Markup(text) => of_text(text, name, values, budget),
        Value::Dict(dict) => of_dict(value, dict, name, values, budget),
        Value::Sequence(sequence) => of_list(value, sequence, name, values, budget),
        Value::Loop(state) => of_loop(state, name, values, budget),
        _ => Err(unknown(value, name)),
    }
}

fn unknown(value: &Value, name: &str) -> TemplateError {
    TemplateError::failed(format!("{name} of {} cannot be called", value.a_type()))
}

fn of_dict(
    value: &Value,
    dict: &Dict,
    name: &str,
    values: Values,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    if name == "get" {
        let [key, default] = values.bind("get", ["key", "default"])?;
        let key = key.ok_or_else(|| TemplateError::failed("get needs a key"))?;
        key.hashable()?;
        budget.read(dict.search_cost(&key))?;
        return Ok(dict.get(&key).cloned().or(default).unwrap_or(Value::None));
    }
    let [] = values.bind(name, [])?;
    let entries = dict.entries.iter();
    let (kind, items) = match name {
        "copy" => return Ok(value.clone()),
        "keys" => ("dict_keys", entries.map(|(key, _)| key.clone()).collect()),
        "values" => ("dict_values", entries.map(|(_, value)| value.clone()).collect()),
        "items" => ("dict_items", budget.pairs(dict)?),
        _ => return Err(unknown(value, name)),
    };
    budget.sequence(SequenceKind::View(kind), items)
}

fn of_list(
    value: &Value,
    list: &Sequence,
    name: &str,
    values: Values,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    budget.read(value.shape().extent)?;
    match name {
        "copy" => Ok(value.clone()),
        "count" => {
            let [wanted] = values.bind_all("count", ["value"])?;
            let count = list.items.iter().filter(|item| item.equals(&wanted)).count();
            Ok(Value::Int(count as i64))
        }
        "index" => {
            let [wanted] = values.bind_all("index", ["value"])?;
            let index = list.items.iter().position(|item| item.equals(&wanted));
            let missing = || TemplateError::failed("index cannot find the value in the list");
            index.map(|index| Value::Int(index as i64)).ok_or_else(missing)
        }
        _ => Err(unknown(value, name)),
    }
}

fn of_loop(
    state: &LoopState,
    name: &str,
    values: Values,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    if name == "cycle" {
        let count = values.positional.len();
        let index = state.index.get().checked_rem(count);
        return index
            .map(|index| values.positional[index].clone())
            .ok_or_else(|| TemplateError::failed("cycle needs at least one argument"));
    }
    let asked = budget.sequence(SequenceKind::Tuple, values.positional)?;
    let asked = Some(representation(&asked, budget)?);
    Ok(Value::Bool(state.last_asked.replace(asked.clone()) != asked))
}

fn of_text(
    text: &str,
    name: &str,
    values: Values,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    budget.read(text.len())?;
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = values.bind(name, ["chars"])?;
            budget.text(stripped(text, name, characters.as_ref())?)
        }
        "split" | "rsplit" => split(text, name, values, budget),
        "splitlines" => split_lines(text, values, budget),
        "partition" | "rpartition" => partition(text, name, values, budget),
        "startswith" | "endswith" => begins_or_ends(text, name, values),
        "removeprefix" | "removesuffix" => {
            let [part] = values.bind_all(name, ["part"])?;
            let part = arguments::text(name, &part)?;
            let kept = match name {
                "removeprefix" => text.strip_prefix(&*part),
                _ => text.strip_suffix(&*part),
            };
            budget.text(kept.unwrap_or(text))
        }
        "replace" => {
            let [old, new, count] = values.bind("replace", ["old", "new", "count"])?;
            let missing = || TemplateError::failed("replace needs an old and a new string");
            let old = arguments::text(name, &old.ok_or_else(missing)?)?;
            let new = arguments::text(name, &new.ok_or_else(missing)?)?;
            let count = arguments::int(name, count, -1)?;
            budget.text(replaced(text, &old, &new, count, budget)?)
        }
        "join" => {
            let [items] = values.bind_all("join", ["iterable"])?;
            let mut joined = String::new();
            for (index, item) in items.iterate(budget)?.items.iter().enumerate() {
                let item = arguments::text("join", item)?;
                budget.take(text.len() + item.len())?;
                joined.push_str(if index == 0 { "" } else { text });
                joined.push_str(&item);
            }
            budget.text(joined)
        }
        "format" => budget.text(str_format::format(text, &values, budget)?),
        "count" | "find" | "rfind" | "index" | "rindex" => search(text, name, values),
        "center" | "ljust" | "rjust" | "zfill" => justified(text, name, values, budget),
        "encode" | "translate" | "format_map" | "expandtabs" => Err(TemplateError::failed(
            format!("quantkit does not support the method {name} of strings"),
        )),
        _ => {
            let [] = values.bind(name, [])?;
            in_case(text, name, budget)
        }
    }
}

/// Methods without arguments: cases, and questions.
fn in_case(text: &str, name: &str, budget: &Budget) -> Result<Value, TemplateError> {
    budget.take(3 * text.len())?;
    let all = |holds: fn(char) -> bool| Value::Bool(!text.is_empty() && text.chars().all(holds));
    let cased = text.chars().any(|c| c.is_uppercase() || c.is_lowercase());
    Ok(match name {
        "upper" => Value::Text(text.to_uppercase().into()),
        "lower" | "casefold" => Value::Text(text.to_lowercase().into()),
        "swapcase" => Value::Text(case_swapped(text).into()),
        "capitalize" => Value::Text(capitalized(text).into()),
        "title" => Value::Text(titled(text, char::is_alphabetic).into()),
        "isascii" => Value::Bool(text.is_ascii()),
        "isspace" => all(is_space),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isprintable" => Value::Bool(!text.chars().any(char::is_control)),
        "islower" => Value::Bool(cased && !text.chars().any(char::is_uppercase)),
        "isupper" => Value::Bool(cased && !text.chars().any(char::is_lowercase)),
        "istitle" => Value::Bool(cased && titled(text, char::is_alphabetic) == text),
        "isidentifier" => {
            let first = text.chars().next().is_some_and(|c| c == '_' || c.is_alphabetic());
            Value::Bool(first && text.chars().all(|c| c == '_' || c.is_alphanumeric()))
        }
        _ => return Err(TemplateError::failed(format!("a string has no method {name}"))),
    })
}

/// The first character in upper case, the others in lower case.
pub(super) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + &characters.as_str().to_lowercase()
}

/// Lower case where there was upper case, and the other way round.
fn case_swapped(text: &str) -> String {
    let mut swapped = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_uppercase() {
            true => swapped.extend(character.to_lowercase()),
            false => swapped.extend(character.to_uppercase()),
        }
    }
    swapped
}

/// Each word's first letter in upper case, the others in lower case.
pub(super) fn titled(text: &str, is_of_word: impl Fn(char) -> bool) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut in_word = false;
    for character in text.chars() {
        match in_word {
            true => titled.extend(character.to_lowercase()),
            false => titled.extend(character.to_uppercase()),
        }
        in_word = is_of_word(character);
    }
    titled
}

/// A text without white space, or without some characters, at its ends.
pub(super) fn stripped<'a>(
    text: &'a str,
    name: &str,
    characters: Option<&Value>,
) -> Result<&'a str, TemplateError> {
    let characters = match characters {
        None | Some(Value::None) => None,
        Some(characters) => Some(arguments::text(name, characters)?),
    };
    let strips = |c: char| characters.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
    Ok(match name {
        "lstrip" => text.trim_start_matches(strips),
        "rstrip" => text.trim_end_matches(strips),
        _ => text.trim_matches(strips),
    })
}

/// `str.replace`; a negative count replaces all.
pub(super) fn replaced(
    text: &str,
    old: &str,
    new: &str,
    count: i64,
    budget: &Budget,
) -> Result<String, TemplateError> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let found = text.matches(old).take(count).count();
    budget.take(text.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, count))
}

/// Parts of a text as values.
fn texts<'a>(
    parts: impl Iterator<Item = &'a str>,
    budget: &Budget,
) -> Result<Vec<Value>, TemplateError> {
    parts.map(|part| budget.text(part)).collect()
}

fn split(text: &str, name: &str, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let [separator, most] = values.bind(name, ["sep", "maxsplit"])?;
    let most = arguments::int(name, most, -1)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
    let from_end = name == "rsplit";
    let mut parts = match separator {
        None | Some(Value::None) => {
            // There is at most a word for every two bytes.
            budget.take(text.len() / 2 * size_of::<&str>())?;
            texts(split_at_spaces(text, most, from_end).into_iter(), budget)?
        }
        Some(separator) => {
            let separator = arguments::text(name, &separator)?;
            if separator.is_empty() {
                return Err(TemplateError::failed(format!(
                    "{name} needs a separator that is not empty"
                )));
            }
            match from_end {
                true => texts(text.rsplitn(most + 1, &*separator), budget)?,
                false => texts(text.splitn(most + 1, &*separator), budget)?,
            }
        }
    };
    if from_end {
        parts.reverse();
    }
    budget.list(parts)
}

/// The words of a text; past `most` of them the rest stays whole. From the end, they come in
/// reverse.
fn split_at_spaces(text: &str, most: usize, from_end: bool) -> Vec<&str> {
    let trim = |text| {
        if from_end {
            str::trim_end_matches(text, is_space)
        } else {
            str::trim_start_matches(text, is_space)
        }
    };
    let mut parts = Vec::new();
    let mut rest = trim(text);
    while !rest.is_empty() {
        let cut = if from_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut.filter(|_| parts.len() < most) else {
            parts.push(rest);
            break;
        };
        let (before, behind) = rest.split_at(cut);
        let space = behind.chars().next().map_or(0, char::len_utf8);
        match from_end {
            true => {
                parts.push(&behind[space..]);
                rest = trim(before);
            }
            false => {
                parts.push(before);
                rest = trim(&behind[space..]);
            }
        }
    }
    parts
}

/// What Python takes for the end of a line.
fn ends_line(character: char) -> bool {
    matches!(
        character,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

fn split_lines(text: &str, values: Values, budget: &Budget) -> Result<Value, TemplateError> {
    let [keep_ends] = values.bind("splitlines", ["keepends"])?;
    let keep_ends = arguments::truth(keep_ends);
    budget.take(text.len() * size_of::<&str>())?;
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(ends_line) {
        let length = match rest[end..].starts_with("\r\n") {
            true => 2,
            false => rest[end..].chars().next().map_or(1, char::len_utf8),
        };
        lines.push(&rest[..if keep_ends { end + length } else { end }]);
        rest = &rest[end + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    budget.list(texts(lines.into_iter(), budget)?)
}

fn partition(
    text: &str,
    name: &str,
    values: Values,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    let [separator] = values.bind_all(name, ["sep"])?;
    let separator = arguments::text(name, &separator)?;
    if separator.is_empty() {
        return Err(TemplateError::failed(format!("{name} needs a separator that is not empty")));
    }
    let parts = match name {
        "partition" => match text.split_once(&*separator) {
            Some((before, behind)) => [before, &separator, behind],
            None => [text, "", ""],
        },
        _ => match text.rsplit_once(&*separator) {
            Some((before, behind)) => [before, &separator, behind],
            None => ["", "", text],
        },
    };
    budget.sequence(SequenceKind::Tuple, texts(parts.into_iter(), budget)?)
}

fn begins_or_ends(text: &str, name: &str, values: Values) -> Result<Value, TemplateError> {
    let [part, start, end] = values.bind(name, ["part", "start", "end"])?;
    let part =
        part.ok_or_else(|| TemplateError::failed(format!("{name} needs a string to look for")))?;
    let text = between(name, text, start, end)?;
    let holds = |part: &Value| -> Result<bool, TemplateError> {
        let part = arguments::text(name, part)?;
        let Some(text) = text else { return Ok(false) };
        Ok(match name {
            "startswith" => text.starts_with(&*part),
            _ => text.ends_with(&*part),
        })
    };
    let any = match &part {
        Value::Sequence(parts) if parts.kind == SequenceKind::Tuple => {
            let mut any = false;
            for part in &parts.items {
                any |= holds(part)?;
            }
            any
        }
        part => holds(part)?,
    };
    Ok(Value::Bool(any))
}

/// A part of a text, by the places of its characters; `None` where it begins past its end.
fn between<'a>(
    name: &str,
    text: &'a str,
    start: Option<Value>,
    end: Option<Value>,
) -> Result<Option<&'a str>, TemplateError> {
    if start.is_none() && end.is_none() {
        return Ok(Some(text));
    }
    let length = text.chars().count() as i64;
    let place = |bound: Option<Value>, default: i64| -> Result<i64, TemplateError> {
        let bound = arguments::int(name, arguments::unless_none(bound), default)?;
        Ok(if bound < 0 { bound.saturating_add(length).max(0) } else { bound })
    };
    let (start, end) = (place(start, 0)?, place(end, length)?.min(length));
    if start > end {
        return Ok(None);
    }
    let offset = |place: i64| first_characters(text, place as usize).len();
    Ok(Some(&text[offset(start)..offset(end)]))
}

fn search(text: &str, name: &str, values: Values) -> Result<Value, TemplateError> {
    let [part, start, end] = values.bind(name, ["part", "start", "end"])?;
    let part =
        part.ok_or_else(|| TemplateError::failed(format!("{name} needs a string to look for")))?;
    let part = arguments::text(name, &part)?;
    let searched = between(name, text, start, end)?;
    if name == "count" {
        let count = match (searched, part.is_empty()) {
            (None, _) => 0,
            (Some(text), true) => text.chars().count() + 1,
            (Some(text), false) => text.matches(&*part).count(),
        };
        return Ok(Value::Int(count as i64));
    }
    let found = searched.and_then(|searched| {
        let offset = searched.as_ptr() as usize - text.as_ptr() as usize;
        let found =
            if name.starts_with('r') { searched.rfind(&*part) } else { searched.find(&*part) };
        found.map(|found| text[..offset + found].chars().count() as i64)
    });
    match found {
        None if name.ends_with("index") => {
            Err(TemplateError::failed(format!("{name} cannot find the string")))
        }
        found => Ok(Value::Int(found.unwrap_or(-1))),
    }
}

fn justified(
    text: &str,
    name: &str,
    values: Values,
    budget: &Budget,
) -> Result<Value, TemplateError> {
    let [width, fill] = values.bind(name, ["width", "fillchar"])?;
    let width = width.ok_or_else(|| TemplateError::failed(format!("{name} needs a width")))?;
    let width = arguments::count(name, Some(width), 0)?;
    if name == "zfill" {
        let layout = Layout { width, fill: Some('0'), align: Some('='), ..Layout::default() };
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let sign = &text[..text.len() - digits.len()];
        return budget.text(padded(sign, digits, &layout, '=', budget)?);
    }
    let fill = match fill {
        None => ' ',
        Some(fill) => {
            let fill = arguments::text(name, &fill)?;
            let mut characters = fill.chars();
            match (characters.next(), characters.next()) {
                (Some(only), None) => only,
                _ => {
                    return Err(TemplateError::failed(format!(
                        "{name} needs a single character to fill with"
                    )));
                }
            }
        }
    };
    let align = match name {
        "ljust" => '<',
        "rjust" => '>',
        _ => '^',
    };
    let mut layout = Layout { width, fill: Some(fill), align: Some(align), ..Layout::default() };
    let length = text.chars().count();
    // Python's center puts the odd fill to the left where the width is odd.
    if align == '^' && width > length && (width - length) % 2 == 1 && width % 2 == 1 {
        layout.width -= 1;
        budget.take(fill.len_utf8())?;
        return budget.text(fill.to_string() + &padded("", text, &layout, '^', budget)?);
    }
    budget.text(padded("", text, &layout, '<', budget)?)
}
