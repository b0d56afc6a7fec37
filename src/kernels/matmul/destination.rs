//! Where the results of a product go.

use std::ops::Range;

use crate::kernels::shared::Shared;

/// Where a product goes.
#[derive(Debug)]
pub struct Target<'a> {
    /// `tokens × rows`, row-major.
    pub values: &'a mut [f32],
    /// Added to every token's product, an element a row of the matrix.
    pub bias: Option<&'a [f32]>,
    /// Whether the product is added to what the values are, rather than taking their place.
    pub add: bool,
}

impl<'a> Target<'a> {
    /// The product takes the place of the values.
    pub fn new(values: &'a mut [f32]) -> Self {
        Self { values, bias: None, add: false }
    }
}

/// A target that several threads write to.
pub(super) struct Output<'a> {
    values: Shared<'a, f32>,
    rows: usize,
    bias: Option<&'a [f32]>,
    add: bool,
}

impl<'a> Output<'a> {
    /// The target of a matrix of so many rows.
    pub(super) fn new(target: &'a mut Target<'_>, rows: usize) -> Self {
        let Target { values, bias, add } = target;
        Self { values: Shared::of(values), rows, bias: *bias, add: *add }
    }
}

/// What one task fills of an output at a time: some rows of its tokens.
#[derive(Clone, Copy)]
pub(super) struct Destination<'a> {
    output: &'a Output<'a>,
    first_token: usize,
    first_row: usize,
    rows: usize,
}

impl<'a> Destination<'a> {
    /// Rows `rows` (those that there are) of the tokens from `first_token` on.
    ///
    /// # Safety
    /// No other task has these rows of these tokens.
    pub(super) unsafe fn new(
        output: &'a Output<'a>,
        first_token: usize,
        rows: Range<usize>,
    ) -> Self {
        let rows = rows.start..rows.end.min(output.rows);
        Self { output, first_token, first_row: rows.start, rows: rows.len() }
    }

    /// Puts the sums of some tokens, `stride` apart, where they belong; the first token is the
    /// `token`th of the destination.
    #[inline(always)]
    pub(super) fn put(&self, token: usize, sums: &[f32], stride: usize) {
        let Output { values, rows, bias, add } = self.output;
        let bias = bias.map(|bias| &bias[self.first_row..self.first_row + self.rows]);
        for (index, sums) in sums.chunks_exact(stride).enumerate() {
            let at = (self.first_token + token + index) * rows + self.first_row;
            // SAFETY: no other task has these, as `new` was promised.
            let values = unsafe { values.slice(at..at + self.rows) };
            // Whole panels are a few registers, not a loop.
            if let (Some(values), Some(sums)) = (values.as_mut_array::<32>(), sums.as_array()) {
                put::<32>(values, sums, bias, *add);
            } else if let (Some(values), Some(sums)) =
                (values.as_mut_array::<16>(), sums.as_array())
            {
                put::<16>(values, sums, bias, *add);
            } else if let (Some(values), Some(sums)) =
                (values.as_mut_array::<64>(), sums.as_array())
            {
                put::<64>(values, sums, bias, *add);
            } else {
                put_some(values, sums, bias, *add);
            }
        }
    }
}

#[inline(always)]
fn put<const COUNT: usize>(
    values: &mut [f32; COUNT],
    sums: &[f32; COUNT],
    bias: Option<&[f32]>,
    add: bool,
) {
    put_some(values, sums, bias, add);
}

/// `values = sums + bias`, on top of what they were if `add`.
#[inline(always)]
fn put_some(values: &mut [f32], sums: &[f32], bias: Option<&[f32]>, add: bool) {
    match (bias, add) {
        (None, false) => values.copy_from_slice(&sums[..values.len()]),
        (None, true) => {
            for (value, sum) in values.iter_mut().zip(sums) {
                *value += sum;
            }
        }
        (Some(bias), false) => {
            for ((value, sum), bias) in values.iter_mut().zip(sums).zip(bias) {
                *value = sum + bias;
            }
        }
        (Some(bias), true) => {
            for ((value, sum), bias) in values.iter_mut().zip(sums).zip(bias) {
                *value += sum + bias;
            }
        }
    }
}
