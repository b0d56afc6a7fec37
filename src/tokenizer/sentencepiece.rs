//! SentencePiece's vocabularies: text with `▁` for spaces, and `<0xNN>` tokens for the bytes of
//! characters that are no token.

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::precompiled::Precompiled;
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::utils::Sequence as NormalizerSequence;
use tokenizers::{DecoderWrapper, NormalizerWrapper, Tokenizer};

use super::error::{TokenizerError, unbuildable};
use super::keys::{TokenType, TokenizerKeys};
use super::merges::{merges_from_scores, split_merges, vocabulary_map};

/// SentencePiece's stand-in for a space.
pub(super) const SPACE: char = '\u{2581}';

/// The tokenizer of a BPE vocabulary with scores, as transformers builds it: over the whole text,
/// merging in the order of the scores.
pub(super) fn scored_bpe(
    keys: TokenizerKeys<'_>,
    pieces: &[String],
    types: &[TokenType],
) -> Result<Tokenizer, TokenizerError> {
    let scores = keys.scores(pieces.len())?;
    let merges = merges_from_scores(pieces, scores, |id| types[id] == TokenType::Normal);
    let add_prefix = keys.truth("add_space_prefix")?.unwrap_or(true);
    let mut tokenizer = Tokenizer::new(bpe(keys, pieces, types, merges)?);
    escape_spaces(&mut tokenizer, Vec::new(), add_prefix)?;
    Ok(tokenizer)
}

/// The tokenizer of a BPE vocabulary with merges (Gemma 4's kind): no prefix.
pub(super) fn merged_bpe(
    keys: TokenizerKeys<'_>,
    pieces: &[String],
    types: &[TokenType],
) -> Result<Tokenizer, TokenizerError> {
    let merges = split_merges(keys, pieces)?;
    let mut tokenizer = Tokenizer::new(bpe(keys, pieces, types, merges)?);
    escape_spaces(&mut tokenizer, Vec::new(), false)?;
    Ok(tokenizer)
}

fn bpe(
    keys: TokenizerKeys<'_>,
    pieces: &[String],
    types: &[TokenType],
    merges: Vec<(String, String)>,
) -> Result<BPE, TokenizerError> {
    let mut builder = BPE::builder()
        .vocab_and_merges(vocabulary_map(pieces), merges)
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unknown) = unknown(keys, types)? {
        builder = builder.unk_token(pieces[unknown].clone());
    }
    builder.build().map_err(unbuildable)
}

fn unknown(keys: TokenizerKeys<'_>, types: &[TokenType]) -> Result<Option<usize>, TokenizerError> {
    let named = keys.id("unknown", types.len())?.map(|id| id as usize);
    Ok(named.or_else(|| types.iter().position(|&kind| kind == TokenType::Unknown)))
}

/// The tokenizer of a unigram vocabulary: the most likely way to spell the text, by the scores.
pub(super) fn unigram(
    keys: TokenizerKeys<'_>,
    pieces: &[String],
    types: &[TokenType],
) -> Result<Tokenizer, TokenizerError> {
    let scores = keys.scores(pieces.len())?;
    let entries = pieces.iter().zip(scores).map(|(piece, &score)| (piece.clone(), score.into()));
    let unknown = unknown(keys, types)?;
    let byte_fallback = types.contains(&TokenType::Byte);
    let model = Unigram::from(entries.collect(), unknown, byte_fallback).map_err(unbuildable)?;
    let mut tokenizer = Tokenizer::new(model);
    let mut first: Vec<NormalizerWrapper> = Vec::new();
    if let Some(map) = keys.bytes("precompiled_charsmap")?.filter(|map| !map.is_empty()) {
        first.push(Precompiled::from(&map).map_err(unbuildable)?.into());
    }
    if keys.truth("remove_extra_whitespaces")?.unwrap_or(false) {
        first.push(replace_matches(r"\A +| +\z", "")?.into());
        first.push(replace_matches(" {2,}", " ")?.into());
    }
    let add_prefix = keys.truth("add_space_prefix")?.unwrap_or(false);
    escape_spaces(&mut tokenizer, first, add_prefix)?;
    Ok(tokenizer)
}

/// Writes spaces as `▁`, one more before each text with `add_prefix`; and back.
fn escape_spaces(
    tokenizer: &mut Tokenizer,
    mut normalizers: Vec<NormalizerWrapper>,
    add_prefix: bool,
) -> Result<(), TokenizerError> {
    let space = SPACE.to_string();
    let mut decoders: Vec<DecoderWrapper> =
        vec![replace(&space, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if add_prefix {
        normalizers.push(Prepend::new(space.clone()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(replace(" ", &space)?.into());
    tokenizer.with_normalizer(Some(NormalizerSequence::new(normalizers))).map_err(unbuildable)?;
    tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));
    Ok(())
}

fn replace(from: &str, to: &str) -> Result<Replace, TokenizerError> {
    Replace::new(from, to).map_err(unbuildable)
}

fn replace_matches(pattern: &str, to: &str) -> Result<Replace, TokenizerError> {
    Replace::new(ReplacePattern::Regex(pattern.to_string()), to).map_err(unbuildable)
}

/// `<0x0A>` → 10.
pub(super) fn byte_token(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}
