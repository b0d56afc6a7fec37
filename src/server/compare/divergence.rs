//! How far models' expectations are apart along a text that one of them wrote.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::engine::{LogitsWatcher, Watch};
use crate::eval::text::divergence::PositionDivergence;
use crate::server::errors::ApiError;
use crate::server::generate::{Ask, begin};
use crate::server::state::Served;

/// Bytes of logits that are held at a time.
const WINDOW_BYTES: usize = 64 << 20;

/// Tokens of a text that are compared at a time at most.
const LONGEST_WINDOW: usize = 256;

/// Comparisons that hold logits at a time. The models compute one thing at a time anyway.
static ROOM: Semaphore = Semaphore::const_new(2);

/// Reads a text window by window, with the reference and then with each variant.
#[derive(Debug)]
pub struct Divergences {
    reference: Arc<Served>,
    /// Prompt and answer.
    text: Vec<u32>,
    /// The first token of the answer.
    start: usize,
    /// The first token that is yet to be compared.
    next: usize,
    window: usize,
    _room: Option<SemaphorePermit<'static>>,
}

/// A window of the answer.
#[derive(Debug)]
pub struct Window {
    /// The first of its tokens; the answer's first is 0.
    pub from: usize,
    /// Of each variant, at each token.
    pub positions: Vec<Vec<PositionDivergence>>,
}

impl Divergences {
    /// Of a prompt and its answer by the reference. Waits while too many others are compared.
    pub async fn new(reference: Arc<Served>, prompt: &[u32], answer: &[u32]) -> Self {
        let mut text = [prompt, answer].concat();
        text.truncate(reference.service.facts().context);
        let row = reference.vocabulary().size.max(1) * size_of::<f32>();
        let window = (WINDOW_BYTES / row).clamp(1, LONGEST_WINDOW);
        let (start, next) = (prompt.len(), prompt.len());
        // Nobody closes the semaphore.
        let _room = ROOM.acquire().await.ok();
        Self { reference, text, start, next, window, _room }
    }

    /// The next window; `None` at the end of the text.
    ///
    /// # Errors
    /// A model cannot read the text now.
    pub async fn next(&mut self, variants: &[Arc<Served>]) -> Result<Option<Window>, ApiError> {
        let to = self.text.len().min(self.next + self.window);
        let window = self.next..to;
        if window.is_empty() {
            return Ok(None);
        }
        let rows: Arc<Rows> = Arc::new(Rows::new(window.start, window.len()));
        self.read(&self.reference, &window, Arc::clone(&rows) as _).await?;
        let mut positions = Vec::with_capacity(variants.len());
        for variant in variants {
            let compared = Arc::new(Compared {
                reference: Arc::clone(&rows),
                text: self.text[..to].to_vec(),
                found: window.clone().map(|_| OnceLock::new()).collect(),
            });
            self.read(variant, &window, Arc::clone(&compared) as _).await?;
            let found = compared.found.iter().map(|found| found.get().copied());
            let found = found.collect::<Option<Vec<_>>>();
            let unseen = || ApiError::internal("a token of the answer was not compared");
            positions.push(found.ok_or_else(unseen)?);
        }
        let from = self.next - self.start;
        self.next = to;
        Ok(Some(Window { from, positions }))
    }

    /// Lets a model read the text up to the end of a window, and somebody see what it expects there.
    async fn read(
        &self,
        model: &Served,
        window: &Range<usize>,
        watcher: Arc<dyn LogitsWatcher>,
    ) -> Result<(), ApiError> {
        let ask = Ask {
            max_new_tokens: Some(0),
            watch: Some(Watch { from: window.start, watcher }),
            // A text in one window is computed as a whole, so that its figures are the same each time.
            use_cache: self.text.len() - self.start > self.window,
            ..Ask::new(self.text[..window.end].to_vec())
        };
        begin(model, ask)?.collect().await.map(|_| ())
    }
}

/// Keeps the reference's logits.
#[derive(Debug)]
struct Rows {
    from: usize,
    rows: Vec<OnceLock<Vec<f32>>>,
}

impl Rows {
    fn new(from: usize, count: usize) -> Self {
        Self { from, rows: (0..count).map(|_| OnceLock::new()).collect() }
    }
}

impl LogitsWatcher for Rows {
    fn see(&self, position: usize, logits: &[f32]) {
        if let Some(row) = position.checked_sub(self.from).and_then(|row| self.rows.get(row)) {
            let _ = row.set(logits.to_vec());
        }
    }
}

/// Compares a variant's logits with the reference's.
#[derive(Debug)]
struct Compared {
    reference: Arc<Rows>,
    text: Vec<u32>,
    found: Vec<OnceLock<PositionDivergence>>,
}

impl LogitsWatcher for Compared {
    fn see(&self, position: usize, logits: &[f32]) {
        let Some(row) = position.checked_sub(self.reference.from) else { return };
        let expected = self.reference.rows.get(row).and_then(OnceLock::get);
        let (Some(expected), Some(&next)) = (expected, self.text.get(position)) else { return };
        if expected.len() == logits.len() {
            let _ = self.found[row].set(PositionDivergence::of(expected, logits, next));
        }
    }
}

/// What the windows come to.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    positions: Vec<PositionDivergence>,
}

impl Summary {
    /// Adds a window.
    pub fn add(&mut self, positions: &[PositionDivergence]) {
        self.positions.extend_from_slice(positions);
    }

    /// The figures of the whole answer.
    pub fn document(&self, model: usize) -> Value {
        let count = self.positions.len().max(1) as f64;
        let kl = self.positions.iter().map(|position| position.kl);
        let same = self.positions.iter().filter(|position| position.same_top).count();
        json!({
            "type": "compared",
            "model": model,
            "tokens": self.positions.len(),
            "mean_kl": kl.clone().sum::<f64>() / count,
            "largest_kl": kl.fold(0.0, f64::max),
            "same_top": same as f64 / count,
        })
    }
}
