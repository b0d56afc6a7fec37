//! Norms, activations, sums and rotations: everything that touches each activation once.
//!
//! The loops are written so that the compiler vectorises them, and are compiled once for each
//! instruction set; the widest that the machine has is picked at run time.

use rayon::prelude::*;

use super::dispatch::for_each_instruction_set;

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

/// Elements below which a loop is over sooner than a second thread has started.
const PARALLEL_FROM: usize = 1 << 15;

/// Calls `action` with the index and the slice of every row of `output`, in parallel if it is
/// worth it.
fn for_each_row(output: &mut [f32], width: usize, action: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = output.len() / width;
    if output.len() < PARALLEL_FROM || rows == 1 {
        output.chunks_exact_mut(width).enumerate().for_each(|(index, row)| action(index, row));
        return;
    }
    let rows_a_task = rows.div_ceil(4 * rayon::current_num_threads());
    output.par_chunks_mut(rows_a_task * width).enumerate().for_each(|(task, rows)| {
        for (index, row) in rows.chunks_exact_mut(width).enumerate() {
            action(task * rows_a_task + index, row);
        }
    });
}

/// Root-mean-square norm of every row, times `weight`: `x / √(mean(x²) + ε) · w`.
pub fn rms_norm(input: Rows<'_>, weight: &[f32], epsilon: f32, output: &mut [f32]) {
    assert_eq!((weight.len(), output.len()), (input.width, input.count * input.width));
    for_each_row(output, input.width, |index, row| {
        rms_norm_row(input.row(index), weight, epsilon, row);
    });
}

for_each_instruction_set! {
    fn rms_norm_row(input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
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

/// The gated activation of SwiGLU: `gate · sigmoid(gate) · up`.
pub fn silu_multiply(gate: Rows<'_>, up: Rows<'_>, output: &mut [f32]) {
    assert_eq!((gate.count, gate.width), (up.count, up.width));
    assert_eq!(output.len(), gate.count * gate.width);
    for_each_row(output, gate.width, |index, row| {
        silu_multiply_row(gate.row(index), up.row(index), row);
    });
}

for_each_instruction_set! {
    fn silu_multiply_row(gate: &[f32], up: &[f32], output: &mut [f32]) {
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

/// Sum of two matrices.
pub fn add(left: Rows<'_>, right: Rows<'_>, output: &mut [f32]) {
    assert_eq!((left.count, left.width), (right.count, right.width));
    assert_eq!(output.len(), left.count * left.width);
    for_each_row(output, left.width, |index, row| {
        for ((output, left), right) in row.iter_mut().zip(left.row(index)).zip(right.row(index)) {
            *output = left + right;
        }
    });
}

/// Adds `bias` to every row of `values`.
pub fn add_bias(values: &mut [f32], bias: &[f32]) {
    for_each_row(values, bias.len(), |_, row| {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value += bias;
        }
    });
}

/// The rotation of each token's pairs: cosines and sines, `tokens × pairs`.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// Cosines.
    pub cosines: &'a [f32],
    /// Sines.
    pub sines: &'a [f32],
    /// Pairs of a head that turn; the elements behind them pass unchanged.
    pub pairs: usize,
    /// Whether elements i and i + pairs make a pair, rather than 2i and 2i + 1.
    pub halves: bool,
}

impl Rotation<'_> {
    /// Turns every head of every row.
    pub fn apply(&self, input: Rows<'_>, head_size: usize, output: &mut [f32]) {
        assert!(input.width.is_multiple_of(head_size) && 2 * self.pairs <= head_size);
        assert_eq!(self.cosines.len(), input.count * self.pairs);
        assert_eq!(self.sines.len(), self.cosines.len());
        for_each_row(output, input.width, |token, row| {
            let turned = token * self.pairs..(token + 1) * self.pairs;
            let (cosines, sines) = (&self.cosines[turned.clone()], &self.sines[turned]);
            let heads = input.row(token).chunks_exact(head_size);
            for (head, output) in heads.zip(row.chunks_exact_mut(head_size)) {
                self.turn_head(cosines, sines, head, output);
            }
        });
    }

    fn turn_head(&self, cosines: &[f32], sines: &[f32], head: &[f32], output: &mut [f32]) {
        let (turning, passing) = head.split_at(2 * self.pairs);
        let (turned, passed) = output.split_at_mut(2 * self.pairs);
        passed.copy_from_slice(passing);
        let angles = cosines.iter().zip(sines);
        if self.halves {
            let (first, second) = turning.split_at(self.pairs);
            let (first_out, second_out) = turned.split_at_mut(self.pairs);
            let inputs = first.iter().zip(second);
            let outputs = first_out.iter_mut().zip(second_out);
            for (((cosine, sine), (x, y)), (x_out, y_out)) in angles.zip(inputs).zip(outputs) {
                *x_out = x * cosine - y * sine;
                *y_out = x * sine + y * cosine;
            }
        } else {
            let inputs = turning.as_chunks::<2>().0;
            let outputs = turned.as_chunks_mut::<2>().0;
            for (((cosine, sine), [x, y]), out) in angles.zip(inputs).zip(outputs) {
                *out = [x * cosine - y * sine, x * sine + y * cosine];
            }
        }
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
    fn rows_inside_wider_rows_give_the_same() {
        let (count, width, stride) = (700, 50, 120);
        let data = wave(count * stride, 4.0);
        let dense: Vec<f32> =
            data.chunks(stride).flat_map(|row| row[..width].iter().copied()).collect();
        let (strided, dense) =
            (Rows::new(&data, count, width, stride), Rows::new(&dense, count, width, width));
        let run = |rows: Rows<'_>| {
            let mut outputs = [(); 3].map(|()| vec![0f32; count * width]);
            rms_norm(rows, &wave(width, 1.0), 1e-5, &mut outputs[0]);
            silu_multiply(rows, rows, &mut outputs[1]);
            add(rows, rows, &mut outputs[2]);
            outputs
        };
        assert_eq!(run(strided), run(dense));
        assert!(strided.contiguous().is_none() && dense.contiguous().is_some());
    }

    #[test]
    fn norm_and_activation_follow_their_formulas() {
        for width in [1, 31, 32, 100] {
            let (input, weight) = (wave(width, 3.0), wave(width, 1.0));
            let rows = Rows::new(&input, 1, width, width);
            let mut output = vec![0f32; width];
            rms_norm(rows, &weight, 1e-5, &mut output);
            let mean = input.iter().map(|x| f64::from(x * x)).sum::<f64>() / width as f64;
            for index in 0..width {
                let expected = f64::from(input[index]) / (mean + 1e-5).sqrt();
                assert!(
                    (f64::from(output[index]) - expected * f64::from(weight[index])).abs() < 1e-5
                );
            }
            silu_multiply(rows, Rows::new(&weight, 1, width, width), &mut output);
            for index in 0..width {
                let x = f64::from(input[index]);
                let expected = x / (1.0 + (-x).exp()) * f64::from(weight[index]);
                assert!((f64::from(output[index]) - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_rotation_turns_its_pairs_and_nothing_else() {
        let (sine, cosine) = 0.5f32.sin_cos();
        let input = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let rows = Rows::new(&input, 1, 6, 6);
        let turn = |x: f32, y: f32| [x * cosine - y * sine, x * sine + y * cosine];
        let rotated = |halves| {
            let (cosines, sines) = (&[cosine, 1.0][..], &[sine, 0.0][..]);
            let mut output = [0f32; 6];
            Rotation { cosines, sines, pairs: 2, halves }.apply(rows, 6, &mut output);
            output
        };
        let [x, y] = turn(1.0, 2.0);
        assert_eq!(rotated(false), [x, y, 3.0, 4.0, 5.0, 6.0]);
        let [x, y] = turn(1.0, 3.0);
        assert_eq!(rotated(true), [x, 2.0, y, 4.0, 5.0, 6.0]);
    }
}
