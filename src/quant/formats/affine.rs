//! The search behind Q2_K, Q4_K and Q5_K: blocks of weights `scale · q − minimum`, whose scale and
//! minimum are the weighted least squares fit to the best of many trial roundings; and the rounding
//! of the scales and minimums themselves.

use super::arithmetic::nearest_int;
use super::lanes::Lanes;
use super::positive_scales;
use super::super_blocks::{Fit, Found, Header, Importance, WEIGHTS};

/// The trial roundings of a search.
pub(super) struct Trials {
    /// First and following offsets to the number of levels, from which a trial's scale is made.
    pub(super) first: f32,
    pub(super) step: f32,
    /// Trials after the first.
    pub(super) steps: u8,
    /// How a weight's error counts.
    pub(super) error: Error,
}

/// The trials of every search that knows the importance of columns, and of those of blocks of 32.
pub(super) const WEIGHTED_TRIALS: Trials =
    Trials { first: -0.9, step: 0.05, steps: 36, error: Error::Squared };

/// How a weight's error counts, before its importance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Error {
    Absolute,
    Squared,
}

/// The importance that weights have for themselves: their magnitude plus the block's root mean
/// square.
#[inline(always)]
pub(super) fn own_importance<V: Lanes, const BLOCK: usize>(weights: &[V; BLOCK]) -> [V; BLOCK] {
    let mut sum_squares = V::splat(0.0);
    for weight in weights {
        sum_squares = sum_squares.add(weight.mul(*weight));
    }
    let root_mean_square = sum_squares.div(V::splat(BLOCK as f32)).sqrt();
    let mut importance = *weights;
    for value in &mut importance {
        *value = root_mean_square.add(value.abs());
    }
    importance
}

/// The columns' importance times `√(share · mean square of the super-block + weight²)`.
#[inline(always)]
pub(super) fn scaled_importance<V: Lanes, const BLOCK: usize>(
    weights: &[V; BLOCK],
    importance: &Importance<V, BLOCK>,
    share: f32,
) -> [V; BLOCK] {
    let mean = V::splat(share).mul(importance.sum_squares).div(V::splat(WEIGHTS as f32));
    let mut scaled = importance.columns;
    for (value, weight) in scaled.iter_mut().zip(weights) {
        *value = value.mul(mean.add(weight.mul(*weight)).sqrt());
    }
    scaled
}

/// Finds the scales and minimums of least error among the trials, for quants from 0 to `HIGHEST`.
///
/// Two streams of blocks take turns: what one waits for is computed while the other has its turn.
#[inline(always)]
pub(super) fn fit<V: Lanes, const HIGHEST: i32, const BLOCK: usize>(
    trials: &Trials,
    weights: &[[V; BLOCK]; 2],
    importance: &[[V; BLOCK]; 2],
) -> [Fit<V>; 2] {
    let error = trials.error;
    let mut first = Search::<V, HIGHEST, BLOCK>::start(error, &weights[0], &importance[0]);
    let mut second = Search::<V, HIGHEST, BLOCK>::start(error, &weights[1], &importance[1]);
    for step in 0..=trials.steps {
        let widened = trials.widened::<HIGHEST>(step);
        first.round(widened);
        second.round(widened);
        first.judge(error);
        second.judge(error);
    }
    [first.fit(), second.fit()]
}

/// [`fit`] by the importance of columns; `share` is what the mean square of the super-block has in it.
#[inline(always)]
pub(super) fn fit_weighted<V: Lanes, const HIGHEST: i32, const BLOCK: usize>(
    weights: &[[V; BLOCK]; 2],
    importance: &[Importance<V, BLOCK>; 2],
    share: f32,
) -> [Fit<V>; 2] {
    let importance = [
        scaled_importance(&weights[0], &importance[0], share),
        scaled_importance(&weights[1], &importance[1], share),
    ];
    fit::<V, HIGHEST, BLOCK>(&WEIGHTED_TRIALS, weights, &importance)
}

/// [`fit`] of one stream, and the quants of the best trial.
#[inline(always)]
pub(super) fn fit_with_quants<V: Lanes, const HIGHEST: i32, const BLOCK: usize>(
    trials: &Trials,
    weights: &[V; BLOCK],
    importance: &[V; BLOCK],
) -> (Fit<V>, [V; BLOCK]) {
    let mut search = Search::<V, HIGHEST, BLOCK>::start(trials.error, weights, importance);
    for step in 0..=trials.steps {
        search.round(trials.widened::<HIGHEST>(step));
        search.judge(trials.error);
    }
    (search.fit(), search.quants())
}

/// The quants of the best trial of one block.
pub(super) fn quants<const HIGHEST: i32, const BLOCK: usize>(
    trials: &Trials,
    weights: &[f32; BLOCK],
    importance: &[f32; BLOCK],
) -> [u8; BLOCK] {
    let (_, quants) = fit_with_quants::<f32, HIGHEST, BLOCK>(trials, weights, importance);
    quants.map(|quant| quant as u8)
}

/// [`quants`] by the importance of columns, as [`fit_weighted`] takes it.
pub(super) fn quants_weighted<const HIGHEST: i32, const BLOCK: usize>(
    weights: &[f32; BLOCK],
    importance: &Importance<f32, BLOCK>,
    share: f32,
) -> [u8; BLOCK] {
    let importance = scaled_importance(weights, importance, share);
    quants::<HIGHEST, BLOCK>(&WEIGHTED_TRIALS, weights, &importance)
}

impl Trials {
    /// The number of levels that a trial's scale is made from.
    #[inline(always)]
    fn widened<const HIGHEST: i32>(&self, step: u8) -> f32 {
        self.first + self.step * f32::from(step) + HIGHEST as f32
    }
}

/// The state of a search.
#[derive(Clone, Copy)]
struct Search<V, const HIGHEST: i32, const BLOCK: usize> {
    cells: [Cell<V>; BLOCK],
    /// The smallest weight, or 0 if that is less, and the largest.
    lowest: V,
    highest: V,
    sum_importance: V,
    sum_weights: V,
    /// The best so far: its error, what it was rounded by, and its least squares fit.
    least_error: V,
    rounding: Rounding<V>,
    best: Line<V>,
    /// What is being tried.
    trial_rounding: Rounding<V>,
    trial: Line<V>,
    /// Above 0 where the trial has a least squares fit.
    determinant: V,
}

/// What a trial looks at for each weight; side by side, because arrays as long as these lie a multiple
/// of 4 KiB apart, where stores and loads get into each other's way.
#[derive(Clone, Copy)]
struct Cell<V> {
    weight: V,
    importance: V,
    quant: V,
}

/// Rounds a weight to the whole number nearest to `inverse · (weight − minimum)`.
#[derive(Clone, Copy)]
struct Rounding<V> {
    inverse: V,
    minimum: V,
}

/// Explains a weight as `scale · quant + minimum`.
#[derive(Clone, Copy)]
struct Line<V> {
    scale: V,
    minimum: V,
}

impl<V: Lanes> Rounding<V> {
    #[inline(always)]
    fn place(&self, weight: V) -> V {
        self.inverse.mul(weight.sub(self.minimum))
    }
}

impl<V: Lanes, const HIGHEST: i32, const BLOCK: usize> Search<V, HIGHEST, BLOCK> {
    /// Rounds by the range of the weights.
    #[inline(always)]
    fn start(error: Error, weights: &[V; BLOCK], importance: &[V; BLOCK]) -> Self {
        let zero = V::splat(0.0);
        let (mut lowest, mut highest) = (weights[0], weights[0]);
        let mut sum_importance = importance[0];
        let mut sum_weights = importance[0].mul(weights[0]);
        for (weight, importance) in weights.iter().zip(importance).skip(1) {
            lowest = weight.smaller(lowest);
            highest = weight.larger(highest);
            sum_importance = sum_importance.add(*importance);
            sum_weights = sum_weights.add(importance.mul(*weight));
        }
        let lowest = V::select(zero.less(lowest), zero, lowest);
        let inverse = V::splat(HIGHEST as f32).div(highest.sub(lowest));
        let rounding = Rounding { inverse, minimum: lowest };
        let line = Line { scale: V::splat(1.0).div(inverse), minimum: lowest };
        let mut cells = [Cell { weight: zero, importance: zero, quant: zero }; BLOCK];
        for (i, cell) in cells.iter_mut().enumerate() {
            let quant = rounding.place(weights[i]).round_clamped::<0, HIGHEST>();
            *cell = Cell { weight: weights[i], importance: importance[i], quant };
        }
        let mut search = Self {
            cells,
            lowest,
            highest,
            sum_importance,
            sum_weights,
            least_error: zero,
            rounding,
            best: line,
            trial_rounding: rounding,
            trial: line,
            determinant: zero,
        };
        search.least_error = search.sum_errors(error, line);
        search
    }

    /// Rounds as if there were `widened` levels above the best minimum so far (not the block's), and
    /// fits a line to the quants.
    #[inline(always)]
    fn round(&mut self, widened: f32) {
        let minimum = self.best.minimum;
        let inverse = V::splat(widened).div(self.highest.sub(minimum));
        self.trial_rounding = Rounding { inverse, minimum };
        let (sum_quants, sum_squares, sum_products) =
            if self.all_near() { self.sums::<true>() } else { self.sums::<false>() };
        let (sum_importance, sum_weights) = (self.sum_importance, self.sum_weights);
        self.determinant = sum_importance.mul(sum_squares).sub(sum_quants.mul(sum_quants));
        let slope = sum_importance.mul(sum_products).sub(sum_weights.mul(sum_quants));
        let offset = sum_squares.mul(sum_weights).sub(sum_quants.mul(sum_products));
        let (slope, offset) = (slope.div(self.determinant), offset.div(self.determinant));
        let zero = V::splat(0.0);
        let positive = zero.less(offset);
        self.trial = Line { scale: slope, minimum: offset };
        if V::any(positive) {
            self.trial.scale = V::select(positive, sum_products.div(sum_squares), slope);
            self.trial.minimum = V::select(positive, zero, offset);
        }
    }

    /// Whether every weight of blocks that are not constant lies so near to the grid that
    /// [`Lanes::round_near`] does.
    #[inline(always)]
    fn all_near(&self) -> bool {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let above = V::splat(-4.0).less(self.trial_rounding.place(self.lowest));
        let place = self.trial_rounding.place(self.highest);
        let below = place.less(V::splat(HIGHEST as f32 + 4.0));
        let far = V::select(V::both(above, below), zero, one).differs(zero);
        !V::any(V::both(self.varied(), far))
    }

    /// Where the blocks are not constant.
    #[inline(always)]
    fn varied(&self) -> V::Mask {
        self.highest.differs(self.lowest)
    }

    /// Rounds the weights, and returns the sums of quants, of their squares and of their products
    /// with the weights, each by importance.
    #[inline(always)]
    fn sums<const NEAR: bool>(&mut self) -> (V, V, V) {
        let zero = V::splat(0.0);
        let rounding = self.trial_rounding;
        let (mut sum_quants, mut sum_squares, mut sum_products) = (zero, zero, zero);
        for cell in &mut self.cells {
            let place = rounding.place(cell.weight);
            let quant = if NEAR {
                place.round_near::<0, HIGHEST>()
            } else {
                place.round_clamped::<0, HIGHEST>()
            };
            cell.quant = quant;
            let weighted = cell.importance.mul(quant);
            sum_quants = sum_quants.add(weighted);
            sum_squares = sum_squares.add(weighted.mul(quant));
            sum_products = sum_products.add(weighted.mul(cell.weight));
        }
        (sum_quants, sum_squares, sum_products)
    }

    /// Keeps the trial where its error is less than the best one's.
    #[inline(always)]
    fn judge(&mut self, error: Error) {
        let trial_error = self.sum_errors(error, self.trial);
        let fitted = V::splat(0.0).less(self.determinant);
        let better = V::both(fitted, trial_error.less(self.least_error));
        self.least_error = V::select(better, trial_error, self.least_error);
        let (trial, best) = (self.trial_rounding, &mut self.rounding);
        best.inverse = V::select(better, trial.inverse, best.inverse);
        best.minimum = V::select(better, trial.minimum, best.minimum);
        let (trial, best) = (self.trial, &mut self.best);
        best.scale = V::select(better, trial.scale, best.scale);
        best.minimum = V::select(better, trial.minimum, best.minimum);
    }

    #[inline(always)]
    fn sum_errors(&self, error: Error, line: Line<V>) -> V {
        let mut sum = V::splat(0.0);
        for cell in &self.cells {
            let difference = line.scale.mul(cell.quant).add(line.minimum).sub(cell.weight);
            let counted = match error {
                Error::Absolute => difference.abs(),
                Error::Squared => difference.mul(difference),
            };
            sum = sum.add(cell.importance.mul(counted));
        }
        sum
    }

    /// The best of the trials.
    #[inline(always)]
    fn fit(&self) -> Fit<V> {
        let varied = self.varied();
        let minimum = V::select(varied, self.best.minimum, self.lowest);
        Fit {
            scale: V::select(varied, self.best.scale, V::splat(0.0)),
            // The sign of zero changes too.
            minimum: minimum.mul(V::splat(-1.0)),
            importance: self.sum_importance,
        }
    }

    /// The quants of the best of the trials.
    #[inline(always)]
    fn quants(&self) -> [V; BLOCK] {
        let (zero, varied) = (V::splat(0.0), self.varied());
        let mut quants = [zero; BLOCK];
        for (quant, cell) in quants.iter_mut().zip(&self.cells) {
            let nearest = self.rounding.place(cell.weight).round_clamped::<0, HIGHEST>();
            *quant = V::select(varied, nearest, zero);
        }
        quants
    }
}

/// Rounds a super-block's scales and minimums to multiples, up to `largest`, of the largest one's
/// `1 / largest`.
#[inline(always)]
pub(super) fn round<const BLOCKS: usize>(
    found: &Found,
    super_block: usize,
    largest: f32,
) -> Header {
    let scales = Found::of::<BLOCKS>(&found.scales, super_block);
    let minimums = Found::of::<BLOCKS>(&found.minimums, super_block);
    let mut header = Header::default();
    header.scale = round_numbers(&scales, largest, &mut header.scales);
    header.minimum = round_numbers(&minimums, largest, &mut header.minimums);
    header
}

#[inline(always)]
fn round_numbers(numbers: &[f32], largest: f32, codes: &mut [u8]) -> f32 {
    let most = numbers.iter().fold(0.0, |most, &number| if number > most { number } else { most });
    let inverse = if most > 0.0 { largest / most } else { 0.0 };
    for (code, number) in codes.iter_mut().zip(numbers) {
        *code = nearest_int(inverse * number) as u8;
    }
    most / largest
}

/// Rounds the scales and minimums of `V::COUNT` super-blocks from `first` on, each to multiples up to
/// `LARGEST` of a number that suits them best by the blocks' importance.
#[inline(always)]
pub(super) fn round_weighted<V: Lanes, const LARGEST: i32, const BLOCKS: usize>(
    found: &Found,
    first: usize,
    headers: &mut [Option<Header>],
) {
    let start = first * BLOCKS;
    let importance = V::transpose::<BLOCKS>(&found.importance[start..], BLOCKS);
    let scales = V::transpose::<BLOCKS>(&found.scales[start..], BLOCKS);
    let minimums = V::transpose::<BLOCKS>(&found.minimums[start..], BLOCKS);
    let scales = positive_scales::round::<V, LARGEST, BLOCKS>(&scales, &importance);
    let minimums = positive_scales::round::<V, LARGEST, BLOCKS>(&minimums, &importance);
    for (lane, header) in headers[..V::COUNT].iter_mut().enumerate() {
        let (scale, scales) = scales.of(lane);
        let (minimum, minimums) = minimums.of(lane);
        *header = Some(Header { scale, minimum, scales, minimums });
    }
}
