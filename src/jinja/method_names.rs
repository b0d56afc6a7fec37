//! Which methods the values have.

use super::value::{SequenceKind, Value};

const OF_TEXTS: [&str; 46] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const OF_LISTS: [&str; 3] = ["copy", "count", "index"];
const OF_DICTS: [&str; 5] = ["copy", "get", "items", "keys", "values"];
const OF_LOOPS: [&str; 2] = ["changed", "cycle"];
/// Methods that change what they belong to: the sandbox of transformers refuses them.
const CHANGING: [&str; 11] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
];

/// Whether a value has a method of this name.
pub(super) fn exists(value: &Value, name: &str) -> bool {
    match value {
        Value::Text(_) | Value::Markup(_) => OF_TEXTS.contains(&name),
        Value::Dict(_) => OF_DICTS.contains(&name),
        Value::Loop(_) => OF_LOOPS.contains(&name),
        _ => match value.sequence_kind() {
            Some(SequenceKind::List) => OF_LISTS.contains(&name),
            Some(SequenceKind::Tuple) => name != "copy" && OF_LISTS.contains(&name),
            _ => false,
        },
    }
}

/// Whether a value has a method of this name that would change it.
pub(super) fn changes(value: &Value, name: &str) -> bool {
    let can_change =
        matches!(value, Value::Dict(_)) || value.sequence_kind() == Some(SequenceKind::List);
    can_change && CHANGING.contains(&name)
}
