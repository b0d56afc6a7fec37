//! The search behind Q3_K: rounding by the weight of largest magnitude, then changing one quant after
//! another as long as the least squares fit gets better.
//!
//! The fit's sum of products is above zero, without which nothing is changed, in half of a model's
//! blocks only; and in most of those no quant changes. So a quick look over all blocks picks those
//! in which one might, and the search gathers them into full lanes.

use super::lanes::{Lanes, MOST_LANES, Pair};
use super::super_blocks::{BATCH_WEIGHTS, Fit, Found};
use super::symmetric::{NEGLIGIBLE, extreme_lanes};

/// Weights in a block of Q3_K.
pub(super) const BLOCK: usize = 16;

/// The smallest and the largest quant.
pub(super) const LOWEST: i32 = -4;
pub(super) const HIGHEST: i32 = 3;

/// The most often that all quants are gone through.
const ROUNDS: usize = 5;

/// Far above the numbers whose rounding errors are not relative to their size.
const NO_MARGIN: f32 = 1e-36;

/// The blocks of a batch.
const BLOCKS: usize = BATCH_WEIGHTS / BLOCK;

/// Finds the scales of the first `blocks` blocks of a batch.
#[inline(always)]
pub(super) fn fit_batch<V: Lanes>(
    weights: &[f32; BATCH_WEIGHTS],
    blocks: usize,
    found: &mut Found,
) {
    let mut places = [0; BLOCKS];
    let mut count = 0;
    for first in (0..blocks).step_by(V::COUNT) {
        let descent = Descent::<V>::start(&V::transpose(&weights[first * BLOCK..], BLOCK));
        descent.scale().store(&mut found.scales[first..]);
        let mut restless = descent.restless();
        while restless != 0 {
            places[count] = first + restless.trailing_zeros() as usize;
            count += 1;
            restless &= restless - 1;
        }
    }
    let (all, _) = weights.as_chunks::<BLOCK>();
    let mut gathered = [[0.0; BLOCK]; MOST_LANES];
    // Each change waits for the one before: more lanes wait together.
    for places in places[..count].chunks(2 * V::COUNT) {
        for (block, &place) in gathered.iter_mut().zip(places) {
            *block = all[place];
        }
        let mut scales = [0.0; MOST_LANES];
        let weights = Pair::<V>::transpose(gathered.as_flattened(), BLOCK);
        fit(&weights).scale.store(&mut scales);
        for (&place, scale) in places.iter().zip(scales) {
            found.scales[place] = scale;
        }
    }
}

/// Finds the scales of blocks.
#[inline(always)]
pub(super) fn fit<V: Lanes>(weights: &[V; BLOCK]) -> Fit<V> {
    let mut descent = Descent::start(weights);
    descent.run();
    Fit { scale: descent.scale(), minimum: V::splat(0.0), importance: V::splat(0.0) }
}

/// The quants that the search ends with for one block, counting from 0.
pub(super) fn quants(weights: &[f32; BLOCK]) -> [u8; BLOCK] {
    let mut descent = Descent::start(weights);
    descent.run();
    if descent.magnitude < NEGLIGIBLE {
        return [0; BLOCK];
    }
    descent.quants.map(|quant| (quant - LOWEST as f32) as u8)
}

/// The state of the search.
struct Descent<V> {
    weights: [V; BLOCK],
    quants: [V; BLOCK],
    /// The largest magnitude of the weights.
    magnitude: V,
    /// `Σ w² · w · q` and `Σ w² · q²`: a weight's error counts by its square.
    products: V,
    squares: V,
}

impl<V: Lanes> Descent<V> {
    #[inline(always)]
    fn start(weights: &[V; BLOCK]) -> Self {
        let (magnitude, extreme) = extreme_lanes(weights);
        let inverse = V::splat(LOWEST as f32).div(extreme);
        let (mut products, mut squares) = (V::splat(0.0), V::splat(0.0));
        let mut quants = *weights;
        for (quant, weight) in quants.iter_mut().zip(weights) {
            *quant = inverse.mul(*weight).round_near::<LOWEST, HIGHEST>();
            let importance = weight.mul(*weight);
            products = products.add(importance.mul(*weight).mul(*quant));
            squares = squares.add(importance.mul(*quant).mul(*quant));
        }
        Self { weights: *weights, quants, magnitude, products, squares }
    }

    /// Bit `l` is set if a quant of lane `l` might change next, and only if it is not, none does.
    #[inline(always)]
    fn restless(&self) -> u64 {
        let mut restless = 0;
        for (weight, quant) in self.weights.iter().zip(&self.quants) {
            let importance = weight.mul(*weight);
            let others_products = self.products.sub(importance.mul(*weight).mul(*quant));
            let others_squares = self.squares.sub(importance.mul(*quant).mul(*quant));
            // The quant becomes the whole number nearest to `weight · squares / products`, within the
            // limits. Without the quotient, and with a margin for what rounding does to it; products
            // so small that the margin would not do are always worth another look.
            let lowest = others_products.mul(V::splat(LOWEST as f32));
            let highest = others_products.mul(V::splat(HIGHEST as f32));
            let best = weight.mul(others_squares).larger(lowest).smaller(highest);
            let away = best.sub(others_products.mul(*quant)).abs();
            let step = others_products.mul(V::splat(0.4999)).sub(V::splat(NO_MARGIN));
            let usable = V::splat(0.0).less(others_products);
            restless |= V::bits(V::both(usable, step.less(away)));
        }
        restless
    }

    /// Changes quants.
    #[inline(always)]
    fn run(&mut self) {
        for _ in 0..ROUNDS {
            if !self.change_each() {
                break;
            }
        }
    }

    /// Goes through the quants once, and says whether any was changed.
    #[inline(always)]
    fn change_each(&mut self) -> bool {
        let zero = V::splat(0.0);
        let mut changes = 0;
        for (quant, weight) in self.quants.iter_mut().zip(&self.weights) {
            let importance = weight.mul(*weight);
            let weighted = importance.mul(*weight);
            let others_products = self.products.sub(weighted.mul(*quant));
            let others_squares = self.squares.sub(importance.mul(*quant).mul(*quant));
            let best = weight.mul(others_squares).div(others_products);
            let changed = best.round_clamped::<LOWEST, HIGHEST>();
            let products = others_products.add(weighted.mul(changed));
            let squares = others_squares.add(importance.mul(changed).mul(changed));
            let before = self.products.mul(self.products).mul(squares);
            let nearer = before.less(products.mul(products).mul(self.squares));
            let usable = V::both(zero.less(others_products), zero.less(squares));
            let better = V::both(V::both(usable, nearer), changed.differs(*quant));
            *quant = V::select(better, changed, *quant);
            self.products = V::select(better, products, self.products);
            self.squares = V::select(better, squares, self.squares);
            changes |= V::bits(better);
        }
        changes != 0
    }

    /// The scale of the least squares fit.
    #[inline(always)]
    fn scale(&self) -> V {
        let zero = V::splat(0.0);
        let scale = V::select(zero.less(self.squares), self.products.div(self.squares), zero);
        V::select(self.magnitude.less(V::splat(NEGLIGIBLE)), zero, scale)
    }
}
