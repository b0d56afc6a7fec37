//! The plain floating-point types: F32, F16 and BF16, little-endian. A block is one weight; they are
//! coded 32 at a time.

use super::codec::{Codec, Decode, Encode, decode_blocks, encode_blocks};
use super::half_float::{bf16_to_f32, f32_to_bf16};
use super::wide::{WEIGHTS, Wide};
use crate::gguf::GgmlType;
use crate::support::processor::InstructionSet;

pub(super) const F32_CODEC: Codec = codec::<F32, { 4 * WEIGHTS }>();
pub(super) const F16_CODEC: Codec = codec::<F16, { 2 * WEIGHTS }>();
pub(super) const BF16_CODEC: Codec = codec::<Bf16, { 2 * WEIGHTS }>();

const fn codec<F: Encode<WEIGHTS, BYTES>, const BYTES: usize>() -> Codec {
    assert!(BYTES == WEIGHTS * F::TYPE.block_bytes(), "the weights take another number of bytes");
    Codec {
        ggml_type: F::TYPE,
        quantize: Some(encode::<F, BYTES>),
        weighted: None,
        dequantize: decode::<F, BYTES>,
    }
}

fn encode<F: Encode<WEIGHTS, BYTES>, const BYTES: usize>(
    set: InstructionSet,
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), usize> {
    let (whole, rest) = weights.split_at(weights.len() / WEIGHTS * WEIGHTS);
    let (whole_output, rest_output) = output.split_at_mut(whole.len() / WEIGHTS * BYTES);
    let coded = encode_blocks::<F, WEIGHTS, BYTES>(set, whole, whole_output);
    let coded = coded.map_err(|block| (block * WEIGHTS, &whole[block * WEIGHTS..][..WEIGHTS]));
    let coded = coded.and_then(|()| {
        let (mut padded, mut bytes) = ([0.0; WEIGHTS], [0; BYTES]);
        padded[..rest.len()].copy_from_slice(rest);
        let coded = encode_blocks::<F, WEIGHTS, BYTES>(set, &padded, &mut bytes);
        rest_output.copy_from_slice(&bytes[..rest_output.len()]);
        coded.map_err(|_| (whole.len(), rest))
    });
    coded.map_err(|(first, weights)| {
        let does_not_fit = |&weight: &f32| {
            encode_blocks::<F, WEIGHTS, BYTES>(set, &[weight; WEIGHTS], &mut [0; BYTES]).is_err()
        };
        first + weights.iter().position(does_not_fit).unwrap_or(0)
    })
}

fn decode<F: Decode<WEIGHTS, BYTES>, const BYTES: usize>(
    set: InstructionSet,
    bytes: &[u8],
    output: &mut [f32],
) {
    let (whole, rest) = bytes.split_at(bytes.len() / BYTES * BYTES);
    let (whole_output, rest_output) = output.split_at_mut(whole.len() / BYTES * WEIGHTS);
    decode_blocks::<F, WEIGHTS, BYTES>(set, whole, whole_output);
    let (mut padded, mut weights) = ([0; BYTES], [0.0; WEIGHTS]);
    padded[..rest.len()].copy_from_slice(rest);
    decode_blocks::<F, WEIGHTS, BYTES>(set, &padded, &mut weights);
    rest_output.copy_from_slice(&weights[..rest_output.len()]);
}

struct F32;

impl Decode<WEIGHTS, { 4 * WEIGHTS }> for F32 {
    const TYPE: GgmlType = GgmlType::F32;

    #[inline(always)]
    fn decode<W: Wide>(bytes: &[u8; 4 * WEIGHTS], weights: &mut [f32; WEIGHTS]) {
        for (weight, bytes) in weights.iter_mut().zip(bytes.as_chunks().0) {
            *weight = f32::from_le_bytes(*bytes);
        }
    }
}

impl Encode<WEIGHTS, { 4 * WEIGHTS }> for F32 {
    #[inline(always)]
    fn encode<W: Wide>(weights: &[f32; WEIGHTS], bytes: &mut [u8; 4 * WEIGHTS]) {
        for (bytes, weight) in bytes.as_chunks_mut().0.iter_mut().zip(weights) {
            *bytes = weight.to_le_bytes();
        }
    }

    #[inline(always)]
    fn fits(_: &[u8; 4 * WEIGHTS]) -> bool {
        true
    }
}

struct F16;

impl Decode<WEIGHTS, { 2 * WEIGHTS }> for F16 {
    const TYPE: GgmlType = GgmlType::F16;

    #[inline(always)]
    fn decode<W: Wide>(bytes: &[u8; 2 * WEIGHTS], weights: &mut [f32; WEIGHTS]) {
        W::from_f16s(bytes).store(weights);
    }
}

impl Encode<WEIGHTS, { 2 * WEIGHTS }> for F16 {
    #[inline(always)]
    fn encode<W: Wide>(weights: &[f32; WEIGHTS], bytes: &mut [u8; 2 * WEIGHTS]) {
        W::load(weights).to_f16s(bytes);
    }

    #[inline(always)]
    fn fits(bytes: &[u8; 2 * WEIGHTS]) -> bool {
        none_above(0x7bff, bytes)
    }
}

struct Bf16;

impl Decode<WEIGHTS, { 2 * WEIGHTS }> for Bf16 {
    const TYPE: GgmlType = GgmlType::BF16;

    #[inline(always)]
    fn decode<W: Wide>(bytes: &[u8; 2 * WEIGHTS], weights: &mut [f32; WEIGHTS]) {
        for (weight, bytes) in weights.iter_mut().zip(bytes.as_chunks().0) {
            *weight = bf16_to_f32(u16::from_le_bytes(*bytes));
        }
    }
}

impl Encode<WEIGHTS, { 2 * WEIGHTS }> for Bf16 {
    #[inline(always)]
    fn encode<W: Wide>(weights: &[f32; WEIGHTS], bytes: &mut [u8; 2 * WEIGHTS]) {
        for (bytes, &weight) in bytes.as_chunks_mut().0.iter_mut().zip(weights) {
            *bytes = f32_to_bf16(weight).to_le_bytes();
        }
    }

    #[inline(always)]
    fn fits(bytes: &[u8; 2 * WEIGHTS]) -> bool {
        none_above(0x7f7f, bytes)
    }
}

/// Whether the magnitudes of floats of two bytes go to `largest`, which is the largest finite one.
#[inline(always)]
fn none_above(largest: u16, bytes: &[u8; 2 * WEIGHTS]) -> bool {
    let magnitude = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes) & 0x7fff;
    bytes.as_chunks().0.iter().map(magnitude).fold(0, u16::max) <= largest
}
