//! The plain floating-point types: F32, F16 and BF16, one weight a block, little-endian.

use half::{bf16, f16};

use super::codec::{Codec, Decode, Encode};
use crate::gguf::GgmlType;

pub(super) const F32_CODEC: Codec = Codec::both::<F32, 1, 4>();
pub(super) const F16_CODEC: Codec = Codec::both::<F16, 1, 2>();
pub(super) const BF16_CODEC: Codec = Codec::both::<Bf16, 1, 2>();

struct F32;

impl Decode<1, 4> for F32 {
    const TYPE: GgmlType = GgmlType::F32;

    fn decode(block: &[u8; 4], weights: &mut [f32; 1]) {
        weights[0] = f32::from_le_bytes(*block);
    }
}

impl Encode<1, 4> for F32 {
    fn encode(weights: &[f32; 1], block: &mut [u8; 4]) {
        *block = weights[0].to_le_bytes();
    }
}

struct F16;

impl Decode<1, 2> for F16 {
    const TYPE: GgmlType = GgmlType::F16;

    fn decode(block: &[u8; 2], weights: &mut [f32; 1]) {
        weights[0] = f16::from_le_bytes(*block).to_f32();
    }
}

impl Encode<1, 2> for F16 {
    fn encode(weights: &[f32; 1], block: &mut [u8; 2]) {
        *block = f16::from_f32(weights[0]).to_le_bytes();
    }
}

struct Bf16;

impl Decode<1, 2> for Bf16 {
    const TYPE: GgmlType = GgmlType::BF16;

    fn decode(block: &[u8; 2], weights: &mut [f32; 1]) {
        weights[0] = bf16::from_le_bytes(*block).to_f32();
    }
}

impl Encode<1, 2> for Bf16 {
    fn encode(weights: &[f32; 1], block: &mut [u8; 2]) {
        *block = bf16::from_f32(weights[0]).to_le_bytes();
    }
}
