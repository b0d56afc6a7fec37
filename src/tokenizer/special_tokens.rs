//! Which tokens have a role, and which of them are added to a text: tokenizer_config.json and the
//! post-processor of tokenizer.json → `tokenizer.ggml.*_token_id` and `add_*_token`, as llama.cpp's
//! converter writes them.

use serde_json::Value as Json;

use super::files::TokenizerFiles;
use crate::gguf::{Metadata, Value};

/// Roles in tokenizer_config.json and their names in GGUF, in the order of llama.cpp's converter.
/// `cls` has none.
const ROLES: [(&str, Option<&str>); 9] = [
    ("bos", Some("bos")),
    ("eos", Some("eos")),
    ("unk", Some("unknown")),
    ("sep", Some("seperator")),
    ("pad", Some("padding")),
    ("cls", None),
    ("mask", Some("mask")),
    // Only where a post-processor ends texts with another token than `eos`.
    ("eot", Some("eot")),
    ("eom", Some("eom")),
];

/// The texts of the roles, and the roles that are added to a text.
#[derive(Default)]
struct SpecialTokens<'a> {
    texts: Vec<(&'static str, &'a str)>,
    added: Vec<(&'static str, bool)>,
}

/// Appends ids from tokenizer_config.json first, then those that only config.json has; then which
/// of them are added to a text.
pub(super) fn append(metadata: &mut Metadata, files: &TokenizerFiles<'_>, vocab_size: usize) {
    let special = SpecialTokens::of(files);
    let from_tokenizer = |role: &str| {
        let text = special.text(role)?;
        let added = &files.json.as_ref()?.added_tokens;
        Some(u64::from(added.iter().find(|token| token.content == text)?.id))
    };
    let from_config = |role: &str| {
        let key = format!("{role}_token_id");
        let of_text = || files.model_config.get("text_config")?.get(&key);
        files.model_config.get(&key).filter(|id| !id.is_null()).or_else(of_text)?.as_u64()
    };
    for source in [&from_tokenizer as &dyn Fn(&str) -> Option<u64>, &from_config] {
        for (role, name) in ROLES {
            let id = source(role).filter(|&id| id < vocab_size as u64);
            if let (Some(name), Some(id)) = (name, id) {
                let key = format!("tokenizer.ggml.{name}_token_id");
                if metadata.get(&key).is_none() {
                    metadata.set(key, Value::U32(id as u32));
                }
            }
        }
    }
    for (role, add) in special.added {
        metadata.set(format!("tokenizer.ggml.add_{role}_token"), Value::Bool(add));
    }
}

impl<'a> SpecialTokens<'a> {
    fn of(files: &'a TokenizerFiles<'_>) -> Self {
        let mut special = Self::default();
        for (role, _) in &ROLES[..7] {
            special.texts.extend(files.special_text(role).map(|text| (*role, text)));
        }
        if let Some(json) = &files.json {
            special.stand_in("bos", "cls");
            special.stand_in("eos", "sep");
            special.read_post_processor(&json.post_processor);
        }
        for role in ["bos", "eos", "sep"] {
            let key = format!("add_{role}_token");
            if let Some(add) = files.config_field(&key).and_then(Json::as_bool) {
                special.add_if_unknown(role, add);
            }
        }
        special
    }

    fn text(&self, role: &str) -> Option<&'a str> {
        self.texts.iter().find(|(known, _)| *known == role).map(|(_, text)| *text)
    }

    fn set_text(&mut self, role: &'static str, text: &'a str) {
        match self.texts.iter_mut().find(|(known, _)| *known == role) {
            Some((_, old)) => *old = text,
            None => self.texts.push((role, text)),
        }
    }

    /// Gives `role` the token of `other` where it has none.
    fn stand_in(&mut self, role: &'static str, other: &str) {
        if let (None, Some(text)) = (self.text(role), self.text(other)) {
            self.set_text(role, text);
        }
    }

    fn add(&mut self, role: &'static str, add: bool) {
        match self.added.iter_mut().find(|(known, _)| *known == role) {
            Some((_, old)) => *old = add,
            None => self.added.push((role, add)),
        }
    }

    fn add_if_unknown(&mut self, role: &'static str, add: bool) {
        if !self.added.iter().any(|(known, _)| *known == role) {
            self.added.push((role, add));
        }
    }

    fn read_post_processor(&mut self, post_processor: &'a Json) {
        let processors = match post_processor.get("processors").and_then(Json::as_array) {
            Some(several) => several.iter().collect(),
            None => vec![post_processor],
        };
        for processor in processors {
            match processor.get("type").and_then(Json::as_str) {
                Some("ByteLevel") => {
                    self.add_if_unknown("bos", false);
                    self.add_if_unknown("eos", false);
                }
                Some("RobertaProcessing") => {
                    for role in ["bos", "eos", "sep"] {
                        self.add(role, true);
                    }
                }
                Some("TemplateProcessing") => self.read_template(processor),
                _ => {}
            }
        }
    }

    /// Reads `<s> $A </s>` and `<s> $A </s> $B </s>` templates.
    fn read_template(&mut self, processor: &'a Json) {
        let parts = |key: &str| processor.get(key).and_then(Json::as_array).map_or(&[][..], |v| v);
        let (single, pair) = (parts("single"), parts("pair"));
        let (first, last) = match single {
            [first, .., last] => (special_of(first), special_of(last)),
            _ => (None, None),
        };
        if let Some(first) = first {
            if self.text("bos").is_none() {
                self.set_text("bos", first);
            }
            self.add("bos", [self.text("bos"), self.text("cls")].contains(&Some(first)));
        }
        if let Some(last) = last {
            self.end_with(last);
            self.add("eos", true);
        }
        self.read_pair(pair, first, last);
    }

    /// Texts end with `last`. If that is not `eos`, it becomes so, and the old one ends a turn.
    fn end_with(&mut self, last: &'a str) {
        match self.text("eos") {
            Some(eos) if eos != last => {
                let ends_turn = if self.text("eot").is_none() { "eot" } else { "eom" };
                if self.text(ends_turn).is_none() {
                    self.set_text(ends_turn, eos);
                }
            }
            _ => {}
        }
        self.set_text("eos", last);
    }

    /// Whether two texts have a separator between them.
    fn read_pair(&mut self, mut pair: &'a [Json], first: Option<&str>, last: Option<&str>) {
        if first.is_some() && pair.first().and_then(special_of) == first {
            pair = &pair[1..];
        }
        if last.is_some() && pair.last().and_then(special_of) == last {
            pair = &pair[..pair.len() - 1];
        }
        let [one, middle @ .., other] = pair else { return };
        let is_sequence = |part: &Json, id: &str| {
            part.get("Sequence").and_then(|s| s.get("id")?.as_str()) == Some(id)
        };
        if !middle.is_empty() && is_sequence(one, "A") && is_sequence(other, "B") {
            let separators = [self.text("sep"), self.text("eos")];
            let separates =
                |part: &Json| special_of(part).is_some() && separators.contains(&special_of(part));
            let add = (separates(&middle[0]) && last.is_none())
                || (middle.len() == 2 && separates(&middle[1]));
            self.add("sep", add);
        }
    }
}

fn special_of(part: &Json) -> Option<&str> {
    part.get("SpecialToken")?.get("id")?.as_str()
}
