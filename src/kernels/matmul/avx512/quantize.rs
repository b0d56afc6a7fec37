//! Preparing activations with AVX-512, 16 blocks at a time: lane `i` of a register that holds something
//! of each block is block `i`'s.

use std::arch::x86_64::*;

use crate::kernels::matmul::activations::{
    ActivationKind, BLOCK, CODE_WORDS, HIGH, MAGIC, MOST_STEPS, PARTS, SCALE, SCALED_SUM, SMALLEST,
    ZERO_SUM,
};

/// Blocks that are prepared together.
const LANES: usize = 16;

/// [`ActivationKind::fill`] with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub(in crate::kernels::matmul) fn fill(kind: ActivationKind, input: &[f32], words: &mut [u32]) {
    assert!(words.len() >= kind.token_words(input.len()), "the words are a token's");
    match kind {
        ActivationKind::Float => kind.fill(input, words),
        ActivationKind::Quantized => fill_rows(input, [words]),
        ActivationKind::QuantizedTwice => {
            let (high, low) = words.split_at_mut(kind.words(input.len()));
            fill_rows(input, [high, low]);
        }
    }
}

/// Prepares the rows that a token is the sum of.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn fill_rows<const TERMS: usize>(input: &[f32], mut rows: [&mut [u32]; TERMS]) {
    let (inputs, rest) = input.as_chunks::<BLOCK>();
    assert!(rest.is_empty(), "the input is whole blocks");
    for (group, blocks) in inputs.chunks(LANES).enumerate() {
        let codes_at = CODE_WORDS * LANES * group;
        let codes_end = codes_at + CODE_WORDS * blocks.len();
        let (mut scales, inverses) = scales_and_inverses::<TERMS>(blocks);
        quantize_blocks(blocks, inverses, rows.each_mut().map(|row| &mut row[codes_at..codes_end]));
        // The last row counts single steps; one before it counts 255 of them.
        for row in rows.iter_mut().rev() {
            let (codes, parts) = row.split_at_mut(CODE_WORDS * inputs.len());
            let registers = parts_of_blocks(scales, sums_of_halves(&codes[codes_at..codes_end]));
            let mask = u16::MAX >> (LANES - blocks.len());
            for (register, part) in registers.into_iter().zip(parts.chunks_mut(inputs.len())) {
                let part = &mut part[LANES * group..][..blocks.len()];
                // SAFETY: the mask has as many bits as the part has words.
                unsafe { _mm512_mask_storeu_epi32(part.as_mut_ptr().cast(), mask, register) };
            }
            scales = _mm512_mul_ps(scales, _mm512_set1_ps(HIGH));
        }
    }
}

/// The scales of the last row, and the factors that make whole numbers of values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn scales_and_inverses<const TERMS: usize>(blocks: &[[f32; BLOCK]]) -> (__m512, __m512) {
    let largest = largest_magnitudes(blocks);
    if TERMS == 2 {
        let most = _mm512_set1_ps(MOST_STEPS);
        let is_large = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(largest, _mm512_set1_ps(SMALLEST));
        return (_mm512_div_ps(largest, most), _mm512_maskz_div_ps(is_large, most, largest));
    }
    let is_not_zero = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(largest, _mm512_setzero_ps());
    let most = _mm512_set1_ps(127.0);
    let scales = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_div_ps(largest, most));
    (_mm512_cvtph_ps(scales), _mm512_maskz_div_ps(is_not_zero, most, largest))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn largest_magnitudes(blocks: &[[f32; BLOCK]]) -> __m512 {
    let mut largest = [_mm512_setzero_si512(); LANES];
    for (largest, block) in largest.iter_mut().zip(blocks) {
        let [first, second] = halves(block);
        let first = _mm512_castps_si512(_mm512_abs_ps(first));
        let second = _mm512_castps_si512(_mm512_abs_ps(second));
        *largest = _mm512_max_epu32(first, second);
    }
    // Four steps make one register of 16: each takes the larger of the halves of what is left of two
    // blocks.
    let mut pairs = [_mm512_setzero_si512(); 8];
    for (pair, [a, b]) in pairs.iter_mut().zip(largest.as_chunks::<2>().0) {
        *pair = _mm512_max_epu32(_mm512_unpacklo_epi32(*a, *b), _mm512_unpackhi_epi32(*a, *b));
    }
    let mut fours = [_mm512_setzero_si512(); 4];
    for (four, [a, b]) in fours.iter_mut().zip(pairs.as_chunks::<2>().0) {
        *four = _mm512_max_epu32(_mm512_unpacklo_epi64(*a, *b), _mm512_unpackhi_epi64(*a, *b));
    }
    let eights = [larger_quarters(fours[0], fours[1]), larger_quarters(fours[2], fours[3])];
    _mm512_castsi512_ps(larger_quarters(eights[0], eights[1]))
}

/// The larger of the even and the odd quarters of each register, side by side.
#[inline]
#[target_feature(enable = "avx512f")]
fn larger_quarters(a: __m512i, b: __m512i) -> __m512i {
    let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
    _mm512_max_epu32(even, odd)
}

/// Writes the codes of the blocks, those of each row to a place of their own.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn quantize_blocks<const TERMS: usize>(
    blocks: &[[f32; BLOCK]],
    inverses: __m512,
    mut codes: [&mut [u32]; TERMS],
) {
    let mut factors = [0.0; LANES];
    // SAFETY: 16 lanes.
    unsafe { _mm512_storeu_ps(factors.as_mut_ptr(), inverses) };
    // Packing mixes the quads of two blocks and their halves.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let pairs = blocks.chunks(2).zip(factors.as_chunks::<2>().0);
    for (index, (pair, factors)) in pairs.enumerate() {
        let first = integers::<TERMS>(&pair[0], factors[0]);
        let second = integers::<TERMS>(&pair[pair.len() - 1], factors[pair.len() - 1]);
        for ((codes, first), second) in codes.iter_mut().zip(first).zip(second) {
            let codes = &mut codes[2 * CODE_WORDS * index..][..CODE_WORDS * pair.len()];
            let packed = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(first, second));
            let mask = u16::MAX >> (2 * CODE_WORDS - codes.len());
            // SAFETY: the mask has as many bits as there are words.
            unsafe { _mm512_mask_storeu_epi32(codes.as_mut_ptr().cast(), mask, packed) };
        }
    }
}

/// 32 values times a factor, rounded, and taken apart into a code for each row; in 16 bits each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn integers<const TERMS: usize>(block: &[f32; BLOCK], factor: f32) -> [__m512i; TERMS] {
    let [first, second] = halves(block);
    let factor = _mm512_set1_ps(factor);
    let first = codes_of_steps::<TERMS>(_mm512_mul_ps(first, factor));
    let second = codes_of_steps::<TERMS>(_mm512_mul_ps(second, factor));
    let mut codes = first;
    for (codes, second) in codes.iter_mut().zip(second) {
        *codes = _mm512_packs_epi32(*codes, second);
    }
    codes
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn codes_of_steps<const TERMS: usize>(steps: __m512) -> [__m512i; TERMS] {
    let mut codes = [_mm512_cvtps_epi32(steps); TERMS];
    if TERMS == 2 {
        let steps = _mm512_cvtepi32_ps(codes[1]);
        codes[0] = _mm512_cvtps_epi32(_mm512_mul_ps(steps, _mm512_set1_ps(1.0 / HIGH)));
        let counted = _mm512_mul_ps(_mm512_cvtepi32_ps(codes[0]), _mm512_set1_ps(HIGH));
        codes[1] = _mm512_cvtps_epi32(_mm512_sub_ps(steps, counted));
    }
    codes
}

/// The sums of the codes of each block's first half and of its second half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn sums_of_halves(codes: &[u32]) -> [__m512i; 2] {
    // Sums of eight codes and 128 each, of two blocks a register.
    let flip = _mm512_set1_epi8(-128);
    let mut eights = [_mm512_setzero_si512(); LANES / 2];
    for (sums, codes) in eights.iter_mut().zip(codes.chunks(2 * CODE_WORDS)) {
        let mask = u16::MAX >> (2 * CODE_WORDS - codes.len());
        // SAFETY: the mask has as many bits as there are words.
        let codes = unsafe { _mm512_maskz_loadu_epi32(mask, codes.as_ptr().cast()) };
        *sums = _mm512_sad_epu8(_mm512_xor_si512(codes, flip), _mm512_setzero_si512());
    }
    // Sums of 16 codes: of blocks 0, 2, 0, 2, 1, 3, 1, 3, two of a first half, two of a second.
    let mut fours = [_mm256_setzero_si256(); LANES / 4];
    for (sums, [a, b]) in fours.iter_mut().zip(eights.as_chunks::<2>().0) {
        let (even, odd) = (_mm512_unpacklo_epi64(*a, *b), _mm512_unpackhi_epi64(*a, *b));
        *sums = _mm512_cvtepi64_epi32(_mm512_add_epi64(even, odd));
    }
    let [a, b, c, d] = fours;
    let low = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
    let high = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(c), d);
    let first = _mm512_setr_epi32(0, 4, 1, 5, 8, 12, 9, 13, 16, 20, 17, 21, 24, 28, 25, 29);
    let second = _mm512_add_epi32(first, _mm512_set1_epi32(2));
    let bias = _mm512_set1_epi32(128 * BLOCK as i32 / 2);
    [
        _mm512_sub_epi32(_mm512_permutex2var_epi32(low, first, high), bias),
        _mm512_sub_epi32(_mm512_permutex2var_epi32(low, second, high), bias),
    ]
}

/// What a token has for each block behind its codes, in its order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn parts_of_blocks(scales: __m512, [first, second]: [__m512i; 2]) -> [__m512i; PARTS] {
    let whole = _mm512_add_epi32(first, second);
    let magic = _mm512_set1_epi32(MAGIC.to_bits() as i32);
    let mut parts = [_mm512_castps_si512(scales); PARTS];
    parts[ZERO_SUM] = _mm512_sub_epi32(magic, _mm512_slli_epi32::<3>(whole));
    parts[ZERO_SUM + 1] = _mm512_sub_epi32(magic, _mm512_slli_epi32::<4>(whole));
    parts[ZERO_SUM + 2] = _mm512_sub_epi32(magic, _mm512_slli_epi32::<7>(whole));
    parts[ZERO_SUM + 3] = _mm512_sub_epi32(magic, _mm512_slli_epi32::<5>(first));
    parts[ZERO_SUM + 4] = _mm512_sub_epi32(magic, _mm512_slli_epi32::<5>(second));
    for (part, sums) in parts[SCALED_SUM..].iter_mut().zip([whole, first, second]) {
        *part = _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), scales));
    }
    debug_assert_eq!(SCALE, 0, "the scales come first");
    parts
}

/// 32 values are two registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(block: &[f32; BLOCK]) -> [__m512; 2] {
    // SAFETY: 32 values.
    unsafe { [_mm512_loadu_ps(block.as_ptr()), _mm512_loadu_ps(block.as_ptr().add(BLOCK / 2))] }
}
