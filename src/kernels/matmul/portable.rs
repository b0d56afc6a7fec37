//! The kernels in plain Rust: the specification of the others, and what runs on any processor.

use half::f16;

use super::activations::{BLOCK, BLOCK_WORDS, QUADS, SCALE, SCALED_SUM, ZERO_SUM};
use super::float::FloatFormat;
use super::format::{Codes, QuantizedFormat, Scales, block_columns, code_bytes, scale_bytes};
use super::panel::{FLOAT_ROWS, QUANTIZED_ROWS, scales_at};

/// Tokens in a tile, largest first; the last is 1.
pub(super) const TILES: &[usize] = &[4, 2, 1];

type Lanes = [f32; QUANTIZED_ROWS];

/// `output[t][r] = Σ_c activations[t][c] · panel[r][c]` for a tile of `tokens` tokens and the rows
/// of a quantized panel.
///
/// The sum over a group's codes is exact, in i32; it is scaled and summed in f32.
pub(super) fn multiply_quantized<F: QuantizedFormat>(
    panel: &[u8],
    columns: usize,
    activations: &[u32],
    tokens: usize,
    output: &mut [f32],
) {
    output.fill(0.0);
    let blocks_of_32 = activations.chunks_exact(BLOCK_WORDS * tokens).take(columns / BLOCK);
    for (block, activations) in blocks_of_32.enumerate() {
        let part = |part: usize, token: usize| activations[part * tokens + token];
        for group in 0..BLOCK / F::GROUP {
            let index = block * (BLOCK / F::GROUP) + group;
            let (scales, offsets) = group_scales::<F>(panel, columns, index);
            // The sums of the whole block come first, those of its halves after it.
            let sums_at = if F::GROUP == BLOCK { 0 } else { 1 + group };
            for (token, output) in output.chunks_exact_mut(QUANTIZED_ROWS).enumerate() {
                let zero =
                    F::ZERO.sum_of(group).map_or(0, |sum| part(ZERO_SUM + sum, token) as i32);
                let mut sums = [zero; QUANTIZED_ROWS];
                for quad in group * F::GROUP / 4..(group + 1) * F::GROUP / 4 {
                    let codes = quad_codes::<F>(panel, block, quad);
                    let values = part(QUADS + quad, token).to_le_bytes().map(|value| value as i8);
                    for (sum, codes) in sums.iter_mut().zip(codes.as_chunks::<4>().0) {
                        for (&code, value) in codes.iter().zip(values) {
                            *sum += i32::from(code) * i32::from(value);
                        }
                    }
                }
                let scale = f32::from_bits(part(SCALE, token));
                let scaled_sum = f32::from_bits(part(SCALED_SUM + sums_at, token));
                for (row, output) in output.iter_mut().enumerate() {
                    *output += sums[row] as f32 * (scales[row] * scale);
                    if let Some(offsets) = &offsets {
                        *output += offsets[row] * scaled_sum;
                    }
                }
            }
        }
    }
}

/// The codes of four columns of every row.
fn quad_codes<F: QuantizedFormat>(panel: &[u8], block: usize, quad: usize) -> [u8; 64] {
    let stored = |index: usize| -> [u8; 64] {
        let at = QUANTIZED_ROWS * (block * code_bytes::<F>() + index * 4);
        panel[at..at + 64].try_into().expect("64 bytes")
    };
    let nibbles = || stored(quad % 4).map(|pair| (pair >> (4 * (quad / 4))) & 0x0f);
    let with_upper_bits = |index: usize, shift: usize, mask: u8| {
        let (low, bits) = (nibbles(), stored(index));
        std::array::from_fn(|lane| low[lane] | (((bits[lane] >> shift) & mask) << 4))
    };
    match F::CODES {
        Codes::Bytes => stored(quad),
        Codes::Nibbles => nibbles(),
        Codes::Indices(table) => nibbles().map(|index| table[usize::from(index)]),
        Codes::FiveBits => with_upper_bits(4, quad, 1),
        Codes::SixBits => with_upper_bits(4 + quad / 4, 2 * (quad % 4), 3),
    }
}

/// The scales of a group for every row, and its offsets if the format has any.
fn group_scales<F: QuantizedFormat>(
    panel: &[u8],
    columns: usize,
    group: usize,
) -> (Lanes, Option<Lanes>) {
    let groups = block_columns::<F>() / F::GROUP;
    let block_at = scales_at::<F>(columns) + group / groups * QUANTIZED_ROWS * scale_bytes::<F>();
    let block = &panel[block_at..][..QUANTIZED_ROWS * scale_bytes::<F>()];
    let within = group % groups;
    let halves = |at: usize| -> Lanes {
        std::array::from_fn(|row| {
            f16::from_le_bytes([block[at + 2 * row], block[at + 2 * row + 1]]).to_f32()
        })
    };
    let times_factors = |lanes: Lanes, at: usize| -> Lanes {
        std::array::from_fn(|row| lanes[row] * f32::from(block[at + row] as i8))
    };
    match F::SCALES {
        Scales::Single => {
            let (scales, _) = block.as_chunks::<4>();
            (std::array::from_fn(|row| f32::from_le_bytes(scales[row])), None)
        }
        Scales::Half => (halves(0), None),
        Scales::HalfAndOffset => (halves(0), Some(halves(32))),
        Scales::TwoLevel => (times_factors(halves(0), 32 + 16 * within), None),
        Scales::TwoLevelAndOffset => (
            times_factors(halves(0), 64 + 32 * within),
            Some(times_factors(halves(32), 80 + 32 * within)),
        ),
    }
}

/// As [`multiply_quantized`], for floating-point weights: every product and sum in f32.
pub(super) fn multiply_float<F: FloatFormat<WIDTH>, const WIDTH: usize>(
    panel: &[u8],
    columns: usize,
    activations: &[u32],
    tokens: usize,
    output: &mut [f32],
) {
    output.fill(0.0);
    let (panel, _) = panel.as_chunks::<WIDTH>();
    let panel = panel.chunks_exact(FLOAT_ROWS).take(columns);
    for (weights, activations) in panel.zip(activations.chunks_exact(tokens)) {
        let mut column = [0.0; FLOAT_ROWS];
        for (value, weight) in column.iter_mut().zip(weights) {
            *value = F::value(*weight);
        }
        for (output, activation) in output.chunks_exact_mut(FLOAT_ROWS).zip(activations) {
            let activation = f32::from_bits(*activation);
            for (output, weight) in output.iter_mut().zip(&column) {
                *output += activation * weight;
            }
        }
    }
}
