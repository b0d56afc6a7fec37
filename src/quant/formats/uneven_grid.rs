//! Sixteen unevenly spaced values, and finding the one of them that a number is nearest to.

/// The values of a format with sixteen of them, and what finding the nearest takes.
pub(super) struct Grid {
    /// The values, ascending.
    pub(super) values: [f32; 16],
    /// Halfway between neighbours: what is less belongs to the lower of them.
    pub(super) middles: [f32; 15],
    /// The same for a search by cells.
    #[cfg(target_arch = "x86_64")]
    pub(super) cells: Cells,
    /// The same for a search by halving.
    #[cfg(target_arch = "x86_64")]
    pub(super) halvings: Halvings,
}

/// Where a search that halves what is left looks when two or one comparisons are left, by the
/// comparisons before: entry `-n mod 8` is for the `n` that the comparisons "less than the middle",
/// as binary digits, make. With no less, the search is at the top.
#[cfg(target_arch = "x86_64")]
pub(super) struct Halvings {
    /// The middle of the quarter that is left.
    pub(super) quarters: [f32; 8],
    /// The middle of the eighth that is left.
    pub(super) eighths: [f32; 8],
    /// The two values that are left.
    pub(super) below: [f32; 8],
    pub(super) above: [f32; 8],
}

/// The line cut into 32 cells of [`CELL`], none of which has more than one middle in it.
#[cfg(target_arch = "x86_64")]
pub(super) struct Cells {
    /// The middle in the cell; where there is none, both values are the same.
    pub(super) middle: [f32; 32],
    /// The value nearest to what is less than the middle.
    pub(super) below: [f32; 32],
    /// The value nearest to the rest.
    pub(super) above: [f32; 32],
}

/// The width of a cell.
#[cfg(target_arch = "x86_64")]
const CELL: f32 = 10.0;

impl Grid {
    /// What a number is multiplied with to become, rounded, the number of its cell.
    #[cfg(target_arch = "x86_64")]
    pub(super) const CELLS: f32 = 1.0 / CELL;

    /// The grid of whole-numbered values in ascending order.
    pub(super) const fn new(whole: &[i8; 16]) -> Self {
        let mut values = [0.0; 16];
        let mut middles = [0.0; 15];
        let mut at = 0;
        while at < 16 {
            values[at] = whole[at] as f32;
            if at > 0 {
                middles[at - 1] = (values[at - 1] + values[at]) / 2.0;
            }
            at += 1;
        }
        Self {
            values,
            middles,
            #[cfg(target_arch = "x86_64")]
            cells: Cells::of(&values, &middles),
            #[cfg(target_arch = "x86_64")]
            halvings: Halvings::of(&values, &middles),
        }
    }

    /// The place of the value nearest to `number`, the higher where two are; the last for NaN.
    #[inline(always)]
    pub(super) fn nearest(&self, number: f32) -> u8 {
        // All the comparisons, because a loop over blocks vectorizes with them.
        let mut nearest = 15;
        for &middle in &self.middles {
            nearest -= u8::from(number < middle);
        }
        nearest
    }
}

#[cfg(target_arch = "x86_64")]
impl Halvings {
    const fn of(values: &[f32; 16], middles: &[f32; 15]) -> Self {
        let (mut quarters, mut eighths) = ([0.0; 8], [0.0; 8]);
        let (mut below, mut above) = ([0.0; 8], [0.0; 8]);
        let mut less = 0;
        while less < 8 {
            let entry = (8 - less) % 8;
            if less < 4 {
                quarters[entry] = middles[13 - 4 * less];
            }
            eighths[entry] = middles[14 - 2 * less];
            below[entry] = values[14 - 2 * less];
            above[entry] = values[15 - 2 * less];
            less += 1;
        }
        Self { quarters, eighths, below, above }
    }
}

#[cfg(target_arch = "x86_64")]
impl Cells {
    const fn of(values: &[f32; 16], middles: &[f32; 15]) -> Self {
        let (mut middle, mut below, mut above) = ([0.0; 32], [0.0; 32], [0.0; 32]);
        let mut number = -16;
        while number < 16 {
            // Numbers of cells wrap: of the sums that make them the last five bits are looked at.
            let cell = (number & 31) as usize;
            let (low, high) = ((number as f32 - 0.5) * CELL, (number as f32 + 0.5) * CELL);
            let mut passed = 0;
            while passed < 15 && middles[passed] < low {
                passed += 1;
            }
            middle[cell] = 0.0;
            below[cell] = values[passed];
            above[cell] = values[passed];
            if passed < 15 && middles[passed] < high {
                middle[cell] = middles[passed];
                above[cell] = values[passed + 1];
                assert!(passed == 14 || middles[passed + 1] > high, "the cells are too wide");
            }
            number += 1;
        }
        Self { middle, below, above }
    }
}

#[cfg(test)]
mod tests {
    use super::super::iq4_nl::GRID;
    use super::super::lanes::Lanes;

    /// Numbers all over the grid, with the middles, the values and what is next to them.
    fn numbers() -> Vec<f32> {
        let special = GRID.middles.iter().chain(&GRID.values);
        let around = special.flat_map(|&at| [at.next_down(), at, at.next_up()]);
        let everywhere = (-14_000..14_000).map(|step| step as f32 * 0.01);
        around.chain(everywhere).collect()
    }

    #[test]
    fn the_nearest_value_is_found() {
        for number in numbers() {
            let distance = |value: &f32| (f64::from(number) - f64::from(*value)).abs();
            let nearest = GRID.values.iter().map(distance).fold(f64::MAX, f64::min);
            let found = GRID.values[usize::from(GRID.nearest(number))];
            assert_eq!(distance(&found), nearest, "{number}");
            assert_eq!(number.nearest_of(&GRID), found, "{number}");
        }
        assert_eq!(GRID.nearest(f32::NAN), 15);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn all_lanes_find_the_same() {
        use super::super::lanes::{Avx2, Avx512};
        use crate::support::processor::InstructionSet;

        #[target_feature(enable = "avx2")]
        fn avx2(numbers: &mut [f32]) {
            Avx2::load(numbers).nearest_of(&GRID).store(numbers);
        }
        #[target_feature(enable = "avx512f")]
        fn avx512(numbers: &mut [f32]) {
            Avx512::load(numbers).nearest_of(&GRID).store(numbers);
        }
        let mut numbers = numbers();
        numbers.resize(numbers.len().next_multiple_of(16), 0.0);
        let expected: Vec<f32> = numbers.iter().map(|n| n.nearest_of(&GRID)).collect();
        if InstructionSet::Avx2.available() {
            let mut found = numbers.clone();
            // SAFETY: the machine has AVX2.
            found.chunks_mut(8).for_each(|numbers| unsafe { avx2(numbers) });
            assert_eq!(found, expected);
        }
        if InstructionSet::Avx512.available() {
            // SAFETY: the machine has AVX-512.
            numbers.chunks_mut(16).for_each(|numbers| unsafe { avx512(numbers) });
            assert_eq!(numbers, expected);
        }
    }
}
