//! Q6_K: super-blocks of 256 weights, sixteen blocks of 16 `scale · (q − 32)` with six bits each;
//! 6.5625 bits a weight.
//!
//! Layout: 128 bytes with the low four bits, 64 bytes with the high two bits, 16 signed bytes of
//! scales, f16 scale of the scales. Of each half of 128 weights, byte `l` of the 64 low bytes holds
//! weights `l` and `l + 64` (for `l` < 64), and byte `l` of the 32 high bytes holds weights `l`,
//! `l + 32`, `l + 64` and `l + 96`, lowest bits first.
//!
//! Built by a search for the scale of least squared error, each weight's counted by its square or by
//! the importance of its column.

use super::codec::{Codec, Decode};
use super::fields::{field, field_mut, is_finite_f16, read_f16, write_f16};
use super::lanes::Lanes;
use super::super_blocks::{Fit, Found, Header, Importance, MOST_BLOCKS, SuperBlock, WEIGHTS};
use super::symmetric::{self, NEGLIGIBLE};
use super::wide::Wide;
use crate::gguf::GgmlType;

const BLOCK: usize = 16;
const BLOCKS: usize = WEIGHTS / BLOCK;
const LOW_BITS: usize = 0;
const HIGH_BITS: usize = 128;
const SCALES: usize = 192;
const SCALE: usize = 208;
const BYTES: usize = SCALE + 2;

const LOWEST: i32 = -32;
const HIGHEST: i32 = 31;
/// The smallest and the largest scale of a block.
const LOWEST_SCALE: f32 = -128.0;
const HIGHEST_SCALE: i32 = 127;

pub(super) const CODEC: Codec = Codec::super_blocks::<Q6K, BLOCK, BYTES>();

pub(super) struct Q6K;

impl Decode<WEIGHTS, BYTES> for Q6K {
    const TYPE: GgmlType = GgmlType::Q6_K;
    const LAYOUT: &'static str = "4 bits a weight; high two bits; 16 blocks of 16 with a signed byte as scale each; f16 scale of those";
    const BUILT: &'static str = "`scale · (q − 32)`: the best of 19 scales for each block";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let (scales, _) = Self::read_header(block);
        let (outputs, _) = weights.as_chunks_mut::<BLOCK>();
        for (b, output) in outputs.iter_mut().enumerate() {
            let place = Place::of(b);
            let low = *field::<BLOCK>(block, place.low_at);
            let high = *field::<BLOCK>(block, place.high_at);
            for (weight, (low, high)) in output.iter_mut().zip(low.into_iter().zip(high)) {
                let low = (low >> place.low_shift) & 0x0f;
                let high = (high >> place.high_shift) & 3;
                *weight = scales[b] * (f32::from(low | (high << 4)) - 32.0);
            }
        }
    }
}

impl SuperBlock<BLOCK, BYTES> for Q6K {
    #[inline(always)]
    fn search<V: Lanes>(weights: &[[V; BLOCK]; 2]) -> [Fit<V>; 2] {
        [
            symmetric::fit::<V, LOWEST, HIGHEST, BLOCK>(&weights[0], &squares(&weights[0])),
            symmetric::fit::<V, LOWEST, HIGHEST, BLOCK>(&weights[1], &squares(&weights[1])),
        ]
    }

    #[inline(always)]
    fn search_weighted<V: Lanes>(
        weights: &[[V; BLOCK]; 2],
        importance: &[Importance<V, BLOCK>; 2],
    ) -> [Fit<V>; 2] {
        [
            symmetric::fit::<V, LOWEST, HIGHEST, BLOCK>(&weights[0], &importance[0].columns),
            symmetric::fit::<V, LOWEST, HIGHEST, BLOCK>(&weights[1], &importance[1].columns),
        ]
    }

    fn quants_of_search(
        weights: &[f32; BLOCK],
        importance: Option<&Importance<f32, BLOCK>>,
    ) -> [u8; BLOCK] {
        let importance = importance.map_or_else(|| squares(weights), |known| known.columns);
        symmetric::quants::<LOWEST, HIGHEST, BLOCK>(weights, &importance)
    }

    #[inline(always)]
    fn round(found: &Found, super_block: usize) -> Option<Header> {
        let scales = Found::of::<BLOCKS>(&found.scales, super_block);
        if scales.iter().all(|scale| scale.abs() < NEGLIGIBLE) {
            return None;
        }
        let rounded = symmetric::round(found, super_block, LOWEST_SCALE)?;
        let scales = rounded.codes.map(|code| code.min(HIGHEST_SCALE) as u8);
        Some(Header { scale: rounded.scale, scales, ..Header::default() })
    }

    #[inline(always)]
    fn round_weighted<V: Lanes>(found: &Found, first: usize, headers: &mut [Option<Header>]) {
        // The scales are rounded without regard to importance.
        for (lane, header) in headers[..V::COUNT].iter_mut().enumerate() {
            *header = Self::round(found, first + lane);
        }
    }

    #[inline(always)]
    fn write_header(header: &Header, block: &mut [u8; BYTES]) {
        *field_mut(block, SCALES) = header.scales;
        write_f16(block, SCALE, header.scale);
    }

    #[inline(always)]
    fn read_header(block: &[u8; BYTES]) -> ([f32; MOST_BLOCKS], [f32; MOST_BLOCKS]) {
        let super_scale = read_f16(block, SCALE);
        let scales = field::<BLOCKS>(block, SCALES);
        (scales.map(|scale| super_scale * f32::from(scale as i8)), [0.0; MOST_BLOCKS])
    }

    #[inline(always)]
    fn quant<V: Lanes>(place: V) -> V {
        place.round_clamped::<LOWEST, HIGHEST>().sub(V::splat(LOWEST as f32))
    }

    #[inline(always)]
    fn pack(quants: &[u8; WEIGHTS], block: &mut [u8; BYTES]) {
        for (half, quants) in quants.as_chunks::<128>().0.iter().enumerate() {
            let low_bits = field_mut::<64>(block, LOW_BITS + 64 * half);
            for (l, byte) in low_bits.iter_mut().enumerate() {
                *byte = (quants[l] & 0x0f) | (quants[l + 64] << 4);
            }
            let high_bits = field_mut::<32>(block, HIGH_BITS + 32 * half);
            for (l, byte) in high_bits.iter_mut().enumerate() {
                *byte = (quants[l] >> 4)
                    | (quants[l + 32] >> 4) << 2
                    | (quants[l + 64] >> 4) << 4
                    | (quants[l + 96] >> 4) << 6;
            }
        }
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        is_finite_f16(block, SCALE)
    }
}

/// Where a block of 16 weights lies among the low and among the high bits.
struct Place {
    low_at: usize,
    low_shift: usize,
    high_at: usize,
    high_shift: usize,
}

impl Place {
    #[inline(always)]
    fn of(block: usize) -> Self {
        let (half, within) = (block / 8, block % 8);
        Self {
            low_at: LOW_BITS + 64 * half + 16 * (within % 4),
            low_shift: 4 * (within / 4),
            high_at: HIGH_BITS + 32 * half + 16 * (within % 2),
            high_shift: 2 * (within / 2),
        }
    }
}

/// The importance that weights have for themselves.
#[inline(always)]
fn squares<V: Lanes>(weights: &[V; BLOCK]) -> [V; BLOCK] {
    let mut squares = *weights;
    for square in &mut squares {
        *square = square.mul(*square);
    }
    squares
}
