//! Q2_K: super-blocks of 256 weights, sixteen blocks of 16 `scale · q − minimum` with two bits each;
//! 2.625 bits a weight.
//!
//! Layout: 16 bytes, one a block, of a four-bit scale (low half) and minimum (high half); 64 bytes
//! of weights; f16 scale of the scales; f16 scale of the minimums. Byte `l` of each half's 32 bytes
//! holds weights `l`, `l + 32`, `l + 64` and `l + 96` of that half, lowest bits first.
//!
//! Built by a search for the scale and minimum of least absolute error, each weight's counted by its
//! magnitude; where the importance of columns is known, of least squared error.

use super::affine::{self, Error, Trials};
use super::codec::{Codec, Decode};
use super::fields::{field, field_mut, is_finite_f16, read_f16, write_f16};
use super::lanes::Lanes;
use super::super_blocks::{Fit, Found, Header, Importance, MOST_BLOCKS, SuperBlock, WEIGHTS};
use super::two_bits;
use super::wide::Wide;
use crate::gguf::GgmlType;

const BLOCK: usize = 16;
const BLOCKS: usize = WEIGHTS / BLOCK;
const SCALES: usize = 0;
const QUANTS: usize = SCALES + BLOCKS;
const SCALE: usize = QUANTS + two_bits::BYTES;
const MINIMUM: usize = SCALE + 2;
const BYTES: usize = MINIMUM + 2;

const HIGHEST: i32 = 3;
/// The largest scale and minimum of a block.
const LARGEST: i32 = 15;
const TRIALS: Trials = Trials { first: -0.5, step: 0.1, steps: 15, error: Error::Absolute };
/// What the mean square of the super-block has in the importance of its weights.
const SHARE: f32 = 1.0;

pub(super) const CODEC: Codec = Codec::super_blocks::<Q2K, BLOCK, BYTES>();

pub(super) struct Q2K;

impl Decode<WEIGHTS, BYTES> for Q2K {
    const TYPE: GgmlType = GgmlType::Q2_K;
    const LAYOUT: &'static str = "16 blocks of 16 with a 4-bit scale and minimum each; 2 bits a weight; f16 scale and minimum of those";
    const BUILT: &'static str = "`scale · q − minimum`: the best of trial fits for each block, then scales and minimums rounded";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let (scales, minimums) = Self::read_header(block);
        let (outputs, _) = weights.as_chunks_mut::<BLOCK>();
        for (b, output) in outputs.iter_mut().enumerate() {
            let quants = two_bits::unpack(field(block, QUANTS), b);
            for (weight, quant) in output.iter_mut().zip(quants) {
                *weight = scales[b] * f32::from(quant) - minimums[b];
            }
        }
    }
}

impl SuperBlock<BLOCK, BYTES> for Q2K {
    #[inline(always)]
    fn search<V: Lanes>(weights: &[[V; BLOCK]; 2]) -> [Fit<V>; 2] {
        let importance = [magnitudes(&weights[0]), magnitudes(&weights[1])];
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
            let importance = magnitudes(weights);
            return affine::quants::<HIGHEST, BLOCK>(&TRIALS, weights, &importance);
        };
        affine::quants_weighted::<HIGHEST, BLOCK>(weights, importance, SHARE)
    }

    #[inline(always)]
    fn round(found: &Found, super_block: usize) -> Option<Header> {
        Some(affine::round::<BLOCKS>(found, super_block, LARGEST as f32))
    }

    #[inline(always)]
    fn round_weighted<V: Lanes>(found: &Found, first: usize, headers: &mut [Option<Header>]) {
        affine::round_weighted::<V, LARGEST, BLOCKS>(found, first, headers);
    }

    #[inline(always)]
    fn write_header(header: &Header, block: &mut [u8; BYTES]) {
        for (b, packed) in field_mut::<BLOCKS>(block, SCALES).iter_mut().enumerate() {
            *packed = header.scales[b] | (header.minimums[b] << 4);
        }
        write_f16(block, SCALE, header.scale);
        write_f16(block, MINIMUM, header.minimum);
    }

    #[inline(always)]
    fn read_header(block: &[u8; BYTES]) -> ([f32; MOST_BLOCKS], [f32; MOST_BLOCKS]) {
        let (scale, minimum) = (read_f16(block, SCALE), read_f16(block, MINIMUM));
        let packed = *field::<BLOCKS>(block, SCALES);
        (
            packed.map(|packed| scale * f32::from(packed & 0x0f)),
            packed.map(|packed| minimum * f32::from(packed >> 4)),
        )
    }

    #[inline(always)]
    fn quant<V: Lanes>(place: V) -> V {
        place.round_clamped::<0, HIGHEST>()
    }

    #[inline(always)]
    fn pack(quants: &[u8; WEIGHTS], block: &mut [u8; BYTES]) {
        *field_mut(block, QUANTS) = two_bits::pack(quants);
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        is_finite_f16(block, SCALE) && is_finite_f16(block, MINIMUM)
    }
}

/// The importance that weights have for themselves.
#[inline(always)]
fn magnitudes<V: Lanes>(weights: &[V; BLOCK]) -> [V; BLOCK] {
    let mut magnitudes = *weights;
    for magnitude in &mut magnitudes {
        *magnitude = magnitude.abs();
    }
    magnitudes
}
