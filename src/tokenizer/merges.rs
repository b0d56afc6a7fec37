//! The merges of BPE vocabularies: those that a file lists, and those that scores stand for.

use std::collections::{HashMap, HashSet};

use tokenizers::models::bpe::Vocab;

use super::error::TokenizerError;
use super::keys::TokenizerKeys;

/// Token ids by their text.
pub(super) fn vocabulary_map(pieces: &[String]) -> Vocab {
    pieces.iter().cloned().zip(0..).collect()
}

/// The merges that a file lists. Both halves of each, and what they spell, must be tokens.
pub(super) fn split_merges(
    keys: TokenizerKeys<'_>,
    pieces: &[String],
) -> Result<Vec<(String, String)>, TokenizerError> {
    let merges = keys
        .texts("merges")?
        .ok_or_else(|| TokenizerError::vocabulary("tokenizer.ggml.merges is missing"))?;
    let known: HashSet<&str> = pieces.iter().map(String::as_str).collect();
    let mut joined = String::new();
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(TokenizerError::vocabulary(format!(
                "merge {rank} of tokenizer.ggml.merges is \"{merge}\", not two tokens with a space \
                 between"
            )));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        for token in [left, right, &joined] {
            if !known.contains(token) {
                return Err(TokenizerError::vocabulary(format!(
                    "merge {rank} of tokenizer.ggml.merges is \"{merge}\", but \"{token}\" is no \
                     token"
                )));
            }
        }
        pairs.push((left.to_string(), right.to_string()));
    }
    Ok(pairs)
}

/// No real vocabulary has longer pieces. A file could make them so long, and so many of their parts
/// pieces too, that the merges would need many times its size.
const LONGEST_PIECE: usize = 128;

/// A pair of pieces that spell a third one.
struct Candidate<'a> {
    score: f32,
    left: &'a str,
    right: &'a str,
    lengths: (usize, usize),
    ids: (usize, usize, usize),
}

/// Pairs of pieces in the order in which they merge: a pair of pieces that spell a third merges
/// with that piece's score, the highest first. Among equal scores the pair with the longer left
/// part comes first, as in transformers' conversion of SentencePiece models.
///
/// Pieces of more than 128 characters are made by no merge.
///
/// `usable(id)` says whether piece `id` may take part; control and byte tokens may not.
pub(super) fn merges_from_scores(
    pieces: &[String],
    scores: &[f32],
    usable: impl Fn(usize) -> bool,
) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> =
        pieces.iter().enumerate().filter(|&(id, _)| usable(id)).map(|(id, p)| (&**p, id)).collect();
    let mut candidates = Vec::new();
    for (&piece, &id) in &ids {
        let length = piece.chars().count();
        if length > LONGEST_PIECE {
            continue;
        }
        let starts = piece.char_indices().map(|(start, _)| start).enumerate().skip(1);
        for (left_length, start) in starts {
            let (left, right) = piece.split_at(start);
            if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                candidates.push(Candidate {
                    score: scores[id],
                    left,
                    right,
                    lengths: (left_length, length - left_length),
                    ids: (id, left_id, right_id),
                });
            }
        }
    }
    candidates.sort_unstable_by(|a, b| {
        let by_score = b.score.total_cmp(&a.score);
        by_score.then_with(|| b.lengths.cmp(&a.lengths)).then_with(|| a.ids.cmp(&b.ids))
    });
    candidates.into_iter().map(|pair| (pair.left.to_string(), pair.right.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_merge_in_the_order_of_the_scores_of_what_they_spell() {
        let pieces: Vec<String> = ["a", "b", "c", "ab", "bc", "abc"].map(str::to_string).into();
        let scores = [-9.0, -9.0, -9.0, -2.0, -1.0, -3.0];
        let merges = merges_from_scores(&pieces, &scores, |_| true);
        let merges: Vec<_> = merges.iter().map(|(l, r)| (l.as_str(), r.as_str())).collect();
        assert_eq!(merges, [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")]);
    }

    #[test]
    fn pieces_that_are_not_usable_take_no_part() {
        let pieces: Vec<String> = ["a", "b", "ab"].map(str::to_string).into();
        assert!(merges_from_scores(&pieces, &[0.0; 3], |id| id != 2).is_empty());
        assert!(merges_from_scores(&pieces, &[0.0; 3], |id| id != 0).is_empty());
    }
}
