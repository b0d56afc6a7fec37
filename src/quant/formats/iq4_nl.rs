//! IQ4_NL: blocks of 32 weights `scale · value[q]` with four bits each, the values unevenly spaced.
//!
//! Layout: f16 scale, 16 bytes; byte `j` holds weight `j` in its low and weight `j + 16` in its high
//! half.

use super::arithmetic::inverse_or_zero;
use super::blocks::{self, Block, Fit, Found, Searched, Spread};
use super::codec::{Codec, Decode};
use super::fields::{field, field_mut, is_finite_f16, write_f16};
use super::lanes::Lanes;
use super::symmetric::{NEGLIGIBLE, extreme_lanes};
use super::uneven_grid::Grid;
use super::wide::{HALF, WEIGHTS, Wide, pack_nibbles, unpack_nibbles};
use crate::gguf::GgmlType;

const SCALE: usize = 0;
const QUANTS: usize = 2;
const BYTES: usize = QUANTS + HALF;

/// The sixteen values, denser around zero where weights are.
pub(crate) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) static GRID: Grid = Grid::new(&VALUES);

pub(super) const CODEC: Codec = Codec {
    quantize: Some(blocks::quantize::<Iq4Nl, WEIGHTS, BYTES>),
    weighted: Some(blocks::quantize_weighted::<Iq4Nl, WEIGHTS, BYTES>),
    ..Codec::read_only::<Iq4Nl, WEIGHTS, BYTES>()
};

struct Iq4Nl;

impl Decode<WEIGHTS, BYTES> for Iq4Nl {
    const TYPE: GgmlType = GgmlType::IQ4_NL;
    const LAYOUT: &'static str = "f16 scale; 4 bits a weight";
    const BUILT: &'static str =
        "`scale · value[q]` with 16 unevenly spaced values: the best of 16 scales";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        decode_pairs::<W>(W::read_f16(block, SCALE), field(block, QUANTS), weights);
    }
}

impl Searched<WEIGHTS, BYTES> for Iq4Nl {
    const SPREAD: Spread = Spread::TwiceBlock;

    #[inline(always)]
    fn search<V: Lanes>(weights: &Block<V>, importance: &Block<V>) -> Fit<V> {
        search(weights, importance)
    }

    #[inline(always)]
    fn write(weights: &[f32; WEIGHTS], found: &[Found], block: &mut [u8; BYTES]) -> bool {
        write_f16(block, SCALE, found[0].scale);
        encode_pairs(inverse_or_zero(found[0].scale), weights, field_mut(block, QUANTS));
        is_finite_f16(block, SCALE)
    }
}

/// The scale of least weighted squared error among sixteen trials, which take the weight of largest
/// magnitude to a number around the lowest value.
#[inline(always)]
pub(super) fn search<V: Lanes>(weights: &Block<V>, importance: &Block<V>) -> Fit<V> {
    let zero = V::splat(0.0);
    let (magnitude, extreme) = extreme_lanes(weights);
    let lowest = f32::from(VALUES[0]);
    let (products, squares) =
        sums(weights, importance, V::splat(1.0).div(extreme.div(V::splat(-lowest))));
    let mut scale = V::select(zero.less(squares), products.div(squares), zero);
    let mut best = scale.mul(products);
    for step in -7i8..=7 {
        let (products, squares) =
            sums(weights, importance, V::splat(f32::from(step) + lowest).div(extreme));
        let improved = best.mul(squares).less(products.mul(products));
        let better = V::both(zero.less(squares), improved);
        scale = V::select(better, products.div(squares), scale);
        best = V::select(better, scale.mul(products), best);
    }
    let negligible = magnitude.less(V::splat(NEGLIGIBLE));
    Fit { scale: V::select(negligible, zero, scale), minimum: zero, quants: None }
}

/// `Σ importance · weight · value` and `Σ importance · value²` with the values that an inverse scale
/// gives.
#[inline(always)]
fn sums<V: Lanes>(weights: &Block<V>, importance: &Block<V>, inverse: V) -> (V, V) {
    let (mut products, mut squares) = (V::splat(0.0), V::splat(0.0));
    for i in 0..weights.len() {
        let value = inverse.mul(weights[i]).nearest_of(&GRID);
        let weighted = importance[i].mul(value);
        products = products.add(weighted.mul(weights[i]));
        squares = squares.add(weighted.mul(value));
    }
    (products, squares)
}

/// Rounds 32 weights to the values nearest to them.
#[inline(always)]
pub(super) fn encode_pairs(inverse: f32, weights: &[f32; WEIGHTS], pairs: &mut [u8; HALF]) {
    let mut quants = [0; WEIGHTS];
    for (quant, weight) in quants.iter_mut().zip(weights) {
        *quant = GRID.nearest(inverse * weight);
    }
    pack_nibbles(&quants, pairs);
}

/// Looks 32 weights up and scales them.
#[inline(always)]
pub(super) fn decode_pairs<W: Wide>(scale: f32, pairs: &[u8; HALF], weights: &mut [f32; WEIGHTS]) {
    let values = W::look_up(&VALUES, &unpack_nibbles(pairs));
    W::from_signed_bytes(&values).mul(scale).store(weights);
}
