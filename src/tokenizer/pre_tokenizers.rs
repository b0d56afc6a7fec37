//! How byte-level BPE vocabularies cut a text into words before they merge: one table, used by both
//! directions.
//!
//! GGUF names the rule (`tokenizer.ggml.pre`); tokenizer.json spells it out. The patterns are those
//! of the models' own tokenizer.json files. Where llama.cpp does something else for the name, the
//! difference is said beside the rule.

use serde_json::Value;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::error::TokenizerError;
use super::tokenizer_json::TokenizerJson;

/// One step; each is applied to the pieces that the one before it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step<'a> {
    /// Cuts out every match of a pattern; what lies between matches stays whole.
    Pattern(&'a str),
    /// Cuts out runs of punctuation, which is ASCII's and all of Unicode's category `P`.
    PunctuationRuns,
    /// Writes the bytes in GPT-2's alphabet; the steps after it see its characters.
    Bytes,
}

/// A named rule.
#[derive(Debug)]
pub(super) struct PreTokenizerRule {
    /// Its names in `tokenizer.ggml.pre`; the first is the one that we write.
    names: &'static [&'static str],
    steps: &'static [Step<'static>],
    /// Whether a word that is in the vocabulary is taken whole, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether the models that use it put `bos` first unless their metadata says otherwise.
    pub add_bos: bool,
    /// Whether the text is brought to Unicode's composed form (NFC) first, as the tokenizer.json of
    /// these models has it. llama.cpp never does.
    composed: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const EACH_DIGIT: &str = r"\p{N}";
const DIGIT_RUNS: &str = r"\p{N}+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
const THOUSANDS: &str = r"\d{1,3}(?=(?:\d{3})*\b)";
const THREE_DIGITS: &str = "[0-9][0-9][0-9]";

const RULES: [PreTokenizerRule; 15] = [
    PreTokenizerRule {
        names: &["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"],
        steps: &[Step::Pattern(EACH_DIGIT), Step::Pattern(GPT2), Step::Bytes],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    PreTokenizerRule {
        names: &["command-r"],
        steps: &[Step::Pattern(EACH_DIGIT), Step::Pattern(GPT2), Step::Bytes],
        ignore_merges: false,
        add_bos: false,
        composed: true,
    },
    PreTokenizerRule {
        names: &[
            "gpt-2",
            "phi-2",
            "jais",
            "trillion",
            "exaone4",
            "mellum",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
        ],
        steps: &[Step::Pattern(GPT2), Step::Bytes],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    // The tokenizer of GPT-NeoX and its kin.
    PreTokenizerRule {
        names: &["mpt", "olmo"],
        steps: &[Step::Pattern(GPT2), Step::Bytes],
        ignore_merges: false,
        add_bos: false,
        composed: true,
    },
    PreTokenizerRule {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
        steps: &[Step::Pattern(LLAMA3), Step::Bytes],
        ignore_merges: true,
        add_bos: true,
        composed: false,
    },
    PreTokenizerRule {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe"],
        steps: &[Step::Pattern(LLAMA3), Step::Bytes],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    PreTokenizerRule {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "solar-open"],
        steps: &[Step::Pattern(QWEN2), Step::Bytes],
        ignore_merges: false,
        add_bos: false,
        composed: true,
    },
    PreTokenizerRule {
        names: &["grok-2"],
        steps: &[Step::Pattern(QWEN2), Step::Bytes],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    PreTokenizerRule {
        names: &["qwen35"],
        steps: &[Step::Pattern(QWEN35), Step::Bytes],
        ignore_merges: false,
        add_bos: false,
        composed: true,
    },
    // llama.cpp takes marks, and letters without case, for no letters of a word.
    PreTokenizerRule {
        names: &["tekken"],
        steps: &[Step::Pattern(TEKKEN), Step::Bytes],
        ignore_merges: true,
        add_bos: true,
        composed: false,
    },
    // The same.
    PreTokenizerRule {
        names: &["gpt-4o", "llama4"],
        steps: &[Step::Pattern(GPT4O), Step::Bytes],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    PreTokenizerRule {
        names: &["tiny_aya", "cohere2moe"],
        steps: &[Step::Pattern(THOUSANDS), Step::Pattern(GPT4O), Step::Bytes],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    PreTokenizerRule {
        names: &["bloom", "poro-chat", "gpt3-finnish"],
        steps: &[Step::Pattern(BLOOM), Step::Bytes],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    // Digits are cut out of the alphabet's characters, so that the bytes which it writes as ², ³,
    // ¹, ¼, ½ and ¾ stand alone, wherever they occur. llama.cpp cuts the text, and leaves them.
    PreTokenizerRule {
        names: &["falcon"],
        steps: &[
            Step::PunctuationRuns,
            Step::Pattern(GPT2),
            Step::Bytes,
            Step::Pattern(DIGIT_RUNS),
            Step::Pattern(THREE_DIGITS),
        ],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    // What llama.cpp does with a file that names no rule.
    PreTokenizerRule {
        names: &["default"],
        steps: &[
            Step::Pattern(r"[\p{P}\$\+<=>\^~\|]+"),
            Step::Pattern(GPT2),
            Step::Pattern(DIGIT_RUNS),
            Step::Pattern(THREE_DIGITS),
            Step::Bytes,
        ],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
];

/// The name that llama.cpp's converter gives to the rule of an architecture's own models, where the
/// rule has several.
const OWN_NAMES: [(&str, &str); 6] = [
    ("starcoder2", "starcoder"),
    ("granite", "refact"),
    ("exaone4", "exaone4"),
    ("stablelm", "stablelm2"),
    ("olmo", "olmo"),
    ("llama4", "llama4"),
];

/// What [`PreTokenizerRule::recognised`] found.
#[derive(Debug)]
pub(super) struct Recognised {
    /// For `tokenizer.ggml.pre`.
    pub name: &'static str,
    /// What the name does not say, or says too much.
    pub warning: Option<String>,
}

impl PreTokenizerRule {
    /// The rule with this name in `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// An unknown name; the message lists the known ones.
    pub(super) fn named(name: &str) -> Result<&'static Self, TokenizerError> {
        RULES.iter().find(|rule| rule.names.contains(&name)).ok_or_else(|| {
            let known: Vec<_> = RULES.iter().flat_map(|rule| rule.names).copied().collect();
            TokenizerError::vocabulary(format!(
                "tokenizer.ggml.pre is \"{name}\", a pre-tokenizer that quantkit does not know; it \
                 knows {}",
                known.join(", ")
            ))
        })
    }

    /// The rule that a tokenizer.json of the byte-level kind spells out, by the name that suits
    /// `architecture`.
    ///
    /// # Errors
    /// One that no known rule equals; the message shows it.
    pub(super) fn recognised(
        json: &TokenizerJson,
        architecture: &str,
    ) -> Result<Recognised, String> {
        let composed = match json.normalizer.get("type").and_then(Value::as_str) {
            None => false,
            Some("NFC") => true,
            Some(_) => {
                return Err(format!(
                    "its normalizer {} has no counterpart in GGUF; none and NFC have",
                    json.normalizer
                ));
            }
        };
        let found = spelled_steps(&json.pre_tokenizer);
        let same = |rule: &&Self| {
            found.as_deref() == Some(rule.steps) && rule.ignore_merges == json.model.ignore_merges
        };
        let candidates: Vec<_> = RULES.iter().filter(same).collect();
        let rule = candidates.iter().find(|rule| rule.composed == composed);
        let Some(rule) = rule.or(candidates.first()) else {
            let known: Vec<_> = RULES.iter().map(|rule| rule.names[0]).collect();
            return Err(format!(
                "its pre-tokenizer {} (ignore_merges: {}) is none that quantkit knows by name; it \
                 knows those of {}",
                json.pre_tokenizer,
                json.model.ignore_merges,
                known.join(", ")
            ));
        };
        let name = rule.name_for(architecture);
        Ok(Recognised { name, warning: rule.composition_warning(composed, name) })
    }

    fn name_for(&self, architecture: &str) -> &'static str {
        let own =
            OWN_NAMES.iter().find(|(of, name)| *of == architecture && self.names.contains(name));
        own.map_or(self.names[0], |(_, name)| name)
    }

    fn composition_warning(&self, composed: bool, name: &str) -> Option<String> {
        match (composed, self.composed) {
            (true, false) => Some(format!(
                "its normalizer NFC is lost: the name \"{name}\" in tokenizer.ggml.pre does not \
                 stand for it. Texts with decomposed characters get other tokens"
            )),
            (false, true) => Some(format!(
                "the name \"{name}\" in tokenizer.ggml.pre stands for the normalizer NFC, which it \
                 does not have. Texts with decomposed characters get other tokens"
            )),
            _ => None,
        }
    }

    /// The pre-tokenizer that carries the rule out and turns the pieces' bytes into characters.
    pub(super) fn build(&self) -> Result<PreTokenizerWrapper, TokenizerError> {
        let mut built: Vec<PreTokenizerWrapper> = Vec::new();
        let mut steps = self.steps;
        while let Some((step, rest)) = steps.split_first() {
            steps = rest;
            built.push(match (step, rest) {
                (Step::Pattern(GPT2), [Step::Bytes, rest @ ..]) => {
                    steps = rest;
                    ByteLevel::new(false, true, true).into()
                }
                (Step::Bytes, _) => ByteLevel::new(false, true, false).into(),
                (Step::PunctuationRuns, _) => {
                    Punctuation::new(SplitDelimiterBehavior::Contiguous).into()
                }
                (Step::Pattern(EACH_DIGIT), _) => Digits::new(true).into(),
                (Step::Pattern(DIGIT_RUNS), _) => Digits::new(false).into(),
                (Step::Pattern(pattern), _) => isolate(pattern)?.into(),
            });
        }
        Ok(match built.len() {
            1 => built.remove(0),
            _ => Sequence::new(built).into(),
        })
    }

    /// The normalizer that goes with the rule.
    pub(super) fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.composed.then(|| NFC.into())
    }
}

/// The steps of a tokenizer.json, in order; `None` where one of them is of another kind.
fn spelled_steps(pre_tokenizer: &Value) -> Option<Vec<Step<'_>>> {
    let entries: Vec<&Value> = match pre_tokenizer.get("pretokenizers").and_then(Value::as_array) {
        Some(entries) => entries.iter().collect(),
        None => vec![pre_tokenizer],
    };
    let mut steps = Vec::new();
    for entry in entries {
        let truth = |key: &str| entry.get(key).and_then(Value::as_bool);
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        match entry.get("type")?.as_str()? {
            "Digits" if truth("individual_digits") == Some(true) => {
                steps.push(Step::Pattern(EACH_DIGIT));
            }
            "Digits" => steps.push(Step::Pattern(DIGIT_RUNS)),
            "Punctuation" if text("behavior") == Some("Contiguous") => {
                steps.push(Step::PunctuationRuns);
            }
            "Split" => {
                let pattern = entry.get("pattern")?.get("Regex")?.as_str()?;
                match (text("behavior")?, truth("invert")?) {
                    ("Isolated", false) => {}
                    // Removing what lies between matches is the same where nothing does.
                    ("Removed", true) if pattern.ends_with(r"|\s+") => {}
                    _ => return None,
                }
                steps.push(Step::Pattern(pattern));
            }
            "ByteLevel" if truth("add_prefix_space") == Some(false) => {
                if truth("use_regex").unwrap_or(true) {
                    steps.push(Step::Pattern(GPT2));
                }
                steps.push(Step::Bytes);
            }
            _ => return None,
        }
    }
    Some(steps)
}

fn isolate(pattern: &str) -> Result<Split, TokenizerError> {
    Split::new(SplitPattern::Regex(pattern.to_string()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| {
            TokenizerError::vocabulary(format!("the pattern {pattern} does not compile: {error}"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(normalizer: &str, pattern: &str, behavior: &str) -> Result<Recognised, String> {
        let text = serde_json::json!({
            "normalizer": serde_json::from_str::<Value>(normalizer).unwrap(),
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": pattern }, "behavior": behavior,
                  "invert": behavior == "Removed" },
                { "type": "ByteLevel", "add_prefix_space": false, "use_regex": false },
            ] },
            "model": { "type": "BPE" },
        });
        let json: TokenizerJson = serde_json::from_value(text).unwrap();
        PreTokenizerRule::recognised(&json, "llama")
    }

    #[test]
    fn a_normalizer_that_the_name_does_not_stand_for_is_told() {
        let nfc = r#"{"type": "NFC"}"#;
        let lost = recognised(nfc, LLAMA3, "Isolated").unwrap();
        assert_eq!(lost.name, "dbrx");
        assert!(lost.warning.unwrap().contains("NFC is lost"));
        let gained = recognised("null", QWEN35, "Isolated").unwrap();
        assert_eq!(gained.name, "qwen35");
        assert!(gained.warning.unwrap().contains("stands for the normalizer NFC"));
        for normalizer in [nfc, "null"] {
            let said = recognised(normalizer, QWEN2, "Isolated").unwrap();
            assert!(said.warning.is_none(), "{said:?}");
        }
        let error = recognised(r#"{"type": "NFKC"}"#, QWEN2, "Isolated").unwrap_err();
        assert!(error.contains("NFKC"));
    }

    #[test]
    fn rules_with_and_without_nfc_have_names_of_their_own() {
        for (normalizer, gpt2, qwen2) in
            [("null", "gpt-2", "grok-2"), (r#"{"type": "NFC"}"#, "mpt", "qwen2")]
        {
            let found = recognised(normalizer, GPT2, "Isolated").unwrap();
            assert_eq!((found.name, found.warning), (gpt2, None));
            let found = recognised(normalizer, QWEN2, "Isolated").unwrap();
            assert_eq!((found.name, found.warning), (qwen2, None));
            for (name, composed) in [(gpt2, normalizer != "null"), (qwen2, normalizer != "null")] {
                assert_eq!(PreTokenizerRule::named(name).unwrap().normalizer().is_some(), composed);
            }
        }
    }

    #[test]
    fn removing_what_no_pattern_matches_is_not_keeping_it() {
        assert!(recognised("null", LLAMA3, "Removed").is_ok());
        assert!(recognised("null", BLOOM, "Isolated").is_ok());
        assert!(recognised("null", BLOOM, "Removed").is_err());
        assert!(recognised("null", LLAMA3, "MergedWithNext").is_err());
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = RULES.iter().flat_map(|rule| rule.names).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for (_, name) in OWN_NAMES {
            assert!(names.contains(&&name), "{name}");
        }
    }
}
