//! Q6_K: super-blocks of 256 weights, sixteen blocks of 16 `scale · (q − 32)` with six bits each.
//!
//! Layout: 128 bytes with the low four bits, 64 bytes with the high two bits, 16 signed bytes of
//! scales, f16 scale of the scales. Of each half of 128 weights, byte `l` of the 64 low bytes holds
//! weights `l` and `l + 64` (for `l` < 64), and byte `l` of the 32 high bytes holds weights `l`,
//! `l + 32`, `l + 64` and `l + 96`, lowest bits first.

use super::codec::{
    Codec, Decode, Encode, extreme, field, is_finite_f16, nearest_int, read_f16, write_f16,
};
use super::lanes::Lanes;
use super::super_blocks::{Searched, WEIGHTS, lanes_of, transpose};
use crate::gguf::GgmlType;

const BLOCK: usize = 16;
const BLOCKS: usize = WEIGHTS / BLOCK;
const LOW_BITS: usize = 0;
const HIGH_BITS: usize = 128;
const SCALES: usize = 192;
const SCALE: usize = 208;
const BYTES: usize = SCALE + 2;

/// Quants run from −32 to 31.
const LEVELS: i32 = 32;
/// Blocks of smaller magnitude become zero.
const NEGLIGIBLE: f32 = 1e-15;

pub(super) const CODEC: Codec = Codec::searched::<Q6K, BYTES>();

pub(super) struct Q6K;

impl Decode<WEIGHTS, BYTES> for Q6K {
    const TYPE: GgmlType = GgmlType::Q6_K;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let super_scale = read_f16(block, SCALE);
        let (outputs, _) = weights.as_chunks_mut::<BLOCK>();
        for (b, output) in outputs.iter_mut().enumerate() {
            let scale = super_scale * f32::from(block[SCALES + b] as i8);
            let place = Place::of(b);
            let low = *field::<BLOCK>(block, place.low_at);
            let high = *field::<BLOCK>(block, place.high_at);
            for (weight, (low, high)) in output.iter_mut().zip(low.into_iter().zip(high)) {
                let low = (low >> place.low_shift) & 0x0f;
                let high = (high >> place.high_shift) & 3;
                *weight = scale * (f32::from(low | (high << 4)) - 32.0);
            }
        }
    }
}

impl Encode<WEIGHTS, BYTES> for Q6K {
    #[inline(always)]
    fn encode(weights: &[f32; WEIGHTS], block: &mut [u8; BYTES]) {
        Self::write(weights, &Self::search(weights), block);
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        is_finite_f16(block, SCALE)
    }
}

impl Searched<BYTES> for Q6K {
    const BLOCK: usize = BLOCK;
    type Found = [f32; BLOCKS];

    fn search(weights: &[f32; WEIGHTS]) -> [f32; BLOCKS] {
        let (blocks, _) = weights.as_chunks::<BLOCK>();
        let mut scales = [0.0; BLOCKS];
        for (scale, block) in scales.iter_mut().zip(blocks) {
            *scale = fit(block, &mut [0; BLOCK]);
        }
        scales
    }

    #[inline(always)]
    fn search_lanes<V: Lanes>(weights: &[[f32; WEIGHTS]], found: &mut [[f32; BLOCKS]]) {
        let scales = lanes_of(fit_lanes(&transpose::<V, BLOCK>(weights)));
        for (scale, found) in scales.iter().take(V::COUNT).zip(found.as_flattened_mut()) {
            *found = *scale;
        }
    }

    #[inline(always)]
    fn write(weights: &[f32; WEIGHTS], scales: &[f32; BLOCKS], block: &mut [u8; BYTES]) {
        *block = [0; BYTES];
        if !scales.iter().all(|scale| scale.is_finite()) {
            // The search's sums overflowed. ggml writes what comes of it; `fits` refuses this block.
            write_f16(block, SCALE, f32::INFINITY);
            return;
        }
        let largest = extreme(scales);
        if largest.abs() < NEGLIGIBLE {
            return;
        }
        let inverse = -128.0 / largest;
        write_f16(block, SCALE, 1.0 / inverse);
        let super_scale = read_f16(block, SCALE);
        let (inputs, _) = weights.as_chunks::<BLOCK>();
        for (b, input) in inputs.iter().enumerate() {
            let code = nearest_int(inverse * scales[b]).min(127) as i8;
            block[SCALES + b] = code as u8;
            let scale = super_scale * f32::from(code);
            let mut quants = [0; BLOCK];
            if scale == 0.0 {
                // Where the block's scale was rounded to nothing ggml leaves the search's quants.
                fit(input, &mut quants);
            } else {
                quants = round(input, |weight| weight / scale);
            }
            pack(&quants, Place::of(b), block);
        }
    }
}

/// Where a block of 16 weights lies among the low and among the high bits.
struct Place {
    low_at: usize,
    low_shift: usize,
    high_at: usize,
    high_shift: usize,
}

impl Place {
    #[inline(always)]
    fn of(block: usize) -> Self {
        let (half, within) = (block / 8, block % 8);
        Self {
            low_at: LOW_BITS + 64 * half + 16 * (within % 4),
            low_shift: 4 * (within / 4),
            high_at: HIGH_BITS + 32 * half + 16 * (within % 2),
            high_shift: 2 * (within / 2),
        }
    }
}

#[inline(always)]
fn pack(quants: &[u8; BLOCK], place: Place, block: &mut [u8; BYTES]) {
    for (l, quant) in quants.iter().enumerate() {
        block[place.low_at + l] |= (quant & 0x0f) << place.low_shift;
        block[place.high_at + l] |= (quant >> 4) << place.high_shift;
    }
}

#[inline(always)]
fn round(weights: &[f32; BLOCK], scaled: impl Fn(f32) -> f32) -> [u8; BLOCK] {
    weights.map(|weight| (nearest_int(scaled(weight)).clamp(-LEVELS, LEVELS - 1) + LEVELS) as u8)
}

/// Finds the scale that explains the squares of the weights best among nineteen trials; `quants`
/// gets the quants of the winner.
fn fit(weights: &[f32; BLOCK], quants: &mut [u8; BLOCK]) -> f32 {
    let extreme = extreme(weights);
    if extreme.abs() < NEGLIGIBLE {
        *quants = [0; BLOCK];
        return 0.0;
    }
    let mut inverse = -(LEVELS as f32) / extreme;
    *quants = round(weights, |weight| inverse * weight);
    let (products, squares) = sums(weights, quants);
    let mut scale = if squares != 0.0 { products / squares } else { 0.0 };
    let mut best = scale * products;
    for offset in (-9..=9).filter(|&offset| offset != 0) {
        inverse = -(LEVELS as f32 + 0.1 * offset as f32) / extreme;
        let trial = round(weights, |weight| inverse * weight);
        let (products, squares) = sums(weights, &trial);
        if squares > 0.0 && products * products > best * squares {
            *quants = trial;
            scale = products / squares;
            best = scale * products;
        }
    }
    scale
}

/// `Σ w² · w · q` and `Σ w² · q²`: a weight's error counts by its square.
#[inline(always)]
fn sums(weights: &[f32; BLOCK], quants: &[u8; BLOCK]) -> (f32, f32) {
    let mut products = 0.0f32;
    let mut squares = 0.0f32;
    for (&weight, &quant) in weights.iter().zip(quants) {
        let quant = (i32::from(quant) - LEVELS) as f32;
        let importance = weight * weight;
        products += importance * weight * quant;
        squares += importance * quant * quant;
    }
    (products, squares)
}

/// The scales of one block a lane; does in each lane exactly what [`fit`] does.
#[inline(always)]
fn fit_lanes<V: Lanes>(weights: &[V; BLOCK]) -> V {
    let zero = V::splat(0.0);
    let mut magnitude = zero;
    let mut extreme = zero;
    for weight in weights {
        let larger = magnitude.less(weight.abs());
        magnitude = V::select(larger, weight.abs(), magnitude);
        extreme = V::select(larger, *weight, extreme);
    }
    let negligible = magnitude.less(V::splat(NEGLIGIBLE));
    let inverse = V::splat(-(LEVELS as f32)).div(extreme);
    let (products, squares) = sums_lanes(weights, inverse);
    let mut scale = V::select(squares.equals(zero), zero, products.div(squares));
    let mut best = scale.mul(products);
    for offset in -9..=9 {
        if offset == 0 {
            continue;
        }
        let inverse = V::splat(-(LEVELS as f32 + 0.1 * offset as f32)).div(extreme);
        let (products, squares) = sums_lanes(weights, inverse);
        let improved = best.mul(squares).less(products.mul(products));
        let better = V::both(zero.less(squares), improved);
        scale = V::select(better, products.div(squares), scale);
        best = V::select(better, scale.mul(products), best);
    }
    V::select(negligible, zero, scale)
}

/// [`sums`] of one block a lane, with the quants that `inverse` gives.
#[inline(always)]
fn sums_lanes<V: Lanes>(weights: &[V; BLOCK], inverse: V) -> (V, V) {
    let mut products = V::splat(0.0);
    let mut squares = V::splat(0.0);
    for weight in weights {
        let quant = inverse.mul(*weight).round_clamped(-LEVELS, LEVELS - 1);
        let importance = weight.mul(*weight);
        products = products.add(importance.mul(*weight).mul(quant));
        squares = squares.add(importance.mul(quant).mul(quant));
    }
    (products, squares)
}
