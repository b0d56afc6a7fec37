//! Q3_K: super-blocks of 256 weights, sixteen blocks of 16 `scale · (q − 4)` with three bits each.
//!
//! Layout: 32 bytes with the third bits (bit `b` of byte `l` is weight `32 b + l`'s), 64 bytes with
//! the low two bits laid out as in Q2_K, 12 bytes with sixteen six-bit scales, f16 scale of the
//! scales.

use super::codec::{Codec, Decode, field, read_f16};
use crate::gguf::GgmlType;

const WEIGHTS: usize = 256;
const HIGH_BITS: usize = 0;
const QUANTS: usize = 32;
const SCALES: usize = 96;
const SCALE: usize = 108;
const BYTES: usize = SCALE + 2;

pub(super) const CODEC: Codec = Codec::read_only::<Q3K, WEIGHTS, BYTES>();

struct Q3K;

impl Decode<WEIGHTS, BYTES> for Q3K {
    const TYPE: GgmlType = GgmlType::Q3_K;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let super_scale = read_f16(block, SCALE);
        let scales = unpack_scales(field(block, SCALES));
        let (outputs, _) = weights.as_chunks_mut::<16>();
        for (b, output) in outputs.iter_mut().enumerate() {
            let scale = super_scale * f32::from(scales[b]);
            let (half, shift) = (b / 8, 2 * (b % 8 / 2));
            let column = 16 * (b % 2);
            let low = *field::<16>(block, QUANTS + 32 * half + column);
            let high = *field::<16>(block, HIGH_BITS + column);
            for (weight, (low, high)) in output.iter_mut().zip(low.into_iter().zip(high)) {
                let third = (high >> (b / 2)) & 1;
                let quant = ((low >> shift) & 3) | (third << 2);
                *weight = scale * (f32::from(quant) - 4.0);
            }
        }
    }
}

/// Sixteen signed scales: the low four bits of scale `j` in a half of byte `j % 8`, the high two in
/// byte `8 + j % 4`.
#[inline(always)]
pub(crate) fn unpack_scales(packed: &[u8; 12]) -> [i8; 16] {
    std::array::from_fn(|j| {
        let low = (packed[j % 8] >> (4 * (j / 8))) & 0x0f;
        let high = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
        (low | (high << 4)) as i8 - 32
    })
}
