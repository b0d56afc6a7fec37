//! The loops in plain Rust.

use super::{Arithmetic, MultiplyAdd, MultiplyAddLoop, multiply_add_loop};

pub(super) fn multiply_add_loop(arithmetic: Arithmetic) -> MultiplyAddLoop {
    match arithmetic {
        Arithmetic::Int8 => multiply_add_loop!("plain Rust", Int8, 2 x 2),
        Arithmetic::Int16 => multiply_add_loop!("plain Rust", Int16, 2 x 2),
        Arithmetic::Float => multiply_add_loop!("plain Rust", Float, 2 x 4),
    }
}

pub(super) fn read(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum, &word| sum ^ u64::from_le_bytes(word))
}

/// 16 products in four sums.
pub(super) struct Int8;

impl MultiplyAdd for Int8 {
    type Operand = [i8; 16];
    type Sums = [i32; 4];
    const OPERATIONS: u64 = 32;

    #[inline(always)]
    unsafe fn zero() -> [i32; 4] {
        [0; 4]
    }

    #[inline(always)]
    unsafe fn load(source: *const u8) -> [i8; 16] {
        // SAFETY: the caller's pointers cover a register.
        unsafe { source.cast::<[i8; 16]>().read() }
    }

    #[inline(always)]
    unsafe fn add(mut sums: [i32; 4], left: [i8; 16], right: [i8; 16]) -> [i32; 4] {
        for i in 0..16 {
            sums[i % 4] = sums[i % 4].wrapping_add(i32::from(left[i]) * i32::from(right[i]));
        }
        sums
    }
}

/// Eight products in four sums.
pub(super) struct Int16;

impl MultiplyAdd for Int16 {
    type Operand = [i16; 8];
    type Sums = [i32; 4];
    const OPERATIONS: u64 = 16;

    #[inline(always)]
    unsafe fn zero() -> [i32; 4] {
        [0; 4]
    }

    #[inline(always)]
    unsafe fn load(source: *const u8) -> [i16; 8] {
        // SAFETY: the caller's pointers cover a register, which begins at a multiple of its size.
        unsafe { source.cast::<[i16; 8]>().read() }
    }

    #[inline(always)]
    unsafe fn add(mut sums: [i32; 4], left: [i16; 8], right: [i16; 8]) -> [i32; 4] {
        for i in 0..8 {
            sums[i / 2] = sums[i / 2].wrapping_add(i32::from(left[i]) * i32::from(right[i]));
        }
        sums
    }
}

/// Four products in four sums.
pub(super) struct Float;

impl MultiplyAdd for Float {
    type Operand = [f32; 4];
    type Sums = [f32; 4];
    const OPERATIONS: u64 = 8;

    #[inline(always)]
    unsafe fn zero() -> [f32; 4] {
        [0.0; 4]
    }

    #[inline(always)]
    unsafe fn load(source: *const u8) -> [f32; 4] {
        // SAFETY: the caller's pointers cover a register, which begins at a multiple of its size.
        unsafe { source.cast::<[f32; 4]>().read() }
    }

    #[inline(always)]
    unsafe fn add(mut sums: [f32; 4], left: [f32; 4], right: [f32; 4]) -> [f32; 4] {
        for i in 0..4 {
            sums[i] += left[i] * right[i];
        }
        sums
    }
}
