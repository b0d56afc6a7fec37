//! How weights lie in a panel.
//!
//! A panel is some rows of a matrix, padded with zero rows, stored so that one vector register
//! holds the same columns of every row and no sum ever runs across a register.
//!
//! Quantized: 16 rows. Scales and codes lie in the order in which a product reads them, so that the
//! memory sees one stream. A panel is units of one block of the format, or of as many as make their
//! scales whole cache lines. A unit begins with the scales: for each block the scales of the 16 rows,
//! their offsets if any, and for each group the rows' factors on the scales and then on the offsets
//! if the format has such. The codes follow: for each 32 columns, for each four columns ("quad"), 16
//! rows × 4 codes; where codes take fewer than eight bits, quads share bytes ([`Codes`]). A last unit
//! that is not full has room for all scales, but no more codes than its own.
//!
//! Floating point: 32 rows; for each column the 32 weights in their own type.

use super::format::{
    Codes, Parts, QuantizedFormat, Scales, block_columns, code_bytes, scale_bytes,
};
use crate::kernels::prefetch::prefetch;

/// Rows in a panel of a quantized format.
pub(super) const QUANTIZED_ROWS: usize = 16;
/// Rows in a panel of a floating-point type.
pub(super) const FLOAT_ROWS: usize = 32;

const CACHE_LINE: usize = 64;

/// Blocks of the format in a unit: one, two or four.
const fn unit_blocks<F: QuantizedFormat>() -> usize {
    let mut blocks = 1;
    while !(blocks * block_scales::<F>()).is_multiple_of(CACHE_LINE) {
        blocks *= 2;
    }
    blocks
}

/// Bytes that a block's scales take in a panel.
const fn block_scales<F: QuantizedFormat>() -> usize {
    QUANTIZED_ROWS * scale_bytes::<F>()
}

/// Bytes that a block's codes take in a panel.
const fn block_codes<F: QuantizedFormat>() -> usize {
    block_columns::<F>() / 32 * QUANTIZED_ROWS * code_bytes::<F>()
}

/// Bytes that a unit's scales take.
const fn unit_scales<F: QuantizedFormat>() -> usize {
    unit_blocks::<F>() * block_scales::<F>()
}

/// Bytes of a unit.
const fn unit_bytes<F: QuantizedFormat>() -> usize {
    unit_scales::<F>() + unit_blocks::<F>() * block_codes::<F>()
}

/// 32 columns, as often as a unit has them.
const fn unit_parts<F: QuantizedFormat>() -> usize {
    unit_blocks::<F>() * block_columns::<F>() / 32
}

/// How far ahead of the products the memory is asked for what a panel has. The lines of a panel and of
/// the next one follow each other, and are asked for in this order.
const AHEAD: usize = 8192;

/// Bytes that a product goes on by with 32 columns, on average.
const fn part_bytes<F: QuantizedFormat>() -> usize {
    unit_bytes::<F>() / unit_parts::<F>()
}

/// Asks for what a panel, or the next one, has some time after its `part`th 32 columns.
#[inline(always)]
pub(super) fn prefetch_part<F: QuantizedFormat>(panel: *const u8, part: usize) {
    let step = const { part_bytes::<F>() };
    let next = panel.wrapping_add(part * step + AHEAD);
    for line in (0..step).step_by(CACHE_LINE) {
        prefetch(next.wrapping_add(line));
    }
}

/// Where a panel has the scales of a block of the format.
#[inline(always)]
pub(super) const fn scales_at<F: QuantizedFormat>(block: usize) -> usize {
    let (unit, within) = (block / unit_blocks::<F>(), block % unit_blocks::<F>());
    unit * unit_bytes::<F>() + within * block_scales::<F>()
}

/// Where a panel has the codes of 32 columns.
#[inline(always)]
pub(super) const fn codes_at<F: QuantizedFormat>(part: usize) -> usize {
    let (unit, within) = (part / unit_parts::<F>(), part % unit_parts::<F>());
    let codes = unit * unit_bytes::<F>() + unit_scales::<F>();
    codes + within * QUANTIZED_ROWS * code_bytes::<F>()
}

/// Bytes of a quantized panel: a whole number of cache lines.
pub(super) fn quantized_bytes<F: QuantizedFormat>(columns: usize) -> usize {
    let blocks = columns / block_columns::<F>();
    let units = blocks.div_ceil(unit_blocks::<F>());
    units * unit_scales::<F>() + blocks * block_codes::<F>()
}

/// Bytes of a floating-point panel whose weights take `WIDTH` bytes.
pub(super) fn float_bytes<const WIDTH: usize>(columns: usize) -> usize {
    (FLOAT_ROWS * columns * WIDTH).next_multiple_of(CACHE_LINE)
}

/// Fills a zeroed quantized panel from up to 16 rows in ggml's layout.
///
/// The blocks of all rows that lie below each other are taken together: the panel is then written
/// from front to back.
pub(super) fn pack_quantized<F: QuantizedFormat>(rows: &[u8], columns: usize, panel: &mut [u8]) {
    let blocks = columns / block_columns::<F>();
    let block_bytes = F::TYPE.block_bytes();
    let mut parts = Parts::new();
    for block in 0..blocks {
        let scales_at = scales_at::<F>(block);
        let codes_at = codes_at::<F>(block * block_columns::<F>() / 32);
        for (row, bytes) in rows.chunks_exact(blocks * block_bytes).enumerate() {
            F::unpack(&bytes[block * block_bytes..][..block_bytes], &mut parts);
            place_scales::<F>(&parts, row, &mut panel[scales_at..][..block_scales::<F>()]);
            place_codes::<F>(&parts, row, &mut panel[codes_at..][..block_codes::<F>()]);
        }
    }
}

fn place_codes<F: QuantizedFormat>(parts: &Parts, row: usize, panel: &mut [u8]) {
    let (columns, _) = parts.codes[..block_columns::<F>()].as_chunks::<32>();
    let panels = panel.chunks_exact_mut(QUANTIZED_ROWS * code_bytes::<F>());
    for (columns, panel) in columns.iter().zip(panels) {
        let (stored, length) = store_codes::<F>(columns);
        let (quads, _) = stored[..length].as_chunks::<4>();
        let (panel, _) = panel.as_chunks_mut::<{ 4 * QUANTIZED_ROWS }>();
        for (quad, panel) in quads.iter().zip(panel) {
            panel.as_chunks_mut::<4>().0[row] = *quad;
        }
    }
}

/// One row's share of the bytes of 32 columns, and how many they are.
fn store_codes<F: QuantizedFormat>(codes: &[u8; 32]) -> ([u8; 32], usize) {
    let mut stored = *codes;
    match F::CODES {
        Codes::Bytes => return (stored, 32),
        Codes::TwoBits => {
            store_pairs(codes, &mut stored);
            return (stored, code_bytes::<F>());
        }
        Codes::ThreeBits => {
            let quants = codes.map(|code| code >> 3);
            store_pairs(&quants.map(|quant| quant & 3), &mut stored);
            for j in 0..4 {
                stored[8 + j] =
                    (0..8).fold(0, |bits, quad| bits | ((quants[4 * quad + j] >> 2) << quad));
            }
            return (stored, code_bytes::<F>());
        }
        Codes::Nibbles | Codes::Indices(_) | Codes::FiveBits | Codes::SixBits => {}
    }
    for j in 0..16 {
        stored[j] = (codes[j] & 0x0f) | (codes[j + 16] << 4);
    }
    match F::CODES {
        Codes::FiveBits => {
            for j in 0..4 {
                stored[16 + j] =
                    (0..8).fold(0, |bits, quad| bits | ((codes[4 * quad + j] >> 4) << quad));
            }
        }
        Codes::SixBits => store_pairs(&codes.map(|code| code >> 4), &mut stored[16..]),
        _ => {}
    }
    (stored, code_bytes::<F>())
}

/// Puts two bits of each column into eight bytes, four for each half of the columns.
fn store_pairs(pairs: &[u8; 32], stored: &mut [u8]) {
    for (j, stored) in stored[..8].iter_mut().enumerate() {
        let half = &pairs[16 * (j / 4)..];
        *stored = (0..4).fold(0, |bits, quad| bits | (half[4 * quad + j % 4] << (2 * quad)));
    }
}

fn place_scales<F: QuantizedFormat>(parts: &Parts, row: usize, panel: &mut [u8]) {
    let mut place = |at: usize, size: usize, bits: u32| {
        let at = at + size * row;
        panel[at..at + size].copy_from_slice(&bits.to_le_bytes()[..size]);
    };
    match F::SCALES {
        Scales::PowerOfTwo => place(0, 1, parts.scale),
        Scales::Half | Scales::TwoLevel => place(0, 2, parts.scale),
        Scales::HalfAndOffset | Scales::TwoLevelAndOffset | Scales::TwoLevelAndOffsetInNibbles => {
            place(0, 2, parts.scale);
            place(2 * QUANTIZED_ROWS, 2, parts.offset);
        }
    }
    let groups = block_columns::<F>() / F::GROUP;
    let mut place_factors = |at: usize, stride: usize, factors: &[i8]| {
        for (group, &factor) in factors[..groups].iter().enumerate() {
            panel[at + stride * group + row] = factor as u8;
        }
    };
    match F::SCALES {
        Scales::PowerOfTwo | Scales::Half | Scales::HalfAndOffset => {}
        Scales::TwoLevel => place_factors(2 * QUANTIZED_ROWS, QUANTIZED_ROWS, &parts.scales),
        Scales::TwoLevelAndOffset => {
            place_factors(4 * QUANTIZED_ROWS, 2 * QUANTIZED_ROWS, &parts.scales);
            place_factors(5 * QUANTIZED_ROWS, 2 * QUANTIZED_ROWS, &parts.offsets);
        }
        Scales::TwoLevelAndOffsetInNibbles => {
            let mut both = parts.scales;
            for (both, offset) in both.iter_mut().zip(parts.offsets) {
                *both |= offset << 4;
            }
            place_factors(4 * QUANTIZED_ROWS, QUANTIZED_ROWS, &both);
        }
    }
}

/// Fills a zeroed floating-point panel from up to 32 rows of weights of `WIDTH` bytes.
pub(super) fn pack_float<const WIDTH: usize>(rows: &[u8], columns: usize, panel: &mut [u8]) {
    match WIDTH {
        2 => pack_rows::<WIDTH, 4>(rows, columns, panel),
        _ => pack_rows::<WIDTH, 2>(rows, columns, panel),
    }
}

/// Writes `TOGETHER` rows' weights of a column at once.
fn pack_rows<const WIDTH: usize, const TOGETHER: usize>(
    rows: &[u8],
    columns: usize,
    panel: &mut [u8],
) {
    /// Columns that are moved at a time, so that the lines written to stay in the first cache.
    const STRIP: usize = 64;
    if columns == 0 {
        return;
    }
    let (weights, _) = rows.as_chunks::<WIDTH>();
    let (panel, _) = panel.as_chunks_mut::<WIDTH>();
    let count = weights.len() / columns;
    for start in (0..columns).step_by(STRIP) {
        let range = start..columns.min(start + STRIP);
        let panel = &mut panel[start * FLOAT_ROWS..range.end * FLOAT_ROWS];
        let (panel, _) = panel.as_chunks_mut::<FLOAT_ROWS>();
        let strip_of = |row: usize| &weights[row * columns..][range.clone()];
        for first in (0..count - count % TOGETHER).step_by(TOGETHER) {
            let mut strips = [strip_of(first); TOGETHER];
            for (row, strip) in strips.iter_mut().enumerate() {
                *strip = &strip_of(first + row)[..panel.len()];
            }
            for (column, panel) in panel.iter_mut().enumerate() {
                let mut together = [[0; WIDTH]; TOGETHER];
                for (weight, strip) in together.iter_mut().zip(&strips) {
                    *weight = strip[column];
                }
                panel[first..first + TOGETHER].copy_from_slice(&together);
            }
        }
        for row in count - count % TOGETHER..count {
            for (panel, weight) in panel.iter_mut().zip(strip_of(row)) {
                panel[row] = *weight;
            }
        }
    }
}
