//! Rounding the scales or minimums of a super-block, of which none is meant to be negative, where the
//! importance of the blocks is known: trial roundings first, then changes of single quants, each
//! kept if it brings the sum nearer.

use super::lanes::{Lanes, MOST_LANES};
use super::super_blocks::MOST_BLOCKS;

/// Numbers of smaller magnitude are taken for zero.
const NEGLIGIBLE: f32 = 1e-15;

/// The rounded scales of super-blocks, one a lane.
pub(super) struct Rounded {
    scales: [f32; MOST_LANES],
    codes: [[u8; MOST_LANES]; MOST_BLOCKS],
}

impl Rounded {
    /// The scale and the multiples of it of one super-block.
    #[inline(always)]
    pub(super) fn of(&self, lane: usize) -> (f32, [u8; MOST_BLOCKS]) {
        (self.scales[lane], self.codes.map(|codes| codes[lane]))
    }
}

/// Finds multiples, from 0 to `LARGEST`, of one scale for the numbers of each lane.
///
/// Numbers that are negative all the same (where noise is all that a block's fit is made of) get
/// what their multiple is in the low byte of an integer, as in ggml.
#[inline(always)]
pub(super) fn round<V: Lanes, const LARGEST: i32, const BLOCKS: usize>(
    numbers: &[V; BLOCKS],
    importance: &[V; BLOCKS],
) -> Rounded {
    let zero = V::splat(0.0);
    let mut most = zero;
    for number in numbers {
        most = most.larger(*number);
    }
    let negligible = most.less(V::splat(NEGLIGIBLE));

    let mut inverse = V::splat(LARGEST as f32).div(most);
    let scale = V::splat(1.0).div(inverse);
    let mut least_error = zero;
    for i in 0..BLOCKS {
        let code = inverse.mul(numbers[i]).round_to_byte();
        let difference = numbers[i].sub(scale.mul(code));
        least_error = least_error.add(importance[i].mul(difference).mul(difference));
    }
    for offset in [-4i8, -3, -2, -1, 1, 2, 3, 4] {
        let widened = 0.1 * f32::from(offset) + LARGEST as f32;
        let trial = V::splat(widened).div(most);
        let scale = V::splat(1.0).div(trial);
        let mut error = zero;
        for i in 0..BLOCKS {
            let code = at_most::<V, LARGEST>(trial.mul(numbers[i]));
            let difference = numbers[i].sub(scale.mul(code));
            error = error.add(importance[i].mul(difference).mul(difference));
        }
        let better = error.less(least_error);
        least_error = V::select(better, error, least_error);
        inverse = V::select(better, trial, inverse);
    }

    let mut codes = *numbers;
    let (mut products, mut squares) = (zero, zero);
    for i in 0..BLOCKS {
        let code = at_most::<V, LARGEST>(inverse.mul(numbers[i]));
        codes[i] = code.round_to_byte();
        products = products.add(importance[i].mul(numbers[i]).mul(code));
        squares = squares.add(importance[i].mul(code).mul(code));
    }
    for _ in 0..5 {
        let mut changes = false;
        for i in 0..BLOCKS {
            let product = importance[i].mul(numbers[i]);
            let others_products = products.sub(product.mul(codes[i]));
            let others_squares = squares.sub(importance[i].mul(codes[i]).mul(codes[i]));
            let code = at_most::<V, LARGEST>(numbers[i].mul(others_squares).div(others_products));
            let new_products = others_products.add(product.mul(code));
            let new_squares = others_squares.add(importance[i].mul(code).mul(code));
            let nearer = products
                .mul(products)
                .mul(new_squares)
                .less(new_products.mul(new_products).mul(squares));
            let usable = V::both(zero.less(others_products), zero.less(others_squares));
            let better = V::both(V::both(usable, nearer), code.differs(codes[i]));
            codes[i] = V::select(better, code.round_to_byte(), codes[i]);
            products = V::select(better, new_products, products);
            squares = V::select(better, new_squares, squares);
            changes |= V::any(better);
        }
        if !changes {
            break;
        }
    }
    let scale = V::select(zero.less(squares), products.div(squares), zero);
    let mut rounded = Rounded { scales: [0.0; MOST_LANES], codes: [[0; MOST_LANES]; MOST_BLOCKS] };
    V::select(negligible, zero, scale).store(&mut rounded.scales);
    for (code, kept) in codes.iter().zip(&mut rounded.codes) {
        V::select(negligible, zero, *code).store_bytes(kept);
    }
    rounded
}

/// The nearest whole number, `LARGEST` where it is larger.
#[inline(always)]
fn at_most<V: Lanes, const LARGEST: i32>(value: V) -> V {
    value.round_clamped::<{ i32::MIN }, LARGEST>()
}
