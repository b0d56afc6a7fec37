//! Reading `tokenizer.model`: SentencePiece's model file, a protocol buffer
//! (`sentencepiece_model.proto`). Only the fields that a vocabulary needs are looked at.

use super::keys::TokenType;

/// One entry of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: TokenType,
}

/// What is read of a model file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SentencePieceModel {
    /// In the order of their ids.
    pub pieces: Vec<Piece>,
    /// Whether a space is put before a text.
    pub add_dummy_prefix: bool,
    /// Whether runs of spaces become one, and those around a text are left out.
    remove_extra_whitespaces: bool,
    /// The name of the rules by which characters are replaced, where there are any.
    replacements: Option<String>,
}

impl SentencePieceModel {
    /// What GGUF does not keep of it.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(name) = &self.replacements {
            warnings.push(format!(
                "its normalization rules \"{name}\", which replace characters, are lost in GGUF. \
                 Texts with such characters get other tokens"
            ));
        }
        if self.remove_extra_whitespaces {
            warnings.push(
                "it removes extra spaces (remove_extra_whitespaces), which GGUF cannot say. Texts \
                 with runs of spaces get other tokens"
                    .to_string(),
            );
        }
        warnings
    }
}

/// Reads a model file.
///
/// # Errors
/// A malformed file, or a model that is not of SentencePiece's BPE kind, or that does not write
/// spaces as `▁` before words.
pub(super) fn read(bytes: &[u8]) -> Result<SentencePieceModel, String> {
    // The defaults of the format.
    let mut model = SentencePieceModel {
        pieces: Vec::new(),
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        replacements: None,
    };
    let mut kind = UNIGRAM;
    for field in fields(bytes) {
        match field? {
            (1, Payload::Bytes(message)) => model.pieces.push(piece(message)?),
            (2, Payload::Bytes(trainer)) => {
                for field in fields(trainer) {
                    match field? {
                        (3, Payload::Varint(number)) => kind = number,
                        (24, Payload::Varint(1)) => {
                            return Err("it writes spaces behind words \
                                        (treat_whitespace_as_suffix), which GGUF cannot say"
                                .to_string());
                        }
                        _ => {}
                    }
                }
            }
            (3, Payload::Bytes(normalizer)) => read_normalizer(normalizer, &mut model)?,
            _ => {}
        }
    }
    match kind {
        _ if model.pieces.is_empty() => Err("no SentencePiece model: it has no pieces".to_string()),
        BPE => Ok(model),
        UNIGRAM => Err("a SentencePiece unigram model; only BPE models can be converted".into()),
        _ => Err(format!("a SentencePiece model of kind {kind}; only BPE models can be converted")),
    }
}

/// `TrainerSpec.ModelType`.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

fn read_normalizer(message: &[u8], model: &mut SentencePieceModel) -> Result<(), String> {
    let (mut name, mut has_map) = (String::new(), false);
    for field in fields(message) {
        match field? {
            (1, Payload::Bytes(text)) => name = String::from_utf8_lossy(text).into_owned(),
            (2, Payload::Bytes(map)) => has_map = !map.is_empty(),
            (3, Payload::Varint(truth)) => model.add_dummy_prefix = truth != 0,
            (4, Payload::Varint(truth)) => model.remove_extra_whitespaces = truth != 0,
            (5, Payload::Varint(0)) => {
                return Err("it does not write spaces as ▁ (escape_whitespaces), as GGUF's \
                            vocabularies do"
                    .to_string());
            }
            _ => {}
        }
    }
    model.replacements = has_map.then_some(name);
    Ok(())
}

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
                piece.kind = TokenType::numbered(number as i64);
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
        assert_eq!(read(MODEL).unwrap().pieces, expected);
    }

    #[test]
    fn every_truncation_is_an_error_or_a_shorter_model() {
        for length in 0..MODEL.len() {
            let _ = read(&MODEL[..length]).unwrap_err();
        }
    }

    #[test]
    fn a_unigram_model_is_refused() {
        let model = &MODEL[..MODEL.len() - 4];
        assert!(read(model).unwrap_err().contains("unigram"));
    }

    #[test]
    fn what_a_gguf_file_does_not_keep_is_told() {
        let with = |normalizer: &[u8]| {
            read(&[MODEL, &[0x1a, normalizer.len() as u8], normalizer].concat())
        };
        // The name, a map of two bytes, no prefix, extra spaces kept.
        let model = with(b"\x0a\x04nfkc\x12\x02ab\x18\x00\x20\x00").unwrap();
        assert!(!model.add_dummy_prefix);
        let [warning] = &model.warnings()[..] else { panic!("{:?}", model.warnings()) };
        assert!(warning.contains("nfkc"));
        assert!(with(b"\x20\x01").unwrap().warnings()[0].contains("remove_extra_whitespaces"));
        assert!(with(b"\x28\x00").unwrap_err().contains("escape_whitespaces"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
