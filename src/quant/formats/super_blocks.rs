//! Super-block formats whose scales come from a search, and running that search on as many blocks
//! at once as the processor has lanes.

use super::codec::Encode;
use super::lanes::Lanes;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512, Pair};
use crate::support::processor::InstructionSet;

pub(super) const WEIGHTS: usize = 256;

/// The most lanes that a search runs on.
const MOST_LANES: usize = 32;

/// A format of super-blocks of `BLOCKS` blocks of `BLOCK` weights.
///
/// `encode` is `write` of what `search` finds; `search_lanes` finds the same to the bit.
pub(super) trait Searched<const BYTES: usize>: Encode<WEIGHTS, BYTES> {
    /// Weights in a block.
    const BLOCK: usize;
    /// Blocks in a super-block.
    const BLOCKS: usize = WEIGHTS / Self::BLOCK;
    /// What is found for a super-block.
    type Found: Copy + Default;

    /// Searches for the blocks of one super-block after another's.
    fn search(weights: &[f32; WEIGHTS]) -> Self::Found;

    /// Searches for all blocks of at most `V::COUNT / BLOCKS` super-blocks at once.
    fn search_lanes<V: Lanes>(weights: &[[f32; WEIGHTS]], found: &mut [Self::Found]);

    /// Rounds what was found and the weights, and writes both.
    fn write(weights: &[f32; WEIGHTS], found: &Self::Found, block: &mut [u8; BYTES]);
}

/// Quantizes super-blocks with the instructions of a set that the machine has. An error is the index
/// of one whose scale is too large for its field.
pub(super) fn quantize<F: Searched<BYTES>, const BYTES: usize>(
    set: InstructionSet,
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), usize> {
    #[cfg(target_arch = "x86_64")]
    match set {
        // SAFETY: the caller names a set that the machine has.
        InstructionSet::Avx512 => return unsafe { quantize_avx512::<F, BYTES>(weights, output) },
        // SAFETY: as above.
        InstructionSet::Avx2 => return unsafe { quantize_avx2::<F, BYTES>(weights, output) },
        InstructionSet::Scalar => {}
    }
    super::codec::encode_blocks_portably::<F, WEIGHTS, BYTES>(weights, output)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn quantize_avx512<F: Searched<BYTES>, const BYTES: usize>(
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), usize> {
    quantize_in_lanes::<F, Pair<Avx512>, BYTES>(weights, output)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_avx2<F: Searched<BYTES>, const BYTES: usize>(
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), usize> {
    quantize_in_lanes::<F, Pair<Avx2>, BYTES>(weights, output)
}

#[inline(always)]
fn quantize_in_lanes<F: Searched<BYTES>, V: Lanes, const BYTES: usize>(
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), usize> {
    let at_once = V::COUNT / F::BLOCKS;
    let (inputs, _) = weights.as_chunks::<WEIGHTS>();
    let (blocks, _) = output.as_chunks_mut::<BYTES>();
    let mut found = [F::Found::default(); MOST_LANES];
    for (turn, (inputs, blocks)) in
        inputs.chunks(at_once).zip(blocks.chunks_mut(at_once)).enumerate()
    {
        F::search_lanes::<V>(inputs, &mut found);
        for (index, (input, block)) in inputs.iter().zip(blocks).enumerate() {
            F::write(input, &found[index], block);
            if !F::fits(block) {
                return Err(turn * at_once + index);
            }
        }
    }
    Ok(())
}

/// Weight `i` of every block in vector `i`: block `l` is lane `l`. Lanes without a block are zero.
#[inline(always)]
pub(super) fn transpose<V: Lanes, const BLOCK: usize>(weights: &[[f32; WEIGHTS]]) -> [V; BLOCK] {
    let (blocks, _) = weights.as_flattened().as_chunks::<BLOCK>();
    let mut columns = [V::splat(0.0); BLOCK];
    for (i, column) in columns.iter_mut().enumerate() {
        let mut lanes = [0.0; MOST_LANES];
        for (lane, block) in lanes.iter_mut().zip(blocks) {
            *lane = block[i];
        }
        *column = V::load(&lanes);
    }
    columns
}

/// The lanes of a vector as numbers, in groups of one super-block.
#[inline(always)]
pub(super) fn lanes_of<V: Lanes>(vector: V) -> [f32; MOST_LANES] {
    let mut lanes = [0.0; MOST_LANES];
    vector.store(&mut lanes);
    lanes
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::codec::encode_blocks_portably;
    use super::super::{q4_k::Q4K, q5_k::Q5K, q6_k::Q6K};
    use super::*;

    /// Super-blocks of all kinds: normal, with zero blocks, with one weight only, of one sign,
    /// constant, tiny, and of blocks of very different size.
    fn weights(seed: u64) -> Vec<f32> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut weights = Vec::new();
        for super_block in 0..37 {
            for block in 0..16 {
                let scale = match super_block % 7 {
                    0 => 2f32.powi(-3 * block),
                    1 => 1e-20,
                    2 => 1e-38,
                    _ => 0.05,
                };
                for index in 0..16 {
                    let draw = scale * (random.random::<f32>() - 0.5);
                    weights.push(match super_block % 9 {
                        3 if block % 3 == 0 => 0.0,
                        4 if index != 5 => 0.0,
                        5 => draw.abs(),
                        6 => -0.25,
                        7 => 0.25 * draw.signum(),
                        _ => draw,
                    });
                }
            }
        }
        weights
    }

    fn check<F: Searched<BYTES>, const BYTES: usize>() {
        for seed in 0..20 {
            let weights = weights(seed);
            let mut expected = vec![0; weights.len() / WEIGHTS * BYTES];
            encode_blocks_portably::<F, WEIGHTS, BYTES>(&weights, &mut expected).unwrap();
            let mut output = vec![0; expected.len()];
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has AVX2.
                unsafe { quantize_avx2::<F, BYTES>(&weights, &mut output) }.unwrap();
                assert!(output == expected, "{} with AVX2, seed {seed}", F::TYPE);
            }
            if is_x86_feature_detected!("avx512f") {
                output.fill(0);
                // SAFETY: the processor has AVX-512 F.
                unsafe { quantize_avx512::<F, BYTES>(&weights, &mut output) }.unwrap();
                assert!(output == expected, "{} with AVX-512, seed {seed}", F::TYPE);
            }
        }
    }

    #[test]
    fn lanes_find_what_the_portable_search_finds() {
        check::<Q4K, 144>();
        check::<Q5K, 176>();
        check::<Q6K, 210>();
    }
}
