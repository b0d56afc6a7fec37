//! The metadata keys of a tokenizer, `tokenizer.ggml.<key>`, checked for type: one that is there but
//! is something else than it should be is an error, never as good as absent.

use super::error::TokenizerError;
use crate::gguf::{Array, Metadata, Value};

/// `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenType {
    /// The type with this number, in GGUF and in SentencePiece's files alike; `Normal` for others.
    pub(super) fn numbered(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// Reads the keys of one file.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenizerKeys<'a>(pub &'a Metadata);

impl<'a> TokenizerKeys<'a> {
    /// A text.
    pub(super) fn text(self, key: &str) -> Result<Option<&'a str>, TokenizerError> {
        self.read(key, "a text", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A truth value.
    pub(super) fn truth(self, key: &str) -> Result<Option<bool>, TokenizerError> {
        self.read(key, "a truth value (bool)", |value| match value {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        })
    }

    /// Texts.
    pub(super) fn texts(self, key: &str) -> Result<Option<&'a [String]>, TokenizerError> {
        self.read(key, "an array of texts", |value| match value {
            Value::Array(Array::String(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// Bytes.
    pub(super) fn bytes(self, key: &str) -> Result<Option<Vec<u8>>, TokenizerError> {
        self.read(key, "an array of bytes", |value| match value {
            Value::Array(Array::U8(bytes)) => Some(bytes.clone()),
            Value::Array(Array::I8(bytes)) => Some(bytes.iter().map(|&byte| byte as u8).collect()),
            _ => None,
        })
    }

    /// The id under `<name>_token_id`; it is below `count`.
    pub(super) fn id(self, name: &str, count: usize) -> Result<Option<u32>, TokenizerError> {
        let Some(number) = self.stated_id(name)? else { return Ok(None) };
        match u32::try_from(number) {
            Ok(id) if (id as usize) < count => Ok(Some(id)),
            _ => Err(TokenizerError::vocabulary(format!(
                "tokenizer.ggml.{name}_token_id is {number}, but there are {count} tokens"
            ))),
        }
    }

    /// The number under `<name>_token_id`, whether or not there is such a token.
    pub(super) fn stated_id(self, name: &str) -> Result<Option<i128>, TokenizerError> {
        let key = format!("{name}_token_id");
        let number = self.read(&key, "a whole number", |value| match *value {
            Value::U8(number) => Some(number.into()),
            Value::U16(number) => Some(number.into()),
            Value::U32(number) => Some(number.into()),
            Value::U64(number) => Some(number.into()),
            Value::I8(number) => Some(number.into()),
            Value::I16(number) => Some(number.into()),
            Value::I32(number) => Some(number.into()),
            Value::I64(number) => Some(i128::from(number)),
            _ => None,
        })?;
        // An absent token is sometimes written as −1, or as the largest number.
        Ok(number.filter(|&number| number != -1 && number != u32::MAX.into()))
    }

    /// The score of each of `count` tokens.
    pub(super) fn scores(self, count: usize) -> Result<&'a [f32], TokenizerError> {
        let scores = self.read("scores", "an array of 32-bit floats", |value| match value {
            Value::Array(Array::F32(scores)) => Some(scores.as_slice()),
            _ => None,
        })?;
        let scores =
            scores.ok_or_else(|| TokenizerError::vocabulary("tokenizer.ggml.scores is missing"))?;
        one_each("scores", scores.len(), count)?;
        Ok(scores)
    }

    /// The type of each of `count` tokens; `Normal` where the file does not say.
    pub(super) fn types(self, count: usize) -> Result<Vec<TokenType>, TokenizerError> {
        let types = self.read("token_type", "an array of 32-bit numbers", |value| match value {
            Value::Array(Array::I32(numbers)) => {
                Some(numbers.iter().map(|&number| TokenType::numbered(number.into())).collect())
            }
            Value::Array(Array::U32(numbers)) => {
                Some(numbers.iter().map(|&number| TokenType::numbered(number.into())).collect())
            }
            _ => None,
        })?;
        let Some(types): Option<Vec<TokenType>> = types else {
            return Ok(vec![TokenType::Normal; count]);
        };
        one_each("token_type", types.len(), count)?;
        Ok(types)
    }

    fn read<T>(
        self,
        key: &str,
        expected: &str,
        value_of: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, TokenizerError> {
        let key = format!("tokenizer.ggml.{key}");
        let Some(value) = self.0.get(&key) else { return Ok(None) };
        value_of(value).map(Some).ok_or_else(|| {
            TokenizerError::vocabulary(format!(
                "{key} should be {expected}, found a value of type {}",
                value.value_type().name()
            ))
        })
    }
}

fn one_each(key: &str, found: usize, count: usize) -> Result<(), TokenizerError> {
    if found == count {
        return Ok(());
    }
    Err(TokenizerError::vocabulary(format!(
        "tokenizer.ggml.{key} has {found} entries, but there are {count} tokens"
    )))
}

/// The id under `tokenizer.ggml.<name>_token_id`, if there is one; it is below `count`.
///
/// # Errors
/// A key that is no whole number, or names no token.
pub fn token_id(
    metadata: &Metadata,
    name: &str,
    count: usize,
) -> Result<Option<u32>, TokenizerError> {
    TokenizerKeys(metadata).id(name, count)
}
