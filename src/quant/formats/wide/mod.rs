//! Thirty-two weights in registers: what the formats without a search do with a block of them.
//!
//! An array of 32 f32 is [`Wide`] too: coding with it is the specification, which every processor
//! can follow and whose results the others give to the bit.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::WideNeon;
#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Wide256;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Wide512;

use super::arithmetic;
use super::fields;
use super::half_float::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

pub(super) const WEIGHTS: usize = 32;
pub(super) const HALF: usize = WEIGHTS / 2;

/// Thirty-two f32, finite for all but the conversions. Arithmetic is weight by weight and rounded as a scalar's.
pub(super) trait Wide: Copy {
    fn load(weights: &[f32; WEIGHTS]) -> Self;
    /// Whether none is NaN or infinite.
    #[inline(always)]
    fn is_finite(self) -> bool {
        self.largest_magnitude().is_finite()
    }
    fn store(self, weights: &mut [f32; WEIGHTS]);
    /// The whole numbers as floats.
    fn from_bytes(bytes: &[u8; WEIGHTS]) -> Self;
    /// The whole numbers, which have a sign, as floats.
    fn from_signed_bytes(bytes: &[u8; WEIGHTS]) -> Self;
    /// The values of f16s. NaNs may be any and become quiet ones.
    fn from_f16s(bytes: &[u8; 2 * WEIGHTS]) -> Self;
    /// The nearest f16s, ties to even; infinity from 65,520 on.
    fn to_f16s(self, bytes: &mut [u8; 2 * WEIGHTS]);
    /// The values of bf16s.
    fn from_bf16s(bytes: &[u8; 2 * WEIGHTS]) -> Self;
    /// The nearest bf16s of finite numbers, ties to even.
    fn to_bf16s(self, bytes: &mut [u8; 2 * WEIGHTS]);
    /// The value of one f16.
    fn from_f16(bits: u16) -> f32;
    /// The nearest f16, as [`Wide::to_f16s`].
    fn to_f16(value: f32) -> u16;
    /// Reads the f16 at byte `at` of a block.
    #[inline(always)]
    fn read_f16(block: &[u8], at: usize) -> f32 {
        Self::from_f16(u16::from_le_bytes(*fields::field::<2>(block, at)))
    }
    /// Writes the nearest f16 at byte `at` of a block.
    #[inline(always)]
    fn write_f16(block: &mut [u8], at: usize, value: f32) {
        *fields::field_mut::<2>(block, at) = Self::to_f16(value).to_le_bytes();
    }
    fn add(self, number: f32) -> Self;
    fn sub(self, number: f32) -> Self;
    fn mul(self, number: f32) -> Self;
    /// See [`arithmetic::largest_magnitude`].
    fn largest_magnitude(self) -> f32;
    /// See [`arithmetic::extreme`].
    fn extreme(self) -> f32;
    /// See [`arithmetic::range`].
    fn range(self) -> (f32, f32);
    /// The low bytes of [`arithmetic::truncate`].
    fn truncated(self) -> [u8; WEIGHTS];
    /// [`Wide::truncated`] cut to 15, two a byte as [`pack_nibbles`] has them, of numbers from 0 to 127
    /// or such as do not fit an i32.
    fn truncated_nibbles(self) -> [u8; HALF];
    /// The low bytes of [`arithmetic::round_half_away`].
    fn rounded_half_away(self) -> [u8; WEIGHTS];
    /// How many of the ascending limits are less than each weight's magnitude.
    fn limits_passed<const N: usize>(self, limits: &[f32; N]) -> [u8; WEIGHTS];
    /// Bit `j` says whether weight `j` is less than zero.
    fn negative(self) -> u32;
    /// Entry `quants[j]`, below 16, of a table.
    fn look_up(table: &[i8; 16], quants: &[u8; WEIGHTS]) -> [u8; WEIGHTS];
    /// Bit `j` from bit `BIT` of byte `j`.
    fn gather_bits<const BIT: u8>(bytes: &[u8; WEIGHTS]) -> u32;
    /// Bit `j` to bit `BIT` of byte `j`, which has no other.
    fn scatter_bits<const BIT: u8>(bits: u32) -> [u8; WEIGHTS];
}

impl Wide for [f32; WEIGHTS] {
    #[inline(always)]
    fn load(weights: &[f32; WEIGHTS]) -> Self {
        *weights
    }

    #[inline(always)]
    fn store(self, weights: &mut [f32; WEIGHTS]) {
        *weights = self;
    }

    #[inline(always)]
    fn from_bytes(bytes: &[u8; WEIGHTS]) -> Self {
        bytes.map(f32::from)
    }

    #[inline(always)]
    fn from_signed_bytes(bytes: &[u8; WEIGHTS]) -> Self {
        bytes.map(|byte| f32::from(byte as i8))
    }

    #[inline(always)]
    fn from_f16s(bytes: &[u8; 2 * WEIGHTS]) -> Self {
        let mut weights = [0.0; WEIGHTS];
        for (weight, bytes) in weights.iter_mut().zip(bytes.as_chunks().0) {
            *weight = f16_to_f32(u16::from_le_bytes(*bytes));
        }
        weights
    }

    #[inline(always)]
    fn to_f16s(self, bytes: &mut [u8; 2 * WEIGHTS]) {
        for (bytes, weight) in bytes.as_chunks_mut().0.iter_mut().zip(self) {
            *bytes = f32_to_f16(weight).to_le_bytes();
        }
    }

    #[inline(always)]
    fn from_bf16s(bytes: &[u8; 2 * WEIGHTS]) -> Self {
        let mut weights = [0.0; WEIGHTS];
        for (weight, bytes) in weights.iter_mut().zip(bytes.as_chunks().0) {
            *weight = bf16_to_f32(u16::from_le_bytes(*bytes));
        }
        weights
    }

    #[inline(always)]
    fn to_bf16s(self, bytes: &mut [u8; 2 * WEIGHTS]) {
        for (bytes, weight) in bytes.as_chunks_mut().0.iter_mut().zip(self) {
            *bytes = f32_to_bf16(weight).to_le_bytes();
        }
    }

    #[inline(always)]
    fn from_f16(bits: u16) -> f32 {
        f16_to_f32(bits)
    }

    #[inline(always)]
    fn to_f16(value: f32) -> u16 {
        f32_to_f16(value)
    }

    #[inline(always)]
    fn add(self, number: f32) -> Self {
        self.map(|weight| weight + number)
    }

    #[inline(always)]
    fn sub(self, number: f32) -> Self {
        self.map(|weight| weight - number)
    }

    #[inline(always)]
    fn mul(self, number: f32) -> Self {
        self.map(|weight| weight * number)
    }

    #[inline(always)]
    fn largest_magnitude(self) -> f32 {
        arithmetic::largest_magnitude(&self)
    }

    #[inline(always)]
    fn extreme(self) -> f32 {
        arithmetic::extreme(&self)
    }

    #[inline(always)]
    fn range(self) -> (f32, f32) {
        arithmetic::range(&self)
    }

    #[inline(always)]
    fn truncated(self) -> [u8; WEIGHTS] {
        self.map(|weight| arithmetic::truncate(weight) as u8)
    }

    #[inline(always)]
    fn truncated_nibbles(self) -> [u8; HALF] {
        let mut nibbles = [0; HALF];
        pack_nibbles(&at_most::<15>(self.truncated()), &mut nibbles);
        nibbles
    }

    #[inline(always)]
    fn rounded_half_away(self) -> [u8; WEIGHTS] {
        self.map(|weight| arithmetic::round_half_away(weight) as u8)
    }

    #[inline(always)]
    fn limits_passed<const N: usize>(self, limits: &[f32; N]) -> [u8; WEIGHTS] {
        self.map(|weight| {
            limits.iter().fold(0, |passed, &limit| passed + u8::from(limit < weight.abs()))
        })
    }

    #[inline(always)]
    fn negative(self) -> u32 {
        self.iter().enumerate().fold(0, |bits, (j, &weight)| bits | u32::from(weight < 0.0) << j)
    }

    #[inline(always)]
    fn look_up(table: &[i8; 16], quants: &[u8; WEIGHTS]) -> [u8; WEIGHTS] {
        quants.map(|quant| table[usize::from(quant)] as u8)
    }

    #[inline(always)]
    fn gather_bits<const BIT: u8>(bytes: &[u8; WEIGHTS]) -> u32 {
        let bit = |byte: u8| u32::from((byte >> BIT) & 1);
        bytes.iter().enumerate().fold(0, |bits, (j, &byte)| bits | bit(byte) << j)
    }

    #[inline(always)]
    fn scatter_bits<const BIT: u8>(bits: u32) -> [u8; WEIGHTS] {
        std::array::from_fn(|j| (((bits >> j) & 1) as u8) << BIT)
    }
}

/// What [`arithmetic::range`] says where the smallest or largest found is a zero: the first in order.
#[cold]
fn with_first_zeros<W: Wide>(weights: W) -> (f32, f32) {
    arithmetic::range(&stored(weights))
}

/// What [`arithmetic::extreme`] says where weights of both signs have the largest magnitude: the first in
/// order.
#[cold]
fn first_extreme<W: Wide>(weights: W) -> f32 {
    arithmetic::extreme(&stored(weights))
}

fn stored<W: Wide>(weights: W) -> [f32; WEIGHTS] {
    let mut array = [0.0; WEIGHTS];
    weights.store(&mut array);
    array
}

/// Numbers above `MOST`, which may have been negative, cut to it.
#[inline(always)]
pub(super) fn at_most<const MOST: i8>(mut quants: [u8; WEIGHTS]) -> [u8; WEIGHTS] {
    // A loop: what is called with a closure may stay a function of its own, which has not the
    // instruction set of its caller.
    for quant in &mut quants {
        *quant = (*quant as i8).min(MOST) as u8;
    }
    quants
}

/// Two numbers of four bits a byte: number `j` beside number `j + 16`.
#[inline(always)]
pub(super) fn pack_nibbles(quants: &[u8; WEIGHTS], pairs: &mut [u8; HALF]) {
    for (j, pair) in pairs.iter_mut().enumerate() {
        *pair = (quants[j] & 0x0f) | (quants[j + HALF] << 4);
    }
}

/// What [`pack_nibbles`] has packed.
#[inline(always)]
pub(super) fn unpack_nibbles(pairs: &[u8; HALF]) -> [u8; WEIGHTS] {
    let mut quants = [0; WEIGHTS];
    for (j, pair) in pairs.iter().enumerate() {
        quants[j] = pair & 0x0f;
        quants[j + HALF] = pair >> 4;
    }
    quants
}

#[cfg(test)]
mod tests;
