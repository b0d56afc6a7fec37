//! Rotary position embedding.

use crate::kernels::dispatch::for_each_instruction_set;

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

#[cfg(test)]
mod tests {
    use super::*;

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
