//! Windows of a text on their way through a model: several at a time, so that steps are full.

use std::collections::VecDeque;
use std::ops::Range;

use super::windows::TextWindows;
use crate::engine::{Engine, EngineError, EngineOptions, LogitsFor, SequenceId, StepItem};
use crate::eval::EvalError;
use crate::gguf::GgufFile;

/// At most so many tokens are in a step.
const STEP_TOKENS: usize = 512;
/// At most about this many bytes of logits come out of a step of one model.
const STEP_LOGITS_BYTES: usize = 64 << 20;
/// About so many tokens are in a section.
const SECTION_TOKENS: usize = 1 << 14;

/// Windows in the sections in which they are read. The windows of a section meet in the same steps
/// wherever it is run, so what they give does not depend on whether the process has run those before.
/// `first` is where one of them begins, or the end: those before it are left out.
pub(super) fn sections(
    windows: &TextWindows,
    first: usize,
) -> impl Iterator<Item = Range<usize>> + use<> {
    let count = windows.count();
    let length = (SECTION_TOKENS / windows.length()).max(1);
    (first..count).step_by(length).map(move |start| start..count.min(start + length))
}

/// A stretch of a window that goes through the model in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// The window's number.
    window: usize,
    /// Positions in it.
    positions: Range<usize>,
    /// Whether all of them are scored; else none is.
    scored: bool,
}

/// What goes through the model together: pieces of different windows, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pieces: Vec<Piece>,
    /// Windows that end with this step.
    pub(super) finished: usize,
    /// The tokens that follow those scored, one a row of logits.
    pub(super) next: Vec<u32>,
}

/// The steps in which the windows of a section go through a model. While some windows are scored,
/// those after them begin; scored positions come in the order of the text.
#[derive(Debug)]
pub(super) struct Steps<'a> {
    windows: &'a TextWindows,
    /// At most so many rows of logits a step.
    most_rows: usize,
    most_windows: usize,
    /// The windows that have begun and not ended, in order, and how far they are.
    under_way: VecDeque<(usize, usize)>,
    /// Those that have yet to begin.
    waiting: Range<usize>,
}

impl<'a> Steps<'a> {
    /// Of some windows, with a vocabulary of this size.
    pub(super) fn new(windows: &'a TextWindows, section: Range<usize>, vocabulary: usize) -> Self {
        let row_bytes = vocabulary.max(1) * size_of::<f32>();
        Self {
            windows,
            most_rows: (STEP_LOGITS_BYTES / row_bytes).clamp(1, STEP_TOKENS),
            most_windows: (2 * STEP_TOKENS / windows.length()).max(2),
            under_way: VecDeque::new(),
            waiting: section,
        }
    }

    fn admit(&mut self) -> bool {
        let room = self.under_way.len() < self.most_windows;
        let next = if room { self.waiting.next() } else { None };
        self.under_way.extend(next.map(|window| (window, 0)));
        next.is_some()
    }

    /// The next piece of a window that is at `position`: at most `tokens` tokens and `rows` scored rows.
    fn piece(&self, window: usize, position: usize, tokens: usize, rows: usize) -> Piece {
        let scores = self.windows.scored();
        let scored = scores.contains(&position);
        let (end, most) =
            if scored { (scores.end, tokens.min(rows)) } else { (scores.start, tokens) };
        Piece { window, positions: position..end.min(position + most), scored }
    }
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let (mut tokens, mut rows) = (STEP_TOKENS, self.most_rows);
        let mut step = Step { pieces: Vec::new(), finished: 0, next: Vec::new() };
        let mut place = 0;
        while tokens > 0 && (place < self.under_way.len() || self.admit()) {
            let (window, position) = self.under_way[place];
            let piece = self.piece(window, position, tokens, rows);
            place += 1;
            if piece.positions.is_empty() {
                continue;
            }
            tokens -= piece.positions.len();
            if piece.scored {
                rows -= piece.positions.len();
                let following = piece.positions.start + 1..piece.positions.end + 1;
                step.next.extend(&self.windows.window(window)[following]);
            }
            self.under_way[place - 1].1 = piece.positions.end;
            step.pieces.push(piece);
        }
        let end = self.windows.scored().end;
        let begun = self.under_way.len();
        self.under_way.retain(|&(_, position)| position < end);
        step.finished = begun - self.under_way.len();
        (!step.pieces.is_empty()).then_some(step)
    }
}

/// A model with the sequences of the windows under way. They end with it.
#[derive(Debug)]
pub(super) struct WindowRun<'a> {
    engine: &'a mut Engine,
    windows: &'a TextWindows,
    sequences: VecDeque<(usize, SequenceId)>,
}

impl<'a> WindowRun<'a> {
    pub(super) fn new(engine: &'a mut Engine, windows: &'a TextWindows) -> Self {
        Self { engine, windows, sequences: VecDeque::new() }
    }

    /// Takes one of [`Steps`] after the other, of any sections in their order. Gives the logits of its scored positions.
    pub(super) fn step(&mut self, step: &Step) -> Result<&[f32], EngineError> {
        // The first window under way is in every step.
        let first = step.pieces.first().map_or(0, |piece| piece.window);
        while let Some((_, sequence)) = self.sequences.pop_front_if(|(window, _)| *window < first) {
            self.engine.end(sequence);
        }
        for piece in step.pieces.iter().filter(|piece| piece.positions.start == 0) {
            let sequence = self.engine.start(self.windows.length());
            self.sequences.push_back((piece.window, sequence));
        }
        let items: Vec<StepItem<'_>> = step
            .pieces
            .iter()
            .map(|piece| StepItem {
                sequence: self.sequences[piece.window - first].1,
                tokens: &self.windows.window(piece.window)[piece.positions.clone()],
                logits: if piece.scored { LogitsFor::All } else { LogitsFor::None },
            })
            .collect();
        Ok(self.engine.step(&items)?.values())
    }
}

impl Drop for WindowRun<'_> {
    fn drop(&mut self) {
        for &(_, sequence) in &self.sequences {
            self.engine.end(sequence);
        }
    }
}

/// Loads a model that is to read windows of `length` tokens.
///
/// # Errors
/// A model that cannot be loaded, or whose context is shorter.
pub(super) fn load_for_windows(
    model: GgufFile,
    options: EngineOptions,
    length: usize,
) -> Result<Engine, EvalError> {
    let path = model.path().to_path_buf();
    let engine = Engine::load_file(model, options)?;
    if length > engine.context_length() {
        return Err(EvalError::Unusable(format!(
            "{}: windows of {length} tokens do not fit into the model's context of {}: lower \
             --context",
            path.display(),
            engine.context_length()
        )));
    }
    Ok(engine)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes through the model: pieces, each with its window's number.
    fn checked_steps(windows: &TextWindows, vocabulary: usize) -> Vec<Step> {
        let steps: Vec<Step> = sections(windows, 0)
            .flat_map(|section| Steps::new(windows, section, vocabulary))
            .collect();
        let rows = (STEP_LOGITS_BYTES / (4 * vocabulary)).max(1);
        let mut reached = vec![0; windows.count()];
        let mut next: Vec<u32> = Vec::new();
        for step in &steps {
            let tokens: usize = step.pieces.iter().map(|piece| piece.positions.len()).sum();
            assert!(tokens <= STEP_TOKENS && step.next.len() <= rows);
            assert!(step.pieces.is_sorted_by(|a, b| a.window < b.window));
            for Piece { window, positions, scored } in &step.pieces {
                assert_eq!(positions.start, reached[*window], "nothing is left out");
                assert!(!positions.is_empty());
                assert_eq!(*scored, windows.scored().contains(&positions.start));
                reached[*window] = positions.end;
            }
            next.extend(&step.next);
        }
        assert_eq!(reached, vec![windows.length() - 1; windows.count()]);
        assert_eq!(steps.iter().map(|step| step.finished).sum::<usize>(), windows.count());
        let following = windows.scored().start + 1..windows.length();
        let expected: Vec<u32> =
            windows.iter().flat_map(|window| &window[following.clone()]).copied().collect();
        assert_eq!(next, expected, "scored positions come in the order of the text");
        steps
    }

    #[test]
    fn all_windows_go_through_in_order() {
        for (length, count) in [(4, 1), (4, 1000), (64, 37), (512, 9), (513, 3), (3000, 4)] {
            let tokens = (0..(length * count) as u32).collect();
            let windows = TextWindows::of_tokens(tokens, length, None);
            for vocabulary in [10, 49_152, 300_000, 1 << 26] {
                checked_steps(&windows, vocabulary);
            }
        }
    }

    #[test]
    fn steps_are_full_once_some_windows_are_under_way() {
        let windows = TextWindows::of_tokens((0..512 * 40).collect(), 512, None);
        // With the larger vocabulary, 130 rows fill a step; as many tokens go before them.
        for (vocabulary, least) in [(49_152, 480), (128_256, 250)] {
            let steps = checked_steps(&windows, vocabulary);
            let tokens = |step: &Step| -> usize {
                step.pieces.iter().map(|piece| piece.positions.len()).sum()
            };
            let mean = steps.iter().map(tokens).sum::<usize>() / steps.len();
            assert!(mean > least, "{mean} tokens a step with a vocabulary of {vocabulary}");
        }
    }
}
