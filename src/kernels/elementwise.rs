//! Norms, activations, sums and rotations: everything that touches each activation once.
//!
//! The loops are written so that the compiler vectorises them, and are compiled once for each
//! instruction set; the widest that the machine has is picked at run time.

use super::dispatch::for_each_instruction_set;
use super::shared::Shared;
use crate::support::team::Team;

/// Rows of a matrix of activations; they may lie inside wider rows.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [f32],
    count: usize,
    width: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    /// `count` rows of `width` elements that begin `stride` elements apart.
    ///
    /// # Panics
    /// If a row would lie outside `data`.
    pub fn new(data: &'a [f32], count: usize, width: usize, stride: usize) -> Self {
        assert!(count == 0 || (count - 1) * stride + width <= data.len(), "a row lies outside");
        Self { data, count, width, stride }
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Elements in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row `index`.
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.width]
    }

    /// All rows as one slice, where nothing lies between them.
    pub fn contiguous(&self) -> Option<&'a [f32]> {
        let dense = self.stride == self.width || self.count <= 1;
        dense.then(|| &self.data[..self.count * self.width])
    }
}

/// Elements of all matrices below which a loop is over sooner than a second thread has begun.
const PARALLEL_FROM: usize = 1 << 12;

/// Tasks that each thread gets of a long loop: one that is held up leaves its own to the others.
const TASKS_A_THREAD: usize = 4;

/// Calls `action` with the index and the row of every matrix for each of `rows` rows, in parallel if
/// it is worth it. A matrix's rows are as wide as its length allows.
///
/// # Panics
/// If a matrix's length is no multiple of `rows`.
pub fn for_each_row<const MATRICES: usize>(
    team: &Team,
    rows: usize,
    matrices: [&mut [f32]; MATRICES],
    action: impl Fn(usize, [&mut [f32]; MATRICES]) + Sync,
) {
    if rows == 0 {
        return;
    }
    let elements: usize = matrices.iter().map(|matrix| matrix.len()).sum();
    let matrices = matrices.map(|matrix| {
        assert!(matrix.len().is_multiple_of(rows), "a matrix has whole rows");
        (matrix.len() / rows, Shared::of(matrix))
    });
    let row = |index: usize| {
        std::array::from_fn(|matrix| {
            let (width, shared) = &matrices[matrix];
            // SAFETY: each index is handed out once.
            unsafe { shared.slice(index * width..(index + 1) * width) }
        })
    };
    let tasks =
        if elements < PARALLEL_FROM { 1 } else { rows.min(TASKS_A_THREAD * team.threads()) };
    team.run(tasks, |task| {
        for index in task * rows / tasks..(task + 1) * rows / tasks {
            action(index, row(index));
        }
    });
}

for_each_instruction_set! {
    /// Root-mean-square norm of a row, times `weight`: `x / √(mean(x²) + ε) · w`.
    pub fn rms_norm_row(input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
        // Independent partial sums: the compiler may not reorder a single one.
        let mut sums = [0f32; 32];
        let (chunks, rest) = input.as_chunks::<32>();
        for chunk in chunks {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum += value * value;
            }
        }
        for (sum, value) in sums.iter_mut().zip(rest) {
            *sum += value * value;
        }
        let mean = sums.iter().sum::<f32>() / input.len() as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        for ((output, value), weight) in output.iter_mut().zip(input).zip(weight) {
            *output = value * scale * weight;
        }
    }
}

for_each_instruction_set! {
    /// The gated activation of SwiGLU: `gate · sigmoid(gate) · up`.
    pub fn silu_multiply_row(gate: &[f32], up: &[f32], output: &mut [f32]) {
        for ((output, &gate), up) in output.iter_mut().zip(gate).zip(up) {
            *output = gate / (1.0 + exponential(-gate)) * up;
        }
    }
}

/// `e^x` to within 2 units in the last place for x in −87…88, clamped outside.
///
/// Cody and Waite's reduction `x = n·ln 2 + r` and the Taylor polynomial of `e^r`, whose
/// remainder for |r| ≤ ln 2 / 2 is below 2⁻²⁵.
#[inline(always)]
fn exponential(x: f32) -> f32 {
    /// Adding 1.5·2²³ rounds to a whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut polynomial = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        polynomial = polynomial * r + coefficient;
    }
    // 2^n, its exponent taken from the low bits.
    polynomial * f32::from_bits((rounded.to_bits() << 23).wrapping_add(0x3F80_0000))
}

for_each_instruction_set! {
    /// Root-mean-square norm of each head of a row in place, times `weight`, which is as long as a
    /// head.
    pub fn norm_heads(row: &mut [f32], weight: &[f32], epsilon: f32) {
        for head in row.chunks_exact_mut(weight.len()) {
            let mut sums = [0f32; 16];
            for chunk in head.chunks(16) {
                for (sum, value) in sums.iter_mut().zip(chunk) {
                    *sum += value * value;
                }
            }
            let mean = sums.iter().sum::<f32>() / weight.len() as f32;
            let scale = 1.0 / (mean + epsilon).sqrt();
            for (value, weight) in head.iter_mut().zip(weight) {
                *value *= scale * weight;
            }
        }
    }
}

for_each_instruction_set! {
    /// Turns pairs of elements of each head of a row in place, by rotary position embedding: as
    /// many pairs as there are cosines and sines; the elements behind them stay. Elements i and
    /// i + pairs make a pair if `halves`, else elements 2i and 2i + 1.
    pub fn rotate_heads(
        row: &mut [f32],
        head_size: usize,
        halves: bool,
        cosines: &[f32],
        sines: &[f32]
    ) {
        let pairs = cosines.len();
        for head in row.chunks_exact_mut(head_size) {
            let turning = &mut head[..2 * pairs];
            let angles = cosines.iter().zip(sines);
            if halves {
                let (first, second) = turning.split_at_mut(pairs);
                for ((cosine, sine), (x, y)) in angles.zip(first.iter_mut().zip(second)) {
                    (*x, *y) = (*x * cosine - *y * sine, *x * sine + *y * cosine);
                }
            } else {
                for ((cosine, sine), pair) in angles.zip(turning.as_chunks_mut::<2>().0) {
                    let [x, y] = *pair;
                    *pair = [x * cosine - y * sine, x * sine + y * cosine];
                }
            }
        }
    }
}

/// Values that [`position_of_largest`] looks at together.
const GROUP: usize = 64;

for_each_instruction_set! {
    /// Where the largest value is, the first of equals; 0 if no value is above −∞. What is not a number
    /// does not count.
    pub fn position_of_largest(values: &[f32]) -> usize {
        let mut largest = [f32::NEG_INFINITY; GROUP];
        let (groups, rest) = values.as_chunks::<GROUP>();
        for group in groups {
            for (largest, &value) in largest.iter_mut().zip(group) {
                *largest = if value > *largest { value } else { *largest };
            }
        }
        let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |largest, &value| {
            if value > largest { value } else { largest }
        });
        if largest == f32::NEG_INFINITY {
            return 0;
        }
        let is_there = |group: &[f32; GROUP]| {
            group.iter().fold(false, |found, &value| found | (value == largest))
        };
        let start = groups.iter().position(is_there).unwrap_or(groups.len()) * GROUP;
        let within = values[start..].iter().position(|&value| value == largest);
        start + within.unwrap_or(0)
    }
}

for_each_instruction_set! {
    /// Whether there is a value that is not a number.
    pub fn has_nan(values: &[f32]) -> bool {
        // Without an early end, so that many values are looked at together.
        values.iter().fold(false, |found, value| found | value.is_nan())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|i| scale * (i as f32 * 0.37).sin()).collect()
    }

    #[test]
    fn the_exponential_is_right_to_a_few_units() {
        for step in -8700..=8800 {
            let x = step as f32 * 0.01;
            let expected = f64::from(x).exp();
            let error = (f64::from(exponential(x)) / expected - 1.0).abs();
            assert!(error < 3e-7, "e^{x}: off by {error:e}");
        }
        assert!(exponential(f32::NAN).is_nan());
    }

    #[test]
    fn every_row_of_every_matrix_is_handed_out_once() {
        let team = Team::new(3);
        for rows in [0, 1, 2, 7, 40, 1000] {
            let (mut wide, mut narrow) = (vec![0f32; 7 * rows], vec![0f32; 3 * rows]);
            for_each_row(&team, rows, [&mut wide, &mut narrow], |index, [wide, narrow]| {
                assert_eq!((wide.len(), narrow.len()), (7, 3));
                wide.iter_mut().chain(narrow).for_each(|value| *value += (index + 1) as f32);
            });
            let expected = |width: usize| -> Vec<f32> {
                (0..width * rows).map(|index| (index / width + 1) as f32).collect()
            };
            assert_eq!((wide, narrow), (expected(7), expected(3)));
        }
    }

    #[test]
    fn norms_and_activation_follow_their_formulas() {
        for width in [1, 31, 32, 100] {
            let (input, weight) = (wave(width, 3.0), wave(width, 1.0));
            let mut output = vec![0f32; width];
            rms_norm_row(&input, &weight, 1e-5, &mut output);
            let mut heads = [&input[..], &input[..]].concat();
            norm_heads(&mut heads, &weight, 1e-5);
            let mean = input.iter().map(|x| f64::from(x * x)).sum::<f64>() / width as f64;
            for index in 0..width {
                let expected =
                    f64::from(input[index]) / (mean + 1e-5).sqrt() * f64::from(weight[index]);
                for found in [output[index], heads[index], heads[width + index]] {
                    assert!((f64::from(found) - expected).abs() < 1e-5);
                }
            }
            silu_multiply_row(&input, &weight, &mut output);
            for index in 0..width {
                let x = f64::from(input[index]);
                let expected = x / (1.0 + (-x).exp()) * f64::from(weight[index]);
                assert!((f64::from(output[index]) - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn the_largest_is_found_wherever_it_is() {
        for length in [1, 2, 63, 64, 65, 300] {
            for place in 0..length {
                let mut values = wave(length, 2.0);
                values[place] = 3.0;
                values[length - 1] = 3.0;
                assert_eq!(position_of_largest(&values), place);
                assert!(!has_nan(&values));
                values[length / 2] = f32::NAN;
                assert!(has_nan(&values));
                let found = values[position_of_largest(&values)];
                assert!(found == 3.0 || length < 3, "{found}");
            }
        }
        for nothing in [&[][..], &[f32::NAN], &[f32::NEG_INFINITY; 100]] {
            assert_eq!(position_of_largest(nothing), 0);
        }
        assert_eq!(position_of_largest(&[f32::NEG_INFINITY, f32::NAN, f32::MIN]), 2);
    }

    #[test]
    fn a_rotation_turns_its_pairs_and_nothing_else() {
        let (sine, cosine) = 0.5f32.sin_cos();
        let input = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let turn = |x: f32, y: f32| [x * cosine - y * sine, x * sine + y * cosine];
        let rotated = |halves| {
            let mut row = [input, input].concat();
            rotate_heads(&mut row, 6, halves, &[cosine, 1.0], &[sine, 0.0]);
            assert_eq!(row[..6], row[6..]);
            row.truncate(6);
            row
        };
        let [x, y] = turn(1.0, 2.0);
        assert_eq!(rotated(false), [x, y, 3.0, 4.0, 5.0, 6.0]);
        let [x, y] = turn(1.0, 3.0);
        assert_eq!(rotated(true), [x, 2.0, y, 4.0, 5.0, 6.0]);
    }
}
