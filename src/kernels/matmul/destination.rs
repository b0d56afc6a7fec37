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
    /// What becomes of the values.
    pub update: Update,
}

impl<'a> Target<'a> {
    /// The product takes the place of the values.
    pub fn new(values: &'a mut [f32]) -> Self {
        Self { values, bias: None, update: Update::Replace }
    }
}

/// What a product does to the values of its target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update {
    /// It takes their place.
    Replace,
    /// It is added to them, its bias included, times this factor.
    Add(f32),
}

/// A target that several threads write to.
pub(super) struct Output<'a> {
    values: Shared<'a, f32>,
    rows: usize,
    bias: Option<&'a [f32]>,
    update: Update,
}

impl<'a> Output<'a> {
    /// The target of a matrix with `rows` rows.
    pub(super) fn new(target: &'a mut Target<'_>, rows: usize) -> Self {
        let Target { values, bias, update } = target;
        Self { values: Shared::of(values), rows, bias: *bias, update: *update }
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
        let Output { values, rows, bias, update } = self.output;
        let bias = bias.map(|bias| &bias[self.first_row..self.first_row + self.rows]);
        for (index, sums) in sums.chunks_exact(stride).enumerate() {
            let at = (self.first_token + token + index) * rows + self.first_row;
            // SAFETY: no other task has these, as `new` was promised.
            let values = unsafe { values.slice(at..at + self.rows) };
            // Whole panels are a few registers, not a loop.
            if let (Some(values), Some(sums)) = (values.as_mut_array::<32>(), sums.first_chunk()) {
                put::<32>(values, sums, bias, *update);
            } else if let (Some(values), Some(sums)) =
                (values.as_mut_array::<16>(), sums.first_chunk())
            {
                put::<16>(values, sums, bias, *update);
            } else if let (Some(values), Some(sums)) =
                (values.as_mut_array::<64>(), sums.first_chunk())
            {
                put::<64>(values, sums, bias, *update);
            } else {
                put_some(values, sums, bias, *update);
            }
        }
    }
}

#[inline(always)]
fn put<const COUNT: usize>(
    values: &mut [f32; COUNT],
    sums: &[f32; COUNT],
    bias: Option<&[f32]>,
    update: Update,
) {
    put_some(values, sums, bias, update);
}

/// `values = sums + bias`, or that times a factor on top of what they were.
#[inline(always)]
fn put_some(values: &mut [f32], sums: &[f32], bias: Option<&[f32]>, update: Update) {
    match (bias, update) {
        (None, Update::Replace) => values.copy_from_slice(&sums[..values.len()]),
        (None, Update::Add(factor)) => {
            for (value, sum) in values.iter_mut().zip(sums) {
                *value += factor * sum;
            }
        }
        (Some(bias), Update::Replace) => {
            for ((value, sum), bias) in values.iter_mut().zip(sums).zip(bias) {
                *value = sum + bias;
            }
        }
        (Some(bias), Update::Add(factor)) => {
            for ((value, sum), bias) in values.iter_mut().zip(sums).zip(bias) {
                *value += factor * (sum + bias);
            }
        }
    }
}
