//! The frame of the K formats: super-blocks of 256 weights in blocks of 16 or 32, whose scales (and
//! minimums) come from a search and are rounded themselves.
//!
//! A batch of super-blocks goes through three steps. The search runs on as many blocks at once as
//! the processor has lanes. Then the scales of each super-block are rounded under one f16. Last,
//! every weight is rounded to the grid that the rounded scales make, and the quants are packed.

use super::codec::{Codec, Decode};
use super::lanes::Lanes;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512, Pair};
#[cfg(target_arch = "aarch64")]
use super::lanes::{Neon, Pair};
use crate::support::processor::InstructionSet;

pub(super) const WEIGHTS: usize = 256;

/// The most blocks that a super-block has.
pub(super) const MOST_BLOCKS: usize = 16;

/// Super-blocks in a batch: as many as the widest register has lanes, so that steps which take one
/// super-block a lane fill it.
const BATCH: usize = 16;
pub(super) const BATCH_WEIGHTS: usize = BATCH * WEIGHTS;

/// A format of super-blocks of `WEIGHTS / BLOCK` blocks of `BLOCK` weights `scale · q − minimum`.
pub(super) trait SuperBlock<const BLOCK: usize, const BYTES: usize>:
    Decode<WEIGHTS, BYTES>
{
    /// Finds the scale and minimum of each block where nothing is known of the importance of its
    /// weights. Two streams of blocks, because their computations can take turns.
    fn search<V: Lanes>(weights: &[[V; BLOCK]; 2]) -> [Fit<V>; 2];

    /// Finds the scale and minimum of each block.
    fn search_weighted<V: Lanes>(
        weights: &[[V; BLOCK]; 2],
        importance: &[Importance<V, BLOCK>; 2],
    ) -> [Fit<V>; 2];

    /// The quants, counting from 0, that the search ends with for a block: ggml leaves them where the
    /// block's scale is rounded to nothing.
    fn quants_of_search(
        weights: &[f32; BLOCK],
        importance: Option<&Importance<f32, BLOCK>>,
    ) -> [u8; BLOCK];

    /// [`SuperBlock::search`] of the first `blocks` blocks of a batch.
    #[inline(always)]
    fn search_batch<V: Lanes>(weights: &[f32; BATCH_WEIGHTS], blocks: usize, found: &mut Found) {
        for first in (0..blocks).step_by(2 * V::COUNT) {
            found.keep(first, &Self::search::<V>(&streams(weights, first)));
        }
    }

    /// Rounds what [`SuperBlock::search`] found for a super-block. None if all its bytes are zero.
    fn round(found: &Found, super_block: usize) -> Option<Header>;

    /// Rounds what [`SuperBlock::search_weighted`] found for `V::COUNT` super-blocks from `first` on.
    fn round_weighted<V: Lanes>(found: &Found, first: usize, headers: &mut [Option<Header>]);

    /// Writes the scales and the minimums.
    fn write_header(header: &Header, block: &mut [u8; BYTES]);

    /// The scale and the minimum of each block as [`Decode`] takes them.
    fn read_header(block: &[u8; BYTES]) -> ([f32; MOST_BLOCKS], [f32; MOST_BLOCKS]);

    /// The quant, counting from 0, nearest to a weight's place on the grid of its block.
    fn quant<V: Lanes>(place: V) -> V;

    /// Packs quants that count from 0.
    fn pack(quants: &[u8; WEIGHTS], block: &mut [u8; BYTES]);

    /// Whether the f16 that were written are numbers.
    fn fits(block: &[u8; BYTES]) -> bool;
}

impl Codec {
    /// A K format, which can be read and written and heeds importance.
    pub(super) const fn super_blocks<
        F: SuperBlock<BLOCK, BYTES>,
        const BLOCK: usize,
        const BYTES: usize,
    >() -> Self {
        Self {
            quantize: Some(quantize::<F, BLOCK, BYTES>),
            weighted: Some(quantize_weighted::<F, BLOCK, BYTES>),
            ..Self::read_only::<F, WEIGHTS, BYTES>()
        }
    }
}

/// What is known of the importance of blocks, one a lane.
#[derive(Clone, Copy)]
pub(super) struct Importance<V, const BLOCK: usize> {
    /// The importance of each weight's column.
    pub(super) columns: [V; BLOCK],
    /// The sum of squares of the weights of the super-block that the block is part of.
    pub(super) sum_squares: V,
}

/// What a search finds, one block a lane.
#[derive(Clone, Copy)]
pub(super) struct Fit<V> {
    pub(super) scale: V,
    /// To be subtracted.
    pub(super) minimum: V,
    /// The sum of what the search counts the errors of the weights by.
    pub(super) importance: V,
}

/// The [`Fit`]s of the blocks of a batch, block after block.
pub(super) struct Found {
    pub(super) scales: [f32; BATCH * MOST_BLOCKS],
    pub(super) minimums: [f32; BATCH * MOST_BLOCKS],
    pub(super) importance: [f32; BATCH * MOST_BLOCKS],
}

impl Found {
    /// Keeps what was found for the blocks from `first` on.
    #[inline(always)]
    fn keep<V: Lanes>(&mut self, first: usize, fits: &[Fit<V>; 2]) {
        for (stream, fit) in fits.iter().enumerate() {
            let first = first + stream * V::COUNT;
            fit.scale.store(&mut self.scales[first..]);
            fit.minimum.store(&mut self.minimums[first..]);
            fit.importance.store(&mut self.importance[first..]);
        }
    }

    /// The numbers of one super-block among those of a batch.
    #[inline(always)]
    pub(super) fn of<const BLOCKS: usize>(numbers: &[f32], super_block: usize) -> [f32; BLOCKS] {
        numbers.as_chunks::<BLOCKS>().0[super_block]
    }
}

/// The scales of a super-block, rounded.
#[derive(Clone, Copy, Default)]
pub(super) struct Header {
    /// What the blocks' scales are multiples of; an f16 once written.
    pub(super) scale: f32,
    /// What the blocks' minimums are multiples of; an f16 once written.
    pub(super) minimum: f32,
    pub(super) scales: [u8; MOST_BLOCKS],
    pub(super) minimums: [u8; MOST_BLOCKS],
}

/// Quantizes super-blocks with the instructions of a set that the machine has. An error is the index
/// of one whose scale is too large for its field.
pub(super) fn quantize<F, const BLOCK: usize, const BYTES: usize>(
    set: InstructionSet,
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), usize>
where
    F: SuperBlock<BLOCK, BYTES>,
{
    quantize_with::<F, BLOCK, BYTES>(set, weights, None, output)
}

/// [`quantize`] of whole rows, given the importance of their columns.
pub(super) fn quantize_weighted<F, const BLOCK: usize, const BYTES: usize>(
    set: InstructionSet,
    weights: &[f32],
    importance: &[f32],
    output: &mut [u8],
) -> Result<(), usize>
where
    F: SuperBlock<BLOCK, BYTES>,
{
    quantize_with::<F, BLOCK, BYTES>(set, weights, Some(importance), output)
}

fn quantize_with<F, const BLOCK: usize, const BYTES: usize>(
    set: InstructionSet,
    weights: &[f32],
    importance: Option<&[f32]>,
    output: &mut [u8],
) -> Result<(), usize>
where
    F: SuperBlock<BLOCK, BYTES>,
{
    #[cfg(target_arch = "x86_64")]
    match set {
        InstructionSet::Avx512 => {
            // SAFETY: the caller names a set that the machine has.
            return unsafe { quantize_avx512::<F, BLOCK, BYTES>(weights, importance, output) };
        }
        InstructionSet::Avx2 => {
            // SAFETY: as above.
            return unsafe { quantize_avx2::<F, BLOCK, BYTES>(weights, importance, output) };
        }
        InstructionSet::Scalar | InstructionSet::Neon => {}
    }
    #[cfg(target_arch = "aarch64")]
    if set == InstructionSet::Neon {
        return quantize_in_lanes::<F, Pair<Pair<Neon>>, Neon, BLOCK, BYTES>(
            weights, importance, output,
        );
    }
    quantize_in_lanes::<F, f32, f32, BLOCK, BYTES>(weights, importance, output)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
fn quantize_avx512<F, const BLOCK: usize, const BYTES: usize>(
    weights: &[f32],
    importance: Option<&[f32]>,
    output: &mut [u8],
) -> Result<(), usize>
where
    F: SuperBlock<BLOCK, BYTES>,
{
    quantize_in_lanes::<F, Pair<Avx512>, Avx512, BLOCK, BYTES>(weights, importance, output)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_avx2<F, const BLOCK: usize, const BYTES: usize>(
    weights: &[f32],
    importance: Option<&[f32]>,
    output: &mut [u8],
) -> Result<(), usize>
where
    F: SuperBlock<BLOCK, BYTES>,
{
    quantize_in_lanes::<F, Pair<Avx2>, Avx2, BLOCK, BYTES>(weights, importance, output)
}

/// Searches in lanes of `Wide`, and rounds in lanes of `Narrow`, which no block is narrower than.
#[inline(always)]
fn quantize_in_lanes<F, Wide, Narrow, const BLOCK: usize, const BYTES: usize>(
    weights: &[f32],
    importance: Option<&[f32]>,
    output: &mut [u8],
) -> Result<(), usize>
where
    F: SuperBlock<BLOCK, BYTES>,
    Wide: Lanes,
    Narrow: Lanes,
{
    let mut batch = Batch::<BLOCK>::new();
    let mut padded = [0.0; BATCH_WEIGHTS];
    let (blocks, _) = output.as_chunks_mut::<BYTES>();
    for (turn, (weights, blocks)) in
        weights.chunks(BATCH_WEIGHTS).zip(blocks.chunks_mut(BATCH)).enumerate()
    {
        let first = turn * BATCH;
        let weights = match weights.try_into() {
            Ok(whole) => whole,
            Err(_) => {
                padded[..weights.len()].copy_from_slice(weights);
                &padded
            }
        };
        let headers = match importance {
            None => batch.search::<F, Wide, BYTES>(weights, blocks.len()),
            Some(row) => {
                batch.take_importance::<Narrow>(weights, row, first * WEIGHTS % row.len());
                batch.search_weighted::<F, Wide, Narrow, BYTES>(weights, blocks.len())
            }
        };
        for (index, block) in blocks.iter_mut().enumerate() {
            batch.write::<F, Narrow, BYTES>(
                weights,
                importance.is_some(),
                index,
                headers[index].as_ref(),
                block,
            );
            if !F::fits(block) {
                return Err(first + index);
            }
        }
    }
    Ok(())
}

/// The intermediate results of a batch of super-blocks in blocks of `BLOCK`.
struct Batch<const BLOCK: usize> {
    found: Found,
    /// The importance of each weight's column.
    importance: [f32; BATCH_WEIGHTS],
    /// The sum of squares of each block's super-block.
    sum_squares: [f32; BATCH * MOST_BLOCKS],
}

impl<const BLOCK: usize> Batch<BLOCK> {
    const BLOCKS: usize = WEIGHTS / BLOCK;

    fn new() -> Self {
        let numbers = [0.0; BATCH * MOST_BLOCKS];
        Self {
            found: Found { scales: numbers, minimums: numbers, importance: numbers },
            importance: [0.0; BATCH_WEIGHTS],
            sum_squares: numbers,
        }
    }

    /// Searches for the scales of the first `count` super-blocks and rounds them.
    #[inline(always)]
    fn search<F: SuperBlock<BLOCK, BYTES>, V: Lanes, const BYTES: usize>(
        &mut self,
        weights: &[f32; BATCH_WEIGHTS],
        count: usize,
    ) -> [Option<Header>; BATCH] {
        F::search_batch::<V>(weights, count * Self::BLOCKS, &mut self.found);
        let mut headers = [None; BATCH];
        for (index, header) in headers[..count].iter_mut().enumerate() {
            *header = F::round(&self.found, index);
        }
        headers
    }

    /// [`Batch::search`] where the importance is known.
    #[inline(always)]
    fn search_weighted<F, Wide, Narrow, const BYTES: usize>(
        &mut self,
        weights: &[f32; BATCH_WEIGHTS],
        count: usize,
    ) -> [Option<Header>; BATCH]
    where
        F: SuperBlock<BLOCK, BYTES>,
        Wide: Lanes,
        Narrow: Lanes,
    {
        for first in (0..count * Self::BLOCKS).step_by(2 * Wide::COUNT) {
            let [first_columns, second_columns] = streams::<Wide, BLOCK>(&self.importance, first);
            let sum_squares = &self.sum_squares[first..];
            let importance = [
                Importance { columns: first_columns, sum_squares: Wide::load(sum_squares) },
                Importance {
                    columns: second_columns,
                    sum_squares: Wide::load(&sum_squares[Wide::COUNT..]),
                },
            ];
            let weights = streams(weights, first);
            self.found.keep(first, &F::search_weighted::<Wide>(&weights, &importance));
        }
        let mut headers = [None; BATCH];
        for first in (0..count).step_by(Narrow::COUNT) {
            F::round_weighted::<Narrow>(&self.found, first, &mut headers[first..]);
        }
        headers
    }

    /// Lays out the importance of a batch that starts at a column of a row, and sums the squares of
    /// its super-blocks, one a lane.
    #[inline(always)]
    fn take_importance<V: Lanes>(
        &mut self,
        weights: &[f32; BATCH_WEIGHTS],
        row: &[f32],
        column: usize,
    ) {
        let mut rest = &mut self.importance[..];
        let mut column = column;
        while !rest.is_empty() {
            let length = rest.len().min(row.len() - column);
            let (start, after) = rest.split_at_mut(length);
            start.copy_from_slice(&row[column..column + length]);
            (rest, column) = (after, 0);
        }
        for first in (0..BATCH).step_by(V::COUNT) {
            let mut sum = V::splat(0.0);
            for columns in 0..WEIGHTS / 16 {
                let start = first * WEIGHTS + 16 * columns;
                for weight in V::transpose::<16>(&weights[start..], WEIGHTS) {
                    sum = sum.add(weight.mul(weight));
                }
            }
            sum.store(&mut self.sum_squares[first..]);
        }
        for block in (0..BATCH * Self::BLOCKS).rev() {
            self.sum_squares[block] = self.sum_squares[block / Self::BLOCKS];
        }
    }

    /// Writes super-block `index` with the scales that were found for it.
    #[inline(always)]
    fn write<F: SuperBlock<BLOCK, BYTES>, V: Lanes, const BYTES: usize>(
        &self,
        weights: &[f32; BATCH_WEIGHTS],
        weighted: bool,
        index: usize,
        header: Option<&Header>,
        block: &mut [u8; BYTES],
    ) {
        let Some(header) = header else {
            *block = [0; BYTES];
            return;
        };
        F::write_header(header, block);
        let (scales, minimums) = F::read_header(block);
        let mut quants = [0; WEIGHTS];
        for (b, quants) in quants.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let place = index * Self::BLOCKS + b;
            let weights = &weights.as_chunks::<BLOCK>().0[place];
            if scales[b] == 0.0 {
                *quants = self.quants_of_search::<F, BYTES>(weights, weighted, place);
            } else {
                round_to_grid::<F, V, BLOCK, BYTES>(weights, scales[b], minimums[b], quants);
            }
        }
        F::pack(&quants, block);
    }

    /// Searches again for block `place` of the batch, for its quants.
    #[cold]
    fn quants_of_search<F: SuperBlock<BLOCK, BYTES>, const BYTES: usize>(
        &self,
        weights: &[f32; BLOCK],
        weighted: bool,
        place: usize,
    ) -> [u8; BLOCK] {
        let columns = self.importance.as_chunks::<BLOCK>().0[place];
        let importance = Importance { columns, sum_squares: self.sum_squares[place] };
        F::quants_of_search(weights, weighted.then_some(&importance))
    }
}

/// The numbers of the blocks from `first` on, one a lane: twice as many as there are lanes.
#[inline(always)]
fn streams<V: Lanes, const BLOCK: usize>(
    numbers: &[f32; BATCH_WEIGHTS],
    first: usize,
) -> [[V; BLOCK]; 2] {
    [
        V::transpose(&numbers[first * BLOCK..], BLOCK),
        V::transpose(&numbers[(first + V::COUNT) * BLOCK..], BLOCK),
    ]
}

/// Rounds the weights of a block to its grid.
#[inline(always)]
fn round_to_grid<F, V, const BLOCK: usize, const BYTES: usize>(
    weights: &[f32; BLOCK],
    scale: f32,
    minimum: f32,
    quants: &mut [u8; BLOCK],
) where
    F: SuperBlock<BLOCK, BYTES>,
    V: Lanes,
{
    // Where the format has no minimums they are 0, and adding 0 changes no quotient but for the sign
    // of a zero.
    let (scale, minimum) = (V::splat(scale), V::splat(minimum));
    for first in (0..BLOCK).step_by(V::COUNT) {
        let weight = V::load(&weights[first..]);
        F::quant(weight.add(minimum).div(scale)).store_bytes(&mut quants[first..]);
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::gguf::GgmlType;
    use crate::quant::formats::{quantize_row_with, quantize_weighted_with};

    const FORMATS: [GgmlType; 5] =
        [GgmlType::Q2_K, GgmlType::Q3_K, GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::Q6_K];
    /// No whole number of batches.
    const SUPER_BLOCKS: usize = 37;

    /// Super-blocks of all kinds: normal, of blocks of very different size, tiny, with zero blocks,
    /// with one weight only, of one sign, constant, of two values, on a coarse grid, and with
    /// outliers.
    fn weights(random: &mut StdRng) -> Vec<f32> {
        let mut weights = Vec::new();
        for super_block in 0..SUPER_BLOCKS {
            for block in 0..16 {
                let scale = match super_block % 7 {
                    0 => 2f32.powi(-3 * block),
                    1 => 1e-20,
                    2 => 1e-38,
                    _ => 0.05,
                };
                for index in 0..16 {
                    let draw = scale * (random.random::<f32>() - 0.5);
                    weights.push(match super_block % 11 {
                        3 if block % 3 == 0 => 0.0,
                        4 if index != 5 => 0.0,
                        5 => draw.abs(),
                        6 => -0.25,
                        7 => 0.25 * draw.signum(),
                        8 => (draw / scale * 16.0).round() * scale,
                        9 if index == 11 => 40.0 * draw,
                        10 => -draw.abs() - 1.0,
                        _ => draw,
                    });
                }
            }
        }
        weights
    }

    /// Rows of importance: like a model's, with columns and blocks without any, with none at all, of
    /// very different sizes, and with a single column that counts in each block.
    fn importance(random: &mut StdRng, columns: usize) -> Vec<Vec<f32>> {
        let ordinary: Vec<f32> = (0..columns).map(|_| random.random::<f32>().powi(4)).collect();
        let changed = |change: &dyn Fn(usize, f32) -> f32| {
            ordinary.iter().enumerate().map(|(column, &value)| change(column, value)).collect()
        };
        vec![
            ordinary.clone(),
            changed(&|column, value| {
                if column % 3 == 0 || column / 32 % 4 == 1 { 0.0 } else { value }
            }),
            vec![0.0; columns],
            changed(&|column, value| value * 10f32.powi((column * 7 % 31) as i32 - 20)),
            changed(&|column, value| if column % 16 == 5 { value } else { 0.0 }),
        ]
    }

    #[test]
    fn every_instruction_set_writes_what_a_single_lane_writes() {
        for seed in 0..3 {
            let mut random = StdRng::seed_from_u64(seed);
            let weights = weights(&mut random);
            // Rows of one super-block and of all; neither is a batch.
            let mut rows = importance(&mut random, WEIGHTS);
            rows.extend(importance(&mut random, SUPER_BLOCKS * WEIGHTS));
            for format in FORMATS {
                let quantize = |set, row: Option<&Vec<f32>>| {
                    let mut output = vec![0; format.row_bytes(weights.len()).unwrap()];
                    match row {
                        None => quantize_row_with(set, format, &weights, &mut output),
                        Some(row) => {
                            quantize_weighted_with(set, format, &weights, row, &mut output)
                        }
                    }
                    .unwrap();
                    output
                };
                for (case, row) in std::iter::once(None).chain(rows.iter().map(Some)).enumerate() {
                    let expected = quantize(InstructionSet::Scalar, row);
                    for set in InstructionSet::ALL.into_iter().filter(|set| set.available()) {
                        let same = quantize(set, row) == expected;
                        assert!(same, "{format} with {}, seed {seed}, case {case}", set.name());
                    }
                }
            }
        }
    }

    #[test]
    fn importance_of_rows_goes_round_where_a_batch_does_not_end_with_a_row() {
        let mut random = StdRng::seed_from_u64(1);
        let weights = weights(&mut random);
        let row = importance(&mut random, 3 * WEIGHTS).swap_remove(0);
        let weights = &weights[..36 * WEIGHTS];
        for format in FORMATS {
            let bytes = format.row_bytes(row.len()).unwrap();
            let mut together = vec![0; 12 * bytes];
            let set = InstructionSet::current();
            quantize_weighted_with(set, format, weights, &row, &mut together).unwrap();
            for (weights, expected) in weights.chunks(row.len()).zip(together.chunks(bytes)) {
                let mut alone = vec![0; bytes];
                quantize_weighted_with(set, format, weights, &row, &mut alone).unwrap();
                assert!(alone == expected, "{format}");
            }
        }
    }
}
