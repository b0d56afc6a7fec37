//! The loops with AVX2, AVX-VNNI, AVX-512 and its VNNI.

use std::arch::x86_64::*;

use super::{Arithmetic, MultiplyAdd, MultiplyAddLoop, multiply_add_loop, portable};
use crate::support::processor::InstructionSet;

/// How far ahead of what is read the next cache lines are asked for.
const PREFETCH_BYTES: usize = 4096;

pub(super) fn multiply_add_loop(
    set: InstructionSet,
    arithmetic: Arithmetic,
) -> Option<MultiplyAddLoop> {
    let dot_products = set.uses_dot_product();
    Some(match (set, arithmetic) {
        (InstructionSet::Avx512, Arithmetic::Int8) if dot_products => {
            multiply_add_loop!("VPDPBUSD, 512 bits", Vnni8, 4 x 3, "avx512f,avx512vnni")
        }
        (InstructionSet::Avx512, Arithmetic::Int16) if dot_products => {
            multiply_add_loop!("VPDPWSSD, 512 bits", Vnni16, 4 x 3, "avx512f,avx512vnni")
        }
        (InstructionSet::Avx512, Arithmetic::Int8) => {
            multiply_add_loop!("VPMADDUBSW, 512 bits", Wide8, 4 x 3, "avx512f,avx512bw")
        }
        (InstructionSet::Avx512, Arithmetic::Int16) => {
            multiply_add_loop!("VPMADDWD, 512 bits", Wide16, 4 x 3, "avx512f,avx512bw")
        }
        (InstructionSet::Avx512, Arithmetic::Float) => {
            multiply_add_loop!("VFMADD, 512 bits", WideFloat, 4 x 3, "avx512f")
        }
        (InstructionSet::Avx2, Arithmetic::Int8) if dot_products => {
            multiply_add_loop!("VPDPBUSD, 256 bits", AvxVnni8, 4 x 3, "avx2,avxvnni")
        }
        (InstructionSet::Avx2, Arithmetic::Int16) if dot_products => {
            multiply_add_loop!("VPDPWSSD, 256 bits", AvxVnni16, 4 x 3, "avx2,avxvnni")
        }
        (InstructionSet::Avx2, Arithmetic::Int8) => {
            multiply_add_loop!("VPMADDUBSW, 256 bits", Narrow8, 4 x 2, "avx2")
        }
        (InstructionSet::Avx2, Arithmetic::Int16) => {
            multiply_add_loop!("VPMADDWD, 256 bits", Narrow16, 4 x 2, "avx2")
        }
        (InstructionSet::Avx2, Arithmetic::Float) => {
            multiply_add_loop!("VFMADD, 256 bits", NarrowFloat, 4 x 3, "avx2,fma")
        }
        (InstructionSet::Scalar | InstructionSet::Neon, _) => return None,
    })
}

/// A type of multiply-adds: its register, its sums, the operations of a step, and what a step does.
macro_rules! multiply_add {
    ($name:ident: $register:ty, $sums:ty, $operations:literal operations,
     zero: $zero:expr, load: $load:ident,
     add($sum:ident, $left:ident, $right:ident): $add:expr) => {
        pub(super) struct $name;

        impl MultiplyAdd for $name {
            type Operand = $register;
            type Sums = $sums;
            const OPERATIONS: u64 = $operations;

            #[inline(always)]
            unsafe fn zero() -> $sums {
                // SAFETY: the caller has the instruction set.
                unsafe { $zero }
            }

            #[inline(always)]
            unsafe fn load(source: *const u8) -> $register {
                // SAFETY: the caller's pointers cover a register, and it has the instruction set.
                unsafe { $load(source.cast()) }
            }

            #[inline(always)]
            unsafe fn add($sum: $sums, $left: $register, $right: $register) -> $sums {
                // SAFETY: registers only; the caller has the instruction set.
                unsafe { $add }
            }
        }
    };
}

multiply_add! {
    Vnni8: __m512i, __m512i, 128 operations,
    zero: _mm512_setzero_si512(), load: _mm512_load_si512,
    add(sums, left, right): _mm512_dpbusd_epi32(sums, left, right)
}

multiply_add! {
    Vnni16: __m512i, __m512i, 64 operations,
    zero: _mm512_setzero_si512(), load: _mm512_load_si512,
    add(sums, left, right): _mm512_dpwssd_epi32(sums, left, right)
}

multiply_add! {
    Wide8: __m512i, __m512i, 128 operations,
    zero: _mm512_setzero_si512(), load: _mm512_load_si512,
    add(sums, left, right): {
        let pairs = _mm512_maddubs_epi16(left, right);
        _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
    }
}

multiply_add! {
    Wide16: __m512i, __m512i, 64 operations,
    zero: _mm512_setzero_si512(), load: _mm512_load_si512,
    add(sums, left, right): _mm512_add_epi32(sums, _mm512_madd_epi16(left, right))
}

multiply_add! {
    WideFloat: __m512, __m512, 32 operations,
    zero: _mm512_setzero_ps(), load: _mm512_load_ps,
    add(sums, left, right): _mm512_fmadd_ps(left, right, sums)
}

multiply_add! {
    AvxVnni8: __m256i, __m256i, 64 operations,
    zero: _mm256_setzero_si256(), load: _mm256_load_si256,
    add(sums, left, right): _mm256_dpbusd_avx_epi32(sums, left, right)
}

multiply_add! {
    AvxVnni16: __m256i, __m256i, 32 operations,
    zero: _mm256_setzero_si256(), load: _mm256_load_si256,
    add(sums, left, right): _mm256_dpwssd_avx_epi32(sums, left, right)
}

multiply_add! {
    Narrow8: __m256i, __m256i, 64 operations,
    zero: _mm256_setzero_si256(), load: _mm256_load_si256,
    add(sums, left, right): {
        let pairs = _mm256_maddubs_epi16(left, right);
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

multiply_add! {
    Narrow16: __m256i, __m256i, 32 operations,
    zero: _mm256_setzero_si256(), load: _mm256_load_si256,
    add(sums, left, right): _mm256_add_epi32(sums, _mm256_madd_epi16(left, right))
}

multiply_add! {
    NarrowFloat: __m256, __m256, 16 operations,
    zero: _mm256_setzero_ps(), load: _mm256_load_ps,
    add(sums, left, right): _mm256_fmadd_ps(left, right, sums)
}

/// [`super::read`] with 64-byte registers.
#[target_feature(enable = "avx512f")]
pub(super) fn read_avx512(bytes: &[u8]) -> u64 {
    const LINES: usize = 8;
    let (blocks, rest) = bytes.as_chunks::<{ 64 * LINES }>();
    let mut sums = [_mm512_setzero_si512(); LINES];
    for block in blocks {
        for (line, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a block has LINES registers; a prefetch may ask for any address.
            unsafe {
                let line = block.as_ptr().add(64 * line);
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(PREFETCH_BYTES).cast());
                *sum = _mm512_xor_si512(*sum, _mm512_loadu_si512(line.cast()));
            }
        }
    }
    let mut remains = [0u8; 64];
    let mut total = portable::read(rest);
    for sum in sums {
        // SAFETY: 64 bytes are one register.
        unsafe { _mm512_storeu_si512(remains.as_mut_ptr().cast(), sum) };
        total ^= portable::read(&remains);
    }
    total
}

/// [`super::read`] with 32-byte registers.
#[target_feature(enable = "avx2")]
pub(super) fn read_avx2(bytes: &[u8]) -> u64 {
    const HALF_LINES: usize = 8;
    let (blocks, rest) = bytes.as_chunks::<{ 32 * HALF_LINES }>();
    let mut sums = [_mm256_setzero_si256(); HALF_LINES];
    for block in blocks {
        for (half, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a block has HALF_LINES registers; a prefetch may ask for any address.
            unsafe {
                let half_line = block.as_ptr().add(32 * half);
                if half % 2 == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(half_line.wrapping_add(PREFETCH_BYTES).cast());
                }
                *sum = _mm256_xor_si256(*sum, _mm256_loadu_si256(half_line.cast()));
            }
        }
    }
    let mut remains = [0u8; 32];
    let mut total = portable::read(rest);
    for sum in sums {
        // SAFETY: 32 bytes are one register.
        unsafe { _mm256_storeu_si256(remains.as_mut_ptr().cast(), sum) };
        total ^= portable::read(&remains);
    }
    total
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::check;
    use super::*;

    /// The sum of a register's lanes.
    fn wide(sums: __m512i) -> f64 {
        let mut values = [0i32; 16];
        // SAFETY: 16 numbers are one register; the caller has checked the instruction set.
        unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), sums) };
        values.iter().map(|&value| f64::from(value)).sum()
    }

    /// Each kind that this machine has, given the product of two 16-bit operands.
    pub(in super::super) fn check_all(product16: f64) {
        let product8 = 63.0 * 63.0;
        let narrow = |sums| {
            let mut values = [0i32; 8];
            // SAFETY: eight numbers are one register; AVX2 is there where this is called.
            unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), sums) };
            values.iter().map(|&value| f64::from(value)).sum()
        };
        if InstructionSet::Avx2.available() {
            check::<Narrow8>(product8, narrow);
            check::<Narrow16>(product16, narrow);
        }
        if InstructionSet::Avx2.has_dot_product() {
            check::<AvxVnni8>(product8, narrow);
            check::<AvxVnni16>(product16, narrow);
        }
        if InstructionSet::Avx512.available() {
            check::<Wide8>(product8, wide);
            check::<Wide16>(product16, wide);
        }
        if InstructionSet::Avx512.has_dot_product() {
            check::<Vnni8>(product8, wide);
            check::<Vnni16>(product16, wide);
        }
    }
}
