//! Weights as the products read them: packed in a panel, or unpacked in a strip of two.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::kernels::matmul::activations::{BLOCK, MAGIC, ZERO_SUM};
use crate::kernels::matmul::format::{
    Codes, QuantizedFormat, Scales, Zero, block_columns, code_bytes, has_offsets,
};
use crate::kernels::matmul::panel::{QUANTIZED_ROWS, codes_at, prefetch_part, scales_at};

/// A group's factors for 16 rows.
#[derive(Clone, Copy)]
pub(super) struct GroupScales {
    pub(super) scales: __m512,
    /// The scales times −[`MAGIC`].
    pub(super) magic: __m512,
    pub(super) offsets: __m512,
}

/// Quantized weights of one or more panels.
pub(super) trait Weights: Copy {
    /// Groups in 32 columns.
    const GROUPS: usize;
    /// 32 columns, as often as a block has them.
    const PARTS: usize;
    /// Whether there are offsets; if so there are no zero points.
    const OFFSETS: bool;

    /// A block of the format: where it is, and what all of its groups need.
    type Block: Copy;

    /// Where a token's parts have what the integer sums of a group begin with, but for formats with
    /// offsets.
    fn zero_sum(self, group: usize) -> usize;

    /// The block whose first 32 columns are the `first`th.
    ///
    /// # Safety
    /// The weights have such a block; the processor has the instructions.
    unsafe fn block(self, first: usize) -> Self::Block;

    /// The codes of quad `quad` of the block's part `part`, for the 16 rows of a panel.
    ///
    /// # Safety
    /// As for [`Self::block`], and there is such a part and panel.
    unsafe fn codes(self, panel: usize, block: Self::Block, part: usize, quad: usize) -> __m512i;

    /// The factors of a group of the block's part `part`.
    ///
    /// # Safety
    /// As for [`Self::codes`].
    unsafe fn scales(
        self,
        panel: usize,
        block: Self::Block,
        part: usize,
        group: usize,
    ) -> GroupScales;

    /// Asks for what is needed some time after the `part`th 32 columns.
    fn prefetch(self, part: usize);
}

/// A panel as it is packed.
pub(super) struct Packed<F> {
    panel: *const u8,
    format: PhantomData<F>,
}

impl<F> Clone for Packed<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Packed<F> {}

impl<F: QuantizedFormat> Packed<F> {
    /// # Safety
    /// `panel` points to a panel.
    pub(super) unsafe fn new(panel: *const u8) -> Self {
        const {
            assert!(has_offsets::<F>() == matches!(F::ZERO, Zero::None), "one or the other");
        }
        Self { panel, format: PhantomData }
    }
}

/// A block of a panel.
#[derive(Clone, Copy)]
pub(super) struct PackedBlock {
    codes: *const u8,
    /// The factors of its groups, if it has such.
    factors: *const u8,
    /// The scales of the rows, times the format's step.
    scales: __m512,
    offsets: __m512,
}

impl<F: QuantizedFormat> Weights for Packed<F> {
    const GROUPS: usize = BLOCK / F::GROUP;
    const PARTS: usize = block_columns::<F>() / BLOCK;
    const OFFSETS: bool = has_offsets::<F>();

    type Block = PackedBlock;

    #[inline(always)]
    fn zero_sum(self, group: usize) -> usize {
        F::ZERO.sum_of(group).map_or(ZERO_SUM, |sum| ZERO_SUM + sum)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn block(self, first: usize) -> PackedBlock {
        // SAFETY: the caller's.
        unsafe {
            let scales = self.panel.add(scales_at::<F>(first / Self::PARTS));
            let codes = self.panel.add(codes_at::<F>(first));
            let (factors, scales, offsets) = block_scales::<F>(scales);
            PackedBlock { codes, factors, scales, offsets }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn codes(self, _: usize, block: PackedBlock, part: usize, quad: usize) -> __m512i {
        // SAFETY: the caller's.
        unsafe { quad_codes::<F>(block.codes.add(part * QUANTIZED_ROWS * code_bytes::<F>()), quad) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn scales(self, _: usize, block: PackedBlock, part: usize, group: usize) -> GroupScales {
        // SAFETY: the caller's.
        unsafe { group_scales::<F>(block, part * Self::GROUPS + group) }
    }

    #[inline(always)]
    fn prefetch(self, part: usize) {
        prefetch_part::<F>(self.panel, part);
    }
}

/// Two panels' weights unpacked: for each block and quad the codes of both, a byte each, and then
/// for each group the f32 scales of both, what takes [`MAGIC`] out, and the offsets if any.
#[derive(Clone, Copy)]
pub(super) struct Unpacked<const GROUPS: usize, const OFFSETS: bool> {
    codes: *mut u8,
    scales: *mut f32,
    zero_sums: [usize; 2],
}

/// Bytes that the codes of two panels take in a block.
const CODE_BYTES: usize = 2 * QUANTIZED_ROWS * BLOCK;

impl<const GROUPS: usize, const OFFSETS: bool> Unpacked<GROUPS, OFFSETS> {
    /// Elements that the factors of a group take.
    const FACTORS: usize = 2 * QUANTIZED_ROWS * if OFFSETS { 3 } else { 2 };

    /// Bytes of a strip with `columns` columns.
    pub(super) const fn bytes(columns: usize) -> usize {
        columns / BLOCK * (CODE_BYTES + GROUPS * Self::FACTORS * size_of::<f32>())
    }

    /// # Safety
    /// `strip` points to [`Self::bytes`] for `columns` columns, at the beginning of a cache line.
    pub(super) unsafe fn new(strip: *mut u8, columns: usize, zero: Zero) -> Self {
        // SAFETY: the scales are inside the strip.
        let scales = unsafe { strip.add(columns / BLOCK * CODE_BYTES).cast() };
        let mut zero_sums = [ZERO_SUM; 2];
        for (group, zero_sum) in zero_sums.iter_mut().enumerate() {
            *zero_sum += zero.sum_of(group).unwrap_or(0);
        }
        Self { codes: strip, scales, zero_sums }
    }

    /// Unpacks part `part` of a panel's block as block `block` of the strip.
    ///
    /// # Safety
    /// Both have such; `panel` is 0 or 1.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) unsafe fn fill<F: QuantizedFormat>(
        self,
        panel: usize,
        block: usize,
        packed: Packed<F>,
        from: PackedBlock,
        part: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let codes = self.codes.add(block * CODE_BYTES + panel * 64);
            for quad in 0..8 {
                _mm512_store_si512(codes.add(128 * quad).cast(), packed.codes(0, from, part, quad));
            }
            for group in 0..GROUPS {
                let GroupScales { scales, magic, offsets } = packed.scales(0, from, part, group);
                let factors = self.factors(panel, block, group);
                _mm512_store_ps(factors, scales);
                _mm512_store_ps(factors.add(2 * QUANTIZED_ROWS), magic);
                if OFFSETS {
                    _mm512_store_ps(factors.add(4 * QUANTIZED_ROWS), offsets);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn factors(self, panel: usize, block: usize, group: usize) -> *mut f32 {
        // SAFETY: the caller's panel, block and group are there.
        unsafe {
            self.scales.add((block * GROUPS + group) * Self::FACTORS + panel * QUANTIZED_ROWS)
        }
    }
}

impl<const GROUPS: usize, const OFFSETS: bool> Weights for Unpacked<GROUPS, OFFSETS> {
    const GROUPS: usize = GROUPS;
    const PARTS: usize = 1;
    const OFFSETS: bool = OFFSETS;

    type Block = usize;

    #[inline(always)]
    fn zero_sum(self, group: usize) -> usize {
        self.zero_sums[group]
    }

    #[inline(always)]
    unsafe fn block(self, first: usize) -> usize {
        first
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn codes(self, panel: usize, block: usize, _: usize, quad: usize) -> __m512i {
        // SAFETY: the caller's.
        unsafe {
            _mm512_load_si512(self.codes.add(block * CODE_BYTES + 128 * quad + 64 * panel).cast())
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn scales(self, panel: usize, block: usize, _: usize, group: usize) -> GroupScales {
        // SAFETY: the caller's.
        unsafe {
            let factors = self.factors(panel, block, group);
            let scales = _mm512_load_ps(factors);
            let magic = _mm512_load_ps(factors.add(2 * QUANTIZED_ROWS));
            let offsets = if OFFSETS {
                _mm512_load_ps(factors.add(4 * QUANTIZED_ROWS))
            } else {
                _mm512_setzero_ps()
            };
            GroupScales { scales, magic, offsets }
        }
    }

    #[inline(always)]
    fn prefetch(self, _: usize) {}
}

/// The codes of four columns, for each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn quad_codes<F: QuantizedFormat>(codes: *const u8, quad: usize) -> __m512i {
    // SAFETY: the caller's 32 columns have code_bytes × 16 bytes of codes, laid out as `panel` says.
    unsafe {
        let stored = |index: usize| _mm512_loadu_si512(codes.add(64 * index).cast());
        let nibbles = || {
            let pairs = stored(quad % 4);
            let pairs = if quad < 4 { pairs } else { _mm512_srli_epi16::<4>(pairs) };
            _mm512_and_si512(pairs, _mm512_set1_epi8(0x0f))
        };
        match F::CODES {
            Codes::Bytes => stored(quad),
            Codes::TwoBits => bits(stored(quad / 4), 2 * (quad % 4), 0, 0x03),
            Codes::ThreeBits => _mm512_or_si512(
                bits(stored(quad / 4), 2 * (quad % 4), 3, 0x18),
                bits(stored(2), quad, 5, 0x20),
            ),
            Codes::Nibbles => nibbles(),
            Codes::Indices(table) => {
                let table = _mm_loadu_si128(table.as_ptr().cast());
                _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), nibbles())
            }
            Codes::FiveBits => _mm512_or_si512(nibbles(), bits(stored(4), quad, 4, 0x10)),
            Codes::SixBits => {
                _mm512_or_si512(nibbles(), bits(stored(4 + quad / 4), 2 * (quad % 4), 4, 0x30))
            }
        }
    }
}

/// Moves bit `from` of each byte to bit `to`, and its neighbours along; leaves those that `mask` has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn bits(bytes: __m512i, from: usize, to: usize, mask: i8) -> __m512i {
    let by = |bits: usize| _mm_cvtsi32_si128(bits as i32);
    let moved = if from <= to {
        _mm512_sll_epi16(bytes, by(to - from))
    } else {
        _mm512_srl_epi16(bytes, by(from - to))
    };
    _mm512_and_si512(moved, _mm512_set1_epi8(mask))
}

/// Where the factors of a block's groups are, and the block's own scales and offsets, for each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn block_scales<F: QuantizedFormat>(block: *const u8) -> (*const u8, __m512, __m512) {
    let none = _mm512_setzero_ps();
    // SAFETY: each block has scale_bytes × 16 bytes, laid out as `panel` says.
    unsafe {
        let halves = |at: usize| _mm512_cvtph_ps(_mm256_loadu_si256(block.add(at).cast()));
        match F::SCALES {
            Scales::PowerOfTwo => {
                let exponents = _mm512_cvtepu8_epi32(_mm_loadu_si128(block.cast()));
                let exponents = _mm512_sub_epi32(exponents, _mm512_set1_epi32(128));
                let exponents = _mm512_cvtepi32_ps(exponents);
                (block, _mm512_scalef_ps(_mm512_set1_ps(1.0), exponents), none)
            }
            Scales::Half => (block, halves(0), none),
            Scales::HalfAndOffset => (block, halves(0), halves(32)),
            // A step that is not one takes its place here, exactly.
            Scales::TwoLevel if F::STEP == 1.0 => (block.add(32), halves(0), none),
            Scales::TwoLevel => {
                (block.add(32), _mm512_mul_ps(halves(0), _mm512_set1_ps(F::STEP)), none)
            }
            Scales::TwoLevelAndOffset | Scales::TwoLevelAndOffsetInNibbles => {
                (block.add(64), halves(0), halves(32))
            }
        }
    }
}

/// The scales and offsets of a group, for each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn group_scales<F: QuantizedFormat>(block: PackedBlock, group: usize) -> GroupScales {
    let PackedBlock { factors, scales, offsets, .. } = block;
    // SAFETY: each group has factors for 16 rows where the format has such.
    unsafe {
        let bytes = |at: usize| _mm_loadu_si128(factors.add(16 * at).cast());
        let integers = |at: usize| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes(at)));
        let (scales, offsets) = match F::SCALES {
            Scales::PowerOfTwo | Scales::Half | Scales::HalfAndOffset => (scales, offsets),
            Scales::TwoLevel => (_mm512_mul_ps(scales, integers(group)), offsets),
            Scales::TwoLevelAndOffset => (
                _mm512_mul_ps(scales, integers(2 * group)),
                _mm512_mul_ps(offsets, integers(2 * group + 1)),
            ),
            Scales::TwoLevelAndOffsetInNibbles => {
                let pairs = _mm512_cvtepu8_epi32(bytes(group));
                let low = _mm512_and_si512(pairs, _mm512_set1_epi32(0x0f));
                let high = _mm512_srli_epi32::<4>(pairs);
                (
                    _mm512_mul_ps(scales, _mm512_cvtepi32_ps(low)),
                    _mm512_mul_ps(offsets, _mm512_cvtepi32_ps(high)),
                )
            }
        };
        let magic = _mm512_mul_ps(scales, _mm512_set1_ps(-MAGIC));
        GroupScales { scales, magic, offsets }
    }
}
