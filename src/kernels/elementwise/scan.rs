//! What is looked for among logits.

use crate::kernels::dispatch::for_each_instruction_set;

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
}
