//! The kernels in plain Rust: the specification of the others, and what runs on any processor.

use half::f16;

use super::activations::{
    BLOCK, CODE_WORDS, MAGIC, Prepared, SCALE, SCALED_SUM, ZERO_SUM, part_at,
};
use super::float::FloatFormat;
use super::format::{Codes, QuantizedFormat, Scales, block_columns, scale_bytes};
use super::panel::{FLOAT_ROWS, QUANTIZED_ROWS, codes_at, scales_at};
use crate::quant::formats::mxfp4;

/// Tokens that are multiplied at a time, at most.
pub(super) const TILE: usize = 4;

type Lanes = [f32; QUANTIZED_ROWS];

/// `totals[t][r] = Σ_c tokens[t][c] · panel[r][c]` for a tile of tokens and the rows of a quantized
/// panel.
///
/// The sum over a group's codes is exact, in i32. It is scaled, and these are summed, in f32, each
/// with one rounding; the other kernels do the same in the same order, so that all results are
/// equal to the bit, and a token's do not depend on the others in its tile.
pub(super) fn multiply_quantized<F: QuantizedFormat>(
    panel: &[u8],
    columns: usize,
    tokens: Prepared<'_>,
    totals: &mut [f32],
) {
    totals.fill(0.0);
    let blocks = columns / BLOCK;
    for group in 0..columns / F::GROUP {
        let (block, half) = (group / (BLOCK / F::GROUP), group % (BLOCK / F::GROUP));
        let (scales, offsets) = group_scales::<F>(panel, group);
        // The sums of the whole block come first, those of its halves after it.
        let sums_at = if F::GROUP == BLOCK { 0 } else { 1 + half };
        for (token, totals) in tokens.iter().zip(totals.chunks_exact_mut(QUANTIZED_ROWS)) {
            let part = |part: usize| token[part_at(part, blocks, block)];
            let zero = F::ZERO.sum_of(half).map_or(MAGIC.to_bits(), |sum| part(ZERO_SUM + sum));
            let mut sums = [zero as i32; QUANTIZED_ROWS];
            for quad in half * F::GROUP / 4..(half + 1) * F::GROUP / 4 {
                let codes = quad_codes::<F>(panel, block, quad);
                let values = token[CODE_WORDS * block + quad].to_le_bytes();
                for (sum, codes) in sums.iter_mut().zip(codes.as_chunks::<4>().0) {
                    for (&code, value) in codes.iter().zip(values) {
                        *sum += i32::from(code) * i32::from(value as i8);
                    }
                }
            }
            let scale = f32::from_bits(part(SCALE));
            let scaled_sum = f32::from_bits(part(SCALED_SUM + sums_at));
            for (row, total) in totals.iter_mut().enumerate() {
                let sum = f32::from_bits(sums[row] as u32);
                let scaled = sum.mul_add(scales[row], -MAGIC * scales[row]);
                *total = scaled.mul_add(scale, *total);
                if let Some(offsets) = &offsets {
                    *total = offsets[row].mul_add(scaled_sum, *total);
                }
            }
        }
    }
}

/// The codes of four columns of every row.
fn quad_codes<F: QuantizedFormat>(panel: &[u8], block: usize, quad: usize) -> [u8; 64] {
    let stored = |index: usize| -> [u8; 64] {
        let at = codes_at::<F>(block) + 64 * index;
        panel[at..at + 64].try_into().expect("64 bytes")
    };
    let nibbles = || stored(quad % 4).map(|pair| (pair >> (4 * (quad / 4))) & 0x0f);
    let with_upper_bits = |index: usize, shift: usize, mask: u8| {
        let (low, bits) = (nibbles(), stored(index));
        std::array::from_fn(|lane| low[lane] | (((bits[lane] >> shift) & mask) << 4))
    };
    match F::CODES {
        Codes::TwoBits => stored(quad / 4).map(|bits| (bits >> (2 * (quad % 4))) & 3),
        Codes::ThreeBits => {
            let (low, high) = (stored(quad / 4), stored(2));
            std::array::from_fn(|lane| {
                let low = (low[lane] >> (2 * (quad % 4))) & 3;
                (low << 3) | (((high[lane] >> quad) & 1) << 5)
            })
        }
        Codes::Bytes => stored(quad),
        Codes::Nibbles => nibbles(),
        Codes::Indices(table) => nibbles().map(|index| table[usize::from(index)]),
        Codes::FiveBits => with_upper_bits(4, quad, 1),
        Codes::SixBits => with_upper_bits(4 + quad / 4, 2 * (quad % 4), 3),
    }
}

/// The scales of a group for every row, and its offsets if the format has any.
fn group_scales<F: QuantizedFormat>(panel: &[u8], group: usize) -> (Lanes, Option<Lanes>) {
    let groups = block_columns::<F>() / F::GROUP;
    let block = &panel[scales_at::<F>(group / groups)..][..QUANTIZED_ROWS * scale_bytes::<F>()];
    let within = group % groups;
    let halves = |at: usize| -> Lanes {
        std::array::from_fn(|row| {
            f16::from_le_bytes([block[at + 2 * row], block[at + 2 * row + 1]]).to_f32()
        })
    };
    let times_factors = |lanes: Lanes, at: usize| -> Lanes {
        std::array::from_fn(|row| lanes[row] * F::STEP * f32::from(block[at + row] as i8))
    };
    let times_nibbles = |lanes: Lanes, at: usize, shift: usize| -> Lanes {
        std::array::from_fn(|row| lanes[row] * f32::from((block[at + row] >> shift) & 0x0f))
    };
    match F::SCALES {
        Scales::PowerOfTwo => {
            (std::array::from_fn(|row| mxfp4::half_power_of_two(block[row])), None)
        }
        Scales::Half => (halves(0), None),
        Scales::HalfAndOffset => (halves(0), Some(halves(32))),
        Scales::TwoLevel => (times_factors(halves(0), 32 + 16 * within), None),
        Scales::TwoLevelAndOffset => (
            times_factors(halves(0), 64 + 32 * within),
            Some(times_factors(halves(32), 80 + 32 * within)),
        ),
        Scales::TwoLevelAndOffsetInNibbles => (
            times_nibbles(halves(0), 64 + 16 * within, 0),
            Some(times_nibbles(halves(32), 64 + 16 * within, 4)),
        ),
    }
}

/// As [`multiply_quantized`], for floating-point weights: the products are added one by one, in f32,
/// each with one rounding.
pub(super) fn multiply_float<F: FloatFormat<WIDTH>, const WIDTH: usize>(
    panel: &[u8],
    columns: usize,
    tokens: Prepared<'_>,
    totals: &mut [f32],
) {
    totals.fill(0.0);
    let (panel, _) = panel.as_chunks::<WIDTH>();
    for (column, weights) in panel.chunks_exact(FLOAT_ROWS).take(columns).enumerate() {
        let mut values = [0.0; FLOAT_ROWS];
        for (value, weight) in values.iter_mut().zip(weights) {
            *value = F::value(*weight);
        }
        for (token, totals) in tokens.iter().zip(totals.chunks_exact_mut(FLOAT_ROWS)) {
            let activation = f32::from_bits(token[column]);
            for (total, weight) in totals.iter_mut().zip(&values) {
                *total = activation.mul_add(*weight, *total);
            }
        }
    }
}
