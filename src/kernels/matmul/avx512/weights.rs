//! Weights as the products read them: packed in a panel, or unpacked in a strip of two.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::kernels::matmul::activations::{BLOCK, MAGIC, ZERO_SUM};
use crate::kernels::matmul::format::{
    Codes, QuantizedFormat, Scales, Zero, block_columns, code_bytes, has_offsets,
};
use crate::kernels::matmul::panel::{
    QUANTIZED_ROWS, codes_at, scales_at, unit_parts, unit_scales,
};

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
    /// Whether there are offsets; if so there are no zero points.
    const OFFSETS: bool;

    /// Where a token's parts have what the integer sums of a group begin with, but for formats with
    /// offsets.
    fn zero_sum(self, group: usize) -> usize;

    /// The codes of quad `quad` of block `block`, for the 16 rows of a panel.
    ///
    /// # Safety
    /// The weights have such a block and panel; the processor has the instructions.
    unsafe fn codes(self, panel: usize, block: usize, quad: usize) -> __m512i;

    /// The factors of a group of block `block`.
    ///
    /// # Safety
    /// As for [`Self::codes`].
    unsafe fn scales(self, panel: usize, block: usize, group: usize) -> GroupScales;

    /// Has the memory send what is needed soon.
    ///
    /// # Safety
    /// As for [`Self::codes`].
    unsafe fn prefetch(self, block: usize);
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

/// How far ahead of the products the memory is asked for what a panel has.
const AHEAD: usize = 4096;

impl<F: QuantizedFormat> Weights for Packed<F> {
    const GROUPS: usize = BLOCK / F::GROUP;
    const OFFSETS: bool = has_offsets::<F>();

    #[inline(always)]
    fn zero_sum(self, group: usize) -> usize {
        F::ZERO.sum_of(group).map_or(ZERO_SUM, |sum| ZERO_SUM + sum)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn codes(self, _: usize, block: usize, quad: usize) -> __m512i {
        // SAFETY: the caller's.
        unsafe { quad_codes::<F>(self.panel.add(codes_at::<F>(block)), quad) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn scales(self, _: usize, block: usize, group: usize) -> GroupScales {
        // SAFETY: the caller's.
        unsafe { group_scales::<F>(self.panel, block * Self::GROUPS + group) }
    }

    #[inline(always)]
    unsafe fn prefetch(self, block: usize) {
        let mut bytes = QUANTIZED_ROWS * code_bytes::<F>();
        let mut next = self.panel.wrapping_add(codes_at::<F>(block) + AHEAD);
        if block.is_multiple_of(unit_parts::<F>()) {
            bytes += unit_scales::<F>();
            next = next.wrapping_sub(unit_scales::<F>());
        }
        for line in (0..bytes).step_by(64) {
            // SAFETY: any address may be asked for.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line).cast()) };
        }
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

    /// Unpacks block `from` of a panel as block `block` of the strip.
    ///
    /// # Safety
    /// Both have such blocks; `panel` is 0 or 1.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) unsafe fn fill<F: QuantizedFormat>(
        self,
        panel: usize,
        block: usize,
        packed: Packed<F>,
        from: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let codes = self.codes.add(block * CODE_BYTES + panel * 64);
            for quad in 0..8 {
                _mm512_store_si512(codes.add(128 * quad).cast(), packed.codes(0, from, quad));
            }
            for group in 0..GROUPS {
                let GroupScales { scales, magic, offsets } = packed.scales(0, from, group);
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
    const OFFSETS: bool = OFFSETS;

    #[inline(always)]
    fn zero_sum(self, group: usize) -> usize {
        self.zero_sums[group]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn codes(self, panel: usize, block: usize, quad: usize) -> __m512i {
        // SAFETY: the caller's.
        unsafe {
            _mm512_load_si512(self.codes.add(block * CODE_BYTES + 128 * quad + 64 * panel).cast())
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn scales(self, panel: usize, block: usize, group: usize) -> GroupScales {
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
    unsafe fn prefetch(self, _: usize) {}
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
            Codes::Nibbles => nibbles(),
            Codes::Indices(table) => {
                let table = _mm_loadu_si128(table.as_ptr().cast());
                _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), nibbles())
            }
            Codes::FiveBits => {
                let bits = bits_to_fifth(stored(4), quad);
                _mm512_or_si512(nibbles(), _mm512_and_si512(bits, _mm512_set1_epi8(0x10)))
            }
            Codes::SixBits => {
                let bits = bits_to_fifth(stored(4 + quad / 4), 2 * (quad % 4));
                _mm512_or_si512(nibbles(), _mm512_and_si512(bits, _mm512_set1_epi8(0x30)))
            }
        }
    }
}

/// Moves bit `bit` of each byte to where the fifth belongs; other bits go anywhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn bits_to_fifth(bytes: __m512i, bit: usize) -> __m512i {
    let by = |bits: usize| _mm_cvtsi32_si128(bits as i32);
    if bit <= 4 {
        _mm512_sll_epi16(bytes, by(4 - bit))
    } else {
        _mm512_srl_epi16(bytes, by(bit - 4))
    }
}

/// The scales and offsets of a group, for each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn group_scales<F: QuantizedFormat>(panel: *const u8, group: usize) -> GroupScales {
    let groups = block_columns::<F>() / F::GROUP;
    let within = group % groups;
    // SAFETY: each block has scale_bytes × 16 bytes, laid out as `panel` says.
    unsafe {
        let block = panel.add(scales_at::<F>(group / groups));
        let halves = |at: usize| _mm512_cvtph_ps(_mm256_loadu_si256(block.add(at).cast()));
        let factors = |at: usize| {
            let bytes = _mm_loadu_si128(block.add(at).cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        };
        let (scales, offsets) = match F::SCALES {
            Scales::Single => (_mm512_loadu_ps(block.cast()), _mm512_setzero_ps()),
            Scales::Half => (halves(0), _mm512_setzero_ps()),
            Scales::HalfAndOffset => (halves(0), halves(32)),
            Scales::TwoLevel => {
                (_mm512_mul_ps(halves(0), factors(32 + 16 * within)), _mm512_setzero_ps())
            }
            Scales::TwoLevelAndOffset => (
                _mm512_mul_ps(halves(0), factors(64 + 32 * within)),
                _mm512_mul_ps(halves(32), factors(80 + 32 * within)),
            ),
        };
        let magic = _mm512_mul_ps(scales, _mm512_set1_ps(-MAGIC));
        GroupScales { scales, magic, offsets }
    }
}
