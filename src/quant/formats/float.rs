//! The plain floating-point types: F32, F16 and BF16, one weight a block, little-endian.

use half::bf16;

use super::codec::{Codec, Decode, Encode, is_finite_f16, read_f16, write_f16};
use crate::gguf::GgmlType;

pub(super) const F32_CODEC: Codec = Codec::both::<F32, 1, 4>();
pub(super) const F16_CODEC: Codec = Codec::both::<F16, 1, 2>();
pub(super) const BF16_CODEC: Codec = Codec::both::<Bf16, 1, 2>();

struct F32;

impl Decode<1, 4> for F32 {
    const TYPE: GgmlType = GgmlType::F32;

    #[inline(always)]
    fn decode(block: &[u8; 4], weights: &mut [f32; 1]) {
        weights[0] = f32::from_le_bytes(*block);
    }
}

impl Encode<1, 4> for F32 {
    #[inline(always)]
    fn encode(weights: &[f32; 1], block: &mut [u8; 4]) {
        *block = weights[0].to_le_bytes();
    }

    #[inline(always)]
    fn fits(_: &[u8; 4]) -> bool {
        true
    }
}

struct F16;

impl Decode<1, 2> for F16 {
    const TYPE: GgmlType = GgmlType::F16;

    #[inline(always)]
    fn decode(block: &[u8; 2], weights: &mut [f32; 1]) {
        weights[0] = read_f16(block, 0);
    }
}

impl Encode<1, 2> for F16 {
    #[inline(always)]
    fn encode(weights: &[f32; 1], block: &mut [u8; 2]) {
        write_f16(block, 0, weights[0]);
    }

    #[inline(always)]
    fn fits(block: &[u8; 2]) -> bool {
        is_finite_f16(block, 0)
    }
}

struct Bf16;

impl Decode<1, 2> for Bf16 {
    const TYPE: GgmlType = GgmlType::BF16;

    #[inline(always)]
    fn decode(block: &[u8; 2], weights: &mut [f32; 1]) {
        weights[0] = bf16::from_le_bytes(*block).to_f32();
    }
}

impl Encode<1, 2> for Bf16 {
    #[inline(always)]
    fn encode(weights: &[f32; 1], block: &mut [u8; 2]) {
        *block = bf16::from_f32(weights[0]).to_le_bytes();
    }

    #[inline(always)]
    fn fits(block: &[u8; 2]) -> bool {
        bf16::from_le_bytes(*block).is_finite()
    }
}
