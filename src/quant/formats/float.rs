//! The plain floating-point types: F32, F16 and BF16, little-endian. A block is one weight; they are
//! coded 32 at a time.

use super::codec::{Codec, Decode, Encode, FromF32, decode_blocks, encode_blocks};
use super::wide::{WEIGHTS, Wide};
use crate::gguf::GgmlType;
use crate::support::processor::InstructionSet;

pub(super) const F32_CODEC: Codec = codec::<F32, { 4 * WEIGHTS }>();
pub(super) const F16_CODEC: Codec = codec::<F16, { 2 * WEIGHTS }>();
pub(super) const BF16_CODEC: Codec = codec::<Bf16, { 2 * WEIGHTS }>();

const fn codec<F: Encode<BYTES>, const BYTES: usize>() -> Codec {
    assert!(BYTES == WEIGHTS * F::TYPE.block_bytes(), "the weights take another number of bytes");
    Codec {
        ggml_type: F::TYPE,
        layout: F::LAYOUT,
        built: F::BUILT,
        quantize: Some(encode::<F, BYTES>),
        refuses_not_finite: true,
        from_f16: None,
        from_bf16: None,
        weighted: None,
        dequantize: decode::<F, BYTES>,
    }
}

fn encode<F: Encode<BYTES>, const BYTES: usize>(
    set: InstructionSet,
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), usize> {
    let (inputs, rest) = weights.as_chunks::<WEIGHTS>();
    let (outputs, rest_output) = output.as_chunks_mut::<BYTES>();
    let refused = |chunk: usize| {
        // A chunk is coded as a whole. Which of its weights was it?
        let is_refused = |&weight: &f32| {
            encode_blocks::<F, FromF32, BYTES>(set, &[[weight; WEIGHTS]], &mut [[0; BYTES]])
                .is_err()
        };
        let first = chunk * WEIGHTS;
        first + weights[first..].iter().position(is_refused).unwrap_or(0)
    };
    encode_blocks::<F, FromF32, BYTES>(set, inputs, outputs).map_err(refused)?;
    let (mut padded, mut bytes) = ([0.0; WEIGHTS], [0; BYTES]);
    padded[..rest.len()].copy_from_slice(rest);
    encode_blocks::<F, FromF32, BYTES>(set, &[padded], std::slice::from_mut(&mut bytes))
        .map_err(|_| refused(inputs.len()))?;
    rest_output.copy_from_slice(&bytes[..rest_output.len()]);
    Ok(())
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
    const LAYOUT: &'static str = "IEEE 754 single precision";
    const BUILT: &'static str = "as it is";

    #[inline(always)]
    fn decode<W: Wide>(bytes: &[u8; 4 * WEIGHTS], weights: &mut [f32; WEIGHTS]) {
        for (weight, bytes) in weights.iter_mut().zip(bytes.as_chunks().0) {
            *weight = f32::from_le_bytes(*bytes);
        }
    }
}

impl Encode<{ 4 * WEIGHTS }> for F32 {
    const SHOWS_NOT_FINITE: bool = false;

    #[inline(always)]
    fn encode<W: Wide>(weights: W, bytes: &mut [u8; 4 * WEIGHTS]) {
        let mut values = [0.0; WEIGHTS];
        weights.store(&mut values);
        for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
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
    const LAYOUT: &'static str = "IEEE 754 half precision";
    const BUILT: &'static str = "the nearest, ties to even";

    #[inline(always)]
    fn decode<W: Wide>(bytes: &[u8; 2 * WEIGHTS], weights: &mut [f32; WEIGHTS]) {
        W::from_f16s(bytes).store(weights);
    }
}

impl Encode<{ 2 * WEIGHTS }> for F16 {
    const SHOWS_NOT_FINITE: bool = true;

    #[inline(always)]
    fn encode<W: Wide>(weights: W, bytes: &mut [u8; 2 * WEIGHTS]) {
        weights.to_f16s(bytes);
    }

    #[inline(always)]
    fn fits(bytes: &[u8; 2 * WEIGHTS]) -> bool {
        none_above(0x7bff, bytes)
    }
}

struct Bf16;

impl Decode<WEIGHTS, { 2 * WEIGHTS }> for Bf16 {
    const TYPE: GgmlType = GgmlType::BF16;
    const LAYOUT: &'static str = "upper half of an F32";
    const BUILT: &'static str = "the nearest, ties to even";

    #[inline(always)]
    fn decode<W: Wide>(bytes: &[u8; 2 * WEIGHTS], weights: &mut [f32; WEIGHTS]) {
        W::from_bf16s(bytes).store(weights);
    }
}

impl Encode<{ 2 * WEIGHTS }> for Bf16 {
    /// Rounding a NaN may carry into its sign.
    const SHOWS_NOT_FINITE: bool = false;

    #[inline(always)]
    fn encode<W: Wide>(weights: W, bytes: &mut [u8; 2 * WEIGHTS]) {
        weights.to_bf16s(bytes);
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
