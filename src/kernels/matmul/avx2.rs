//! The kernels with AVX2, FMA and F16C: one register holds 8 rows, half a quantized panel.

use std::arch::x86_64::*;

use super::activations::{
    self, ActivationKind, BLOCK, CODE_WORDS, MAGIC, Prepared, SCALE, SCALED_SUM, ZERO_SUM, part_at,
};
use super::float::FloatFormat;
use super::format::{
    Codes, QuantizedFormat, Scales, Zero, block_columns, code_bytes, has_offsets, scale_bytes,
};
use super::panel::{FLOAT_ROWS, QUANTIZED_ROWS, quantized_bytes, scales_at};

/// Tokens that are multiplied at a time, at most.
pub(super) const TILE: usize = 4;

/// Rows in a register.
const LANES: usize = 8;

/// [`ActivationKind::fill`], compiled for AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn fill(kind: ActivationKind, input: &[f32], words: &mut [u32]) {
    kind.fill(input, words, activations::quantize);
}

/// [`super::portable::multiply_quantized`] with AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply_quantized<F: QuantizedFormat>(
    panel: &[u8],
    columns: usize,
    tokens: Prepared<'_>,
    totals: &mut [f32],
) {
    assert!(panel.len() >= quantized_bytes::<F>(columns), "the panel is whole");
    assert!(tokens.stride >= ActivationKind::Quantized.words(columns), "the tokens are whole");
    assert!(totals.len() >= QUANTIZED_ROWS * tokens.tokens, "the totals have room");
    let panel = panel.as_ptr();
    let totals = totals.as_mut_ptr();
    for half in 0..QUANTIZED_ROWS / LANES {
        // SAFETY: the panel, the tokens and the totals are as long as the kernel asks: see above.
        unsafe {
            match tokens.tokens {
                1 => quantized_tile::<F, 1>(panel, columns, tokens.starts(), half, totals),
                2 => quantized_tile::<F, 2>(panel, columns, tokens.starts(), half, totals),
                3 => quantized_tile::<F, 3>(panel, columns, tokens.starts(), half, totals),
                4 => quantized_tile::<F, 4>(panel, columns, tokens.starts(), half, totals),
                tokens => unreachable!("no tile has {tokens} tokens"),
            }
        }
    }
}

/// # Safety
/// `panel` has `quantized_bytes::<F>(columns)` bytes, each of `tokens` the words of a token of so
/// many columns, `totals` room for `T` × 16 values; `half` is 0 or 1.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantized_tile<F: QuantizedFormat, const T: usize>(
    panel: *const u8,
    columns: usize,
    tokens: [*const u32; T],
    half: usize,
    totals: *mut f32,
) {
    let blocks = columns / BLOCK;
    let mut sums = [_mm256_setzero_ps(); T];
    // SAFETY: every offset stays below the lengths that the caller promises.
    unsafe {
        let scales = panel.add(scales_at::<F>(columns));
        for block in 0..blocks {
            let codes = panel.add(block * QUANTIZED_ROWS * code_bytes::<F>() + 4 * LANES * half);
            let place = Place { block, blocks, half };
            add_group::<F, T, 0>(codes, tokens, scales, place, &mut sums);
            if F::GROUP < BLOCK {
                add_group::<F, T, 1>(codes, tokens, scales, place, &mut sums);
            }
        }
        for (t, sum) in sums.into_iter().enumerate() {
            _mm256_storeu_ps(totals.add(t * QUANTIZED_ROWS + LANES * half), sum);
        }
    }
}

/// Which block of how many, and which half of a panel's rows.
#[derive(Clone, Copy)]
struct Place {
    block: usize,
    blocks: usize,
    half: usize,
}

/// Adds the products of one group. Which one is a constant, so that all of this is inlined and the
/// sums stay in registers.
///
/// # Safety
/// `codes` are those of the 32 columns, `scales` those of the whole panel.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_group<F: QuantizedFormat, const T: usize, const GROUP: usize>(
    codes: *const u8,
    tokens: [*const u32; T],
    scales: *const u8,
    Place { block, blocks, half }: Place,
    totals: &mut [__m256; T],
) {
    let groups = BLOCK / F::GROUP;
    // The sums of the whole block come first, those of its halves after it.
    let sums_at = SCALED_SUM + if groups == 1 { 0 } else { 1 + GROUP };
    // SAFETY: the caller's.
    unsafe {
        let sums = integer_sums::<F, T, GROUP>(codes, tokens, block, blocks);
        let (scales, offsets) = group_scales::<F>(scales, block * groups + GROUP, half);
        let magic = _mm256_mul_ps(scales, _mm256_set1_ps(-MAGIC));
        for (t, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
            let scaled = _mm256_fmadd_ps(_mm256_castsi256_ps(sum), scales, magic);
            let scale = broadcast(tokens[t], part_at(SCALE, blocks, block));
            *total = _mm256_fmadd_ps(scaled, scale, *total);
            if has_offsets::<F>() {
                let sum = broadcast(tokens[t], part_at(sums_at, blocks, block));
                *total = _mm256_fmadd_ps(offsets, sum, *total);
            }
        }
    }
}

/// Whether two codes times two activations can be too much for the i16 that AVX2 adds them in. Such
/// codes are multiplied as signed numbers instead.
const fn codes_are_large<F: QuantizedFormat>() -> bool {
    matches!(F::ZERO, Zero::OneHundredTwentyEight)
}

/// The exact sums of (code − zero) times activation over one group, for each token, on top of
/// [`MAGIC`]'s bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn integer_sums<F: QuantizedFormat, const T: usize, const GROUP: usize>(
    codes: *const u8,
    tokens: [*const u32; T],
    block: usize,
    blocks: usize,
) -> [__m256i; T] {
    // SAFETY: a block of 32 columns has code_bytes × 16 bytes of codes; tokens have all words.
    unsafe {
        let mut sums = [_mm256_set1_epi32(MAGIC.to_bits() as i32); T];
        if let (Some(zero), false) = (F::ZERO.sum_of(GROUP), codes_are_large::<F>()) {
            for (sum, token) in sums.iter_mut().zip(tokens) {
                let word = token.add(part_at(ZERO_SUM + zero, blocks, block)).read();
                *sum = _mm256_set1_epi32(word as i32);
            }
        }
        for quad in GROUP * F::GROUP / 4..(GROUP + 1) * F::GROUP / 4 {
            let codes = quad_codes::<F>(codes, quad);
            add_products::<F, T>(&mut sums, codes, tokens, CODE_WORDS * block + quad);
        }
        sums
    }
}

/// The codes of four columns, for each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quad_codes<F: QuantizedFormat>(codes: *const u8, quad: usize) -> __m256i {
    // SAFETY: the caller's 32 columns have code_bytes × 16 bytes of codes, laid out as `panel` says.
    unsafe {
        let stored = |index: usize| _mm256_loadu_si256(codes.add(64 * index).cast());
        let nibbles = || {
            let pairs = stored(quad % 4);
            let pairs = if quad < 4 { pairs } else { _mm256_srli_epi16::<4>(pairs) };
            _mm256_and_si256(pairs, _mm256_set1_epi8(0x0f))
        };
        match F::CODES {
            Codes::Bytes => stored(quad),
            Codes::Nibbles => nibbles(),
            Codes::Indices(table) => {
                let table = _mm_loadu_si128(table.as_ptr().cast());
                _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles())
            }
            Codes::FiveBits => {
                let bits = bits_to_fifth(stored(4), quad);
                _mm256_or_si256(nibbles(), _mm256_and_si256(bits, _mm256_set1_epi8(0x10)))
            }
            Codes::SixBits => {
                let bits = bits_to_fifth(stored(4 + quad / 4), 2 * (quad % 4));
                _mm256_or_si256(nibbles(), _mm256_and_si256(bits, _mm256_set1_epi8(0x30)))
            }
        }
    }
}

/// Moves bit `bit` of each byte to where the fifth belongs; other bits go anywhere.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bits_to_fifth(bytes: __m256i, bit: usize) -> __m256i {
    let by = |bits: usize| _mm_cvtsi32_si128(bits as i32);
    if bit <= 4 {
        _mm256_sll_epi16(bytes, by(4 - bit))
    } else {
        _mm256_srl_epi16(bytes, by(bit - 4))
    }
}

/// Adds four columns of codes times activations, which each token has at a word.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_products<F: QuantizedFormat, const T: usize>(
    sums: &mut [__m256i; T],
    codes: __m256i,
    tokens: [*const u32; T],
    word: usize,
) {
    let signed = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    let magnitudes = _mm256_abs_epi8(signed);
    for (sum, token) in sums.iter_mut().zip(tokens) {
        // SAFETY: the caller's tokens have the word.
        let values = _mm256_set1_epi32(unsafe { token.add(word).read() } as i32);
        let pairs = if codes_are_large::<F>() {
            // |code| is at most 128 and activations are at most 127 either way: 2 · 128 · 127 fits.
            _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(values, signed))
        } else {
            _mm256_maddubs_epi16(codes, values)
        };
        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
}

/// The scales and offsets of a group, for each row of a half.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group_scales<F: QuantizedFormat>(
    scales: *const u8,
    group: usize,
    half: usize,
) -> (__m256, __m256) {
    let groups = block_columns::<F>() / F::GROUP;
    let within = group % groups;
    // SAFETY: each block has scale_bytes × 16 bytes, laid out as `panel` says.
    unsafe {
        let block = scales.add(group / groups * QUANTIZED_ROWS * scale_bytes::<F>());
        let halves =
            |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(block.add(at + 2 * LANES * half).cast()));
        let factors = |at: usize| {
            let bytes = _mm_loadl_epi64(block.add(at + LANES * half).cast());
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
        };
        let none = _mm256_setzero_ps();
        match F::SCALES {
            Scales::Single => (_mm256_loadu_ps(block.add(4 * LANES * half).cast()), none),
            Scales::Half => (halves(0), none),
            Scales::HalfAndOffset => (halves(0), halves(32)),
            Scales::TwoLevel => (_mm256_mul_ps(halves(0), factors(32 + 16 * within)), none),
            Scales::TwoLevelAndOffset => (
                _mm256_mul_ps(halves(0), factors(64 + 32 * within)),
                _mm256_mul_ps(halves(32), factors(80 + 32 * within)),
            ),
        }
    }
}

/// One word in every lane, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn broadcast(words: *const u32, at: usize) -> __m256 {
    // SAFETY: the caller stays within its words.
    unsafe { _mm256_set1_ps(f32::from_bits(words.add(at).read())) }
}

/// [`super::portable::multiply_float`] with AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply_float<F: FloatFormat<WIDTH>, const WIDTH: usize>(
    panel: &[u8],
    columns: usize,
    tokens: Prepared<'_>,
    totals: &mut [f32],
) {
    match tokens.tokens {
        1 => float_rows::<F, WIDTH, 1, 4>(panel, columns, tokens, totals),
        2 => float_rows::<F, WIDTH, 2, 4>(panel, columns, tokens, totals),
        3 => float_rows::<F, WIDTH, 3, 2>(panel, columns, tokens, totals),
        4 => float_rows::<F, WIDTH, 4, 2>(panel, columns, tokens, totals),
        tokens => unreachable!("no tile has {tokens} tokens"),
    }
}

/// All rows of a panel, `R` registers at a time: with few tokens there must be many, so that one sum
/// need not wait for the other; with more the 16 registers hold no more.
#[target_feature(enable = "avx2,fma,f16c")]
fn float_rows<F: FloatFormat<WIDTH>, const WIDTH: usize, const T: usize, const R: usize>(
    panel: &[u8],
    columns: usize,
    tokens: Prepared<'_>,
    totals: &mut [f32],
) {
    assert!(panel.len() >= FLOAT_ROWS * columns * WIDTH, "the panel is whole");
    assert!(tokens.stride >= ActivationKind::Float.words(columns), "the tokens are whole");
    assert!(totals.len() >= FLOAT_ROWS * T, "the totals have room");
    for first in (0..FLOAT_ROWS).step_by(R * LANES) {
        // SAFETY: the panel, the tokens and the totals are as long as the kernel asks: see above.
        unsafe {
            let panel = panel.as_ptr().add(first * WIDTH);
            let totals = totals.as_mut_ptr().add(first);
            float_tile::<F, WIDTH, T, R>(panel, columns, tokens.starts(), totals);
        }
    }
}

/// Multiplies the `R` registers of rows that begin where `panel` and `totals` point.
///
/// # Safety
/// They point into a panel of `columns` × 32 weights and totals of `T` × 32 values; each of `tokens`
/// has `columns` words.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_tile<F: FloatFormat<WIDTH>, const WIDTH: usize, const T: usize, const R: usize>(
    panel: *const u8,
    columns: usize,
    tokens: [*const u32; T],
    totals: *mut f32,
) {
    let mut sums = [[_mm256_setzero_ps(); R]; T];
    // SAFETY: every offset stays below the lengths that the caller promises.
    unsafe {
        for column in 0..columns {
            let mut weights = [_mm256_setzero_ps(); R];
            for (register, weights) in weights.iter_mut().enumerate() {
                let at = (column * FLOAT_ROWS + register * LANES) * WIDTH;
                *weights = F::load_8(panel.add(at));
            }
            for (sums, token) in sums.iter_mut().zip(tokens) {
                let activation = broadcast(token, column);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm256_fmadd_ps(weights, activation, *sum);
                }
            }
        }
        for (t, sums) in sums.into_iter().enumerate() {
            for (register, sum) in sums.into_iter().enumerate() {
                _mm256_storeu_ps(totals.add(t * FLOAT_ROWS + register * LANES), sum);
            }
        }
    }
}
