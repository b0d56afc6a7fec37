//! Q4_K: super-blocks of 256 weights, eight blocks of 32 `scale · q − minimum` with four bits each.
//!
//! Layout: f16 scale of the scales, f16 scale of the minimums, 12 bytes of six-bit scales and
//! minimums, 128 bytes of weights: byte `l` of each 32 holds weight `l` of an even block in its low
//! and weight `l` of the next block in its high half.

use super::affine::{self, BLOCK, Found, HEADER, Search, WEIGHTS};
use super::codec::{Codec, Decode, Encode, field, field_mut};
use super::lanes::Lanes;
use super::super_blocks::Searched;
use crate::gguf::GgmlType;

const QUANTS: usize = HEADER;
const BYTES: usize = QUANTS + WEIGHTS / 2;
const SEARCH: Search = Search { levels: 15, first: -1.0, step: 0.1, steps: 20 };

pub(super) const CODEC: Codec = Codec::searched::<Q4K, BYTES>();

pub(super) struct Q4K;

impl Decode<WEIGHTS, BYTES> for Q4K {
    const TYPE: GgmlType = GgmlType::Q4_K;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let (scales, minimums) = affine::read_header(field(block, 0));
        let (bytes, _) = block[QUANTS..].as_chunks::<BLOCK>();
        let (outputs, _) = weights.as_chunks_mut::<BLOCK>();
        for (b, output) in outputs.iter_mut().enumerate() {
            for (weight, byte) in output.iter_mut().zip(&bytes[b / 2]) {
                let quant = (byte >> (4 * (b % 2))) & 0x0f;
                *weight = scales[b] * f32::from(quant) - minimums[b];
            }
        }
    }
}

impl Encode<WEIGHTS, BYTES> for Q4K {
    #[inline(always)]
    fn encode(weights: &[f32; WEIGHTS], block: &mut [u8; BYTES]) {
        Self::write(weights, &Self::search(weights), block);
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        affine::header_fits(field(block, 0))
    }
}

impl Searched<BYTES> for Q4K {
    const BLOCK: usize = BLOCK;
    type Found = Found;

    fn search(weights: &[f32; WEIGHTS]) -> Found {
        SEARCH.find(weights)
    }

    #[inline(always)]
    fn search_lanes<V: Lanes>(weights: &[[f32; WEIGHTS]], found: &mut [Found]) {
        SEARCH.find_in_lanes::<V>(weights, found);
    }

    #[inline(always)]
    fn write(weights: &[f32; WEIGHTS], found: &Found, block: &mut [u8; BYTES]) {
        let quants = affine::quantize(&SEARCH, weights, found, field_mut(block, 0));
        let (blocks, _) = quants.as_chunks::<BLOCK>();
        let (bytes, _) = block[QUANTS..].as_chunks_mut::<BLOCK>();
        for (pair, bytes) in blocks.chunks_exact(2).zip(bytes) {
            for (l, byte) in bytes.iter_mut().enumerate() {
                *byte = pair[0][l] | (pair[1][l] << 4);
            }
        }
    }
}
