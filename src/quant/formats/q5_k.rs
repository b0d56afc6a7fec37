//! Q5_K: super-blocks of 256 weights, eight blocks of 32 `scale · q − minimum` with five bits each.
//!
//! Layout: the header of Q4_K, 32 bytes with the fifth bits (bit `b` of byte `l` is weight `l` of
//! block `b`), 128 bytes with the low four bits laid out as in Q4_K.

use super::affine::{self, BLOCK, Found, HEADER, Search, WEIGHTS};
use super::codec::{Codec, Decode, Encode, field, field_mut};
use super::lanes::Lanes;
use super::super_blocks::Searched;
use crate::gguf::GgmlType;

const HIGH_BITS: usize = HEADER;
const QUANTS: usize = HIGH_BITS + BLOCK;
const BYTES: usize = QUANTS + WEIGHTS / 2;
const SEARCH: Search = Search { levels: 31, first: -0.5, step: 0.1, steps: 15 };

pub(super) const CODEC: Codec = Codec::searched::<Q5K, BYTES>();

pub(super) struct Q5K;

impl Decode<WEIGHTS, BYTES> for Q5K {
    const TYPE: GgmlType = GgmlType::Q5_K;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let (scales, minimums) = affine::read_header(field(block, 0));
        let high_bits = field::<BLOCK>(block, HIGH_BITS);
        let (bytes, _) = block[QUANTS..].as_chunks::<BLOCK>();
        let (outputs, _) = weights.as_chunks_mut::<BLOCK>();
        for (b, output) in outputs.iter_mut().enumerate() {
            for (l, weight) in output.iter_mut().enumerate() {
                let low = (bytes[b / 2][l] >> (4 * (b % 2))) & 0x0f;
                let fifth = (high_bits[l] >> b) & 1;
                *weight = scales[b] * f32::from(low | (fifth << 4)) - minimums[b];
            }
        }
    }
}

impl Encode<WEIGHTS, BYTES> for Q5K {
    #[inline(always)]
    fn encode(weights: &[f32; WEIGHTS], block: &mut [u8; BYTES]) {
        Self::write(weights, &Self::search(weights), block);
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        affine::header_fits(field(block, 0))
    }
}

impl Searched<BYTES> for Q5K {
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
        for (l, high_bits) in field_mut::<BLOCK>(block, HIGH_BITS).iter_mut().enumerate() {
            *high_bits =
                blocks.iter().enumerate().fold(0, |bits, (b, quants)| bits | (quants[l] >> 4) << b);
        }
        let (bytes, _) = block[QUANTS..].as_chunks_mut::<BLOCK>();
        for (pair, bytes) in blocks.chunks_exact(2).zip(bytes) {
            for (l, byte) in bytes.iter_mut().enumerate() {
                *byte = (pair[0][l] & 0x0f) | (pair[1][l] << 4);
            }
        }
    }
}
