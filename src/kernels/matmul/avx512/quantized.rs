//! Products with quantized weights.
//!
//! A tile keeps its sums in registers, one of i32 and one of f32 for each token and panel. What is
//! left for each group beside the integer products are two f32 steps ([`super::super::activations::MAGIC`]).

use std::arch::x86_64::*;
use std::ops::Range;

use super::weights::{GroupScales, Packed, Unpacked, Weights};
use super::{STRIP_TILE, broadcast};
use crate::kernels::matmul::activations::{
    ActivationKind, BLOCK, CODE_WORDS, MAGIC, Prepared, SCALE, SCALED_SUM, part_at,
};
use crate::kernels::matmul::destination::Destination;
use crate::kernels::matmul::format::{QuantizedFormat, has_offsets};
use crate::kernels::matmul::kernel::Strips;
use crate::kernels::matmul::panel::{QUANTIZED_ROWS, quantized_bytes};
use crate::kernels::matmul::product::tiles;

/// [`super::super::portable::multiply_quantized`] with AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in crate::kernels::matmul) fn multiply_quantized<F: QuantizedFormat>(
    panel: &[u8],
    columns: usize,
    tokens: Prepared<'_>,
    totals: &mut [f32],
) {
    assert!(panel.len() >= quantized_bytes::<F>(columns), "the panel is whole");
    assert!(tokens.stride >= ActivationKind::Quantized.words(columns), "the tokens are whole");
    assert!(totals.len() >= QUANTIZED_ROWS * tokens.rows, "the totals have room");
    let place = Place { first: 0, count: columns / BLOCK, blocks: columns / BLOCK };
    let totals = totals.as_mut_ptr();
    // SAFETY: the panel, the tokens and the totals are as long as the tile asks: see above.
    unsafe {
        let weights = Packed::<F>::new(panel.as_ptr());
        match tokens.rows {
            1 => tile::<_, 1, 1>(weights, place, tokens.starts(), totals),
            2 => tile::<_, 1, 2>(weights, place, tokens.starts(), totals),
            3 => tile::<_, 1, 3>(weights, place, tokens.starts(), totals),
            4 => tile::<_, 1, 4>(weights, place, tokens.starts(), totals),
            rows => unreachable!("no tile has {rows} rows"),
        }
    }
}

/// The strips of a format: as many columns as leave room for a tile of tokens in the first-level
/// cache.
pub(in crate::kernels::matmul) fn quantized_strips<F: QuantizedFormat>() -> Strips {
    match (BLOCK / F::GROUP, has_offsets::<F>()) {
        (1, false) => strips_of::<F, 1, false>(640),
        (1, true) => strips_of::<F, 1, true>(640),
        (_, false) => strips_of::<F, 2, false>(512),
        (_, true) => strips_of::<F, 2, true>(512),
    }
}

fn strips_of<F: QuantizedFormat, const GROUPS: usize, const OFFSETS: bool>(
    columns: usize,
) -> Strips {
    Strips {
        columns,
        bytes: Unpacked::<GROUPS, OFFSETS>::bytes(columns),
        unpack: unpack::<F, GROUPS, OFFSETS>,
        multiply: multiply_strip::<F, GROUPS, OFFSETS>,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack<F: QuantizedFormat, const GROUPS: usize, const OFFSETS: bool>(
    panels: [&[u8]; 2],
    columns: usize,
    range: Range<usize>,
    strip: &mut [u8],
) {
    assert!(
        range.end <= columns && strip.as_ptr().addr().is_multiple_of(64),
        "the strip is a strip"
    );
    assert!(strip.len() >= Unpacked::<GROUPS, OFFSETS>::bytes(range.len()), "the strip has room");
    // SAFETY: the panels and the strip are as long as they must be: see above and below.
    unsafe {
        let strip = Unpacked::<GROUPS, OFFSETS>::new(strip.as_mut_ptr(), range.len(), F::ZERO);
        for (index, panel) in panels.into_iter().enumerate() {
            assert!(panel.len() >= quantized_bytes::<F>(columns), "the panel is whole");
            let packed = Packed::<F>::new(panel.as_ptr());
            for (block, from) in (range.start / BLOCK..range.end / BLOCK).enumerate() {
                let parts = Packed::<F>::PARTS;
                let (packed_block, part) = (packed.block(from / parts * parts), from % parts);
                packed.prefetch(from);
                strip.fill(index, block, packed, packed_block, part);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multiply_strip<F: QuantizedFormat, const GROUPS: usize, const OFFSETS: bool>(
    strip: &[u8],
    columns: usize,
    range: Range<usize>,
    tokens: Prepared<'_>,
    totals: &mut [f32],
    destination: &Destination<'_>,
) {
    assert!(
        range.end <= columns && strip.as_ptr().addr().is_multiple_of(64),
        "the strip is a strip"
    );
    assert!(strip.len() >= Unpacked::<GROUPS, OFFSETS>::bytes(range.len()), "the strip is whole");
    assert!(tokens.stride >= ActivationKind::Quantized.words(columns), "the tokens are whole");
    assert!(totals.len() >= 2 * QUANTIZED_ROWS * tokens.rows, "the totals have room");
    let blocks = range.start / BLOCK..range.end / BLOCK;
    let place = Place { first: blocks.start, count: blocks.len(), blocks: columns / BLOCK };
    let strip = strip.as_ptr().cast_mut();
    // SAFETY: the strip is as long as its columns ask.
    let weights = unsafe { Unpacked::<GROUPS, OFFSETS>::new(strip, range.len(), F::ZERO) };
    for range in tiles(0..tokens.count(), STRIP_TILE / tokens.terms) {
        // Sums wait for the next columns, if any.
        let at = if place.count == place.blocks { 0 } else { range.start * tokens.terms };
        let tokens = tokens.tokens(range.clone());
        let sums = &mut totals[2 * QUANTIZED_ROWS * at..][..2 * QUANTIZED_ROWS * tokens.rows];
        let totals = sums.as_mut_ptr();
        // SAFETY: the strip, the tokens and the totals are as long as the tile asks: see above.
        unsafe {
            match tokens.rows {
                1 => tile::<_, 2, 1>(weights, place, tokens.starts(), totals),
                2 => tile::<_, 2, 2>(weights, place, tokens.starts(), totals),
                3 => tile::<_, 2, 3>(weights, place, tokens.starts(), totals),
                4 => tile::<_, 2, 4>(weights, place, tokens.starts(), totals),
                5 => tile::<_, 2, 5>(weights, place, tokens.starts(), totals),
                6 => tile::<_, 2, 6>(weights, place, tokens.starts(), totals),
                rows => unreachable!("no tile has {rows} rows"),
            }
        }
        if place.first + place.count == place.blocks {
            let stride = tokens.add_terms(sums, 2 * QUANTIZED_ROWS);
            destination.put(range.start, sums, stride);
        }
    }
}

/// Blocks `first..first + count` of the tokens' `blocks`.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    count: usize,
    blocks: usize,
}

/// 32 columns: in the weights, and in the tokens.
#[derive(Clone, Copy)]
struct At<B> {
    block: B,
    part: usize,
    token: usize,
}

/// Multiplies `P` panels with `T` tokens; where the place is not at the first block, the totals go
/// on from what they are.
///
/// # Safety
/// `weights` has `P` panels and the place's blocks, which are whole blocks of the format. Each of
/// `tokens` has the words of a token, and `totals` has room for `T` × `P` × 16 values.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile<W: Weights, const P: usize, const T: usize>(
    weights: W,
    place: Place,
    tokens: [*const u32; T],
    totals: *mut f32,
) {
    let mut sums = [[_mm512_setzero_ps(); P]; T];
    // SAFETY: every offset stays below the lengths that the caller promises.
    unsafe {
        if place.first > 0 {
            for (t, sums) in sums.iter_mut().enumerate() {
                for (panel, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(totals.add((t * P + panel) * QUANTIZED_ROWS));
                }
            }
        }
        for first in (0..place.count).step_by(W::PARTS) {
            let block = weights.block(first);
            for part in 0..W::PARTS {
                let at = At { block, part, token: place.first + first + part };
                weights.prefetch(first + part);
                add_group::<W, P, T, 0>(weights, at, place.blocks, tokens, &mut sums);
                if W::GROUPS == 2 {
                    add_group::<W, P, T, 1>(weights, at, place.blocks, tokens, &mut sums);
                }
            }
        }
        for (t, sums) in sums.into_iter().enumerate() {
            for (panel, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(totals.add((t * P + panel) * QUANTIZED_ROWS), sum);
            }
        }
    }
}

/// Adds the products of one group. Which one is a constant, so that all of this is inlined and the
/// sums stay in registers.
///
/// # Safety
/// As for [`tile`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn add_group<W: Weights, const P: usize, const T: usize, const GROUP: usize>(
    weights: W,
    at: At<W::Block>,
    blocks: usize,
    tokens: [*const u32; T],
    totals: &mut [[__m512; P]; T],
) {
    let part = |part: usize| part_at(part, blocks, at.token);
    // The sums of the whole block come first, those of its halves after it.
    let sums_at = part(SCALED_SUM + if W::GROUPS == 1 { 0 } else { 1 + GROUP });
    // SAFETY: the caller's.
    unsafe {
        let sums = integer_sums::<W, P, T, GROUP>(weights, at, blocks, tokens);
        let mut factors = [weights.scales(0, at.block, at.part, GROUP); P];
        for (panel, factors) in factors.iter_mut().enumerate().skip(1) {
            *factors = weights.scales(panel, at.block, at.part, GROUP);
        }
        for ((totals, sums), token) in totals.iter_mut().zip(sums).zip(tokens) {
            let scale = broadcast(token, part(SCALE));
            for ((total, sum), factors) in totals.iter_mut().zip(sums).zip(factors) {
                let GroupScales { scales, magic, offsets } = factors;
                let scaled = _mm512_fmadd_ps(_mm512_castsi512_ps(sum), scales, magic);
                *total = _mm512_fmadd_ps(scaled, scale, *total);
                if W::OFFSETS {
                    *total = _mm512_fmadd_ps(offsets, broadcast(token, sums_at), *total);
                }
            }
        }
    }
}

/// The exact sums of codes times activations over one group, on top of [`MAGIC`]'s bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn integer_sums<W: Weights, const P: usize, const T: usize, const GROUP: usize>(
    weights: W,
    at: At<W::Block>,
    blocks: usize,
    tokens: [*const u32; T],
) -> [[__m512i; P]; T] {
    let mut sums = [[_mm512_set1_epi32(MAGIC.to_bits() as i32); P]; T];
    // SAFETY: the caller's.
    unsafe {
        if !W::OFFSETS {
            let zero = part_at(weights.zero_sum(GROUP), blocks, at.token);
            for (sums, token) in sums.iter_mut().zip(tokens) {
                *sums = [_mm512_set1_epi32(token.add(zero).read() as i32); P];
            }
        }
        // Written out: a loop of this many products is not always unrolled, and must be.
        let first = GROUP * CODE_WORDS / W::GROUPS;
        add_quad::<W, P, T>(weights, at, first, tokens, &mut sums);
        add_quad::<W, P, T>(weights, at, first + 1, tokens, &mut sums);
        add_quad::<W, P, T>(weights, at, first + 2, tokens, &mut sums);
        add_quad::<W, P, T>(weights, at, first + 3, tokens, &mut sums);
        if W::GROUPS == 1 {
            add_quad::<W, P, T>(weights, at, 4, tokens, &mut sums);
            add_quad::<W, P, T>(weights, at, 5, tokens, &mut sums);
            add_quad::<W, P, T>(weights, at, 6, tokens, &mut sums);
            add_quad::<W, P, T>(weights, at, 7, tokens, &mut sums);
        }
    }
    sums
}

/// Adds the products of four columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn add_quad<W: Weights, const P: usize, const T: usize>(
    weights: W,
    at: At<W::Block>,
    quad: usize,
    tokens: [*const u32; T],
    sums: &mut [[__m512i; P]; T],
) {
    // SAFETY: the caller's.
    unsafe {
        let mut codes = [_mm512_setzero_si512(); P];
        for (panel, codes) in codes.iter_mut().enumerate() {
            *codes = weights.codes(panel, at.block, at.part, quad);
        }
        for (sums, token) in sums.iter_mut().zip(tokens) {
            let values = _mm512_set1_epi32(token.add(CODE_WORDS * at.token + quad).read() as i32);
            for (sum, codes) in sums.iter_mut().zip(codes) {
                *sum = _mm512_dpbusd_epi32(*sum, codes, values);
            }
        }
    }
}
