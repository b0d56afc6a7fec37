//! Formats whose blocks of 32 weights get their scales from a search, and running that search on as
//! many blocks at once as the processor has lanes.

use super::codec::Decode;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512, Pair};
use super::lanes::{Lanes, MOST_LANES};
#[cfg(target_arch = "aarch64")]
use super::lanes::{Neon, Pair};
use crate::support::processor::InstructionSet;

/// Weights in a block.
pub(super) const BLOCK: usize = 32;

/// Blocks that are searched before they are written: a multiple of what a format's unit has.
const TURN: usize = MOST_LANES;

/// Weight `i` of every lane's block in vector `i`.
pub(super) type Block<V> = [V; BLOCK];

/// What a search finds, one block a lane.
pub(super) struct Fit<V> {
    pub(super) scale: V,
    /// To be subtracted.
    pub(super) minimum: V,
    /// The quants, counting from 0, where it is the search that decides on them.
    pub(super) quants: Option<Block<V>>,
}

/// What a search found for a block.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) scale: f32,
    /// To be subtracted.
    pub(super) minimum: f32,
    pub(super) quants: [u8; BLOCK],
}

/// What a weight's error is multiplied with beside its column's importance:
/// `√(spread + weight²)`, with the mean square of some weights around it as spread.
pub(super) enum Spread {
    /// That of the row.
    Row,
    /// Twice that of the format's block.
    TwiceBlock,
}

/// A format of blocks (or super-blocks of blocks) of 32 weights whose scales come from a search.
pub(super) trait Searched<const WEIGHTS: usize, const BYTES: usize>:
    Decode<WEIGHTS, BYTES>
{
    /// What the importance of a weight has in it.
    const SPREAD: Spread;

    /// Searches for one block a lane.
    fn search<V: Lanes>(weights: &Block<V>, importance: &Block<V>) -> Fit<V>;

    /// Rounds the weights to what was found for each 32 of them and writes a block. False if a scale
    /// is too large for its field.
    fn write(weights: &[f32; WEIGHTS], found: &[Found], block: &mut [u8; BYTES]) -> bool;
}

/// Quantizes blocks by a search in which a weight's error counts by its square.
pub(super) fn quantize<F, const WEIGHTS: usize, const BYTES: usize>(
    set: InstructionSet,
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), usize>
where
    F: Searched<WEIGHTS, BYTES>,
{
    dispatch::<F, WEIGHTS, BYTES>(set, weights, None, output)
}

/// Quantizes whole rows by a search in which a weight's error counts by its column's importance.
pub(super) fn quantize_weighted<F, const WEIGHTS: usize, const BYTES: usize>(
    set: InstructionSet,
    weights: &[f32],
    importance: &[f32],
    output: &mut [u8],
) -> Result<(), usize>
where
    F: Searched<WEIGHTS, BYTES>,
{
    dispatch::<F, WEIGHTS, BYTES>(set, weights, Some(importance), output)
}

fn dispatch<F, const WEIGHTS: usize, const BYTES: usize>(
    set: InstructionSet,
    weights: &[f32],
    importance: Option<&[f32]>,
    output: &mut [u8],
) -> Result<(), usize>
where
    F: Searched<WEIGHTS, BYTES>,
{
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<F: Searched<WEIGHTS, BYTES>, const WEIGHTS: usize, const BYTES: usize>(
            weights: &[f32],
            importance: Option<&[f32]>,
            output: &mut [u8],
        ) -> Result<(), usize> {
            run::<F, Pair<Avx2>, WEIGHTS, BYTES>(weights, importance, output)
        }
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
        fn avx512<F: Searched<WEIGHTS, BYTES>, const WEIGHTS: usize, const BYTES: usize>(
            weights: &[f32],
            importance: Option<&[f32]>,
            output: &mut [u8],
        ) -> Result<(), usize> {
            run::<F, Pair<Avx512>, WEIGHTS, BYTES>(weights, importance, output)
        }
        match set {
            InstructionSet::Avx512 => {
                // SAFETY: the caller names a set that the machine has.
                return unsafe { avx512::<F, WEIGHTS, BYTES>(weights, importance, output) };
            }
            InstructionSet::Avx2 => {
                // SAFETY: as above.
                return unsafe { avx2::<F, WEIGHTS, BYTES>(weights, importance, output) };
            }
            InstructionSet::Scalar | InstructionSet::Neon => {}
        }
    }
    #[cfg(target_arch = "aarch64")]
    if set == InstructionSet::Neon {
        return run::<F, Pair<Pair<Neon>>, WEIGHTS, BYTES>(weights, importance, output);
    }
    run::<F, f32, WEIGHTS, BYTES>(weights, importance, output)
}

/// Searches and writes turn after turn.
#[inline(always)]
fn run<F, V: Lanes, const WEIGHTS: usize, const BYTES: usize>(
    weights: &[f32],
    importance: Option<&[f32]>,
    output: &mut [u8],
) -> Result<(), usize>
where
    F: Searched<WEIGHTS, BYTES>,
{
    let importance =
        importance.map(|columns| Importance::new(columns, weights, &F::SPREAD, WEIGHTS));
    let (inputs, _) = weights.as_chunks::<WEIGHTS>();
    let (blocks, _) = output.as_chunks_mut::<BYTES>();
    let at_once = TURN * BLOCK / WEIGHTS;
    let mut found = [Found::default(); TURN];
    for (turn, (inputs, blocks)) in
        inputs.chunks(at_once).zip(blocks.chunks_mut(at_once)).enumerate()
    {
        let weights = inputs.as_flattened();
        find::<F, V, WEIGHTS, BYTES>(turn * TURN, weights, importance.as_ref(), &mut found);
        let found = found.chunks(WEIGHTS / BLOCK);
        for (index, ((input, block), found)) in inputs.iter().zip(blocks).zip(found).enumerate() {
            if !F::write(input, found, block) {
                return Err(turn * at_once + index);
            }
        }
    }
    Ok(())
}

/// Searches for the blocks of a turn, whose first is number `first` of all.
#[inline(always)]
fn find<F, V: Lanes, const WEIGHTS: usize, const BYTES: usize>(
    first: usize,
    weights: &[f32],
    importance: Option<&Importance>,
    found: &mut [Found; TURN],
) where
    F: Searched<WEIGHTS, BYTES>,
{
    let (blocks, _) = weights.as_chunks::<BLOCK>();
    for (lanes, (blocks, found)) in
        blocks.chunks(V::COUNT).zip(found.chunks_mut(V::COUNT)).enumerate()
    {
        let columns = transpose::<V>(blocks.iter());
        let mut counts = columns;
        match importance {
            None => counts.iter_mut().for_each(|count| *count = count.mul(*count)),
            Some(importance) => {
                let block = first + lanes * V::COUNT;
                importance.weigh(block..block + blocks.len(), &mut counts);
            }
        }
        let fit = F::search(&columns, &counts);
        fit.keep(found);
    }
}

impl<V: Lanes> Fit<V> {
    /// Takes what was found out of the lanes.
    #[inline(always)]
    fn keep(&self, found: &mut [Found]) {
        let (mut scales, mut minimums) = ([0.0; MOST_LANES], [0.0; MOST_LANES]);
        self.scale.store(&mut scales);
        self.minimum.store(&mut minimums);
        for (lane, found) in found.iter_mut().enumerate() {
            (found.scale, found.minimum) = (scales[lane], minimums[lane]);
        }
        let Some(quants) = &self.quants else { return };
        let mut bytes = [[0; MOST_LANES]; BLOCK];
        for (quants, bytes) in quants.iter().zip(&mut bytes) {
            quants.store_bytes(bytes);
        }
        for (lane, found) in found.iter_mut().enumerate() {
            for (quant, bytes) in found.quants.iter_mut().zip(&bytes) {
                *quant = bytes[lane];
            }
        }
    }
}

/// Weight `i` of block `l` in lane `l` of vector `i`. Lanes without a block are zero.
#[inline(always)]
fn transpose<'a, V: Lanes>(blocks: impl Iterator<Item = &'a [f32; BLOCK]>) -> Block<V> {
    let mut side_by_side = [[0.0; BLOCK]; MOST_LANES];
    for (side, block) in side_by_side.iter_mut().zip(blocks) {
        *side = *block;
    }
    V::transpose(side_by_side.as_flattened(), BLOCK)
}

/// What the importance of each weight is made from.
struct Importance<'a> {
    /// The importance of the columns, in blocks.
    columns: &'a [[f32; BLOCK]],
    /// The spread around the weights of each unit (a row or a format's block).
    spreads: Vec<f32>,
    /// Blocks in a unit.
    unit: usize,
}

impl<'a> Importance<'a> {
    #[inline(always)]
    fn new(columns: &'a [f32], weights: &[f32], spread: &Spread, block: usize) -> Self {
        let unit = match spread {
            Spread::Row => columns.len(),
            Spread::TwiceBlock => block,
        };
        let sums = sums_of_squares(weights, unit);
        let spreads = match spread {
            Spread::Row => sums.map(|sum| sum / unit as f32).collect(),
            Spread::TwiceBlock => sums.map(|sum| sum * (2.0 / unit as f32)).collect(),
        };
        Self { columns: columns.as_chunks().0, spreads, unit: unit / BLOCK }
    }

    /// Turns the weights of some blocks (by their numbers), one a lane, into their importance.
    #[inline(always)]
    fn weigh<V: Lanes>(&self, blocks: std::ops::Range<usize>, weights: &mut Block<V>) {
        let mut spreads = [0.0; MOST_LANES];
        for (spread, block) in spreads.iter_mut().zip(blocks.clone()) {
            *spread = self.spreads[block / self.unit];
        }
        let spread = V::load(&spreads);
        let columns = blocks.map(|block| &self.columns[block % self.columns.len()]);
        for (weight, column) in weights.iter_mut().zip(transpose::<V>(columns)) {
            *weight = column.mul(spread.add(weight.mul(*weight)).sqrt());
        }
    }
}

/// The sum of squares of each `unit` weights, in order.
#[inline(always)]
fn sums_of_squares(weights: &[f32], unit: usize) -> impl Iterator<Item = f32> {
    // Each sum waits for one addition after another; several side by side wait together.
    const TOGETHER: usize = 8;
    weights.chunks(TOGETHER * unit).flat_map(move |units| {
        let mut sums = [0.0; TOGETHER];
        if units.len() == TOGETHER * unit {
            for index in 0..unit {
                for (number, sum) in sums.iter_mut().enumerate() {
                    let weight = units[number * unit + index];
                    *sum += weight * weight;
                }
            }
        } else {
            for (sum, weights) in sums.iter_mut().zip(units.chunks(unit)) {
                *sum = weights.iter().fold(0.0, |sum, weight| sum + weight * weight);
            }
        }
        sums.into_iter().take(units.len() / unit)
    })
}
