//! The few vector operations that the attention kernels are written in, once for every
//! instruction set.

/// f32 lanes of one register.
///
/// # Safety
/// Every function needs the implementor's instruction set, and pointers that are readable (or
/// writable) for as many elements as the function names. All of them inline into a caller that
/// was compiled for the instruction set.
pub(super) trait Vector: Copy {
    /// f32 values in a register.
    const LANES: usize;

    /// The same value in each lane.
    unsafe fn splat(value: f32) -> Self;
    /// `LANES` values.
    unsafe fn load(source: *const f32) -> Self;
    /// `LANES` integers as f32.
    unsafe fn load_short(source: *const i16) -> Self;
    /// Writes `LANES` values.
    unsafe fn store(self, target: *mut f32);
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`.
    unsafe fn subtract(self, other: Self) -> Self;
    /// `self * other`.
    unsafe fn multiply(self, other: Self) -> Self;
    /// `self * other + addend`, rounded once.
    unsafe fn multiply_add(self, other: Self, addend: Self) -> Self;
    /// The larger of each pair of lanes.
    unsafe fn larger(self, other: Self) -> Self;
    /// The largest lane.
    unsafe fn largest(self) -> f32;
    /// The sum of the lanes.
    unsafe fn total(self) -> f32;
    /// Keeps the lanes whose limit (one of `LANES` at `limits`) is above `position`; the others
    /// become -∞.
    unsafe fn hide_from(self, limits: *const i32, position: i32) -> Self;
    /// 2^self for lanes up to 127, to 2.5e-7 of its value; 0 below 2^-126; NaN stays NaN.
    unsafe fn exp2(self) -> Self;
    /// Dot products of `query` with `LANES` rows that lie `stride` apart. `columns` is a multiple
    /// of `LANES`.
    unsafe fn dot_rows(query: *const f32, rows: *const f32, stride: usize, columns: usize) -> Self;
    /// `target[column][row] = source[row][column]` for `LANES` rows and columns; the strides are
    /// those between rows of either.
    unsafe fn transpose(
        source: *const f32,
        source_stride: usize,
        target: *mut f32,
        target_stride: usize,
    );
}

/// Coefficients, lowest first, of the polynomial of degree 5 whose largest relative distance from
/// 2^x over [-0.5, 0.5] is least (7.5e-8).
pub(super) const EXP2: [f32; 6] =
    [1.000_000_1, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_542, 0.001_327_647_2];

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
            assert!(error < 2.5e-7, "2^{exponent} is off by {error}");
        }
        for exponent in [-126.1, -1e4, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(power(exponent), 0.0, "2^{exponent}");
        }
        assert!(power(f32::NAN).is_nan());
    }
}
