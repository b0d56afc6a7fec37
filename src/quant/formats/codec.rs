//! What a block format is to the rest of the module, and the arithmetic that all of them share.
//!
//! The bytes must be those of ggml's reference, so every sum here runs in its order, nothing is
//! fused, and conversions to integers behave as x86's do where the value does not fit.

use super::half_float::{f16_to_f32, f32_to_f16};
use super::super_blocks::{self, SuperBlock};
#[cfg(target_arch = "aarch64")]
use super::wide::WideNeon;
use super::wide::{self, Wide};
#[cfg(target_arch = "x86_64")]
use super::wide::{Wide256, Wide512};
use crate::gguf::GgmlType;
use crate::support::processor::InstructionSet;

/// Turns one block of `BYTES` bytes into `WEIGHTS` weights.
pub(super) trait Decode<const WEIGHTS: usize, const BYTES: usize> {
    /// The format.
    const TYPE: GgmlType;
    /// What a block holds in its order, for the documentation.
    const LAYOUT: &'static str;
    /// How a block comes about, for the documentation.
    const BUILT: &'static str;

    /// Reads a block.
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]);
}

/// Turns 32 weights into `BYTES` bytes, without a search.
pub(super) trait Encode<const BYTES: usize>: Decode<{ wide::WEIGHTS }, BYTES> {
    /// Whether a weight that is not finite makes a block that does not fit. If not, it is looked for.
    const SHOWS_NOT_FINITE: bool;

    /// Writes a block.
    fn encode<W: Wide>(weights: W, block: &mut [u8; BYTES]);

    /// Whether the scales that were written are numbers.
    fn fits(block: &[u8; BYTES]) -> bool;
}

/// Where weights come from, 32 at a time.
pub(super) trait Source {
    type Block;

    fn load<W: Wide>(block: &Self::Block) -> W;
}

/// Weights as they are.
pub(super) struct FromF32;

impl Source for FromF32 {
    type Block = [f32; wide::WEIGHTS];

    #[inline(always)]
    fn load<W: Wide>(block: &Self::Block) -> W {
        W::load(block)
    }
}

/// The bytes of F16.
pub(super) struct FromF16;

impl Source for FromF16 {
    type Block = [u8; 2 * wide::WEIGHTS];

    #[inline(always)]
    fn load<W: Wide>(block: &Self::Block) -> W {
        W::from_f16s(block)
    }
}

/// The bytes of BF16.
pub(super) struct FromBf16;

impl Source for FromBf16 {
    type Block = [u8; 2 * wide::WEIGHTS];

    #[inline(always)]
    fn load<W: Wide>(block: &Self::Block) -> W {
        W::from_bf16s(block)
    }
}

/// Writes whole blocks from weights with the instructions of a set that the machine has; the lengths
/// have been checked. An error is the index of a block whose scale is too large for its field.
pub(super) type QuantizeBlocks = fn(InstructionSet, &[f32], &mut [u8]) -> Result<(), usize>;

/// Writes whole rows, the importance of whose columns is the third argument; the rest as for
/// [`QuantizeBlocks`].
pub(super) type QuantizeWeighted =
    fn(InstructionSet, &[f32], &[f32], &mut [u8]) -> Result<(), usize>;

/// Reads whole blocks into weights with the instructions of a set that the machine has; the lengths
/// have been checked.
pub(super) type DequantizeBlocks = fn(InstructionSet, &[u8], &mut [f32]);

/// Writes whole blocks from the bytes of F16 or BF16, as [`QuantizeBlocks`] from their values.
pub(super) type QuantizeBytes = fn(InstructionSet, &[u8], &mut [u8]) -> Result<(), usize>;

/// A format's entry in the registry.
pub(super) struct Codec {
    pub(super) ggml_type: GgmlType,
    /// What the table of formats says.
    pub(super) layout: &'static str,
    pub(super) built: &'static str,
    pub(super) quantize: Option<QuantizeBlocks>,
    /// Whether `quantize` refuses blocks with weights that are not finite; else they must be looked
    /// for before.
    pub(super) refuses_not_finite: bool,
    /// Shorter ways from the bytes of F16 and BF16, where there are any; they refuse what is not
    /// finite.
    pub(super) from_f16: Option<QuantizeBytes>,
    pub(super) from_bf16: Option<QuantizeBytes>,
    /// How rows are written when the importance of their columns is known; nothing for formats that
    /// make no use of it.
    pub(super) weighted: Option<QuantizeWeighted>,
    pub(super) dequantize: DequantizeBlocks,
}

impl Codec {
    /// A format of blocks of 32 weights that are written without a search.
    pub(super) const fn both<F: Encode<BYTES>, const BYTES: usize>() -> Self {
        Self {
            quantize: Some(encode_weights::<F, BYTES>),
            refuses_not_finite: true,
            from_f16: Some(encode_bytes::<F, FromF16, BYTES>),
            from_bf16: Some(encode_bytes::<F, FromBf16, BYTES>),
            ..Self::read_only::<F, { wide::WEIGHTS }, BYTES>()
        }
    }

    /// A K format, which can be read and written and heeds importance.
    pub(super) const fn super_blocks<
        F: SuperBlock<BLOCK, BYTES>,
        const BLOCK: usize,
        const BYTES: usize,
    >() -> Self {
        Self {
            quantize: Some(super_blocks::quantize::<F, BLOCK, BYTES>),
            weighted: Some(super_blocks::quantize_weighted::<F, BLOCK, BYTES>),
            ..Self::read_only::<F, { super_blocks::WEIGHTS }, BYTES>()
        }
    }

    /// A format that can only be read. Compiles only if the layout is as long as the format asks.
    pub(super) const fn read_only<
        F: Decode<WEIGHTS, BYTES>,
        const WEIGHTS: usize,
        const BYTES: usize,
    >() -> Self {
        assert!(WEIGHTS == F::TYPE.block_size(), "the block holds another number of weights");
        assert!(BYTES == F::TYPE.block_bytes(), "the block takes another number of bytes");
        Self {
            ggml_type: F::TYPE,
            layout: F::LAYOUT,
            built: F::BUILT,
            quantize: None,
            refuses_not_finite: false,
            from_f16: None,
            from_bf16: None,
            weighted: None,
            dequantize: decode_blocks::<F, WEIGHTS, BYTES>,
        }
    }
}

fn encode_weights<F: Encode<BYTES>, const BYTES: usize>(
    set: InstructionSet,
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), usize> {
    encode_blocks::<F, FromF32, BYTES>(set, weights.as_chunks().0, output.as_chunks_mut().0)
}

fn encode_bytes<F, S, const BYTES: usize>(
    set: InstructionSet,
    bytes: &[u8],
    output: &mut [u8],
) -> Result<(), usize>
where
    F: Encode<BYTES>,
    S: Source<Block = [u8; 2 * wide::WEIGHTS]>,
{
    encode_blocks::<F, S, BYTES>(set, bytes.as_chunks().0, output.as_chunks_mut().0)
}

/// Encodes block after block. An error is the index of one that does not fit or has a weight that is
/// not finite.
pub(super) fn encode_blocks<F: Encode<BYTES>, S: Source, const BYTES: usize>(
    set: InstructionSet,
    inputs: &[S::Block],
    blocks: &mut [[u8; BYTES]],
) -> Result<(), usize> {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<F: Encode<BYTES>, S: Source, const BYTES: usize>(
            inputs: &[S::Block],
            blocks: &mut [[u8; BYTES]],
        ) -> Result<(), usize> {
            encode_blocks_wide::<F, S, Wide256, BYTES>(inputs, blocks)
        }
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
        fn avx512<F: Encode<BYTES>, S: Source, const BYTES: usize>(
            inputs: &[S::Block],
            blocks: &mut [[u8; BYTES]],
        ) -> Result<(), usize> {
            encode_blocks_wide::<F, S, Wide512, BYTES>(inputs, blocks)
        }
        match set {
            // SAFETY: the caller names a set that the machine has.
            InstructionSet::Avx512 => return unsafe { avx512::<F, S, BYTES>(inputs, blocks) },
            // SAFETY: as above.
            InstructionSet::Avx2 => return unsafe { avx2::<F, S, BYTES>(inputs, blocks) },
            InstructionSet::Scalar | InstructionSet::Neon => {}
        }
    }
    #[cfg(target_arch = "aarch64")]
    if set == InstructionSet::Neon {
        return encode_blocks_wide::<F, S, WideNeon, BYTES>(inputs, blocks);
    }
    encode_blocks_wide::<F, S, [f32; wide::WEIGHTS], BYTES>(inputs, blocks)
}

/// Decodes block after block.
pub(super) fn decode_blocks<F: Decode<WEIGHTS, BYTES>, const WEIGHTS: usize, const BYTES: usize>(
    set: InstructionSet,
    bytes: &[u8],
    output: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<F: Decode<WEIGHTS, BYTES>, const WEIGHTS: usize, const BYTES: usize>(
            bytes: &[u8],
            output: &mut [f32],
        ) {
            decode_blocks_wide::<F, Wide256, WEIGHTS, BYTES>(bytes, output);
        }
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
        fn avx512<F: Decode<WEIGHTS, BYTES>, const WEIGHTS: usize, const BYTES: usize>(
            bytes: &[u8],
            output: &mut [f32],
        ) {
            decode_blocks_wide::<F, Wide512, WEIGHTS, BYTES>(bytes, output);
        }
        match set {
            // SAFETY: the caller names a set that the machine has.
            InstructionSet::Avx512 => return unsafe { avx512::<F, WEIGHTS, BYTES>(bytes, output) },
            // SAFETY: as above.
            InstructionSet::Avx2 => return unsafe { avx2::<F, WEIGHTS, BYTES>(bytes, output) },
            InstructionSet::Scalar | InstructionSet::Neon => {}
        }
    }
    #[cfg(target_arch = "aarch64")]
    if set == InstructionSet::Neon {
        return decode_blocks_wide::<F, WideNeon, WEIGHTS, BYTES>(bytes, output);
    }
    decode_blocks_wide::<F, [f32; wide::WEIGHTS], WEIGHTS, BYTES>(bytes, output);
}

#[inline(always)]
fn encode_blocks_wide<F: Encode<BYTES>, S: Source, W: Wide, const BYTES: usize>(
    inputs: &[S::Block],
    blocks: &mut [[u8; BYTES]],
) -> Result<(), usize> {
    let mut all_fit = true;
    for (input, block) in inputs.iter().zip(blocks.iter_mut()) {
        let weights = S::load::<W>(input);
        F::encode(weights, block);
        all_fit &= F::fits(block) & (F::SHOWS_NOT_FINITE || weights.is_finite());
    }
    if all_fit {
        return Ok(());
    }
    let fits = |(input, block)| F::fits(block) && S::load::<W>(input).is_finite();
    Err(inputs.iter().zip(blocks.iter()).position(|pair| !fits(pair)).unwrap_or(0))
}

#[inline(always)]
fn decode_blocks_wide<F, W: Wide, const WEIGHTS: usize, const BYTES: usize>(
    bytes: &[u8],
    output: &mut [f32],
) where
    F: Decode<WEIGHTS, BYTES>,
{
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (outputs, _) = output.as_chunks_mut::<WEIGHTS>();
    for (block, weights) in blocks.iter().zip(outputs) {
        F::decode::<W>(block, weights);
    }
}

/// Whether no weight is NaN or infinite.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "NEON is always there"))]
pub(super) fn all_finite(set: InstructionSet, weights: &[f32]) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(weights: &[f32]) -> bool {
            largest_magnitude(weights).is_finite()
        }
        #[target_feature(enable = "avx512f")]
        fn avx512(weights: &[f32]) -> bool {
            largest_magnitude(weights).is_finite()
        }
        match set {
            // SAFETY: the caller names a set that the machine has.
            InstructionSet::Avx512 => return unsafe { avx512(weights) },
            // SAFETY: as above.
            InstructionSet::Avx2 => return unsafe { avx2(weights) },
            InstructionSet::Scalar | InstructionSet::Neon => {}
        }
    }
    largest_magnitude(weights).is_finite()
}

/// The field of `N` bytes that starts at byte `at` of a block.
#[inline(always)]
pub(super) fn field<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..at + N].try_into().expect("the range has N bytes")
}

/// The field of `N` bytes that starts at byte `at` of a block, to write to.
#[inline(always)]
pub(super) fn field_mut<const N: usize>(block: &mut [u8], at: usize) -> &mut [u8; N] {
    (&mut block[at..at + N]).try_into().expect("the range has N bytes")
}

/// Reads the f16 at byte `at` of a block.
#[inline(always)]
pub(super) fn read_f16(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes(*field::<2>(block, at)))
}

/// Writes an f16, rounded to nearest even, at byte `at` of a block.
#[inline(always)]
pub(super) fn write_f16(block: &mut [u8], at: usize, value: f32) {
    *field_mut::<2>(block, at) = f32_to_f16(value).to_le_bytes();
}

/// Whether the f16 at byte `at` of a block is a number. Weights of 10^5 and more can have a scale
/// that f16 does not hold.
#[inline(always)]
pub(super) fn is_finite_f16(block: &[u8], at: usize) -> bool {
    const EXPONENT: u16 = 0x7c00;
    u16::from_le_bytes(*field::<2>(block, at)) & EXPONENT != EXPONENT
}

/// `1 / scale`, and 0 for a scale of 0.
#[inline(always)]
pub(super) fn inverse_or_zero(scale: f32) -> f32 {
    if scale != 0.0 { 1.0 / scale } else { 0.0 }
}

/// The integer part; `i32::MIN` where it does not fit or is NaN, which is what x86's conversion
/// gives, and thereby what ggml's `(int8_t) value` gives when cut to its low byte.
#[inline(always)]
pub(super) fn truncate(value: f32) -> i32 {
    // -2^31 is exact in f32, and so is 2^31, the first value that does not fit.
    const LIMIT: f32 = 2_147_483_648.0;
    if (-LIMIT..LIMIT).contains(&value) {
        // SAFETY: the value has just been found to fit. `as` would check again, in scalar code.
        unsafe { value.to_int_unchecked() }
    } else {
        i32::MIN
    }
}

/// The largest f32 below a half: adding the half itself would carry 0.49999997 over to 1.
pub(super) const JUST_BELOW_HALF: f32 = 0.499_999_97;

/// The nearest integer, halves away from zero (C's `roundf`), for values below 2^22.
#[inline(always)]
pub(super) fn round_half_away(value: f32) -> i32 {
    truncate(value + JUST_BELOW_HALF.copysign(value))
}

/// What [`nearest_int`] adds, 1.5 · 2^23; the bits it keeps; and what it takes off them.
pub(super) const MAGIC: f32 = 12_582_912.0;
pub(super) const KEPT: i32 = 0x007f_ffff;
pub(super) const BIAS: i32 = 0x0040_0000;

/// The nearest integer, halves to even, for values below 2^22: adding 1.5 · 2^23 leaves the integer
/// in the low bits of the mantissa.
#[inline(always)]
pub(super) fn nearest_int(value: f32) -> i32 {
    ((value + MAGIC).to_bits() as i32 & KEPT) - BIAS
}

const SIGN: u32 = 0x8000_0000;

/// The largest magnitude; what is not finite is larger than what is. Magnitudes compare as their bits do, and whole numbers
/// vectorize where floats, whose order of comparison matters, do not.
#[inline(always)]
pub(super) fn largest_magnitude(weights: &[f32]) -> f32 {
    let bits = weights.iter().fold(0, |largest, weight| (weight.to_bits() & !SIGN).max(largest));
    f32::from_bits(bits)
}

/// The weight of largest magnitude, sign kept; the first of them where several tie.
#[inline(always)]
pub(super) fn extreme(weights: &[f32]) -> f32 {
    let largest = largest_magnitude(weights);
    if largest == 0.0 {
        return 0.0;
    }
    let occurs = |wanted: f32| {
        let wanted = wanted.to_bits();
        weights.iter().fold(false, |found, weight| found | (weight.to_bits() == wanted))
    };
    match (occurs(largest), occurs(-largest)) {
        (true, false) => largest,
        (false, true) => -largest,
        _ => weights.iter().copied().find(|weight| weight.abs() == largest).unwrap_or(largest),
    }
}

/// The smallest and the largest of finite weights; the first of them where zeros of both signs tie.
#[inline(always)]
pub(super) fn range(weights: &[f32]) -> (f32, f32) {
    // Signed integers in the order of the floats, which vectorize as floats do not.
    let key = |weight: f32| {
        let bits = weight.to_bits() as i32;
        bits ^ ((bits >> 31) as u32 >> 1) as i32
    };
    let value = |key: i32| f32::from_bits((key ^ ((key >> 31) as u32 >> 1) as i32) as u32);
    let minimum = value(weights.iter().fold(i32::MAX, |least, &weight| key(weight).min(least)));
    let maximum = value(weights.iter().fold(i32::MIN, |most, &weight| key(weight).max(most)));
    let first_zero = || weights.iter().copied().find(|&weight| weight == 0.0).unwrap_or(0.0);
    (
        if minimum == 0.0 { first_zero() } else { minimum },
        if maximum == 0.0 { first_zero() } else { maximum },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_the_first_of_those_that_tie() {
        assert_eq!(extreme(&[1.0, -3.0, 3.0, 2.0]), -3.0);
        assert_eq!(extreme(&[1.0, 3.0, -3.0, 2.0]), 3.0);
        assert_eq!(extreme(&[-0.0, 0.0]).to_bits(), 0);
        assert_eq!(range(&[1.0, -3.0, 3.0, 2.0]), (-3.0, 3.0));
        let (minimum, maximum) = range(&[-0.0, 0.0, 2.0]);
        assert_eq!((minimum.to_bits(), maximum), ((-0.0f32).to_bits(), 2.0));
        let (minimum, maximum) = range(&[0.0, -0.0, -2.0]);
        assert_eq!((minimum, maximum.to_bits()), (-2.0, 0));
    }

    #[test]
    fn rounding_is_that_of_c_and_of_the_magic_number() {
        for step in -2_000_000..2_000_000i32 {
            let value = step as f32 / 512.0;
            assert_eq!(round_half_away(value), value.round() as i32, "{value}");
            assert_eq!(nearest_int(value), value.round_ties_even() as i32, "{value}");
        }
        let just_below = f32::from_bits(0.5f32.to_bits() - 1);
        assert_eq!(round_half_away(just_below), 0);
        assert_eq!(round_half_away(-just_below), 0);
    }

    #[test]
    fn conversion_of_what_does_not_fit_is_that_of_x86() {
        for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3e9, -3e9, 2_147_483_648.0] {
            assert_eq!(truncate(value), i32::MIN);
        }
        assert_eq!(truncate(-1.9), -1);
        assert_eq!(truncate(127.9), 127);
    }
}
