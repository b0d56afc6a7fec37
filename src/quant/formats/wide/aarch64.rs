//! NEON, which every 64-bit ARM processor has.

use std::arch::aarch64::*;

use super::{HALF, WEIGHTS, Wide, at_most, first_extreme, pack_nibbles, with_first_zeros};
use crate::quant::formats::arithmetic;

/// Eight NEON registers.
#[derive(Clone, Copy)]
pub(in super::super) struct WideNeon([float32x4_t; 8]);

/// The low bytes of 32 whole numbers in order.
#[inline(always)]
fn low_bytes(numbers: [uint32x4_t; 8]) -> [u8; WEIGHTS] {
    let mut bytes = [0; WEIGHTS];
    for (bytes, four) in bytes.as_chunks_mut::<16>().0.iter_mut().zip(numbers.as_chunks::<4>().0) {
        // SAFETY: NEON is part of the architecture; what is stored is as long as the array.
        unsafe {
            let first = vcombine_u16(vmovn_u32(four[0]), vmovn_u32(four[1]));
            let second = vcombine_u16(vmovn_u32(four[2]), vmovn_u32(four[3]));
            vst1q_u8(bytes.as_mut_ptr(), vcombine_u8(vmovn_u16(first), vmovn_u16(second)));
        }
    }
    bytes
}

/// The integer part, or 0 where [`arithmetic::truncate`] gives the smallest number: their low bytes are
/// the same.
#[inline(always)]
fn truncated(number: float32x4_t) -> uint32x4_t {
    // SAFETY: NEON is part of the architecture.
    unsafe {
        let fits = vcaltq_f32(number, vdupq_n_f32(2_147_483_648.0));
        vandq_u32(vreinterpretq_u32_s32(vcvtq_s32_f32(number)), fits)
    }
}

/// What one of eight registers becomes, for each. Not a closure's work, which may stay a function.
macro_rules! each {
    ($registers:expr, $register:ident => $result:expr) => {{
        let mut results = $registers;
        for result in &mut results {
            let $register = *result;
            *result = $result;
        }
        results
    }};
}

// SAFETY of the `unsafe` blocks below: NEON is part of the architecture; arrays have the length of
// what is loaded from or stored to them.
impl Wide for WideNeon {
    #[inline(always)]
    fn load(weights: &[f32; WEIGHTS]) -> Self {
        // SAFETY: see above.
        let mut registers = [unsafe { vdupq_n_f32(0.0) }; 8];
        for (register, four) in registers.iter_mut().zip(weights.as_chunks::<4>().0) {
            // SAFETY: see above.
            *register = unsafe { vld1q_f32(four.as_ptr()) };
        }
        Self(registers)
    }

    #[inline(always)]
    fn store(self, weights: &mut [f32; WEIGHTS]) {
        for (register, four) in self.0.iter().zip(weights.as_chunks_mut::<4>().0) {
            // SAFETY: see above.
            unsafe { vst1q_f32(four.as_mut_ptr(), *register) }
        }
    }

    #[inline(always)]
    fn from_bytes(bytes: &[u8; WEIGHTS]) -> Self {
        // SAFETY: see above.
        let mut registers = [unsafe { vdupq_n_f32(0.0) }; 8];
        for (registers, eight) in
            registers.as_chunks_mut::<2>().0.iter_mut().zip(bytes.as_chunks::<8>().0)
        {
            // SAFETY: see above.
            unsafe {
                let words = vmovl_u8(vld1_u8(eight.as_ptr()));
                registers[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(words)));
                registers[1] = vcvtq_f32_u32(vmovl_u16(vget_high_u16(words)));
            }
        }
        Self(registers)
    }

    #[inline(always)]
    fn from_signed_bytes(bytes: &[u8; WEIGHTS]) -> Self {
        // SAFETY: see above.
        let mut registers = [unsafe { vdupq_n_f32(0.0) }; 8];
        for (registers, eight) in
            registers.as_chunks_mut::<2>().0.iter_mut().zip(bytes.as_chunks::<8>().0)
        {
            // SAFETY: see above.
            unsafe {
                let words = vmovl_s8(vreinterpret_s8_u8(vld1_u8(eight.as_ptr())));
                registers[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
                registers[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(words)));
            }
        }
        Self(registers)
    }

    // The conversions of halves are those of the array, which vectorize.

    #[inline(always)]
    fn from_f16s(bytes: &[u8; 2 * WEIGHTS]) -> Self {
        Self::load(&<[f32; WEIGHTS]>::from_f16s(bytes))
    }

    #[inline(always)]
    fn to_f16s(self, bytes: &mut [u8; 2 * WEIGHTS]) {
        self.array().to_f16s(bytes);
    }

    #[inline(always)]
    fn from_bf16s(bytes: &[u8; 2 * WEIGHTS]) -> Self {
        Self::load(&<[f32; WEIGHTS]>::from_bf16s(bytes))
    }

    #[inline(always)]
    fn to_bf16s(self, bytes: &mut [u8; 2 * WEIGHTS]) {
        self.array().to_bf16s(bytes);
    }

    #[inline(always)]
    fn from_f16(bits: u16) -> f32 {
        <[f32; WEIGHTS]>::from_f16(bits)
    }

    #[inline(always)]
    fn to_f16(value: f32) -> u16 {
        <[f32; WEIGHTS]>::to_f16(value)
    }

    #[inline(always)]
    fn add(self, number: f32) -> Self {
        // SAFETY: see above.
        Self(each!(self.0, r => unsafe { vaddq_f32(r, vdupq_n_f32(number)) }))
    }

    #[inline(always)]
    fn sub(self, number: f32) -> Self {
        // SAFETY: see above.
        Self(each!(self.0, r => unsafe { vsubq_f32(r, vdupq_n_f32(number)) }))
    }

    #[inline(always)]
    fn mul(self, number: f32) -> Self {
        // SAFETY: see above.
        Self(each!(self.0, r => unsafe { vmulq_f32(r, vdupq_n_f32(number)) }))
    }

    #[inline(always)]
    fn largest_magnitude(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let mut largest = vdupq_n_u32(0);
            for register in self.0 {
                largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(register)));
            }
            f32::from_bits(vmaxvq_u32(largest))
        }
    }

    #[inline(always)]
    fn extreme(self) -> f32 {
        let largest = self.largest_magnitude();
        if largest == 0.0 {
            return 0.0;
        }
        // SAFETY: see above.
        let (positive, negative) = unsafe {
            let (mut positive, mut negative) = (vdupq_n_u32(0), vdupq_n_u32(0));
            for register in self.0 {
                let bits = vreinterpretq_u32_f32(register);
                let wanted = vdupq_n_u32(largest.to_bits());
                positive = vorrq_u32(positive, vceqq_u32(bits, wanted));
                negative = vorrq_u32(negative, vceqq_u32(bits, vdupq_n_u32((-largest).to_bits())));
            }
            (vmaxvq_u32(positive) != 0, vmaxvq_u32(negative) != 0)
        };
        match (positive, negative) {
            (true, false) => largest,
            (false, true) => -largest,
            _ => first_extreme(self),
        }
    }

    #[inline(always)]
    fn range(self) -> (f32, f32) {
        // SAFETY: see above.
        let range = unsafe {
            let (mut smallest, mut largest) = (self.0[0], self.0[0]);
            for register in &self.0[1..] {
                smallest = vminq_f32(smallest, *register);
                largest = vmaxq_f32(largest, *register);
            }
            (vminvq_f32(smallest), vmaxvq_f32(largest))
        };
        if range.0 != 0.0 && range.1 != 0.0 { range } else { with_first_zeros(self) }
    }

    #[inline(always)]
    fn truncated(self) -> [u8; WEIGHTS] {
        // SAFETY: see above.
        let mut numbers = [unsafe { vdupq_n_u32(0) }; 8];
        for (number, register) in numbers.iter_mut().zip(self.0) {
            *number = truncated(register);
        }
        low_bytes(numbers)
    }

    #[inline(always)]
    fn truncated_nibbles(self) -> [u8; HALF] {
        let mut nibbles = [0; HALF];
        pack_nibbles(&at_most::<15>(self.truncated()), &mut nibbles);
        nibbles
    }

    #[inline(always)]
    fn rounded_half_away(self) -> [u8; WEIGHTS] {
        // SAFETY: see above.
        let raised = each!(self.0, r => unsafe {
            let half = vdupq_n_f32(arithmetic::JUST_BELOW_HALF);
            vaddq_f32(r, vbslq_f32(vdupq_n_u32(1 << 31), r, half))
        });
        Self(raised).truncated()
    }

    #[inline(always)]
    fn limits_passed<const N: usize>(self, limits: &[f32; N]) -> [u8; WEIGHTS] {
        // SAFETY: see above.
        let mut passed = [unsafe { vdupq_n_u32(0) }; 8];
        for (passed, register) in passed.iter_mut().zip(self.0) {
            for limit in limits {
                // SAFETY: see above.
                unsafe {
                    let less = vcltq_f32(vdupq_n_f32(*limit), vabsq_f32(register));
                    *passed = vsubq_u32(*passed, less);
                }
            }
        }
        low_bytes(passed)
    }

    #[inline(always)]
    fn negative(self) -> u32 {
        // SAFETY: see above.
        let mut less = [unsafe { vdupq_n_u32(0) }; 8];
        for (less, register) in less.iter_mut().zip(self.0) {
            // SAFETY: see above.
            *less = unsafe { vcltzq_f32(register) };
        }
        Self::gather_bits::<0>(&low_bytes(less))
    }

    #[inline(always)]
    fn look_up(table: &[i8; 16], quants: &[u8; WEIGHTS]) -> [u8; WEIGHTS] {
        let mut found = [0; WEIGHTS];
        for (found, quants) in
            found.as_chunks_mut::<16>().0.iter_mut().zip(quants.as_chunks::<16>().0)
        {
            // SAFETY: see above.
            unsafe {
                let table = vreinterpretq_u8_s8(vld1q_s8(table.as_ptr()));
                vst1q_u8(found.as_mut_ptr(), vqtbl1q_u8(table, vld1q_u8(quants.as_ptr())));
            }
        }
        found
    }

    #[inline(always)]
    fn gather_bits<const BIT: u8>(bytes: &[u8; WEIGHTS]) -> u32 {
        const PLACES: [u8; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
        let mut bits = [0; 4];
        for (bits, eight) in bits.iter_mut().zip(bytes.as_chunks::<8>().0) {
            // SAFETY: see above.
            *bits = unsafe {
                let has_it = vtst_u8(vld1_u8(eight.as_ptr()), vdup_n_u8(1 << BIT));
                vaddv_u8(vand_u8(has_it, vld1_u8(PLACES.as_ptr())))
            };
        }
        u32::from_le_bytes(bits)
    }

    #[inline(always)]
    fn scatter_bits<const BIT: u8>(bits: u32) -> [u8; WEIGHTS] {
        const PLACES: [u8; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
        let mut bytes = [0; WEIGHTS];
        for (eight, bits) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(bits.to_le_bytes()) {
            // SAFETY: see above.
            unsafe {
                let has_it = vtst_u8(vdup_n_u8(bits), vld1_u8(PLACES.as_ptr()));
                vst1_u8(eight.as_mut_ptr(), vand_u8(has_it, vdup_n_u8(1 << BIT)));
            }
        }
        bytes
    }
}

impl WideNeon {
    #[inline(always)]
    fn array(self) -> [f32; WEIGHTS] {
        let mut weights = [0.0; WEIGHTS];
        self.store(&mut weights);
        weights
    }
}
