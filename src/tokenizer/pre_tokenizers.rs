//! How byte-level BPE vocabularies cut a text into words before they merge: one table, used by both
//! directions.
//!
//! GGUF names the rule (`tokenizer.ggml.pre`); tokenizer.json spells it out. The patterns are those
//! of the models' own tokenizer.json files.

use serde_json::Value;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::error::TokenizerError;
use super::tokenizer_json::TokenizerJson;

/// One cut; each is applied to the pieces that the one before it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Every digit by itself (all of Unicode's `N`).
    EachDigit,
    /// Every match of a pattern, and what lies between matches.
    Pattern(&'static str),
    /// GPT-2's pattern, built into the byte-level step.
    Gpt2,
}

impl Cut {
    /// What [`spelled_cuts`] finds for this cut.
    fn spelling(self) -> &'static str {
        match self {
            Self::EachDigit => EACH_DIGIT,
            Self::Pattern(pattern) => pattern,
            Self::Gpt2 => GPT2,
        }
    }
}

/// A named rule.
#[derive(Debug)]
pub(super) struct PreTokenizerRule {
    /// Its names in `tokenizer.ggml.pre`; the first is the one that we write.
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// Whether a word that is in the vocabulary is taken whole, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether the models that use it put `bos` first unless their metadata says otherwise.
    pub add_bos: bool,
    /// Whether the text is brought to Unicode's composed form first.
    composed: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const RULES: [PreTokenizerRule; 8] = [
    PreTokenizerRule {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        cuts: &[Cut::EachDigit, Cut::Gpt2],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    PreTokenizerRule {
        names: &[
            "gpt-2",
            "phi-2",
            "olmo",
            "mpt",
            "jais",
            "trillion",
            "exaone4",
            "mellum",
            "granite-docling",
            "gigachat",
        ],
        cuts: &[Cut::Gpt2],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    PreTokenizerRule {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0", "lfm2"],
        cuts: &[Cut::Pattern(LLAMA3)],
        ignore_merges: true,
        add_bos: true,
        composed: false,
    },
    PreTokenizerRule {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe"],
        cuts: &[Cut::Pattern(LLAMA3)],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    PreTokenizerRule {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "solar-open"],
        cuts: &[Cut::Pattern(QWEN2)],
        ignore_merges: false,
        add_bos: false,
        composed: true,
    },
    PreTokenizerRule {
        names: &["tekken"],
        cuts: &[Cut::Pattern(TEKKEN)],
        ignore_merges: true,
        add_bos: true,
        composed: false,
    },
    PreTokenizerRule {
        names: &["gpt-4o", "llama4"],
        cuts: &[Cut::Pattern(GPT4O)],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
    // What llama.cpp does with a file that names no rule.
    PreTokenizerRule {
        names: &["default"],
        cuts: &[
            Cut::Pattern(r"[\p{P}\$\+<=>\^~\|]+"),
            Cut::Gpt2,
            Cut::Pattern(r"\p{N}+"),
            Cut::Pattern("[0-9][0-9][0-9]"),
        ],
        ignore_merges: false,
        add_bos: false,
        composed: false,
    },
];

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

    /// The rule that a tokenizer.json of the byte-level kind spells out.
    ///
    /// # Errors
    /// One that no known rule equals; the message shows it.
    pub(super) fn recognised(json: &TokenizerJson) -> Result<&'static Self, String> {
        let normalizer = json.normalizer.get("type").and_then(Value::as_str);
        if normalizer.is_some_and(|kind| kind != "NFC") {
            return Err(format!(
                "its normalizer {} has no counterpart in GGUF; none and NFC have",
                json.normalizer
            ));
        }
        let found = spelled_cuts(&json.pre_tokenizer);
        let matches = |rule: &&Self| {
            let same_cuts = found.as_ref().is_some_and(|found| {
                found.iter().copied().eq(rule.cuts.iter().map(|cut| cut.spelling()))
            });
            same_cuts && rule.ignore_merges == json.model.ignore_merges
        };
        RULES.iter().find(matches).ok_or_else(|| {
            let known: Vec<_> = RULES.iter().map(|rule| rule.names[0]).collect();
            format!(
                "its pre-tokenizer {} (ignore_merges: {}) is none that quantkit knows by name; it \
                 knows those of {}",
                json.pre_tokenizer,
                json.model.ignore_merges,
                known.join(", ")
            )
        })
    }

    /// The name that we write into `tokenizer.ggml.pre`.
    pub(super) fn name(&self) -> &'static str {
        self.names[0]
    }

    /// The pre-tokenizer that carries the rule out and turns the pieces' bytes into characters.
    pub(super) fn build(&self) -> Result<PreTokenizerWrapper, TokenizerError> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        let last_is_gpt2 = self.cuts.last() == Some(&Cut::Gpt2);
        let separate = if last_is_gpt2 { &self.cuts[..self.cuts.len() - 1] } else { self.cuts };
        for cut in separate {
            steps.push(match cut {
                Cut::EachDigit => Digits::new(true).into(),
                Cut::Pattern(pattern) => isolate(pattern)?.into(),
                Cut::Gpt2 => isolate(GPT2)?.into(),
            });
        }
        let byte_level = ByteLevel::new(false, true, last_is_gpt2);
        if steps.is_empty() {
            return Ok(byte_level.into());
        }
        steps.push(byte_level.into());
        Ok(Sequence::new(steps).into())
    }

    /// The normalizer that goes with the rule.
    pub(super) fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.composed.then(|| NFC.into())
    }
}

/// GPT-2's pattern, for where the byte-level step is not the next one.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const EACH_DIGIT: &str = r"\p{N}";

/// The patterns that a tokenizer.json cuts by, in order; `None` where it does something else.
fn spelled_cuts(pre_tokenizer: &Value) -> Option<Vec<&str>> {
    let steps: Vec<&Value> = match pre_tokenizer.get("pretokenizers").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![pre_tokenizer],
    };
    let mut cuts = Vec::new();
    for step in steps {
        let truth = |key: &str| step.get(key).and_then(Value::as_bool);
        match step.get("type")?.as_str()? {
            "Digits" if truth("individual_digits") == Some(true) => cuts.push(EACH_DIGIT),
            "Split" => {
                // Keeping the matches, or removing everything else, is the same for patterns that
                // leave nothing out.
                let behaviour = (step.get("behavior")?.as_str()?, truth("invert")?);
                if !matches!(behaviour, ("Isolated", false) | ("Removed", true)) {
                    return None;
                }
                cuts.push(step.get("pattern")?.get("Regex")?.as_str()?);
            }
            "ByteLevel" if truth("add_prefix_space") == Some(false) => {
                if truth("use_regex").unwrap_or(true) {
                    cuts.push(GPT2);
                }
            }
            _ => return None,
        }
    }
    Some(cuts)
}

fn isolate(pattern: &str) -> Result<Split, TokenizerError> {
    Split::new(SplitPattern::Regex(pattern.to_string()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| {
            TokenizerError::vocabulary(format!("the pattern {pattern} does not compile: {error}"))
        })
}
