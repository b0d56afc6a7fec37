//! Q2_K: super-blocks of 256 weights, sixteen blocks of 16 `scale · q − minimum` with two bits each.
//!
//! Layout: 16 bytes, one a block, of a four-bit scale (low half) and minimum (high half); 64 bytes
//! of weights; f16 scale of the scales; f16 scale of the minimums. Byte `l` of each half's 32 bytes
//! holds weights `l`, `l + 32`, `l + 64` and `l + 96` of that half, lowest bits first.

use super::codec::{Codec, Decode, field, read_f16};
use crate::gguf::GgmlType;

const WEIGHTS: usize = 256;
const SCALES: usize = 0;
const QUANTS: usize = 16;
const SCALE: usize = 80;
const MINIMUM: usize = 82;
const BYTES: usize = MINIMUM + 2;

pub(super) const CODEC: Codec = Codec::read_only::<Q2K, WEIGHTS, BYTES>();

struct Q2K;

impl Decode<WEIGHTS, BYTES> for Q2K {
    const TYPE: GgmlType = GgmlType::Q2_K;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let super_scale = read_f16(block, SCALE);
        let super_minimum = read_f16(block, MINIMUM);
        let (outputs, _) = weights.as_chunks_mut::<16>();
        for (b, output) in outputs.iter_mut().enumerate() {
            let packed = block[SCALES + b];
            let scale = super_scale * f32::from(packed & 0x0f);
            let minimum = super_minimum * f32::from(packed >> 4);
            let (half, shift) = (b / 8, 2 * (b % 8 / 2));
            let bytes = *field::<16>(block, QUANTS + 32 * half + 16 * (b % 2));
            for (weight, byte) in output.iter_mut().zip(bytes) {
                *weight = scale * f32::from((byte >> shift) & 3) - minimum;
            }
        }
    }
}
