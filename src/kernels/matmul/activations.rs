//! Inputs prepared for the kernels: cut into tiles of tokens and interleaved, so that a kernel
//! reads them from front to back; for quantized weights also rounded to eight bits.
//!
//! For quantized weights 32 columns of an input become int8 with a scale of largest magnitude / 127,
//! rounded to f16: what ggml's Q8_0 does, with ties to even as its x86 code has it.

use half::f16;

/// Columns that share a scale.
pub(super) const BLOCK: usize = 32;
/// 32-bit words that a block takes, a token.
pub(super) const BLOCK_WORDS: usize = SCALED_SUM + 3;

/// Where a block's parts begin, in words a token: eight quads of int8, …
pub(super) const QUADS: usize = 0;
/// … the f32 scale, …
pub(super) const SCALE: usize = 8;
/// … what a zero point takes from the integer sums: minus the zero point times the i32 sum of the
/// activations (by [`super::format::Zero`]), …
pub(super) const ZERO_SUM: usize = 9;
/// … and the sums of the whole block, its first half and its second half times the scale, in f32.
pub(super) const SCALED_SUM: usize = 14;

/// What a kernel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ActivationKind {
    /// f32: for each column the tile's tokens.
    Float,
    /// For each 32 columns the parts above, each holding the tile's tokens side by side.
    Quantized,
}

impl ActivationKind {
    /// Both, in the enum's order.
    pub(super) const ALL: [Self; 2] = [Self::Float, Self::Quantized];

    /// 32-bit words that one token of `columns` columns takes.
    pub(super) fn words(self, columns: usize) -> usize {
        match self {
            Self::Float => columns,
            Self::Quantized => columns / BLOCK * BLOCK_WORDS,
        }
    }

    /// Prepares a tile: `inputs` is its tokens × `columns`; `quantize` is [`quantize`] or the like.
    #[inline(always)]
    pub(super) fn fill(
        self,
        inputs: &[f32],
        columns: usize,
        tile: &mut [u32],
        quantize: impl Fn(&[f32; BLOCK]) -> QuantizedBlock,
    ) {
        let tokens = inputs.len() / columns;
        match self {
            Self::Float => interleave(inputs, columns, tokens, tile),
            Self::Quantized => {
                for (token, input) in inputs.chunks_exact(columns).enumerate() {
                    let (blocks, _) = input.as_chunks::<BLOCK>();
                    let tiles = tile.chunks_exact_mut(BLOCK_WORDS * tokens);
                    for (block, tile) in blocks.iter().zip(tiles) {
                        place(&quantize(block), token, tokens, tile);
                    }
                }
            }
        }
    }
}

/// Transposes tokens × columns.
#[inline(always)]
fn interleave(inputs: &[f32], columns: usize, tokens: usize, tile: &mut [u32]) {
    /// Columns moved at a time: what is written stays in the first-level cache.
    const STRIP: usize = 64;
    let tiles = tile.chunks_mut(STRIP * tokens);
    for (start, tile) in (0..columns).step_by(STRIP).zip(tiles) {
        let end = columns.min(start + STRIP);
        for (token, input) in inputs.chunks_exact(columns).enumerate() {
            let slots = tile[token..].iter_mut().step_by(tokens);
            for (slot, value) in slots.zip(&input[start..end]) {
                *slot = value.to_bits();
            }
        }
    }
}

/// 32 columns of one input, rounded.
pub(super) struct QuantizedBlock {
    pub(super) codes: [i8; BLOCK],
    pub(super) scale: f32,
    /// Of the codes of each half.
    pub(super) sums: [i32; 2],
}

/// The specification, and what is used where there is nothing faster.
#[inline(always)]
pub(super) fn quantize(values: &[f32; BLOCK]) -> QuantizedBlock {
    // Magnitudes compare as their bits do, and NaN above all: then the scale is NaN, as it should.
    let largest = values.iter().fold(0, |largest, value| value.abs().to_bits().max(largest));
    let (scale, inverse) = scale_and_inverse(f32::from_bits(largest));
    let mut codes = [0; BLOCK];
    for (code, value) in codes.iter_mut().zip(values) {
        *code = nearest_int(value * inverse) as i8;
    }
    let sum = |codes: &[i8]| codes.iter().map(|&code| i32::from(code)).sum();
    let (first, second) = codes.split_at(BLOCK / 2);
    let sums = [sum(first), sum(second)];
    QuantizedBlock { codes, scale: f16::from_f32(scale).to_f32(), sums }
}

/// The scale, not yet rounded to f16, and the factor that makes codes of values, from the largest
/// magnitude.
#[inline(always)]
pub(super) fn scale_and_inverse(largest: f32) -> (f32, f32) {
    (largest / 127.0, if largest != 0.0 { 127.0 / largest } else { 0.0 })
}

/// The nearest integer, ties to even, below 2^22: adding 1.5 · 2^23 leaves it in the mantissa.
#[inline(always)]
fn nearest_int(value: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (value + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32
}

/// The zero points' shares, from the sums of the whole block, its first half and its second half.
#[inline(always)]
fn zero_sums([whole, first, second]: [i32; 3]) -> [i32; 5] {
    [-8 * whole, -16 * whole, -128 * whole, -32 * first, -32 * second]
}

#[inline(always)]
fn place(block: &QuantizedBlock, token: usize, tokens: usize, tile: &mut [u32]) {
    let mut put = |part: usize, word: u32| tile[part * tokens + token] = word;
    for (quad, codes) in block.codes.as_chunks::<4>().0.iter().enumerate() {
        put(QUADS + quad, u32::from_le_bytes(codes.map(|code| code as u8)));
    }
    let [first, second] = block.sums;
    put(SCALE, block.scale.to_bits());
    let sums = [first + second, first, second];
    for (part, sum) in zero_sums(sums).into_iter().enumerate() {
        put(ZERO_SUM + part, sum as u32);
    }
    for (part, sum) in sums.into_iter().enumerate() {
        put(SCALED_SUM + part, (sum as f32 * block.scale).to_bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_scale_are_those_of_q8_0() {
        use crate::gguf::GgmlType;
        use crate::quant::formats::{dequantize_row, quantize_row};
        let values: [f32; BLOCK] =
            std::array::from_fn(|i| ((i * 37 % 29) as f32 - 14.3) * 0.173 * (1.0 + i as f32));
        let mut bytes = [0; 34];
        quantize_row(GgmlType::Q8_0, &values, &mut bytes).unwrap();
        let mut expected = [0.0; BLOCK];
        dequantize_row(GgmlType::Q8_0, &bytes, &mut expected).unwrap();
        let block = quantize(&values);
        assert_eq!(block.codes.map(|code| f32::from(code) * block.scale), expected);
    }

    #[test]
    fn a_block_of_zeros_has_no_scale_and_nan_stays_nan() {
        assert_eq!(quantize(&[0.0; BLOCK]).scale, 0.0);
        let mut values = [1.0; BLOCK];
        values[7] = f32::NAN;
        assert!(quantize(&values).scale.is_nan());
    }

    #[test]
    fn tokens_lie_side_by_side() {
        let inputs: Vec<f32> = (0..2 * BLOCK).map(|i| i as f32 - 20.0).collect();
        let mut tile = vec![0; 2 * BLOCK_WORDS];
        ActivationKind::Quantized.fill(&inputs, BLOCK, &mut tile, quantize);
        for token in 0..2 {
            let block = quantize(inputs[token * BLOCK..][..BLOCK].try_into().unwrap());
            let word = |part: usize| tile[part * 2 + token];
            let sum: i32 = block.codes.iter().map(|&code| i32::from(code)).sum();
            assert_eq!(word(QUADS + 7).to_le_bytes()[3] as i8, block.codes[31]);
            assert_eq!(f32::from_bits(word(SCALE)), block.scale);
            assert_eq!(word(ZERO_SUM) as i32, -8 * sum);
            assert_eq!(word(ZERO_SUM + 1) as i32, -16 * sum);
            assert_eq!(word(ZERO_SUM + 2) as i32, -128 * sum);
            assert_eq!(word(ZERO_SUM + 3).wrapping_add(word(ZERO_SUM + 4)) as i32, -32 * sum);
            assert_eq!(f32::from_bits(word(SCALED_SUM)), sum as f32 * block.scale);
        }
    }
}
