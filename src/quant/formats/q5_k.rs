//! Q5_K: super-blocks of 256 weights, eight blocks of 32 `scale · q − minimum` with five bits each;
//! 5.5 bits a weight.
//!
//! Layout: the header of Q4_K, 32 bytes with the fifth bits (bit `b` of byte `l` is weight `l` of
//! block `b`), 128 bytes with the low four bits laid out as in Q4_K. Built as Q4_K is.

use super::affine::{self, Error, Trials};
use super::codec::{Codec, Decode};
use super::fields::{field, field_mut};
use super::lanes::Lanes;
use super::nibbles;
use super::six_bit_header::{self, LARGEST};
use super::super_blocks::{Fit, Found, Header, Importance, MOST_BLOCKS, SuperBlock, WEIGHTS};
use super::wide::Wide;
use crate::gguf::GgmlType;

const BLOCK: usize = 32;
const BLOCKS: usize = WEIGHTS / BLOCK;
const HEADER: usize = 0;
const HIGH_BITS: usize = HEADER + six_bit_header::BYTES;
const QUANTS: usize = HIGH_BITS + BLOCK;
const BYTES: usize = QUANTS + nibbles::BYTES;

const HIGHEST: i32 = 31;
const TRIALS: Trials = Trials { first: -0.5, step: 0.1, steps: 15, error: Error::Squared };
/// What the mean square of the super-block has in the importance of its weights.
const SHARE: f32 = 2.0;

pub(super) const CODEC: Codec = Codec::super_blocks::<Q5K, BLOCK, BYTES>();

pub(super) struct Q5K;

impl Decode<WEIGHTS, BYTES> for Q5K {
    const TYPE: GgmlType = GgmlType::Q5_K;
    const LAYOUT: &'static str = "f16 scale and minimum; 8 blocks of 32 with a 6-bit scale and minimum each; fifth bits; 4 bits a weight";
    const BUILT: &'static str = "as Q2_K";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let (scales, minimums) = Self::read_header(block);
        let high_bits = *field::<BLOCK>(block, HIGH_BITS);
        let (outputs, _) = weights.as_chunks_mut::<BLOCK>();
        for (b, output) in outputs.iter_mut().enumerate() {
            let low = nibbles::unpack(field(block, QUANTS), b);
            for (weight, (low, high)) in output.iter_mut().zip(low.into_iter().zip(high_bits)) {
                let fifth = (high >> b) & 1;
                *weight = scales[b] * f32::from(low | (fifth << 4)) - minimums[b];
            }
        }
    }
}

impl SuperBlock<BLOCK, BYTES> for Q5K {
    #[inline(always)]
    fn search<V: Lanes>(weights: &[[V; BLOCK]; 2]) -> [Fit<V>; 2] {
        let importance = [affine::own_importance(&weights[0]), affine::own_importance(&weights[1])];
        affine::fit::<V, HIGHEST, BLOCK>(&TRIALS, weights, &importance)
    }

    #[inline(always)]
    fn search_weighted<V: Lanes>(
        weights: &[[V; BLOCK]; 2],
        importance: &[Importance<V, BLOCK>; 2],
    ) -> [Fit<V>; 2] {
        affine::fit_weighted::<V, HIGHEST, BLOCK>(weights, importance, SHARE)
    }

    fn quants_of_search(
        weights: &[f32; BLOCK],
        importance: Option<&Importance<f32, BLOCK>>,
    ) -> [u8; BLOCK] {
        let Some(importance) = importance else {
            let importance = affine::own_importance(weights);
            return affine::quants::<HIGHEST, BLOCK>(&TRIALS, weights, &importance);
        };
        affine::quants_weighted::<HIGHEST, BLOCK>(weights, importance, SHARE)
    }

    #[inline(always)]
    fn round(found: &Found, super_block: usize) -> Option<Header> {
        Some(six_bit_header::round(found, super_block))
    }

    #[inline(always)]
    fn round_weighted<V: Lanes>(found: &Found, first: usize, headers: &mut [Option<Header>]) {
        affine::round_weighted::<V, LARGEST, BLOCKS>(found, first, headers);
        headers.iter_mut().flatten().for_each(six_bit_header::limit);
    }

    #[inline(always)]
    fn write_header(header: &Header, block: &mut [u8; BYTES]) {
        six_bit_header::write(header, field_mut(block, HEADER));
    }

    #[inline(always)]
    fn read_header(block: &[u8; BYTES]) -> ([f32; MOST_BLOCKS], [f32; MOST_BLOCKS]) {
        six_bit_header::read(field(block, HEADER))
    }

    #[inline(always)]
    fn quant<V: Lanes>(place: V) -> V {
        place.round_clamped::<0, HIGHEST>()
    }

    #[inline(always)]
    fn pack(quants: &[u8; WEIGHTS], block: &mut [u8; BYTES]) {
        let (blocks, _) = quants.as_chunks::<BLOCK>();
        let mut high_bits = [0; BLOCK];
        for (b, quants) in blocks.iter().enumerate() {
            for (byte, quant) in high_bits.iter_mut().zip(quants) {
                *byte |= (quant >> 4) << b;
            }
        }
        *field_mut(block, HIGH_BITS) = high_bits;
        *field_mut(block, QUANTS) = nibbles::pack(&quants.map(|quant| quant & 0x0f));
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        six_bit_header::fits(field(block, HEADER))
    }
}
