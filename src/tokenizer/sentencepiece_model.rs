//! Reading `tokenizer.model`: SentencePiece's model file, a protocol buffer
//! (`sentencepiece_model.proto`). Only the fields that a vocabulary needs are looked at.

use super::vocabulary::TokenType;

/// One entry of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: TokenType,
}

/// The pieces of a model file, in the order of their ids.
///
/// # Errors
/// A malformed file, or a model that is not of SentencePiece's BPE kind.
pub(super) fn pieces(bytes: &[u8]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut kind = UNIGRAM;
    for field in fields(bytes) {
        match field? {
            (1, Payload::Bytes(message)) => pieces.push(piece(message)?),
            (2, Payload::Bytes(trainer)) => {
                for field in fields(trainer) {
                    if let (3, Payload::Varint(number)) = field? {
                        kind = number;
                    }
                }
            }
            _ => {}
        }
    }
    match kind {
        _ if pieces.is_empty() => Err("no SentencePiece model: it has no pieces".to_string()),
        BPE => Ok(pieces),
        UNIGRAM => Err("a SentencePiece unigram model; only BPE models can be converted".into()),
        _ => Err(format!("a SentencePiece model of kind {kind}; only BPE models can be converted")),
    }
}

/// `TrainerSpec.ModelType`.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

fn piece(message: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: TokenType::Normal };
    for field in fields(message) {
        match field? {
            (1, Payload::Bytes(text)) => {
                piece.text = std::str::from_utf8(text)
                    .map_err(|_| "a piece is not valid UTF-8".to_string())?
                    .to_string();
            }
            (2, Payload::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Payload::Varint(number)) => {
                piece.kind = match number {
                    2 => TokenType::Unknown,
                    3 => TokenType::Control,
                    4 => TokenType::UserDefined,
                    5 => TokenType::Unused,
                    6 => TokenType::Byte,
                    _ => TokenType::Normal,
                };
            }
            _ => {}
        }
    }
    Ok(piece)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Payload<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64,
}

/// The fields of a message: number and payload.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u64, Payload<'_>), String>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = next_field(&mut bytes);
        if field.is_none() {
            bytes = &[];
        }
        Some(field.ok_or_else(|| "no valid protocol buffer: a field is cut short".to_string()))
    })
}

fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Payload<'a>)> {
    let tag = varint(bytes)?;
    let payload = match tag & 7 {
        0 => Payload::Varint(varint(bytes)?),
        1 => {
            bytes.split_off(..8)?;
            Payload::Fixed64
        }
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Payload::Bytes(bytes.split_off(..length)?)
        }
        5 => Payload::Fixed32(u32::from_le_bytes(bytes.split_off(..4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((tag >> 3, payload))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pieces and a trainer that says BPE.
    const MODEL: &[u8] = b"\x0a\x0a\x0a\x01a\x15\0\0\0\xbf\x18\x01\
                           \x0a\x0c\x0a\x03\xe2\x96\x81\x15\0\0\x80\xbf\x18\x03\
                           \x12\x02\x18\x02";

    #[test]
    fn pieces_have_text_score_and_kind() {
        let expected = [
            Piece { text: "a".into(), score: -0.5, kind: TokenType::Normal },
            Piece { text: "\u{2581}".into(), score: -1.0, kind: TokenType::Control },
        ];
        assert_eq!(pieces(MODEL).unwrap(), expected);
    }

    #[test]
    fn every_truncation_is_an_error_or_a_shorter_model() {
        for length in 0..MODEL.len() {
            let _ = pieces(&MODEL[..length]).unwrap_err();
        }
    }

    #[test]
    fn a_unigram_model_is_refused() {
        let model = &MODEL[..MODEL.len() - 4];
        assert!(pieces(model).unwrap_err().contains("unigram"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = pieces(&bytes);
        }
    }
}
