//! A text as windows of tokens, cut as llama.cpp's `llama-perplexity` and `llama-imatrix` cut it.

use std::ops::Range;

use super::text_file::TextFile;
use crate::eval::EvalError;
use crate::tokenizer::Vocabulary;

/// The fewest tokens of a window: one of its second half is scored by the one before it.
pub const SHORTEST_WINDOW: usize = 4;

/// Windows of one length over a text; what is left at its end is left out.
///
/// They follow one another, and of each the second half is scored; where the model wants a start
/// token, each begins with it, in the place of its own first token. Or each begins `stride` tokens
/// after the one before, and its last `stride` tokens are scored; only the text then begins with the
/// start token. The text's last line break is dropped, and special tokens in it are taken as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextWindows {
    tokens: Vec<u32>,
    length: usize,
    /// From one window's first token to the next one's.
    step: usize,
    count: usize,
    first_scored: usize,
}

impl TextWindows {
    /// Cuts a text; at most `limit` windows of `length` tokens.
    ///
    /// # Errors
    /// A text too short for one window.
    pub fn of(
        text: &TextFile,
        vocabulary: &Vocabulary,
        length: usize,
        limit: Option<usize>,
    ) -> Result<Self, EvalError> {
        Self::of_all(std::slice::from_ref(text), vocabulary, length, 0, limit)
    }

    /// Cuts several texts as one, and leaves out its first windows.
    ///
    /// # Errors
    /// As [`TextWindows::of`].
    pub fn of_all(
        texts: &[TextFile],
        vocabulary: &Vocabulary,
        length: usize,
        left_out: usize,
        limit: Option<usize>,
    ) -> Result<Self, EvalError> {
        let contents: Vec<&str> = texts.iter().map(TextFile::content).collect();
        Self::cut(&contents, vocabulary, length, left_out, limit).map_err(|error| {
            let names: Vec<_> =
                texts.iter().map(|text| text.path().display().to_string()).collect();
            EvalError::Unusable(format!("{}: {error}", names.join(", ")))
        })
    }

    /// Cuts a text into windows that overlap, as `llama-perplexity --ppl-stride` does: each begins
    /// `stride` tokens after the one before.
    ///
    /// # Errors
    /// As [`TextWindows::of`], and a stride that does not leave every scored token at least one
    /// before it.
    pub fn of_strided(
        text: &TextFile,
        vocabulary: &Vocabulary,
        length: usize,
        stride: usize,
        limit: Option<usize>,
    ) -> Result<Self, EvalError> {
        Self::cut_strided(text.content(), vocabulary, length, stride, limit)
            .map_err(|error| EvalError::unusable(text.path(), error))
    }

    /// Windows that follow one another in `tokens`, all of it; `start` goes to the beginning of each.
    ///
    /// # Panics
    /// If the tokens are no whole number of windows, or windows are shorter than
    /// [`SHORTEST_WINDOW`].
    pub fn of_tokens(tokens: Vec<u32>, length: usize, start: Option<u32>) -> Self {
        assert!(length >= SHORTEST_WINDOW && tokens.len().is_multiple_of(length), "whole windows");
        let count = tokens.len() / length;
        let first_scored = first_scored(length);
        let mut windows = Self { tokens, length, step: length, count, first_scored };
        if let Some(start) = start {
            windows.tokens.chunks_exact_mut(length).for_each(|window| window[0] = start);
        }
        windows
    }

    fn cut(
        texts: &[impl AsRef<str>],
        vocabulary: &Vocabulary,
        length: usize,
        left_out: usize,
        limit: Option<usize>,
    ) -> Result<Self, EvalError> {
        check_length(length)?;
        let mut tokens = tokens_of(texts, vocabulary)?;
        if tokens.len() / length <= left_out {
            let window = match left_out {
                0 => "one window takes".to_string(),
                many => format!("after {many} windows that are left out one takes"),
            };
            return Err(too_short(tokens.len(), &window, length));
        }
        let count = (tokens.len() / length - left_out).min(limit.unwrap_or(usize::MAX));
        tokens.drain(..left_out * length);
        tokens.truncate(count * length);
        Ok(Self::of_tokens(tokens, length, start_token(vocabulary)))
    }

    fn cut_strided(
        text: &str,
        vocabulary: &Vocabulary,
        length: usize,
        stride: usize,
        limit: Option<usize>,
    ) -> Result<Self, EvalError> {
        check_length(length)?;
        if !(1..length).contains(&stride) {
            return Err(EvalError::Unusable(format!(
                "a stride of {stride} tokens is none that windows of {length} tokens can have: it \
                 must be from 1 to {}",
                length - 1
            )));
        }
        let tokens = tokens_of(&[text], vocabulary)?;
        if tokens.len() <= length {
            return Err(too_short(
                tokens.len(),
                "one window and the token after it take",
                length + 1,
            ));
        }
        let count = (tokens.len() - length).div_ceil(stride).min(limit.unwrap_or(usize::MAX));
        Ok(Self { tokens, length, step: stride, count, first_scored: length - stride - 1 })
    }

    /// The windows, in the order of the text.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        (0..self.count).map(|index| self.window(index))
    }

    /// The window of this number.
    ///
    /// # Panics
    /// If there is none.
    pub fn window(&self, index: usize) -> &[u32] {
        assert!(index < self.count, "the text has {} windows", self.count);
        &self.tokens[index * self.step..][..self.length]
    }

    /// How many windows there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Tokens in a window.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The positions of a window whose predictions are scored: all from the first one on but the
    /// last, whose next token the window does not hold.
    pub fn scored(&self) -> Range<usize> {
        self.first_scored..self.length - 1
    }
}

/// What the model wants a text to begin with.
pub(super) fn start_token(vocabulary: &Vocabulary) -> Option<u32> {
    vocabulary.bos.filter(|_| vocabulary.add_bos)
}

fn tokens_of(texts: &[impl AsRef<str>], vocabulary: &Vocabulary) -> Result<Vec<u32>, EvalError> {
    let mut tokens: Vec<u32> = start_token(vocabulary).into_iter().collect();
    for text in texts.iter().map(AsRef::as_ref) {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = vocabulary.encode(text, false);
        tokens.extend(text.map_err(|error| EvalError::Unusable(error.to_string()))?);
    }
    Ok(tokens)
}

fn check_length(length: usize) -> Result<(), EvalError> {
    if length >= SHORTEST_WINDOW {
        return Ok(());
    }
    Err(EvalError::Unusable(format!(
        "windows of {length} tokens are too short: at least {SHORTEST_WINDOW} are needed"
    )))
}

fn too_short(tokens: usize, window: &str, needed: usize) -> EvalError {
    EvalError::Unusable(format!(
        "the text is too short: it has {tokens} tokens, and {window} {needed}; give a longer text or \
         a smaller --context"
    ))
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
        assert_eq!(plain.scored(), 2..3);
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
    fn strides_overlap_and_score_each_token_once() {
        let cut = |stride, limit| {
            TextWindows::cut_strided("abcdefghijkl\n", &vocabulary(true), 6, stride, limit)
        };
        // The start token and twelve more: 13 − 6 = 7 tokens are to come after the first window.
        let windows = cut(3, None).unwrap();
        let texts = ["\u{1}abcde", "cdefgh", "fghijk"];
        let expected = texts.map(|text| {
            text.chars().map(|c| if c == '\u{1}' { 1 } else { byte(c) }).collect::<Vec<_>>()
        });
        assert_eq!(windows.iter().collect::<Vec<_>>(), expected);
        assert_eq!(windows.scored(), 2..5);
        assert_eq!(cut(3, Some(2)).unwrap().count(), 2);
        assert_eq!(cut(5, None).unwrap().scored(), 0..5);
        for stride in [0, 6] {
            let error = cut(stride, None).unwrap_err().to_string();
            assert!(error.contains("from 1 to 5"), "{error}");
        }
        let short = TextWindows::cut_strided("abcdef", &vocabulary(false), 6, 2, None);
        let error = short.unwrap_err().to_string();
        assert!(error.contains("has 6 tokens") && error.contains("take 7"), "{error}");
    }

    #[test]
    fn the_second_half_is_scored_but_for_its_end() {
        assert_eq!((first_scored(512), scored_positions(512)), (256, 255));
        assert_eq!((first_scored(SHORTEST_WINDOW), scored_positions(SHORTEST_WINDOW)), (2, 1));
    }
}
