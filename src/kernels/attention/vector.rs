//! The few vector operations that the attention kernels are written in, once for every
//! instruction set.

use super::store::TILE;

/// What a row's and block's integer weights may sum up to. With values of 16 bits, their products' sum
/// stays below 2³¹, even if every weight is rounded up.
pub(super) const WEIGHT_SUM: f32 = 65_450.0;

/// The largest integer weight.
pub(super) const WEIGHT_LIMIT: f32 = 32_767.0;

/// Integer weights are never finer than this, so that weights of nothing have a step, too.
pub(super) const SMALLEST_STEP: f32 = 1e-36;

/// f32 lanes of one register, and what goes with them: sums in 32-bit integers, and pairs of 16-bit
/// integers, one a lane.
///
/// # Safety
/// Every function needs the implementor's instruction set, and pointers that are readable (or
/// writable) for as many elements as the function names. All of them inline into a caller that
/// was compiled for the instruction set.
pub(super) trait Vector: Copy {
    /// f32 values in a register; divides [`super::store::TILE`].
    const LANES: usize;

    /// One pair of 16-bit integers a lane.
    type Pairs: Copy;
    /// One 32-bit integer a lane.
    type Sums: Copy;

    /// The same value in each lane.
    unsafe fn splat(value: f32) -> Self;
    /// `LANES` values.
    unsafe fn load(source: *const f32) -> Self;
    /// Writes `LANES` values.
    unsafe fn store(self, target: *mut f32);
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`.
    unsafe fn subtract(self, other: Self) -> Self;
    /// `self * other`.
    unsafe fn multiply(self, other: Self) -> Self;
    /// `self / other`.
    unsafe fn divide(self, other: Self) -> Self;
    /// `self * other + addend`, rounded once.
    unsafe fn multiply_add(self, other: Self, addend: Self) -> Self;
    /// `self * other - subtrahend`, rounded once.
    unsafe fn multiply_subtract(self, other: Self, subtrahend: Self) -> Self;
    /// The larger of each pair of lanes; `other`'s where one is NaN.
    unsafe fn larger(self, other: Self) -> Self;
    /// The smaller of each pair of lanes; `other`'s where one is NaN.
    unsafe fn smaller(self, other: Self) -> Self;
    /// The largest lane.
    unsafe fn largest(self) -> f32;
    /// Keeps the lanes whose first position (one of `LANES` at `firsts`) is not above `position` and
    /// whose end is; the others become -∞.
    unsafe fn keep_if_seen(self, firsts: *const i32, ends: *const i32, position: i32) -> Self;
    /// Keeps the lanes `first..end`; the others become -∞. Both may lie outside the register.
    unsafe fn keep_lanes(self, first: i32, end: i32) -> Self;
    /// 2^self for lanes up to 127, to 4e-6 of its value; 0 below 2^-126; NaN stays NaN.
    unsafe fn exp2(self) -> Self;
    /// `target[column][row] = source[row][column]` for `LANES` rows and columns; the strides are
    /// those between rows of either.
    unsafe fn transpose(
        source: *const f32,
        source_stride: usize,
        target: *mut f32,
        target_stride: usize,
    );

    /// The sum of the lanes, in the order of [`fold_halves`].
    #[inline(always)]
    unsafe fn total(self) -> f32 {
        let mut lanes = [0.0; TILE];
        // SAFETY: no register has more lanes than a tile has positions.
        unsafe { self.store(lanes.as_mut_ptr()) };
        fold_halves(&mut lanes[..Self::LANES], |one, other| one + other)
    }

    /// `cap · tanh(self / cap)` of natural scores, where both sides are exponents of two.
    #[inline(always)]
    unsafe fn soft_cap(self, cap: f32) -> Self {
        // SAFETY: the caller's.
        unsafe {
            // tanh x = 1 - 2 / (1 + e^2x), and self / cap is log₂ e · x.
            let power = Self::splat(126.0).smaller(self.multiply(Self::splat(2.0 / cap))).exp2();
            let quotient = Self::splat(2.0).divide(power.add(Self::splat(1.0)));
            Self::splat(1.0)
                .subtract(quotient)
                .multiply(Self::splat(cap * std::f32::consts::LOG2_E))
        }
    }

    /// The step between a block's integer weights, whose sum and largest are given as f32.
    #[inline(always)]
    unsafe fn weight_step(sum: Self, peak: Self) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let by_peak = peak.multiply(Self::splat(1.0 / WEIGHT_LIMIT));
            let step = by_peak.larger(sum.multiply(Self::splat(1.0 / WEIGHT_SUM)));
            Self::splat(SMALLEST_STEP).larger(step)
        }
    }

    /// `LANES` zero pairs.
    unsafe fn no_pairs() -> Self::Pairs;
    /// `LANES` zeros.
    unsafe fn no_sums() -> Self::Sums;
    /// `LANES` pairs.
    unsafe fn load_pairs(source: *const i16) -> Self::Pairs;
    /// The same pair in each lane.
    unsafe fn splat_pair(source: *const i16) -> Self::Pairs;
    /// Adds to each lane both products of its pairs.
    unsafe fn add_products(sums: Self::Sums, left: Self::Pairs, right: Self::Pairs) -> Self::Sums;
    /// The sums as f32.
    unsafe fn from_sums(sums: Self::Sums) -> Self;
    /// Rounds to 16 bits what lies between ±32767 and writes `LANES` pairs, of which `self` has the
    /// first numbers and `second` the second ones. NaN becomes anything.
    unsafe fn store_pairs(self, second: Self, target: *mut i16);
    /// Rounds to 16 bits what lies between ±32767 and writes `LANES` integers. NaN becomes anything.
    unsafe fn store_rounded(self, target: *mut i16);
    /// Widens `LANES` pairs of 8-bit integers to 16 bits.
    unsafe fn widen(source: *const i8, target: *mut i16);
}

/// Adds up values, a power of two of them: the upper half is added to the lower one until one value is
/// left. All kernels sum over keys in this order, so that their results have the same bits.
#[inline(always)]
pub(super) fn fold_halves<T: Copy>(values: &mut [T], add: impl Fn(T, T) -> T) -> T {
    let mut half = values.len() / 2;
    while half > 0 {
        for index in 0..half {
            values[index] = add(values[index], values[index + half]);
        }
        half /= 2;
    }
    values[0]
}

/// Coefficients, lowest first, of the polynomial of degree 4 that is 1 at 0, so that sums that need
/// not shrink keep their bits, and whose largest relative distance from 2^x over [-0.5, 0.5] is then
/// least (2.9e-6): weights are rounded to 16 bits anyway.
pub(super) const EXP2: [f32; 5] = [1.0, 0.693_124_2, 0.240_240_99, 0.055_906_4, 0.009_582_83];

/// Results of 2^x below 2^this are flushed to zero.
pub(super) const EXP2_FLOOR: f32 = -126.0;

#[cfg(test)]
pub(super) mod tests {
    use super::Vector;

    /// Compares [`Vector::exp2`] with the exact power.
    ///
    /// # Safety
    /// `V`'s instruction set.
    #[inline(always)]
    pub(in super::super) unsafe fn check_exp2<V: Vector>() {
        let power = |exponent: f32| {
            let mut lanes = [0.0; 16];
            // SAFETY: no register has more than 16 lanes.
            unsafe { V::splat(exponent).exp2().store(lanes.as_mut_ptr()) };
            lanes[V::LANES - 1]
        };
        for step in 0..=400_000 {
            let exponent = (step as f32 * (-126.0 / 400_000.0)).max(-126.0);
            let expected = f64::from(exponent).exp2();
            let error = (f64::from(power(exponent)) / expected - 1.0).abs();
            assert!(error < 4.5e-6, "2^{exponent} is off by {error}");
        }
        for exponent in [-126.1, -1e4, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(power(exponent), 0.0, "2^{exponent}");
        }
        assert_eq!(power(0.0), 1.0);
        assert!(power(f32::NAN).is_nan());
    }
}
