//! A text as windows of tokens, cut as llama.cpp's `llama-perplexity` and `llama-imatrix` cut it.

use std::path::{Path, PathBuf};

use super::EvalError;
use crate::convert::vocabulary::Vocabulary;
use crate::support::regular_file::read_regular;

/// The fewest tokens of a window: one of its second half is scored by the one before it.
pub const SHORTEST_WINDOW: usize = 4;

/// Consecutive windows of one length over a text; what is left at the end is left out.
///
/// The text's last line break is dropped, special tokens in it are taken as text, and where the
/// model wants a start token, each window begins with it, in the place of its own first token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextWindows {
    windows: Vec<Vec<u32>>,
}

impl TextWindows {
    /// Reads and cuts a text file; at most `limit` windows of `length` tokens.
    ///
    /// # Errors
    /// A file that cannot be read or is no UTF-8, and a text too short for one window.
    pub fn read(
        path: &Path,
        vocabulary: &Vocabulary,
        length: usize,
        limit: Option<usize>,
    ) -> Result<Self, EvalError> {
        Self::read_all(&[path.to_path_buf()], vocabulary, length, 0, limit)
    }

    /// Reads several text files as one text, and leaves out its first windows.
    ///
    /// # Errors
    /// As [`TextWindows::read`].
    pub fn read_all(
        paths: &[PathBuf],
        vocabulary: &Vocabulary,
        length: usize,
        left_out: usize,
        limit: Option<usize>,
    ) -> Result<Self, EvalError> {
        let texts = paths.iter().map(|path| read_text(path)).collect::<Result<Vec<_>, _>>()?;
        Self::cut(&texts, vocabulary, length, left_out, limit).map_err(|error| {
            let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            EvalError::Unusable(format!("{}: {error}", names.join(", ")))
        })
    }

    fn cut(
        texts: &[impl AsRef<str>],
        vocabulary: &Vocabulary,
        length: usize,
        left_out: usize,
        limit: Option<usize>,
    ) -> Result<Self, EvalError> {
        let problem = |problem: String| EvalError::Unusable(problem);
        if length < SHORTEST_WINDOW {
            return Err(problem(format!(
                "windows of {length} tokens are too short: at least {SHORTEST_WINDOW} are needed"
            )));
        }
        let start = vocabulary.bos.filter(|_| vocabulary.add_bos);
        let mut tokens: Vec<u32> = start.into_iter().collect();
        for text in texts.iter().map(AsRef::as_ref) {
            let text = text.strip_suffix('\n').unwrap_or(text);
            let text =
                vocabulary.encode(text, false).map_err(|error| problem(error.to_string()))?;
            tokens.extend(text);
        }
        if tokens.len() / length <= left_out {
            let window = match left_out {
                0 => "one window takes".to_string(),
                many => format!("after {many} windows that are left out one takes"),
            };
            return Err(problem(format!(
                "the text is too short: it has {} tokens, and {window} {length}; give a longer \
                 text or a smaller --context",
                tokens.len()
            )));
        }
        let mut windows: Vec<Vec<u32>> = tokens
            .chunks_exact(length)
            .skip(left_out)
            .take(limit.unwrap_or(usize::MAX))
            .map(<[u32]>::to_vec)
            .collect();
        if let Some(start) = start {
            windows.iter_mut().for_each(|window| window[0] = start);
        }
        Ok(Self { windows })
    }

    /// The windows, in the order of the text.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.windows.iter().map(Vec::as_slice)
    }

    /// How many windows there are.
    pub fn count(&self) -> usize {
        self.windows.len()
    }
}

fn read_text(path: &Path) -> Result<String, EvalError> {
    let bytes = read_regular(path)
        .map_err(|source| EvalError::Io { path: path.display().to_string(), source })?;
    String::from_utf8(bytes).map_err(|error| {
        EvalError::Unusable(format!("{}: expected text in UTF-8: {error}", path.display()))
    })
}

/// The first position of a window whose prediction is scored: those of the first half see too
/// little context.
pub fn first_scored(window: usize) -> usize {
    window / 2
}

/// How many positions of a window are scored: from [`first_scored`] on, all but the last, whose
/// next token the window does not hold.
pub fn scored_positions(window: usize) -> usize {
    window - 1 - first_scored(window)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Array, Metadata, Value};

    /// One token a byte, `<s>` (text when the text spells it) for a start.
    fn vocabulary(add_bos: bool) -> Vocabulary {
        let mut metadata = Metadata::new();
        let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
        let tokens: Vec<String> =
            ["<unk>", "<s>", "</s>", "▁"].map(String::from).into_iter().chain(bytes).collect();
        let types = [2, 3, 3, 1].into_iter().chain([6; 256]).collect();
        let scores = vec![0.0; tokens.len()];
        metadata.set("tokenizer.ggml.model", Value::String("llama".into()));
        metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
        metadata.set("tokenizer.ggml.bos_token_id", Value::U32(1));
        metadata.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(add_bos));
        Vocabulary::from_metadata(&metadata).unwrap()
    }

    fn byte(character: char) -> u32 {
        4 + character as u32
    }

    #[test]
    fn whole_windows_are_cut_and_begin_as_the_model_wants() {
        let plain = TextWindows::cut(&["abcdefghij\n"], &vocabulary(false), 4, 0, None).unwrap();
        let windows: Vec<&[u32]> = plain.iter().collect();
        assert_eq!(
            windows,
            ["abcd", "efgh"].map(|text| text.chars().map(byte).collect::<Vec<_>>())
        );
        let started = TextWindows::cut(&["abcdefghijk"], &vocabulary(true), 4, 0, Some(2)).unwrap();
        let windows: Vec<&[u32]> = started.iter().collect();
        let expected = [['a', 'b', 'c'], ['e', 'f', 'g']]
            .map(|text| [vec![1], text.map(byte).to_vec()].concat());
        assert_eq!(windows, expected);
        let later =
            TextWindows::cut(&["abcdef", "ghijklmnop\n"], &vocabulary(false), 4, 1, Some(2))
                .unwrap();
        let windows: Vec<&[u32]> = later.iter().collect();
        assert_eq!(
            windows,
            ["efgh", "ijkl"].map(|text| text.chars().map(byte).collect::<Vec<_>>())
        );
    }

    #[test]
    fn a_short_text_is_refused_with_both_lengths() {
        let cut = |text: &str, length, left_out| {
            let windows = TextWindows::cut(&[text], &vocabulary(false), length, left_out, None);
            windows.unwrap_err().to_string()
        };
        let error = cut("abc", 8, 0);
        assert!(error.contains("has 3 tokens") && error.contains("takes 8"), "{error}");
        let error = cut("abc", 3, 0);
        assert!(error.contains("at least 4"), "{error}");
        let error = cut("abcdefghij", 4, 2);
        assert!(error.contains("after 2 windows that are left out one takes 4"), "{error}");
    }

    #[test]
    fn the_second_half_is_scored_but_for_its_end() {
        assert_eq!((first_scored(512), scored_positions(512)), (256, 255));
        assert_eq!((first_scored(SHORTEST_WINDOW), scored_positions(SHORTEST_WINDOW)), (2, 1));
    }
}
