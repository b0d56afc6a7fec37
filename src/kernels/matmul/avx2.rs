//! The kernels with AVX2, FMA and F16C: one register holds 8 rows, half a quantized panel.

use std::arch::x86_64::*;

use super::activations::{
    self, ActivationKind, BLOCK, BLOCK_WORDS, QUADS, SCALE, SCALED_SUM, ZERO_SUM,
};
use super::float::FloatFormat;
use super::format::{
    Codes, QuantizedFormat, Scales, Zero, block_columns, code_bytes, has_offsets, scale_bytes,
};
use super::panel::{FLOAT_ROWS, QUANTIZED_ROWS, quantized_bytes, scales_at};

/// Tokens in a tile, largest first; the last is 1.
pub(super) const TILES: &[usize] = &[4, 2, 1];

/// Rows in a register.
const LANES: usize = 8;

/// [`ActivationKind::fill`], compiled for AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn fill(kind: ActivationKind, inputs: &[f32], columns: usize, tile: &mut [u32]) {
    kind.fill(inputs, columns, tile, activations::quantize);
}

/// [`super::portable::multiply_quantized`] with AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply_quantized<F: QuantizedFormat>(
    panel: &[u8],
    columns: usize,
    activations: &[u32],
    tokens: usize,
    output: &mut [f32],
) {
    assert!(panel.len() >= quantized_bytes::<F>(columns), "the panel is whole");
    assert!(activations.len() >= ActivationKind::Quantized.words(columns) * tokens);
    assert!(output.len() >= QUANTIZED_ROWS * tokens, "the output has room");
    let panel = panel.as_ptr();
    let activations = activations.as_ptr();
    let output = output.as_mut_ptr();
    for half in 0..QUANTIZED_ROWS / LANES {
        // SAFETY: the panel, the activations and the output are as long as the kernel asks: see
        // above.
        unsafe {
            match tokens {
                1 => quantized_tile::<F, 1>(panel, columns, activations, half, output),
                2 => quantized_tile::<F, 2>(panel, columns, activations, half, output),
                4 => quantized_tile::<F, 4>(panel, columns, activations, half, output),
                _ => unreachable!("no tile has {tokens} tokens"),
            }
        }
    }
}

/// # Safety
/// `panel` has `quantized_bytes::<F>(columns)` bytes, `activations` the words of `T` tokens of
/// `columns` columns, `output` room for `T` × 16 values; `half` is 0 or 1.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantized_tile<F: QuantizedFormat, const T: usize>(
    panel: *const u8,
    columns: usize,
    activations: *const u32,
    half: usize,
    output: *mut f32,
) {
    let mut totals = [_mm256_setzero_ps(); T];
    // SAFETY: every offset stays below the lengths that the caller promises.
    unsafe {
        let scales = panel.add(scales_at::<F>(columns));
        for block in 0..columns / BLOCK {
            let codes = panel.add(block * QUANTIZED_ROWS * code_bytes::<F>() + 4 * LANES * half);
            let activations = activations.add(block * BLOCK_WORDS * T);
            add_group::<F, T, 0>(codes, activations, scales, block, half, &mut totals);
            if F::GROUP < BLOCK {
                add_group::<F, T, 1>(codes, activations, scales, block, half, &mut totals);
            }
        }
        for (t, total) in totals.into_iter().enumerate() {
            _mm256_storeu_ps(output.add(t * QUANTIZED_ROWS + LANES * half), total);
        }
    }
}

/// Adds the products of one group. Which one is a constant, so that all of this is inlined and the
/// sums stay in registers.
///
/// # Safety
/// `codes` and `activations` are those of the 32 columns, `scales` those of the whole panel.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_group<F: QuantizedFormat, const T: usize, const GROUP: usize>(
    codes: *const u8,
    activations: *const u32,
    scales: *const u8,
    block: usize,
    half: usize,
    totals: &mut [__m256; T],
) {
    let groups = BLOCK / F::GROUP;
    // The sums of the whole block come first, those of its halves after it.
    let sums_at = if groups == 1 { 0 } else { 1 + GROUP };
    // SAFETY: the caller's.
    unsafe {
        let sums = integer_sums::<F, T, GROUP>(codes, activations);
        let (scales, offsets) = group_scales::<F>(scales, block * groups + GROUP, half);
        for (t, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
            let scale = _mm256_mul_ps(scales, broadcast(activations, SCALE * T + t));
            *total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, *total);
            if has_offsets::<F>() {
                let sum = broadcast(activations, (SCALED_SUM + sums_at) * T + t);
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

/// The exact sums of (code − zero) times activation over one group, for each token.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn integer_sums<F: QuantizedFormat, const T: usize, const GROUP: usize>(
    codes: *const u8,
    activations: *const u32,
) -> [__m256i; T] {
    // SAFETY: a block of 32 columns has code_bytes × 16 bytes of codes and BLOCK_WORDS × T words.
    unsafe {
        let word = |at: usize| _mm256_set1_epi32(activations.add(at).read() as i32);
        let mut sums = [_mm256_setzero_si256(); T];
        if let (Some(zero), false) = (F::ZERO.sum_of(GROUP), codes_are_large::<F>()) {
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = word((ZERO_SUM + zero) * T + t);
            }
        }
        for quad in GROUP * F::GROUP / 4..(GROUP + 1) * F::GROUP / 4 {
            let codes = quad_codes::<F>(codes, quad);
            add_products::<F, T>(&mut sums, codes, activations.add((QUADS + quad) * T));
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

/// Adds four columns of codes times activations; `values` holds the quads of `T` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_products<F: QuantizedFormat, const T: usize>(
    sums: &mut [__m256i; T],
    codes: __m256i,
    values: *const u32,
) {
    let signed = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    let magnitudes = _mm256_abs_epi8(signed);
    for (t, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller has `T` words there.
        let values = _mm256_set1_epi32(unsafe { values.add(t).read() } as i32);
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
    activations: &[u32],
    tokens: usize,
    output: &mut [f32],
) {
    assert!(panel.len() >= FLOAT_ROWS * columns * WIDTH, "the panel is whole");
    assert!(activations.len() >= ActivationKind::Float.words(columns) * tokens);
    assert!(output.len() >= FLOAT_ROWS * tokens, "the output has room");
    let activations = activations.as_ptr();
    // A register file of 16 has room for two registers of rows with four tokens.
    for first in (0..FLOAT_ROWS).step_by(2 * LANES) {
        // SAFETY: the panel, the activations and the output are as long as the kernel asks: see
        // above.
        unsafe {
            let panel = panel.as_ptr().add(first * WIDTH);
            let output = output.as_mut_ptr().add(first);
            match tokens {
                1 => float_tile::<F, WIDTH, 1, 4>(panel, columns, activations, output),
                2 => float_tile::<F, WIDTH, 2, 2>(panel, columns, activations, output),
                4 => float_tile::<F, WIDTH, 4, 1>(panel, columns, activations, output),
                _ => unreachable!("no tile has {tokens} tokens"),
            }
        }
    }
}

/// Multiplies the 16 rows that begin where `panel` and `output` point. `CHAINS` sums run side by side
/// for each row and token, where a tile alone has too few to hide the latency of an addition.
///
/// # Safety
/// They point into a panel of `columns` × 32 weights and an output of `T` × 32 values;
/// `activations` has `columns` × `T` words.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_tile<
    F: FloatFormat<WIDTH>,
    const WIDTH: usize,
    const T: usize,
    const CHAINS: usize,
>(
    panel: *const u8,
    columns: usize,
    activations: *const u32,
    output: *mut f32,
) {
    let mut totals = [[[_mm256_setzero_ps(); 2]; T]; CHAINS];
    // SAFETY: every offset stays below the lengths that the caller promises.
    unsafe {
        let whole = columns - columns % CHAINS;
        for column in (0..whole).step_by(CHAINS) {
            for (chain, totals) in totals.iter_mut().enumerate() {
                float_column::<F, WIDTH, T>(panel, column + chain, activations, totals);
            }
        }
        for column in whole..columns {
            float_column::<F, WIDTH, T>(panel, column, activations, &mut totals[0]);
        }
        for t in 0..T {
            for half in 0..2 {
                let mut total = totals[0][t][half];
                for chain in &totals[1..] {
                    total = _mm256_add_ps(total, chain[t][half]);
                }
                _mm256_storeu_ps(output.add(t * FLOAT_ROWS + LANES * half), total);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_column<F: FloatFormat<WIDTH>, const WIDTH: usize, const T: usize>(
    panel: *const u8,
    column: usize,
    activations: *const u32,
    totals: &mut [[__m256; 2]; T],
) {
    // SAFETY: the caller stays within its columns.
    unsafe {
        let weights = panel.add(column * FLOAT_ROWS * WIDTH);
        let low = F::load_8(weights);
        let high = F::load_8(weights.add(LANES * WIDTH));
        for (t, totals) in totals.iter_mut().enumerate() {
            let activation = broadcast(activations, column * T + t);
            totals[0] = _mm256_fmadd_ps(low, activation, totals[0]);
            totals[1] = _mm256_fmadd_ps(high, activation, totals[1]);
        }
    }
}
