//! Several f32 side by side in registers, one block a lane, so that a search over a block is written
//! once and every lane does in order exactly what the scalar code does.
//!
//! A single f32 is a [`Lanes`] too, with one lane: searches run on it are the specification.

use super::arithmetic::nearest_int;
use super::uneven_grid::Grid;

/// The most lanes that a search runs on.
pub(super) const MOST_LANES: usize = 64;

/// What a lane-wise search needs. All operations are lane by lane and rounded as scalar ones are.
pub(super) trait Lanes: Copy {
    /// Number of lanes: a power of two, at most [`MOST_LANES`].
    const COUNT: usize;
    /// A truth value a lane.
    type Mask: Copy;

    /// The same value in every lane.
    fn splat(value: f32) -> Self;
    /// Lane `l` from `values[l]`; takes the first [`Lanes::COUNT`].
    fn load(values: &[f32]) -> Self;
    /// Lane `l` into `values[l]`.
    fn store(self, values: &mut [f32]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
    fn abs(self) -> Self;
    /// `nearest_int(self)` clamped to `[LOW, HIGH]`, as a float; for every value, NaN included.
    fn round_clamped<const LOW: i32, const HIGH: i32>(self) -> Self;
    /// The low byte of `nearest_int(self)`, as a float.
    fn round_to_byte(self) -> Self;
    /// `self < other`; false for NaN.
    fn less(self, other: Self) -> Self::Mask;
    /// `self != other`; true for NaN.
    fn differs(self, other: Self) -> Self::Mask;
    fn both(left: Self::Mask, right: Self::Mask) -> Self::Mask;
    /// Bit `l` is set where the mask is true in lane `l`.
    fn bits(mask: Self::Mask) -> u64;
    /// `yes` where the mask is true, else `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// Lane `l`, a whole number from 0 to 255, into `bytes[l]`.
    fn store_bytes(self, bytes: &mut [u8]);

    /// The grid's value nearest to each lane, the higher where two are; for lanes from -150 to 150.
    #[inline(always)]
    fn nearest_of(self, grid: &Grid) -> Self {
        let mut nearest = Self::splat(grid.values[15]);
        for (&value, &middle) in grid.values.iter().zip(&grid.middles).rev() {
            nearest = Self::select(self.less(Self::splat(middle)), Self::splat(value), nearest);
        }
        nearest
    }

    /// [`Lanes::round_clamped`] of values from `LOW - 4` to `HIGH + 4`; anything for others.
    #[inline(always)]
    fn round_near<const LOW: i32, const HIGH: i32>(self) -> Self {
        self.round_clamped::<LOW, HIGH>()
    }

    /// Whether the mask is true in any lane.
    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        Self::bits(mask) != 0
    }

    /// `self < other ? self : other`.
    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        Self::select(self.less(other), self, other)
    }

    /// `self > other ? self : other`.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        Self::select(other.less(self), self, other)
    }

    /// Lane `l` of vector `i` from `values[l * stride + i]`.
    #[inline(always)]
    fn transpose<const N: usize>(values: &[f32], stride: usize) -> [Self; N] {
        let mut columns = [Self::splat(0.0); N];
        for (i, column) in columns.iter_mut().enumerate() {
            let mut lanes = [0.0; MOST_LANES];
            for (l, lane) in lanes[..Self::COUNT].iter_mut().enumerate() {
                *lane = values[l * stride + i];
            }
            *column = Self::load(&lanes);
        }
        columns
    }
}

impl Lanes for f32 {
    const COUNT: usize = 1;
    type Mask = bool;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        values[0]
    }

    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        values[0] = self;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self - other
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self / other
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        f32::abs(self)
    }

    #[inline(always)]
    fn round_clamped<const LOW: i32, const HIGH: i32>(self) -> Self {
        nearest_int(self).clamp(LOW, HIGH) as f32
    }

    #[inline(always)]
    fn round_to_byte(self) -> Self {
        f32::from(nearest_int(self) as u8)
    }

    #[inline(always)]
    fn less(self, other: Self) -> bool {
        self < other
    }

    #[inline(always)]
    fn differs(self, other: Self) -> bool {
        self != other
    }

    #[inline(always)]
    fn both(left: bool, right: bool) -> bool {
        left & right
    }

    #[inline(always)]
    fn bits(mask: bool) -> u64 {
        u64::from(mask)
    }

    #[inline(always)]
    fn select(mask: bool, yes: Self, no: Self) -> Self {
        if mask { yes } else { no }
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &mut [u8]) {
        bytes[0] = self as u8;
    }
}

/// Two registers as one: their independent sums overlap in the processor's pipeline.
#[derive(Clone, Copy)]
pub(super) struct Pair<V>(V, V);

impl<V: Lanes> Lanes for Pair<V> {
    const COUNT: usize = 2 * V::COUNT;
    type Mask = (V::Mask, V::Mask);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(V::splat(value), V::splat(value))
    }

    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        Self(V::load(values), V::load(&values[V::COUNT..]))
    }

    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        self.0.store(values);
        self.1.store(&mut values[V::COUNT..]);
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0.add(other.0), self.1.add(other.1))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.0.sub(other.0), self.1.sub(other.1))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(self.0.mul(other.0), self.1.mul(other.1))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(self.0.div(other.0), self.1.div(other.1))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.sqrt(), self.1.sqrt())
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.abs(), self.1.abs())
    }

    #[inline(always)]
    fn round_clamped<const LOW: i32, const HIGH: i32>(self) -> Self {
        Self(self.0.round_clamped::<LOW, HIGH>(), self.1.round_clamped::<LOW, HIGH>())
    }

    #[inline(always)]
    fn round_near<const LOW: i32, const HIGH: i32>(self) -> Self {
        Self(self.0.round_near::<LOW, HIGH>(), self.1.round_near::<LOW, HIGH>())
    }

    #[inline(always)]
    fn round_to_byte(self) -> Self {
        Self(self.0.round_to_byte(), self.1.round_to_byte())
    }

    #[inline(always)]
    fn less(self, other: Self) -> Self::Mask {
        (self.0.less(other.0), self.1.less(other.1))
    }

    #[inline(always)]
    fn differs(self, other: Self) -> Self::Mask {
        (self.0.differs(other.0), self.1.differs(other.1))
    }

    #[inline(always)]
    fn both(left: Self::Mask, right: Self::Mask) -> Self::Mask {
        (V::both(left.0, right.0), V::both(left.1, right.1))
    }

    #[inline(always)]
    fn bits(mask: Self::Mask) -> u64 {
        V::bits(mask.0) | V::bits(mask.1) << V::COUNT
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Self(V::select(mask.0, yes.0, no.0), V::select(mask.1, yes.1, no.1))
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &mut [u8]) {
        self.0.store_bytes(bytes);
        self.1.store_bytes(&mut bytes[V::COUNT..]);
    }

    #[inline(always)]
    fn nearest_of(self, grid: &Grid) -> Self {
        Self(self.0.nearest_of(grid), self.1.nearest_of(grid))
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        Self(self.0.smaller(other.0), self.1.smaller(other.1))
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        Self(self.0.larger(other.0), self.1.larger(other.1))
    }

    #[inline(always)]
    fn transpose<const N: usize>(values: &[f32], stride: usize) -> [Self; N] {
        let first = V::transpose::<N>(values, stride);
        let second = V::transpose::<N>(&values[V::COUNT * stride..], stride);
        let mut columns = [Self::splat(0.0); N];
        for (i, column) in columns.iter_mut().enumerate() {
            *column = Self(first[i], second[i]);
        }
        columns
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::Neon;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{Avx2, Avx512};

#[cfg(test)]
mod tests;
