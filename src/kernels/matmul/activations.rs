//! Inputs prepared for the kernels, token by token; for quantized weights rounded to eight bits.
//!
//! For quantized weights 32 columns of an input become int8 with a scale of largest magnitude / 127,
//! rounded to f16: what ggml's Q8_0 does, with ties to even as its x86 code has it. Whatever else
//! the kernels need to know of a block is computed here, once for all rows of all matrices.

use half::f16;

/// Columns that share a scale.
pub(super) const BLOCK: usize = 32;
/// 32-bit words that a block takes.
pub(super) const BLOCK_WORDS: usize = CODE_WORDS + PARTS;
/// Words that a block's codes take: four int8 each.
pub(super) const CODE_WORDS: usize = BLOCK / 4;

/// What a token has for each block behind all its codes, an array over the blocks each: the f32
/// scale, …
pub(super) const SCALE: usize = 0;
/// … where a kernel's integer sums begin (by [`super::format::Zero`]): [`MAGIC`]'s bits minus what
/// the zero point takes, the zero point times the sum of the codes, …
pub(super) const ZERO_SUM: usize = 1;
/// … and the sums of the whole block, its first half and its second half times the scale, in f32.
pub(super) const SCALED_SUM: usize = 6;
pub(super) const PARTS: usize = SCALED_SUM + 3;

/// 1.5 · 2²³. An integer below 2²² that is added to its bits gives the bits of the float that is as
/// much larger: sums that begin with them are floats without a conversion. The kernels take it out
/// again where they scale the sum, `sum · scale − MAGIC · scale` in one rounding.
pub(super) const MAGIC: f32 = 12_582_912.0;

/// Where a token of `blocks` blocks has a part of a block.
pub(super) const fn part_at(part: usize, blocks: usize, block: usize) -> usize {
    (CODE_WORDS + part) * blocks + block
}

/// What a kernel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ActivationKind {
    /// f32 as they are.
    Float,
    /// The codes of all blocks, then the parts above.
    Quantized,
}

impl ActivationKind {
    /// Both, in the enum's order.
    pub(super) const ALL: [Self; 2] = [Self::Float, Self::Quantized];

    /// 32-bit words that one token of `columns` columns takes. Tokens that lie a power of two apart
    /// would share a few sets of the first-level cache, so none do.
    pub(super) const fn words(self, columns: usize) -> usize {
        match self {
            Self::Float => columns.next_multiple_of(16) + 16,
            Self::Quantized => columns / BLOCK * BLOCK_WORDS,
        }
    }

    /// Prepares a token; `quantize` is [`quantize`] or the like.
    #[inline(always)]
    pub(super) fn fill(
        self,
        input: &[f32],
        words: &mut [u32],
        quantize: impl Fn(&[f32; BLOCK]) -> QuantizedBlock,
    ) {
        match self {
            Self::Float => {
                for (word, value) in words.iter_mut().zip(input) {
                    *word = value.to_bits();
                }
            }
            Self::Quantized => {
                let (inputs, _) = input.as_chunks::<BLOCK>();
                for (block, values) in inputs.iter().enumerate() {
                    place(&quantize(values), block, inputs.len(), words);
                }
            }
        }
    }
}

/// Tokens as a kernel reads them: `tokens` stretches of `stride` words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prepared<'a> {
    pub(super) words: &'a [u32],
    pub(super) stride: usize,
    pub(super) tokens: usize,
}

impl<'a> Prepared<'a> {
    /// So many tokens of so many columns, prepared as the kind says.
    pub(super) fn new(
        kind: ActivationKind,
        tokens: usize,
        columns: usize,
        words: &'a [u32],
    ) -> Self {
        Self { words, stride: kind.words(columns), tokens }
    }

    /// Some of the tokens.
    pub(super) fn tokens(self, tokens: std::ops::Range<usize>) -> Self {
        let words = &self.words[tokens.start * self.stride..tokens.end * self.stride];
        Self { words, stride: self.stride, tokens: tokens.len() }
    }

    /// Where each of `T` tokens begins: all of its words lie behind.
    pub(super) fn starts<const T: usize>(self) -> [*const u32; T] {
        assert_eq!((self.tokens, self.words.len()), (T, T * self.stride), "the tile has T tokens");
        let mut starts = [self.words.as_ptr(); T];
        for (token, start) in starts.iter_mut().enumerate() {
            *start = self.words[token * self.stride..].as_ptr();
        }
        starts
    }

    /// The words of each token.
    pub(super) fn iter(self) -> impl Iterator<Item = &'a [u32]> {
        (0..self.tokens).map(move |token| &self.words[token * self.stride..][..self.stride])
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

/// The nearest integer, ties to even, below 2^22.
#[inline(always)]
fn nearest_int(value: f32) -> i32 {
    (value + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32
}

/// What each zero point takes, from the sums of the whole block, its first half and its second half.
#[inline(always)]
fn zero_sums([whole, first, second]: [i32; 3]) -> [i32; 5] {
    [8 * whole, 16 * whole, 128 * whole, 32 * first, 32 * second]
}

#[inline(always)]
fn place(block: &QuantizedBlock, index: usize, blocks: usize, words: &mut [u32]) {
    let codes = &mut words[CODE_WORDS * index..][..CODE_WORDS];
    for (word, codes) in codes.iter_mut().zip(block.codes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(codes.map(|code| code as u8));
    }
    let mut put = |part: usize, word: u32| words[part_at(part, blocks, index)] = word;
    let [first, second] = block.sums;
    let sums = [first + second, first, second];
    put(SCALE, block.scale.to_bits());
    for (part, sum) in zero_sums(sums).into_iter().enumerate() {
        put(ZERO_SUM + part, MAGIC.to_bits().wrapping_sub(sum as u32));
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
    fn a_token_has_its_codes_and_then_its_parts() {
        let input: Vec<f32> = (0..2 * BLOCK).map(|i| i as f32 - 20.0).collect();
        let mut words = vec![0; 2 * BLOCK_WORDS];
        ActivationKind::Quantized.fill(&input, &mut words, quantize);
        for index in 0..2 {
            let block = quantize(input[index * BLOCK..][..BLOCK].try_into().unwrap());
            let word = |part: usize| words[part_at(part, 2, index)];
            let zero_sum = |zero: usize| MAGIC - f32::from_bits(word(ZERO_SUM + zero));
            let sum: i32 = block.codes.iter().map(|&code| i32::from(code)).sum();
            let last = words[CODE_WORDS * (index + 1) - 1];
            assert_eq!(last.to_le_bytes()[3] as i8, block.codes[31]);
            assert_eq!(f32::from_bits(word(SCALE)), block.scale);
            assert_eq!(zero_sum(0), 8.0 * sum as f32);
            assert_eq!(zero_sum(1), 16.0 * sum as f32);
            assert_eq!(zero_sum(2), 128.0 * sum as f32);
            assert_eq!(zero_sum(3) + zero_sum(4), 32.0 * sum as f32);
            assert_eq!(f32::from_bits(word(SCALED_SUM)), sum as f32 * block.scale);
        }
    }
}
