//! Q3_K: super-blocks of 256 weights, sixteen blocks of 16 `scale · (q − 4)` with three bits each;
//! 3.4375 bits a weight.
//!
//! Layout: 32 bytes with the third bits (bit `b` of byte `l` is weight `32 b + l`'s), 64 bytes with
//! the low two bits laid out as in Q2_K, 12 bytes with sixteen six-bit scales, f16 scale of the
//! scales.
//!
//! Built by changing one quant after another as long as that brings the block nearer, each weight's
//! error counted by its square; where the importance of columns is known, by trial roundings.

use super::affine::scaled_importance;
use super::codec::{Codec, Decode};
use super::descent::{self, BLOCK, HIGHEST, LOWEST};
use super::fields::{field, field_mut, is_finite_f16, read_f16, write_f16};
use super::lanes::Lanes;
use super::super_blocks::{
    BATCH_WEIGHTS, Fit, Found, Header, Importance, MOST_BLOCKS, SuperBlock, WEIGHTS,
};
use super::symmetric;
use super::two_bits;
use super::wide::Wide;
use crate::gguf::GgmlType;

const BLOCKS: usize = WEIGHTS / BLOCK;
const HIGH_BITS: usize = 0;
const QUANTS: usize = HIGH_BITS + 32;
const SCALES: usize = QUANTS + two_bits::BYTES;
const SCALE: usize = SCALES + PACKED_SCALES;
const BYTES: usize = SCALE + 2;
const PACKED_SCALES: usize = 12;

/// The smallest and the largest scale of a block.
const LOWEST_SCALE: i32 = -32;
const HIGHEST_SCALE: i32 = 31;
/// What the mean square of the super-block has in the importance of its weights.
const SHARE: f32 = 2.0;

pub(super) const CODEC: Codec = Codec::super_blocks::<Q3K, BLOCK, BYTES>();

pub(super) struct Q3K;

impl Decode<WEIGHTS, BYTES> for Q3K {
    const TYPE: GgmlType = GgmlType::Q3_K;
    const LAYOUT: &'static str =
        "third bits; 2 bits a weight; 16 blocks of 16 with a 6-bit scale each; f16 scale of those";
    const BUILT: &'static str = "`scale · (q − 4)`: quants changed one by one while that helps; with importance, the best of 19 scales for each block";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let (scales, _) = Self::read_header(block);
        let (outputs, _) = weights.as_chunks_mut::<BLOCK>();
        for (b, output) in outputs.iter_mut().enumerate() {
            let low = two_bits::unpack(field(block, QUANTS), b);
            let high = *field::<BLOCK>(block, HIGH_BITS + BLOCK * (b % 2));
            for (weight, (low, high)) in output.iter_mut().zip(low.into_iter().zip(high)) {
                let third = (high >> (b / 2)) & 1;
                *weight = scales[b] * (f32::from(low | (third << 2)) - 4.0);
            }
        }
    }
}

impl SuperBlock<BLOCK, BYTES> for Q3K {
    #[inline(always)]
    fn search<V: Lanes>(weights: &[[V; BLOCK]; 2]) -> [Fit<V>; 2] {
        [descent::fit(&weights[0]), descent::fit(&weights[1])]
    }

    #[inline(always)]
    fn search_weighted<V: Lanes>(
        weights: &[[V; BLOCK]; 2],
        importance: &[Importance<V, BLOCK>; 2],
    ) -> [Fit<V>; 2] {
        let importance = [
            scaled_importance(&weights[0], &importance[0], SHARE),
            scaled_importance(&weights[1], &importance[1], SHARE),
        ];
        [
            symmetric::fit::<V, LOWEST, HIGHEST, BLOCK>(&weights[0], &importance[0]),
            symmetric::fit::<V, LOWEST, HIGHEST, BLOCK>(&weights[1], &importance[1]),
        ]
    }

    fn quants_of_search(
        weights: &[f32; BLOCK],
        importance: Option<&Importance<f32, BLOCK>>,
    ) -> [u8; BLOCK] {
        match importance {
            None => descent::quants(weights),
            Some(importance) => {
                let importance = scaled_importance(weights, importance, SHARE);
                symmetric::quants::<LOWEST, HIGHEST, BLOCK>(weights, &importance)
            }
        }
    }

    #[inline(always)]
    fn search_batch<V: Lanes>(weights: &[f32; BATCH_WEIGHTS], blocks: usize, found: &mut Found) {
        descent::fit_batch::<V>(weights, blocks, found);
    }

    #[inline(always)]
    fn round(found: &Found, super_block: usize) -> Option<Header> {
        let mut header = Header::default();
        if let Some(rounded) = symmetric::round(found, super_block, LOWEST_SCALE as f32) {
            header.scale = rounded.scale;
            for (scale, code) in header.scales.iter_mut().zip(rounded.codes) {
                let code = i32::from(code as i8).clamp(LOWEST_SCALE, HIGHEST_SCALE);
                *scale = (code - LOWEST_SCALE) as u8;
            }
        }
        Some(header)
    }

    #[inline(always)]
    fn round_weighted<V: Lanes>(found: &Found, first: usize, headers: &mut [Option<Header>]) {
        symmetric::round_weighted::<V, LOWEST_SCALE, HIGHEST_SCALE>(found, first, headers);
    }

    #[inline(always)]
    fn write_header(header: &Header, block: &mut [u8; BYTES]) {
        *field_mut(block, SCALES) = pack_scales(&header.scales);
        write_f16(block, SCALE, header.scale);
    }

    #[inline(always)]
    fn read_header(block: &[u8; BYTES]) -> ([f32; MOST_BLOCKS], [f32; MOST_BLOCKS]) {
        let super_scale = read_f16(block, SCALE);
        let scales = unpack_scales(field(block, SCALES));
        (scales.map(|scale| super_scale * f32::from(scale)), [0.0; MOST_BLOCKS])
    }

    #[inline(always)]
    fn quant<V: Lanes>(place: V) -> V {
        place.round_clamped::<LOWEST, HIGHEST>().sub(V::splat(LOWEST as f32))
    }

    #[inline(always)]
    fn pack(quants: &[u8; WEIGHTS], block: &mut [u8; BYTES]) {
        let (rows, _) = quants.as_chunks::<32>();
        let mut high_bits = [0; 32];
        for (b, row) in rows.iter().enumerate() {
            for (byte, quant) in high_bits.iter_mut().zip(row) {
                *byte |= (quant >> 2) << b;
            }
        }
        *field_mut(block, HIGH_BITS) = high_bits;
        *field_mut(block, QUANTS) = two_bits::pack(&quants.map(|quant| quant & 3));
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        is_finite_f16(block, SCALE)
    }
}

/// Sixteen signed scales: the low four bits of scale `j` in a half of byte `j % 8`, the high two in
/// byte `8 + j % 4`.
#[inline(always)]
pub(crate) fn unpack_scales(packed: &[u8; PACKED_SCALES]) -> [i8; BLOCKS] {
    let mut scales = [0; BLOCKS];
    for j in 0..8 {
        scales[j] = packed[j] & 0x0f;
        scales[j + 8] = packed[j] >> 4;
    }
    for j in 0..4 {
        for (quarter, shift) in [0, 2, 4, 6].into_iter().enumerate() {
            scales[4 * quarter + j] |= ((packed[8 + j] >> shift) & 3) << 4;
        }
    }
    let mut signed = [0; BLOCKS];
    for (signed, scale) in signed.iter_mut().zip(scales) {
        *signed = scale as i8 - 32;
    }
    signed
}

/// Packs scales that count from 0, below 64.
#[inline(always)]
fn pack_scales(scales: &[u8; BLOCKS]) -> [u8; PACKED_SCALES] {
    let mut packed = [0; PACKED_SCALES];
    for j in 0..8 {
        packed[j] = (scales[j] & 0x0f) | (scales[j + 8] << 4);
    }
    for j in 0..4 {
        packed[8 + j] = (scales[j] >> 4)
            | (scales[j + 4] >> 4) << 2
            | (scales[j + 8] >> 4) << 4
            | (scales[j + 12] >> 4) << 6;
    }
    packed
}
