//! Matrices of activations, row by row.

use crate::kernels::shared::Shared;
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
