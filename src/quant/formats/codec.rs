//! What a block format is to the rest of the module.

#[cfg(target_arch = "aarch64")]
use super::wide::WideNeon;
use super::wide::{self, Wide};
#[cfg(target_arch = "x86_64")]
use super::wide::{Wide256, Wide512};
use crate::gguf::GgmlType;
use crate::support::processor::InstructionSet;

/// Turns one block of `BYTES` bytes into `WEIGHTS` weights.
pub(super) trait Decode<const WEIGHTS: usize, const BYTES: usize> {
    /// The format.
    const TYPE: GgmlType;
    /// What a block holds in its order, for the documentation.
    const LAYOUT: &'static str;
    /// How a block comes about, for the documentation.
    const BUILT: &'static str;

    /// Reads a block.
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]);
}

/// Turns 32 weights into `BYTES` bytes, without a search.
pub(super) trait Encode<const BYTES: usize>: Decode<{ wide::WEIGHTS }, BYTES> {
    /// Whether a weight that is not finite makes a block that does not fit. If not, it is looked for.
    const SHOWS_NOT_FINITE: bool;

    /// Writes a block.
    fn encode<W: Wide>(weights: W, block: &mut [u8; BYTES]);

    /// Whether the scales that were written are numbers.
    fn fits(block: &[u8; BYTES]) -> bool;
}

/// Where weights come from, 32 at a time.
pub(super) trait Source {
    type Block;

    fn load<W: Wide>(block: &Self::Block) -> W;
}

/// Weights as they are.
pub(super) struct FromF32;

impl Source for FromF32 {
    type Block = [f32; wide::WEIGHTS];

    #[inline(always)]
    fn load<W: Wide>(block: &Self::Block) -> W {
        W::load(block)
    }
}

/// The bytes of F16.
pub(super) struct FromF16;

impl Source for FromF16 {
    type Block = [u8; 2 * wide::WEIGHTS];

    #[inline(always)]
    fn load<W: Wide>(block: &Self::Block) -> W {
        W::from_f16s(block)
    }
}

/// The bytes of BF16.
pub(super) struct FromBf16;

impl Source for FromBf16 {
    type Block = [u8; 2 * wide::WEIGHTS];

    #[inline(always)]
    fn load<W: Wide>(block: &Self::Block) -> W {
        W::from_bf16s(block)
    }
}

/// Writes whole blocks from weights with the instructions of a set that the machine has; the lengths
/// have been checked. An error is the index of a block whose scale is too large for its field.
pub(super) type QuantizeBlocks = fn(InstructionSet, &[f32], &mut [u8]) -> Result<(), usize>;

/// Writes whole rows, the importance of whose columns is the third argument; the rest as for
/// [`QuantizeBlocks`].
pub(super) type QuantizeWeighted =
    fn(InstructionSet, &[f32], &[f32], &mut [u8]) -> Result<(), usize>;

/// Reads whole blocks into weights with the instructions of a set that the machine has; the lengths
/// have been checked.
pub(super) type DequantizeBlocks = fn(InstructionSet, &[u8], &mut [f32]);

/// Writes whole blocks from the bytes of F16 or BF16, as [`QuantizeBlocks`] from their values.
pub(super) type QuantizeBytes = fn(InstructionSet, &[u8], &mut [u8]) -> Result<(), usize>;

/// A format's entry in the registry.
pub(super) struct Codec {
    pub(super) ggml_type: GgmlType,
    /// What the table of formats says.
    pub(super) layout: &'static str,
    pub(super) built: &'static str,
    pub(super) quantize: Option<QuantizeBlocks>,
    /// Whether `quantize` refuses blocks with weights that are not finite; else they must be looked
    /// for before.
    pub(super) refuses_not_finite: bool,
    /// Shorter ways from the bytes of F16 and BF16, where there are any; they refuse what is not
    /// finite.
    pub(super) from_f16: Option<QuantizeBytes>,
    pub(super) from_bf16: Option<QuantizeBytes>,
    /// How rows are written when the importance of their columns is known; nothing for formats that
    /// make no use of it.
    pub(super) weighted: Option<QuantizeWeighted>,
    pub(super) dequantize: DequantizeBlocks,
}

impl Codec {
    /// A format of blocks of 32 weights that are written without a search.
    pub(super) const fn both<F: Encode<BYTES>, const BYTES: usize>() -> Self {
        Self {
            quantize: Some(encode_weights::<F, BYTES>),
            refuses_not_finite: true,
            from_f16: Some(encode_bytes::<F, FromF16, BYTES>),
            from_bf16: Some(encode_bytes::<F, FromBf16, BYTES>),
            ..Self::read_only::<F, { wide::WEIGHTS }, BYTES>()
        }
    }

    /// A format that can only be read. Compiles only if the layout is as long as the format asks.
    pub(super) const fn read_only<
        F: Decode<WEIGHTS, BYTES>,
        const WEIGHTS: usize,
        const BYTES: usize,
    >() -> Self {
        assert!(WEIGHTS == F::TYPE.block_size(), "the block holds another number of weights");
        assert!(BYTES == F::TYPE.block_bytes(), "the block takes another number of bytes");
        Self {
            ggml_type: F::TYPE,
            layout: F::LAYOUT,
            built: F::BUILT,
            quantize: None,
            refuses_not_finite: false,
            from_f16: None,
            from_bf16: None,
            weighted: None,
            dequantize: decode_blocks::<F, WEIGHTS, BYTES>,
        }
    }
}

fn encode_weights<F: Encode<BYTES>, const BYTES: usize>(
    set: InstructionSet,
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), usize> {
    encode_blocks::<F, FromF32, BYTES>(set, weights.as_chunks().0, output.as_chunks_mut().0)
}

fn encode_bytes<F, S, const BYTES: usize>(
    set: InstructionSet,
    bytes: &[u8],
    output: &mut [u8],
) -> Result<(), usize>
where
    F: Encode<BYTES>,
    S: Source<Block = [u8; 2 * wide::WEIGHTS]>,
{
    encode_blocks::<F, S, BYTES>(set, bytes.as_chunks().0, output.as_chunks_mut().0)
}

/// Encodes block after block. An error is the index of one that does not fit or has a weight that is
/// not finite.
pub(super) fn encode_blocks<F: Encode<BYTES>, S: Source, const BYTES: usize>(
    set: InstructionSet,
    inputs: &[S::Block],
    blocks: &mut [[u8; BYTES]],
) -> Result<(), usize> {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<F: Encode<BYTES>, S: Source, const BYTES: usize>(
            inputs: &[S::Block],
            blocks: &mut [[u8; BYTES]],
        ) -> Result<(), usize> {
            encode_blocks_wide::<F, S, Wide256, BYTES>(inputs, blocks)
        }
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
        fn avx512<F: Encode<BYTES>, S: Source, const BYTES: usize>(
            inputs: &[S::Block],
            blocks: &mut [[u8; BYTES]],
        ) -> Result<(), usize> {
            encode_blocks_wide::<F, S, Wide512, BYTES>(inputs, blocks)
        }
        match set {
            // SAFETY: the caller names a set that the machine has.
            InstructionSet::Avx512 => return unsafe { avx512::<F, S, BYTES>(inputs, blocks) },
            // SAFETY: as above.
            InstructionSet::Avx2 => return unsafe { avx2::<F, S, BYTES>(inputs, blocks) },
            InstructionSet::Scalar | InstructionSet::Neon => {}
        }
    }
    #[cfg(target_arch = "aarch64")]
    if set == InstructionSet::Neon {
        return encode_blocks_wide::<F, S, WideNeon, BYTES>(inputs, blocks);
    }
    encode_blocks_wide::<F, S, [f32; wide::WEIGHTS], BYTES>(inputs, blocks)
}

/// Decodes block after block.
pub(super) fn decode_blocks<F: Decode<WEIGHTS, BYTES>, const WEIGHTS: usize, const BYTES: usize>(
    set: InstructionSet,
    bytes: &[u8],
    output: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<F: Decode<WEIGHTS, BYTES>, const WEIGHTS: usize, const BYTES: usize>(
            bytes: &[u8],
            output: &mut [f32],
        ) {
            decode_blocks_wide::<F, Wide256, WEIGHTS, BYTES>(bytes, output);
        }
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
        fn avx512<F: Decode<WEIGHTS, BYTES>, const WEIGHTS: usize, const BYTES: usize>(
            bytes: &[u8],
            output: &mut [f32],
        ) {
            decode_blocks_wide::<F, Wide512, WEIGHTS, BYTES>(bytes, output);
        }
        match set {
            // SAFETY: the caller names a set that the machine has.
            InstructionSet::Avx512 => return unsafe { avx512::<F, WEIGHTS, BYTES>(bytes, output) },
            // SAFETY: as above.
            InstructionSet::Avx2 => return unsafe { avx2::<F, WEIGHTS, BYTES>(bytes, output) },
            InstructionSet::Scalar | InstructionSet::Neon => {}
        }
    }
    #[cfg(target_arch = "aarch64")]
    if set == InstructionSet::Neon {
        return decode_blocks_wide::<F, WideNeon, WEIGHTS, BYTES>(bytes, output);
    }
    decode_blocks_wide::<F, [f32; wide::WEIGHTS], WEIGHTS, BYTES>(bytes, output);
}

#[inline(always)]
fn encode_blocks_wide<F: Encode<BYTES>, S: Source, W: Wide, const BYTES: usize>(
    inputs: &[S::Block],
    blocks: &mut [[u8; BYTES]],
) -> Result<(), usize> {
    let mut all_fit = true;
    for (input, block) in inputs.iter().zip(blocks.iter_mut()) {
        let weights = S::load::<W>(input);
        F::encode(weights, block);
        all_fit &= F::fits(block) & (F::SHOWS_NOT_FINITE || weights.is_finite());
    }
    if all_fit {
        return Ok(());
    }
    let fits = |(input, block)| F::fits(block) && S::load::<W>(input).is_finite();
    Err(inputs.iter().zip(blocks.iter()).position(|pair| !fits(pair)).unwrap_or(0))
}

#[inline(always)]
fn decode_blocks_wide<F, W: Wide, const WEIGHTS: usize, const BYTES: usize>(
    bytes: &[u8],
    output: &mut [f32],
) where
    F: Decode<WEIGHTS, BYTES>,
{
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (outputs, _) = output.as_chunks_mut::<WEIGHTS>();
    for (block, weights) in blocks.iter().zip(outputs) {
        F::decode::<W>(block, weights);
    }
}
