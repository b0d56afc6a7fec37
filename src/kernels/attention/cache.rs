//! How keys and values are cached: rows of 16-bit integers, each row with a scale of its own.
//!
//! In f16, the large elements that keys have (tens, where most are below one) are rounded a
//! hundred times more coarsely than the small ones, and SmolLM2's logits move by up to 0.03. With
//! one step size a row, they move by up to 0.004, in the same memory.

use crate::kernels::dispatch::for_each_instruction_set;

/// Rows of `head_size` elements, each of which stands for itself times its row's scale.
#[derive(Debug, Clone, Copy)]
pub struct CacheRows<'a> {
    /// The elements of all rows.
    pub elements: &'a [i16],
    /// One scale a row.
    pub scales: &'a [f32],
}

impl<'a> CacheRows<'a> {
    /// Rows `first..first + count` of `size` elements.
    pub(super) fn part(self, first: usize, count: usize, size: usize) -> Self {
        Self {
            elements: &self.elements[first * size..][..count * size],
            scales: &self.scales[first..][..count],
        }
    }

    /// Each row's elements and scale.
    pub(super) fn rows(self, size: usize) -> impl Iterator<Item = (&'a [i16], f32)> {
        self.elements.chunks_exact(size).zip(self.scales.iter().copied())
    }

    /// Whether there are elements and scales for this many rows.
    pub(super) fn hold(&self, rows: usize, size: usize) -> bool {
        self.elements.len() >= rows * size && self.scales.len() >= rows
    }
}

for_each_instruction_set! {
    /// Rounds a row to integers and returns its scale, which is NaN if an element is not finite.
    pub fn encode_row(values: &[f32], elements: &mut [i16]) -> f32 {
        /// Adding 1.5·2²³ rounds to a whole number and leaves it in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let limit = f32::from(i16::MAX);
        let largest = largest_magnitude(values);
        if !largest.is_finite() {
            elements.fill(0);
            return f32::NAN;
        }
        let scale = largest / limit;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (element, value) in elements.iter_mut().zip(values) {
            *element = ((value * inverse).clamp(-limit, limit) + ROUND).to_bits() as i16;
        }
        scale
    }
}

/// The largest absolute value; infinite or NaN if any value is.
#[inline(always)]
fn largest_magnitude(values: &[f32]) -> f32 {
    // The bits of absolute values are in the order of the values, with infinity and then NaN last.
    let magnitudes = values.iter().map(|value| value.to_bits() & 0x7FFF_FFFF);
    f32::from_bits(magnitudes.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_to_within_half_a_step() {
        for magnitude in [1e-30, 1e-3, 1.0, 40.0, 1e30] {
            let row: Vec<f32> = (0..50).map(|i| magnitude * (i as f32 * 1.3).sin()).collect();
            let mut elements = [0; 50];
            let scale = encode_row(&row, &mut elements);
            for (value, element) in row.iter().zip(elements) {
                assert!((value - f32::from(element) * scale).abs() <= scale * 0.501);
            }
        }
    }

    #[test]
    fn rows_without_magnitude_or_with_too_much() {
        let mut elements = [1; 3];
        assert_eq!(encode_row(&[0.0; 3], &mut elements), 0.0);
        assert_eq!(elements, [0; 3]);
        let tiny = f32::from_bits(1);
        assert!(encode_row(&[tiny, -tiny, 0.0], &mut elements).is_finite());
        for broken in [f32::NAN, f32::INFINITY] {
            assert!(encode_row(&[1.0, broken, 2.0], &mut elements).is_nan());
        }
    }
}
