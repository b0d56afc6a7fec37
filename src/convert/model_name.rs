//! What a model's name says about it: `Meta-Llama-3.1-8B-Instruct` is Meta-Llama-3.1, of size 8B,
//! tuned to instructions. GGUF keeps these parts in `general.*`, and llama.cpp's converter finds
//! them by the rules below.

use crate::gguf::{Metadata, Value};

/// The parts of a name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct ModelName {
    name: Option<String>,
    organization: Option<String>,
    basename: Option<String>,
    finetune: Option<String>,
    version: Option<String>,
    size_label: Option<String>,
}

/// What a part of a name can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Basename,
    SizeLabel,
    Finetune,
    Version,
    WeightType,
}

impl ModelName {
    /// From the name that a checkpoint carries and, where that says nothing, its directory's.
    pub(super) fn find(name_or_path: Option<&str>, directory: &str, parameters: u64) -> Self {
        let given = name_or_path.filter(|name| name.matches('/').count() <= 1);
        let given = given.map_or_else(Self::default, |name| Self::parse(name, parameters));
        let fallback = Self::parse(directory, parameters);
        Self {
            name: given.name.or(fallback.name).or_else(|| Some(directory.to_string())),
            organization: given.organization.or(fallback.organization),
            basename: given.basename.or(fallback.basename),
            finetune: given.finetune.or(fallback.finetune),
            version: given.version.or(fallback.version),
            size_label: given
                .size_label
                .or(fallback.size_label)
                .or_else(|| (parameters > 0).then(|| rounded(parameters))),
        }
    }

    /// Appends `general.name` and its like.
    pub(super) fn append(self, metadata: &mut Metadata) {
        for (key, value) in [
            ("name", self.name),
            ("version", self.version),
            ("organization", self.organization),
            ("finetune", self.finetune),
            ("basename", self.basename),
            ("size_label", self.size_label),
        ] {
            if let Some(value) = value {
                metadata.set(format!("general.{key}"), Value::String(value));
            }
        }
    }

    fn parse(id: &str, parameters: u64) -> Self {
        if id.is_empty() {
            return Self::default();
        }
        if id.contains(' ') {
            return Self { name: Some(title(id)), ..Self::default() };
        }
        let (organization, full_name) = match id.split_once('/') {
            Some((organization, name)) => (Some(organization), name),
            None => (None, id),
        };
        let organization = organization.filter(|text| !text.is_empty() && !text.starts_with('.'));
        let parts = roles(full_name, parameters);
        let joined = |role: Role| {
            let texts: Vec<&str> = parts
                .iter()
                .filter(|(_, roles)| roles.contains(&role))
                .map(|(text, _)| text.as_str())
                .collect();
            (!texts.is_empty()).then(|| texts.join("-"))
        };
        let versions: Vec<&str> = parts
            .iter()
            .filter(|(_, roles)| roles.contains(&Role::Version) && !roles.contains(&Role::Basename))
            .map(|(text, _)| text.as_str())
            .collect();
        let version = (!versions.is_empty()).then(|| versions.join("-"));
        let (finetune, size_label) = (joined(Role::Finetune), joined(Role::SizeLabel));
        let ambiguous = finetune.is_none() && size_label.is_none() && version.is_none();
        Self {
            name: Some(title(full_name)),
            organization: organization.map(title),
            basename: joined(Role::Basename).filter(|_| !ambiguous),
            finetune,
            version,
            size_label,
        }
    }
}

/// The parts between hyphens and what each can be.
fn roles(name: &str, parameters: u64) -> Vec<(String, Vec<Role>)> {
    let texts = name.split('-').filter(|part| !part.is_empty());
    let mut parts: Vec<(String, Vec<Role>)> =
        texts.enumerate().map(|(index, text)| classify(index, text, parameters)).collect();
    let is_number = |(text, roles): &(String, Vec<Role>)| {
        roles.contains(&Role::SizeLabel) && text.contains(|c: char| c.is_ascii_digit())
    };
    if parts.iter().any(is_number) {
        for (text, roles) in &mut parts {
            if text.chars().all(char::is_alphabetic) {
                roles.retain(|&role| role != Role::SizeLabel);
            }
        }
    }
    let mut at_start = true;
    for (text, roles) in &mut parts {
        let is_word = roles.is_empty() && text.starts_with(char::is_alphabetic);
        if at_start && (is_word || roles.contains(&Role::Version)) {
            roles.push(Role::Basename);
        } else {
            at_start = false;
            if roles.is_empty() {
                roles.push(Role::Finetune);
            }
        }
    }
    // A version at the end of the base name is a version, not a part of the name.
    for (_, roles) in parts.iter_mut().rev() {
        if !roles.contains(&Role::Basename) || roles.len() < 2 {
            break;
        }
        roles.retain(|&role| role != Role::Basename);
    }
    parts
}

fn classify(index: usize, text: &str, parameters: u64) -> (String, Vec<Role>) {
    let lower = text.to_ascii_lowercase();
    if is_version(&lower) {
        return (text.to_string(), vec![Role::Version]);
    }
    if is_weight_type(&lower) {
        return (text.to_uppercase(), vec![Role::WeightType]);
    }
    if index > 0 && is_size(&lower) {
        return classify_size(text, parameters);
    }
    if index > 0 && ["chat", "instruct", "vision", "lora"].contains(&lower.as_str()) {
        return (text.to_string(), vec![Role::Finetune]);
    }
    (text.to_string(), Vec::new())
}

/// A size that is far from the model's own is rather a context length (`128k`).
fn classify_size(text: &str, parameters: u64) -> (String, Vec<Role>) {
    let mut text = text.replace('_', ".");
    let bytes = text.as_bytes();
    let last = bytes[bytes.len() - 1];
    if last.is_ascii_digit() {
        // "7b1" is "7.1b".
        let (head, tail) = text.split_at(text.len() - 2);
        text = format!("{head}.{}{}", &tail[1..], &tail[..1]);
    }
    let (number, unit) = text.split_at(text.len() - 1);
    if number.ends_with(|c: char| c.is_ascii_digit()) {
        let unit = unit.to_ascii_uppercase();
        let power = "KMBT".find(&unit).map_or(0, |index| index as i32 + 1);
        let size = number.parse::<f64>().map(|number| number * 1000_f64.powi(power));
        let is_far =
            |size: f64| (size - parameters as f64).abs() > (7 * u128::from(parameters) / 8) as f64;
        if parameters > 0 && size.is_ok_and(is_far) {
            return (format!("{number}{}", unit.to_ascii_lowercase()), vec![Role::Finetune]);
        }
        return (format!("{number}{unit}"), vec![Role::SizeLabel]);
    }
    (text, vec![Role::SizeLabel])
}

/// `2`, `v1.5`, `iter3`.
fn is_version(lower: &str) -> bool {
    let number = lower.strip_prefix("iter").or_else(|| lower.strip_prefix('v')).unwrap_or(lower);
    number.split('.').all(is_digits)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `q4_k_m`, `iq2_s`, `f16`, `bf16`, `fp32`.
fn is_weight_type(lower: &str) -> bool {
    let float = lower.strip_prefix('b').unwrap_or(lower);
    if let Some(bits) = float.strip_prefix('f') {
        return ["16", "32"].contains(&bits.strip_prefix('p').unwrap_or(bits));
    }
    let quant = lower.strip_prefix('i').unwrap_or(lower);
    let Some(mut rest) = quant.strip_prefix('q').and_then(|rest| rest.split_at_checked(1)) else {
        return false;
    };
    if !is_digits(rest.0) {
        return false;
    }
    while let Some((head, tail)) = rest.1.split_at_checked(2) {
        if !head.starts_with('_') {
            return false;
        }
        rest.1 = tail;
    }
    rest.1.is_empty()
}

/// `7b`, `1.5B`, `8x7b`, `a3b`, `7b1`, `small`.
fn is_size(lower: &str) -> bool {
    if ["small", "mini", "medium", "large", "xl", "xxl"].contains(&lower) {
        return true;
    }
    let rest = match lower.split_once('x') {
        Some((experts, rest)) if is_digits(experts) => rest,
        _ => lower.strip_prefix('a').unwrap_or(lower),
    };
    let rest = match rest.as_bytes() {
        [.., unit, digit] if digit.is_ascii_digit() && b"kmbt".contains(unit) => {
            &rest[..rest.len() - 1]
        }
        _ => rest,
    };
    let Some(number) = rest.strip_suffix(['k', 'm', 'b', 't']) else { return false };
    match number.split_once(['.', '_']) {
        Some((whole, fraction)) => is_digits(whole) && is_digits(fraction),
        None => is_digits(number),
    }
}

/// `llama-3` → `Llama 3`; words with capitals, digits first or versions stay as they are.
fn title(text: &str) -> String {
    let text = text.trim().replace('-', " ");
    let words = text.split_whitespace().map(|word| {
        let has_upper = word.chars().any(char::is_uppercase);
        let has_lower = word.chars().any(char::is_lowercase);
        let is_version = word.strip_prefix('v').is_some_and(|rest| rest.split('.').all(is_digits));
        let starts_with_digit = word.starts_with(|c: char| c.is_ascii_digit());
        if has_upper || !has_lower || is_version || starts_with_digit {
            return word.to_string();
        }
        title_word(word)
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Every letter that follows no letter becomes a capital.
fn title_word(word: &str) -> String {
    let mut after_letter = false;
    let mut titled = String::with_capacity(word.len());
    for character in word.chars() {
        if after_letter {
            titled.push(character);
        } else {
            titled.extend(character.to_uppercase());
        }
        after_letter = character.is_alphabetic();
    }
    titled
}

/// `134515008` → `135M`: at least two figures.
fn rounded(parameters: u64) -> String {
    let parameters = parameters as f64;
    let (scaled, unit) = match parameters {
        p if p > 1e12 => (p * 1e-12, "T"),
        p if p > 1e9 => (p * 1e-9, "B"),
        p if p > 1e6 => (p * 1e-6, "M"),
        p => (p * 1e-3, "K"),
    };
    let figures = match scaled.round_ties_even() as u64 {
        0 => 0,
        whole => whole.to_string().len(),
    };
    format!("{scaled:.*}{unit}", 2_usize.saturating_sub(figures))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(name: &str, parameters: u64) -> [Option<String>; 6] {
        let ModelName { name, organization, basename, finetune, version, size_label } =
            ModelName::parse(name, parameters);
        [name, organization, basename, finetune, version, size_label]
    }

    fn some(texts: [&str; 6]) -> [Option<String>; 6] {
        texts.map(|text| (!text.is_empty()).then(|| text.to_string()))
    }

    // What `Metadata.get_model_id_components` and `id_to_title` of llama.cpp's gguf-py give.
    #[test]
    fn names_are_taken_apart_as_by_llama_cpp() {
        for (name, parameters, expected) in [
            (
                "meta-llama/Meta-Llama-3.1-8B-Instruct",
                8_030_261_248,
                [
                    "Meta Llama 3.1 8B Instruct",
                    "Meta Llama",
                    "Meta-Llama-3.1",
                    "Instruct",
                    "",
                    "8B",
                ],
            ),
            (
                "HuggingFaceTB/SmolLM2-135M-Instruct",
                134_515_008,
                ["SmolLM2 135M Instruct", "HuggingFaceTB", "SmolLM2", "Instruct", "", "135M"],
            ),
            ("smollm2-hf", 134_515_008, ["Smollm2 Hf", "", "", "", "", ""]),
            (
                "mistralai/Mistral-7B-v0.1",
                7_241_732_096,
                ["Mistral 7B v0.1", "Mistralai", "Mistral", "", "v0.1", "7B"],
            ),
            ("model-8k-7b-f16", 7_000_000_000, ["Model 8k 7b F16", "", "model", "8k", "", "7B"]),
            ("bloom-7b1", 7_069_016_064, ["Bloom 7b1", "", "bloom", "", "", "7.1B"]),
            ("My own model", 1000, ["My Own Model", "", "", "", "", ""]),
            ("checkpoint", 1000, ["Checkpoint", "", "", "", "", ""]),
        ] {
            assert_eq!(parts(name, parameters), some(expected), "{name}");
        }
    }

    #[test]
    fn parameters_are_rounded_to_two_figures_or_more() {
        for (parameters, expected) in [
            (134_515_008, "135M"),
            (7_241_732_096, "7.2B"),
            (64_000, "64K"),
            (1_500, "1.5K"),
            (300, "0.30K"),
        ] {
            assert_eq!(rounded(parameters), expected);
        }
    }
}
