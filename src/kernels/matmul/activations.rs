//! Inputs prepared for the kernels, token by token; for quantized weights rounded to 8 or 16 bits.
//!
//! With 8 bits, 32 columns of an input become int8 with a scale of largest magnitude / 127, rounded
//! to f16: what ggml's Q8_0 does, with ties to even as its x86 code has it. Whatever else the kernels
//! need to know of a block is computed here, once for all rows of all matrices.
//!
//! With 16 bits, 32 columns become whole numbers up to 32,512 with an f32 scale, and each of these
//! numbers is written as `255 · high + low`, both within ±127. A token is then two rows, of all high
//! and of all low codes, in the very form of 8 bits: the kernels multiply each row on its own, and
//! the results are added up ([`Prepared::add_terms`]).

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

/// Bits that the inputs of products with quantized weights are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ActivationBits {
    /// As ggml does: a block of 32 is off by up to 0.4 % of its largest element.
    #[default]
    Eight,
    /// Off by up to 0.0016 % of that, for twice the multiplications.
    Sixteen,
}

impl ActivationBits {
    /// Both, in the enum's order.
    pub const ALL: [Self; 2] = [Self::Eight, Self::Sixteen];

    /// What `--activations` and results call it.
    pub fn bits(self) -> u8 {
        match self {
            Self::Eight => 8,
            Self::Sixteen => 16,
        }
    }

    /// How many times each quantized weight is multiplied for a token.
    pub fn terms(self) -> usize {
        ActivationKind::of(self).terms()
    }
}

/// What a kernel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ActivationKind {
    /// f32 as they are.
    Float,
    /// The codes of all blocks, then the parts above.
    Quantized,
    /// Two such rows, whose sum is the token.
    QuantizedTwice,
}

impl ActivationKind {
    /// All of them, in the enum's order.
    pub(super) const ALL: [Self; 3] = [Self::Float, Self::Quantized, Self::QuantizedTwice];

    /// How quantized weights read inputs that are rounded to `bits`.
    pub(super) const fn of(bits: ActivationBits) -> Self {
        match bits {
            ActivationBits::Eight => Self::Quantized,
            ActivationBits::Sixteen => Self::QuantizedTwice,
        }
    }

    /// Rows that a token is the sum of.
    pub(super) const fn terms(self) -> usize {
        match self {
            Self::Float | Self::Quantized => 1,
            Self::QuantizedTwice => 2,
        }
    }

    /// 32-bit words that one row of `columns` columns takes. Rows that lie a power of two apart
    /// would share a few sets of the first-level cache, so none do.
    pub(super) const fn words(self, columns: usize) -> usize {
        match self {
            Self::Float => columns.next_multiple_of(16) + 16,
            Self::Quantized | Self::QuantizedTwice => columns / BLOCK * BLOCK_WORDS,
        }
    }

    /// 32-bit words that all rows of a token take.
    pub(super) const fn token_words(self, columns: usize) -> usize {
        self.terms() * self.words(columns)
    }

    /// Prepares a token.
    #[inline(always)]
    pub(super) fn fill(self, input: &[f32], words: &mut [u32]) {
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
            Self::QuantizedTwice => {
                let (inputs, _) = input.as_chunks::<BLOCK>();
                let (high, low) = words.split_at_mut(self.words(input.len()));
                for (block, values) in inputs.iter().enumerate() {
                    let terms = quantize_twice(values);
                    place(&terms[0], block, inputs.len(), high);
                    place(&terms[1], block, inputs.len(), low);
                }
            }
        }
    }
}

/// Tokens as a kernel reads them: `rows` stretches of `stride` words, `terms` of them a token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prepared<'a> {
    pub(super) words: &'a [u32],
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) terms: usize,
}

impl<'a> Prepared<'a> {
    /// `tokens` tokens of `columns` columns, prepared as the kind says.
    pub(super) fn new(
        kind: ActivationKind,
        tokens: usize,
        columns: usize,
        words: &'a [u32],
    ) -> Self {
        let terms = kind.terms();
        Self { words, stride: kind.words(columns), rows: terms * tokens, terms }
    }

    /// Number of tokens.
    pub(super) fn count(self) -> usize {
        self.rows / self.terms
    }

    /// Some of the tokens.
    pub(super) fn tokens(self, tokens: std::ops::Range<usize>) -> Self {
        let token_words = self.terms * self.stride;
        let words = &self.words[tokens.start * token_words..tokens.end * token_words];
        Self { words, rows: self.terms * tokens.len(), ..self }
    }

    /// Where each of `T` rows begins: all of its words lie behind.
    pub(super) fn starts<const T: usize>(self) -> [*const u32; T] {
        assert_eq!((self.rows, self.words.len()), (T, T * self.stride), "the tile has T rows");
        let mut starts = [self.words.as_ptr(); T];
        for (row, start) in starts.iter_mut().enumerate() {
            *start = self.words[row * self.stride..].as_ptr();
        }
        starts
    }

    /// The words of each row.
    pub(super) fn iter(self) -> impl Iterator<Item = &'a [u32]> {
        (0..self.rows).map(move |row| &self.words[row * self.stride..][..self.stride])
    }

    /// Adds up the totals of each token's rows, which are `stride` apart, into those of its first
    /// one; returns how far apart tokens' totals are.
    #[inline(always)]
    pub(super) fn add_terms(self, totals: &mut [f32], stride: usize) -> usize {
        if self.terms == 2 {
            for token in totals.chunks_exact_mut(2 * stride) {
                let (high, low) = token.split_at_mut(stride);
                for (high, low) in high.iter_mut().zip(low) {
                    *high += *low;
                }
            }
        }
        stride * self.terms
    }
}

/// 32 columns of one input, rounded.
pub(super) struct QuantizedBlock {
    pub(super) codes: [i8; BLOCK],
    pub(super) scale: f32,
    /// Of the codes of each half.
    pub(super) sums: [i32; 2],
}

impl QuantizedBlock {
    #[inline(always)]
    fn new(codes: [i8; BLOCK], scale: f32) -> Self {
        let sum = |codes: &[i8]| codes.iter().map(|&code| i32::from(code)).sum();
        let (first, second) = codes.split_at(BLOCK / 2);
        let sums = [sum(first), sum(second)];
        Self { codes, scale, sums }
    }
}

/// The largest magnitude. Magnitudes compare as their bits do, and NaN above all: then the scale is
/// NaN, as it should.
#[inline(always)]
fn largest_magnitude(values: &[f32; BLOCK]) -> f32 {
    f32::from_bits(values.iter().fold(0, |largest, value| value.abs().to_bits().max(largest)))
}

/// Eight bits: the specification, and what is used where there is nothing faster.
#[inline(always)]
fn quantize(values: &[f32; BLOCK]) -> QuantizedBlock {
    let largest = largest_magnitude(values);
    let inverse = if largest != 0.0 { 127.0 / largest } else { 0.0 };
    let mut codes = [0; BLOCK];
    for (code, value) in codes.iter_mut().zip(values) {
        *code = nearest_int(value * inverse) as i8;
    }
    QuantizedBlock::new(codes, f16::from_f32(largest / 127.0).to_f32())
}

/// What a high code of 16 bits counts. The low code takes 255 values, so that each whole number has
/// one spelling.
pub(super) const HIGH: f32 = 255.0;
/// The largest whole number that both codes spell.
pub(super) const MOST_STEPS: f32 = 127.0 * HIGH + 127.0;
/// A block whose largest magnitude is no larger than this becomes zero. In all others, the factor that
/// makes whole numbers of the values is finite.
pub(super) const SMALLEST: f32 = 1e-30;

/// Sixteen bits: the specification. The values are the sum of both blocks.
///
/// The nearest whole number of steps is half a step off; and since the factor, the product with it
/// and both scales are rounded, by up to 2⁻²⁴ each, another 4 · 2⁻²⁴ · 32,512 < 0.01 steps. In all,
/// a value is off by less than 0.51 / 32,512 of the largest magnitude.
#[inline(always)]
fn quantize_twice(values: &[f32; BLOCK]) -> [QuantizedBlock; 2] {
    let largest = largest_magnitude(values);
    let inverse = if largest > SMALLEST { MOST_STEPS / largest } else { 0.0 };
    let mut codes = [[0; BLOCK]; 2];
    let [high_codes, low_codes] = &mut codes;
    for ((high, low), value) in high_codes.iter_mut().zip(low_codes).zip(values) {
        let steps = nearest_int(value * inverse);
        // A quotient is never near the middle of two integers, so this rounding is exact.
        let quotient = nearest_int(steps as f32 * (1.0 / HIGH));
        *high = quotient as i8;
        *low = steps.wrapping_sub(quotient.wrapping_mul(HIGH as i32)) as i8;
    }
    let scale = largest / MOST_STEPS;
    let [high, low] = codes;
    [QuantizedBlock::new(high, scale * HIGH), QuantizedBlock::new(low, scale)]
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
    fn two_codes_spell_sixteen_bits() {
        let spelled = |values: &[f32; BLOCK]| -> [f32; BLOCK] {
            let [high, low] = quantize_twice(values);
            let value = |block: &QuantizedBlock, index: usize| {
                assert!(block.codes[index] != i8::MIN, "codes are within ±127");
                f64::from(block.codes[index]) * f64::from(block.scale)
            };
            std::array::from_fn(|index| (value(&high, index) + value(&low, index)) as f32)
        };
        // Every whole number, 31 at a time beside the largest.
        for first in (-32_512..32_512).step_by(BLOCK - 1) {
            let mut values = [MOST_STEPS; BLOCK];
            for (offset, value) in values[1..].iter_mut().enumerate() {
                *value = ((first + offset as i32) as f32).min(MOST_STEPS);
            }
            assert_eq!(spelled(&values), values);
        }
        for size in [1e-25, 3e-6, 0.7, 1e5, 3e38] {
            let values: [f32; BLOCK] =
                std::array::from_fn(|i| ((i * 37 % 29) as f32 - 14.3) / 14.7 * size);
            let largest = f64::from(largest_magnitude(&values));
            for (spelled, value) in spelled(&values).into_iter().zip(values) {
                let error = (f64::from(spelled) - f64::from(value)).abs();
                assert!(error <= 0.51 / f64::from(MOST_STEPS) * largest, "{spelled}, not {value}");
            }
        }
        let mut values = [SMALLEST; BLOCK];
        assert_eq!(spelled(&values), [0.0; BLOCK], "too small to be told from zero");
        values[7] = f32::NAN;
        assert!(quantize_twice(&values).iter().all(|block| block.scale.is_nan()));
    }

    #[test]
    fn a_token_has_its_codes_and_then_its_parts() {
        let input: Vec<f32> = (0..2 * BLOCK).map(|i| i as f32 - 20.0).collect();
        let mut words = vec![0; 2 * BLOCK_WORDS];
        ActivationKind::Quantized.fill(&input, &mut words);
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
