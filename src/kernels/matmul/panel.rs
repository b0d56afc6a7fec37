//! How weights lie in a panel.
//!
//! A panel is some rows of a matrix, padded with zero rows, stored so that one vector register
//! holds the same columns of every row and no sum ever runs across a register.
//!
//! Quantized: 16 rows. First the codes: for each 32 columns, for each four columns ("quad"), 16 rows
//! × 4 codes; where codes take fewer than eight bits, quad `q` shares its bytes with quad `q + 4`
//! and upper bits follow ([`Codes`]). Then, a whole
//! number of cache lines further, the scales: for each block the f16 (or f32) scales of the 16
//! rows, their offsets if any, and for each group the rows' factors on the scales and then on the
//! offsets if the format has such.
//!
//! Floating point: 32 rows; for each column the 32 weights in their own type.

use half::f16;

use super::format::{
    Codes, Parts, QuantizedFormat, Scales, block_columns, code_bytes, scale_bytes,
};

/// Rows in a panel of a quantized format.
pub(super) const QUANTIZED_ROWS: usize = 16;
/// Rows in a panel of a floating-point type.
pub(super) const FLOAT_ROWS: usize = 32;

const CACHE_LINE: usize = 64;

/// Where a quantized panel's scales begin.
pub(super) const fn scales_at<F: QuantizedFormat>(columns: usize) -> usize {
    (QUANTIZED_ROWS * columns / 32 * code_bytes::<F>()).next_multiple_of(CACHE_LINE)
}

/// Bytes of a quantized panel.
pub(super) fn quantized_bytes<F: QuantizedFormat>(columns: usize) -> usize {
    let scales = QUANTIZED_ROWS * columns / block_columns::<F>() * scale_bytes::<F>();
    scales_at::<F>(columns) + scales.next_multiple_of(CACHE_LINE)
}

/// Bytes of a floating-point panel whose weights take `WIDTH` bytes.
pub(super) fn float_bytes<const WIDTH: usize>(columns: usize) -> usize {
    (FLOAT_ROWS * columns * WIDTH).next_multiple_of(CACHE_LINE)
}

/// Fills a zeroed quantized panel from up to 16 rows in ggml's layout.
pub(super) fn pack_quantized<F: QuantizedFormat>(rows: &[u8], columns: usize, panel: &mut [u8]) {
    let blocks = columns / block_columns::<F>();
    let (codes, scales) = panel.split_at_mut(scales_at::<F>(columns));
    let codes_a_block = QUANTIZED_ROWS * block_columns::<F>() / 32 * code_bytes::<F>();
    let scales_a_block = QUANTIZED_ROWS * scale_bytes::<F>();
    let mut parts = Parts::new();
    for (row, bytes) in rows.chunks_exact(blocks * F::TYPE.block_bytes()).enumerate() {
        let bytes = bytes.chunks_exact(F::TYPE.block_bytes());
        let codes = codes.chunks_exact_mut(codes_a_block);
        let scales = scales.chunks_exact_mut(scales_a_block);
        for ((bytes, codes), scales) in bytes.zip(codes).zip(scales) {
            F::unpack(bytes, &mut parts);
            place_codes::<F>(&parts, row, codes);
            place_scales::<F>(&parts, row, scales);
        }
    }
}

fn place_codes<F: QuantizedFormat>(parts: &Parts, row: usize, panel: &mut [u8]) {
    let (columns, _) = parts.codes[..block_columns::<F>()].as_chunks::<32>();
    let panels = panel.chunks_exact_mut(QUANTIZED_ROWS * code_bytes::<F>());
    for (columns, panel) in columns.iter().zip(panels) {
        let (stored, length) = store_codes::<F>(columns);
        let (quads, _) = stored[..length].as_chunks::<4>();
        for (quad, panel) in quads.iter().zip(panel.chunks_exact_mut(4 * QUANTIZED_ROWS)) {
            panel[4 * row..4 * row + 4].copy_from_slice(quad);
        }
    }
}

/// One row's share of the bytes of 32 columns, and how many they are.
fn store_codes<F: QuantizedFormat>(codes: &[u8; 32]) -> ([u8; 32], usize) {
    let mut stored = *codes;
    if let Codes::Bytes = F::CODES {
        return (stored, 32);
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
        Codes::SixBits => {
            for j in 0..8 {
                let half = &codes[16 * (j / 4)..];
                stored[16 + j] = (0..4)
                    .fold(0, |bits, quad| bits | ((half[4 * quad + j % 4] >> 4) << (2 * quad)));
            }
        }
        Codes::Nibbles | Codes::Indices(_) | Codes::Bytes => {}
    }
    (stored, code_bytes::<F>())
}

fn place_scales<F: QuantizedFormat>(parts: &Parts, row: usize, panel: &mut [u8]) {
    let mut place_half = |at: usize, value: f32| {
        let bytes = f16::from_f32(value).to_le_bytes();
        panel[at + 2 * row..at + 2 * row + 2].copy_from_slice(&bytes);
    };
    match F::SCALES {
        Scales::Single => panel[4 * row..4 * row + 4].copy_from_slice(&parts.scale.to_le_bytes()),
        Scales::Half | Scales::TwoLevel => place_half(0, parts.scale),
        Scales::HalfAndOffset | Scales::TwoLevelAndOffset => {
            place_half(0, parts.scale);
            place_half(2 * QUANTIZED_ROWS, parts.offset);
        }
    }
    let groups = block_columns::<F>() / F::GROUP;
    let mut place_factors = |at: usize, stride: usize, factors: &[i8]| {
        for (group, &factor) in factors[..groups].iter().enumerate() {
            panel[at + stride * group + row] = factor as u8;
        }
    };
    match F::SCALES {
        Scales::Single | Scales::Half | Scales::HalfAndOffset => {}
        Scales::TwoLevel => place_factors(2 * QUANTIZED_ROWS, QUANTIZED_ROWS, &parts.scales),
        Scales::TwoLevelAndOffset => {
            place_factors(4 * QUANTIZED_ROWS, 2 * QUANTIZED_ROWS, &parts.scales);
            place_factors(5 * QUANTIZED_ROWS, 2 * QUANTIZED_ROWS, &parts.offsets);
        }
    }
}

/// Fills a zeroed floating-point panel from up to 32 rows of weights of `WIDTH` bytes.
pub(super) fn pack_float<const WIDTH: usize>(rows: &[u8], columns: usize, panel: &mut [u8]) {
    /// Columns that are moved at a time, so that the lines written to stay in the first cache.
    const STRIP: usize = 64;
    let (panel, _) = panel.as_chunks_mut::<WIDTH>();
    let (weights, _) = rows.as_chunks::<WIDTH>();
    for strip in (0..columns).step_by(STRIP) {
        let strip = strip..columns.min(strip + STRIP);
        for (row, weights) in weights.chunks_exact(columns).enumerate() {
            let column_of_panel = panel[strip.start * FLOAT_ROWS..].chunks_exact_mut(FLOAT_ROWS);
            for (weight, column) in weights[strip.clone()].iter().zip(column_of_panel) {
                column[row] = *weight;
            }
        }
    }
}
