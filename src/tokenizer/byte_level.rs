//! Byte-level BPE: each byte of a text is one printable character of GPT-2's alphabet.

use tokenizers::Tokenizer;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::BPE;

use super::error::{TokenizerError, unbuildable};
use super::keys::TokenizerKeys;
use super::merges::{split_merges, vocabulary_map};
use super::pre_tokenizers::PreTokenizerRule;

/// The rule by which a file's vocabulary cuts texts.
pub(super) fn rule(keys: TokenizerKeys<'_>) -> Result<&'static PreTokenizerRule, TokenizerError> {
    let name = keys.text("pre")?;
    if name.is_none() {
        tracing::warn!(
            "tokenizer.ggml.pre is missing: the file does not say how its tokenizer cuts words. \
             They are cut by the rule \"default\", which is right for hardly any model; convert it \
             again"
        );
    }
    PreTokenizerRule::named(name.unwrap_or("default"))
}

/// The tokenizer of a byte-level BPE vocabulary.
pub(super) fn tokenizer(
    keys: TokenizerKeys<'_>,
    pieces: &[String],
    rule: &PreTokenizerRule,
) -> Result<Tokenizer, TokenizerError> {
    let model = BPE::builder()
        .vocab_and_merges(vocabulary_map(pieces), split_merges(keys, pieces)?)
        .ignore_merges(rule.ignore_merges)
        .build()
        .map_err(unbuildable)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(rule.normalizer()).map_err(unbuildable)?;
    tokenizer.with_pre_tokenizer(Some(rule.build()?));
    tokenizer.with_decoder(Some(ByteLevel::new(true, true, true)));
    Ok(tokenizer)
}

/// The bytes of a piece in GPT-2's alphabet; characters outside it stand for themselves.
pub(super) fn bytes(piece: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(piece.len());
    for character in piece.chars() {
        match byte_of_character(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// GPT-2's alphabet: printable Latin-1 characters are themselves, the other 68 bytes follow in
/// order from U+0100.
fn byte_of_character(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_of_bytes_is_complete() {
        let mut bytes: Vec<u8> =
            (0..0x180).filter_map(char::from_u32).filter_map(byte_of_character).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of_character('Ġ'), Some(b' '));
        assert_eq!(byte_of_character('Ċ'), Some(b'\n'));
    }
}
