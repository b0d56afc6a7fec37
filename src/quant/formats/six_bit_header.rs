//! The header of Q4_K and Q5_K: f16 scale of the scales, f16 scale of the minimums, 12 bytes of
//! six-bit scales and minimums.

use super::affine;
use super::fields::{field, field_mut, is_finite_f16, read_f16, write_f16};
use super::six_bit_scales;
use super::super_blocks::{Found, Header, MOST_BLOCKS};

const SCALE: usize = 0;
const MINIMUM: usize = 2;
const SCALES: usize = 4;
pub(super) const BYTES: usize = SCALES + six_bit_scales::BYTES;

const BLOCKS: usize = 8;
/// The largest scale and minimum of a block.
pub(super) const LARGEST: i32 = 63;

/// Rounds a super-block's scales and minimums.
#[inline(always)]
pub(super) fn round(found: &Found, super_block: usize) -> Header {
    let mut header = affine::round::<BLOCKS>(found, super_block, LARGEST as f32);
    limit(&mut header);
    header
}

/// Cuts what is above the largest.
#[inline(always)]
pub(super) fn limit(header: &mut Header) {
    for code in header.scales.iter_mut().chain(&mut header.minimums) {
        *code = (*code).min(LARGEST as u8);
    }
}

#[inline(always)]
pub(super) fn write(header: &Header, bytes: &mut [u8; BYTES]) {
    write_f16(bytes, SCALE, header.scale);
    write_f16(bytes, MINIMUM, header.minimum);
    *field_mut(bytes, SCALES) =
        six_bit_scales::pack(field(&header.scales, 0), field(&header.minimums, 0));
}

/// The scale and the minimum of each block.
#[inline(always)]
pub(super) fn read(bytes: &[u8; BYTES]) -> ([f32; MOST_BLOCKS], [f32; MOST_BLOCKS]) {
    let (scale, minimum) = (read_f16(bytes, SCALE), read_f16(bytes, MINIMUM));
    let (scales, minimums) = six_bit_scales::unpack(field(bytes, SCALES));
    let mut read = ([0.0; MOST_BLOCKS], [0.0; MOST_BLOCKS]);
    for b in 0..BLOCKS {
        read.0[b] = scale * f32::from(scales[b]);
        read.1[b] = minimum * f32::from(minimums[b]);
    }
    read
}

/// Whether the two f16 are numbers.
#[inline(always)]
pub(super) fn fits(bytes: &[u8; BYTES]) -> bool {
    is_finite_f16(bytes, SCALE) && is_finite_f16(bytes, MINIMUM)
}
