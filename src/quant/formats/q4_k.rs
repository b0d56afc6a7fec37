//! Q4_K: super-blocks of 256 weights, eight blocks of 32 `scale · q − minimum` with four bits each;
//! 4.5 bits a weight.
//!
//! Layout: f16 scale of the scales, f16 scale of the minimums, 12 bytes of six-bit scales and
//! minimums, 128 bytes of weights: byte `l` of each 32 holds weight `l` of an even block in its low
//! and weight `l` of the next block in its high half.
//!
//! Built by a search for the scale and minimum of least squared error, each weight's counted by its
//! magnitude plus the block's root mean square, or by the importance of its column.

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
const QUANTS: usize = HEADER + six_bit_header::BYTES;
const BYTES: usize = QUANTS + nibbles::BYTES;

const HIGHEST: i32 = 15;
const TRIALS: Trials = Trials { first: -1.0, step: 0.1, steps: 20, error: Error::Squared };
/// What the mean square of the super-block has in the importance of its weights.
const SHARE: f32 = 2.0;

pub(super) const CODEC: Codec = Codec::super_blocks::<Q4K, BLOCK, BYTES>();

pub(super) struct Q4K;

impl Decode<WEIGHTS, BYTES> for Q4K {
    const TYPE: GgmlType = GgmlType::Q4_K;
    const LAYOUT: &'static str = "f16 scale and minimum; 8 blocks of 32 with a 6-bit scale and minimum each; 4 bits a weight";
    const BUILT: &'static str = "as Q2_K";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let (scales, minimums) = Self::read_header(block);
        let (outputs, _) = weights.as_chunks_mut::<BLOCK>();
        for (b, output) in outputs.iter_mut().enumerate() {
            let quants = nibbles::unpack(field(block, QUANTS), b);
            for (weight, quant) in output.iter_mut().zip(quants) {
                *weight = scales[b] * f32::from(quant) - minimums[b];
            }
        }
    }
}

impl SuperBlock<BLOCK, BYTES> for Q4K {
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
        *field_mut(block, QUANTS) = nibbles::pack(quants);
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        six_bit_header::fits(field(block, HEADER))
    }
}
