//! The kernels with AVX-512 (F, BW, DQ, VL, VNNI): one register holds 16 rows.
//!
//! A tile of `T` tokens keeps its sums in registers: `T` of i32 and `T` of f32 for quantized weights,
//! `2 T` of f32 for floating point, of the 32 that there are.

use std::arch::x86_64::*;

use super::activations::{
    ActivationKind, BLOCK, BLOCK_WORDS, QUADS, QuantizedBlock, SCALE, SCALED_SUM, ZERO_SUM,
    scale_and_inverse,
};
use super::float::FloatFormat;
use super::format::{
    Codes, QuantizedFormat, Scales, block_columns, code_bytes, has_offsets, scale_bytes,
};
use super::panel::{FLOAT_ROWS, QUANTIZED_ROWS, quantized_bytes, scales_at};

/// Tokens in a tile, largest first; the last is 1.
pub(super) const TILES: &[usize] = &[12, 8, 4, 2, 1];

/// [`ActivationKind::fill`] with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub(super) fn fill(kind: ActivationKind, inputs: &[f32], columns: usize, tile: &mut [u32]) {
    kind.fill(inputs, columns, tile, |values| quantize(values));
}

/// [`super::activations::quantize`] with AVX-512.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn quantize(values: &[f32; BLOCK]) -> QuantizedBlock {
    // SAFETY: 32 values are two registers.
    let halves = unsafe {
        [_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(BLOCK / 2))]
    };
    let [first, second] = halves.map(|half| _mm512_castps_si512(_mm512_abs_ps(half)));
    let largest = _mm512_reduce_max_epu32(_mm512_max_epu32(first, second));
    let (scale, inverse) = scale_and_inverse(f32::from_bits(largest));
    let inverse = _mm512_set1_ps(inverse);
    let integers = halves.map(|half| _mm512_cvtps_epi32(_mm512_mul_ps(half, inverse)));
    let mut codes = [0; BLOCK];
    for (codes, integers) in codes.as_chunks_mut::<16>().0.iter_mut().zip(integers) {
        // SAFETY: 16 codes are one register.
        unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(integers)) };
    }
    let rounded = _mm_cvtph_ps(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(scale)));
    let sums = integers.map(|integers| _mm512_reduce_add_epi32(integers));
    QuantizedBlock { codes, scale: _mm_cvtss_f32(rounded), sums }
}

/// [`super::portable::multiply_quantized`] with AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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
    // SAFETY: the panel, the activations and the output are as long as the kernel asks: see above.
    unsafe {
        match tokens {
            1 => quantized_tile::<F, 1>(panel, columns, activations, output),
            2 => quantized_tile::<F, 2>(panel, columns, activations, output),
            4 => quantized_tile::<F, 4>(panel, columns, activations, output),
            8 => quantized_tile::<F, 8>(panel, columns, activations, output),
            12 => quantized_tile::<F, 12>(panel, columns, activations, output),
            _ => unreachable!("no tile has {tokens} tokens"),
        }
    }
}

/// # Safety
/// `panel` has `quantized_bytes::<F>(columns)` bytes, `activations` the words of `T` tokens of
/// `columns` columns, `output` room for `T` × 16 values.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn quantized_tile<F: QuantizedFormat, const T: usize>(
    panel: *const u8,
    columns: usize,
    activations: *const u32,
    output: *mut f32,
) {
    let mut totals = [_mm512_setzero_ps(); T];
    // SAFETY: every offset stays below the lengths that the caller promises.
    unsafe {
        let scales = panel.add(scales_at::<F>(columns));
        for block in 0..columns / BLOCK {
            let codes = panel.add(block * QUANTIZED_ROWS * code_bytes::<F>());
            let activations = activations.add(block * BLOCK_WORDS * T);
            add_group::<F, T, 0>(codes, activations, scales, block, &mut totals);
            if F::GROUP < BLOCK {
                add_group::<F, T, 1>(codes, activations, scales, block, &mut totals);
            }
        }
        for (t, total) in totals.into_iter().enumerate() {
            _mm512_storeu_ps(output.add(t * QUANTIZED_ROWS), total);
        }
    }
}

/// Adds the products of one group. Which one is a constant, so that all of this is inlined and the
/// sums stay in registers.
///
/// # Safety
/// `codes` and `activations` are those of the 32 columns, `scales` those of the whole panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn add_group<F: QuantizedFormat, const T: usize, const GROUP: usize>(
    codes: *const u8,
    activations: *const u32,
    scales: *const u8,
    block: usize,
    totals: &mut [__m512; T],
) {
    let groups = BLOCK / F::GROUP;
    // The sums of the whole block come first, those of its halves after it.
    let sums_at = if groups == 1 { 0 } else { 1 + GROUP };
    // SAFETY: the caller's.
    unsafe {
        let sums = integer_sums::<F, T, GROUP>(codes, activations);
        let (scales, offsets) = group_scales::<F>(scales, block * groups + GROUP);
        for (t, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
            let scale = _mm512_mul_ps(scales, broadcast(activations, SCALE * T + t));
            *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, *total);
            if has_offsets::<F>() {
                let sum = broadcast(activations, (SCALED_SUM + sums_at) * T + t);
                *total = _mm512_fmadd_ps(offsets, sum, *total);
            }
        }
    }
}

/// The exact sums of codes times activations over one group, for each token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn integer_sums<F: QuantizedFormat, const T: usize, const GROUP: usize>(
    codes: *const u8,
    activations: *const u32,
) -> [__m512i; T] {
    // SAFETY: a block of 32 columns has code_bytes × 16 bytes of codes and BLOCK_WORDS × T words.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); T];
        if let Some(zero) = F::ZERO.sum_of(GROUP) {
            for (t, sum) in sums.iter_mut().enumerate() {
                let word = activations.add((ZERO_SUM + zero) * T + t).read();
                *sum = _mm512_set1_epi32(word as i32);
            }
        }
        // Written out: a loop of this many products is not always unrolled, and must be.
        let first = GROUP * F::GROUP / 4;
        add_quad::<F, T>(&mut sums, codes, activations, first);
        add_quad::<F, T>(&mut sums, codes, activations, first + 1);
        add_quad::<F, T>(&mut sums, codes, activations, first + 2);
        add_quad::<F, T>(&mut sums, codes, activations, first + 3);
        if F::GROUP == BLOCK {
            add_quad::<F, T>(&mut sums, codes, activations, first + 4);
            add_quad::<F, T>(&mut sums, codes, activations, first + 5);
            add_quad::<F, T>(&mut sums, codes, activations, first + 6);
            add_quad::<F, T>(&mut sums, codes, activations, first + 7);
        }
        sums
    }
}

/// Adds the products of four columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn add_quad<F: QuantizedFormat, const T: usize>(
    sums: &mut [__m512i; T],
    codes: *const u8,
    activations: *const u32,
    quad: usize,
) {
    // SAFETY: the caller's 32 columns have code_bytes × 16 bytes of codes and BLOCK_WORDS × T words.
    unsafe {
        let codes = quad_codes::<F>(codes, quad);
        let values = activations.add((QUADS + quad) * T);
        for (t, sum) in sums.iter_mut().enumerate() {
            let values = _mm512_set1_epi32(values.add(t).read() as i32);
            *sum = _mm512_dpbusd_epi32(*sum, codes, values);
        }
    }
}

/// The codes of four columns, for each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn quad_codes<F: QuantizedFormat>(codes: *const u8, quad: usize) -> __m512i {
    // SAFETY: the caller's 32 columns have code_bytes × 16 bytes of codes, laid out as `panel` says.
    unsafe {
        let stored = |index: usize| _mm512_loadu_si512(codes.add(64 * index).cast());
        let nibbles = || {
            let pairs = stored(quad % 4);
            let pairs = if quad < 4 { pairs } else { _mm512_srli_epi16::<4>(pairs) };
            _mm512_and_si512(pairs, _mm512_set1_epi8(0x0f))
        };
        match F::CODES {
            Codes::Bytes => stored(quad),
            Codes::Nibbles => nibbles(),
            Codes::Indices(table) => {
                let table = _mm_loadu_si128(table.as_ptr().cast());
                _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), nibbles())
            }
            Codes::FiveBits => {
                let bits = bits_to_fifth(stored(4), quad);
                _mm512_or_si512(nibbles(), _mm512_and_si512(bits, _mm512_set1_epi8(0x10)))
            }
            Codes::SixBits => {
                let bits = bits_to_fifth(stored(4 + quad / 4), 2 * (quad % 4));
                _mm512_or_si512(nibbles(), _mm512_and_si512(bits, _mm512_set1_epi8(0x30)))
            }
        }
    }
}

/// Moves bit `bit` of each byte to where the fifth belongs; other bits go anywhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn bits_to_fifth(bytes: __m512i, bit: usize) -> __m512i {
    let by = |bits: usize| _mm_cvtsi32_si128(bits as i32);
    if bit <= 4 {
        _mm512_sll_epi16(bytes, by(4 - bit))
    } else {
        _mm512_srl_epi16(bytes, by(bit - 4))
    }
}

/// The scales and offsets of a group, for each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn group_scales<F: QuantizedFormat>(scales: *const u8, group: usize) -> (__m512, __m512) {
    let groups = block_columns::<F>() / F::GROUP;
    let within = group % groups;
    // SAFETY: each block has scale_bytes × 16 bytes, laid out as `panel` says.
    unsafe {
        let block = scales.add(group / groups * QUANTIZED_ROWS * scale_bytes::<F>());
        let halves = |at: usize| _mm512_cvtph_ps(_mm256_loadu_si256(block.add(at).cast()));
        let factors = |at: usize| {
            let bytes = _mm_loadu_si128(block.add(at).cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        };
        match F::SCALES {
            Scales::Single => (_mm512_loadu_ps(block.cast()), _mm512_setzero_ps()),
            Scales::Half => (halves(0), _mm512_setzero_ps()),
            Scales::HalfAndOffset => (halves(0), halves(32)),
            Scales::TwoLevel => {
                (_mm512_mul_ps(halves(0), factors(32 + 16 * within)), _mm512_setzero_ps())
            }
            Scales::TwoLevelAndOffset => (
                _mm512_mul_ps(halves(0), factors(64 + 32 * within)),
                _mm512_mul_ps(halves(32), factors(80 + 32 * within)),
            ),
        }
    }
}

/// One word in every lane, as f32.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn broadcast(words: *const u32, at: usize) -> __m512 {
    // SAFETY: the caller stays within its words.
    unsafe { _mm512_set1_ps(f32::from_bits(words.add(at).read())) }
}

/// [`super::portable::multiply_float`] with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
    let panel = panel.as_ptr();
    let activations = activations.as_ptr();
    let output = output.as_mut_ptr();
    // SAFETY: the panel, the activations and the output are as long as the kernel asks: see above.
    unsafe {
        match tokens {
            1 => float_tile::<F, WIDTH, 1, 4>(panel, columns, activations, output),
            2 => float_tile::<F, WIDTH, 2, 2>(panel, columns, activations, output),
            4 => float_tile::<F, WIDTH, 4, 1>(panel, columns, activations, output),
            8 => float_tile::<F, WIDTH, 8, 1>(panel, columns, activations, output),
            12 => float_tile::<F, WIDTH, 12, 1>(panel, columns, activations, output),
            _ => unreachable!("no tile has {tokens} tokens"),
        }
    }
}

/// `CHAINS` sums run side by side for each row and token, where a tile alone has too few to hide
/// the latency of an addition.
///
/// # Safety
/// `panel` has `columns` × 32 weights, `activations` `columns` × `T` words, `output` room for
/// `T` × 32 values.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
    let mut totals = [[[_mm512_setzero_ps(); 2]; T]; CHAINS];
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
                    total = _mm512_add_ps(total, chain[t][half]);
                }
                _mm512_storeu_ps(output.add(t * FLOAT_ROWS + 16 * half), total);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn float_column<F: FloatFormat<WIDTH>, const WIDTH: usize, const T: usize>(
    panel: *const u8,
    column: usize,
    activations: *const u32,
    totals: &mut [[__m512; 2]; T],
) {
    // SAFETY: the caller stays within its columns.
    unsafe {
        let weights = panel.add(column * FLOAT_ROWS * WIDTH);
        let low = F::load_16(weights);
        let high = F::load_16(weights.add(16 * WIDTH));
        for (t, totals) in totals.iter_mut().enumerate() {
            let activation = broadcast(activations, column * T + t);
            totals[0] = _mm512_fmadd_ps(low, activation, totals[0]);
            totals[1] = _mm512_fmadd_ps(high, activation, totals[1]);
        }
    }
}
