//! NEON, which every 64-bit ARM processor has.

use std::arch::aarch64::*;

use super::super::arithmetic::{BIAS, KEPT, MAGIC};
use super::Lanes;

/// Four lanes in a NEON register.
#[derive(Clone, Copy)]
pub(in super::super) struct Neon(float32x4_t);

impl Neon {
    #[inline(always)]
    fn nearest(self) -> int32x4_t {
        // SAFETY: see below.
        unsafe {
            let bits = vreinterpretq_s32_f32(vaddq_f32(self.0, vdupq_n_f32(MAGIC)));
            vsubq_s32(vandq_s32(bits, vdupq_n_s32(KEPT)), vdupq_n_s32(BIAS))
        }
    }
}

// SAFETY of the `unsafe` blocks below: NEON is part of the architecture; loads and stores stay within
// slices whose length is checked.
impl Lanes for Neon {
    const COUNT: usize = 4;
    type Mask = uint32x4_t;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        let values = &values[..4];
        // SAFETY: see above.
        Self(unsafe { vld1q_f32(values.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        let values = &mut values[..4];
        // SAFETY: see above.
        unsafe { vst1q_f32(values.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vsubq_f32(self.0, other.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vmulq_f32(self.0, other.0) })
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vdivq_f32(self.0, other.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vsqrtq_f32(self.0) })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vabsq_f32(self.0) })
    }

    #[inline(always)]
    fn round_clamped<const LOW: i32, const HIGH: i32>(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let clamped = vmaxq_s32(self.nearest(), vdupq_n_s32(LOW));
            vcvtq_f32_s32(vminq_s32(clamped, vdupq_n_s32(HIGH)))
        })
    }

    #[inline(always)]
    fn round_near<const LOW: i32, const HIGH: i32>(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            // Clamping before the magic number is taken off needs no conversion.
            let moved = vaddq_f32(self.0, vdupq_n_f32(MAGIC));
            let moved = vmaxq_f32(moved, vdupq_n_f32(MAGIC + LOW as f32));
            let moved = vminq_f32(moved, vdupq_n_f32(MAGIC + HIGH as f32));
            vsubq_f32(moved, vdupq_n_f32(MAGIC))
        })
    }

    #[inline(always)]
    fn round_to_byte(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vcvtq_f32_s32(vandq_s32(self.nearest(), vdupq_n_s32(0xff))) })
    }

    #[inline(always)]
    fn less(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        unsafe { vcltq_f32(self.0, other.0) }
    }

    #[inline(always)]
    fn differs(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        unsafe { vmvnq_u32(vceqq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    fn both(left: Self::Mask, right: Self::Mask) -> Self::Mask {
        // SAFETY: see above.
        unsafe { vandq_u32(left, right) }
    }

    #[inline(always)]
    fn bits(mask: Self::Mask) -> u64 {
        const BITS: [u32; 4] = [1, 2, 4, 8];
        // SAFETY: see above; four numbers are read from the array of four.
        u64::from(unsafe { vaddvq_u32(vandq_u32(mask, vld1q_u32(BITS.as_ptr()))) })
    }

    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        // SAFETY: see above.
        unsafe { vmaxvq_u32(mask) != 0 }
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vbslq_f32(mask, yes.0, no.0) })
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &mut [u8]) {
        let bytes: &mut [u8; 4] = (&mut bytes[..4]).try_into().expect("four bytes");
        // SAFETY: see above.
        let low_bytes = unsafe {
            let words = vmovn_u32(vcvtq_u32_f32(self.0));
            vreinterpret_u32_u8(vmovn_u16(vcombine_u16(words, words)))
        };
        // SAFETY: see above.
        *bytes = unsafe { vget_lane_u32::<0>(low_bytes) }.to_le_bytes();
    }

    #[inline(always)]
    fn transpose<const N: usize>(values: &[f32], stride: usize) -> [Self; N] {
        const { assert!(N.is_multiple_of(4)) };
        let mut columns = [Self::splat(0.0); N];
        for (tile, columns) in columns.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let row = |l: usize| Self::load(&values[l * stride + 4 * tile..]).0;
            // SAFETY: see above.
            *columns = unsafe {
                // Pairs of rows interleaved, then pairs of pairs.
                let (ab, cd) = (vtrnq_f32(row(0), row(1)), vtrnq_f32(row(2), row(3)));
                let halves = |first, second| {
                    let low = vcombine_f32(vget_low_f32(first), vget_low_f32(second));
                    (low, vcombine_f32(vget_high_f32(first), vget_high_f32(second)))
                };
                let (first, third) = halves(ab.0, cd.0);
                let (second, fourth) = halves(ab.1, cd.1);
                [Self(first), Self(second), Self(third), Self(fourth)]
            };
        }
        columns
    }
}
