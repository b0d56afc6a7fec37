//! What a quantized format looks like to the kernels.
//!
//! Whatever ggml's layout, a weight is `scale · (code − zero) + offset`: an unsigned code of at most
//! eight bits, a scale (and sometimes an offset) for each group of 16 or 32 columns, and a zero
//! point that the whole format shares. Each format here says how its blocks fall into these parts.

use crate::gguf::GgmlType;
use crate::quant::formats::{five_bits, iq4_nl, mxfp4, q3_k, six_bit_scales};

/// Columns in the largest block.
pub(super) const MAX_BLOCK: usize = 256;
/// Groups in the largest block.
pub(super) const MAX_GROUPS: usize = 16;

/// How the codes of a panel are stored.
#[derive(Clone, Copy)]
pub(super) enum Codes {
    /// Four bits; column `j` of 32 in the low half of a byte, column `j + 16` in its high half.
    Nibbles,
    /// As [`Self::Nibbles`], but the four bits are an index into this table of codes.
    Indices(&'static [u8; 16]),
    /// The low four bits as [`Self::Nibbles`]; then bytes whose bit `q` is the fifth bit of quad
    /// `q`'s code.
    FiveBits,
    /// The low four bits as [`Self::Nibbles`]; then, for each half of the 32 columns, bytes whose
    /// bits `2 q` and `2 q + 1` are the upper bits of that half's quad `q`.
    SixBits,
    /// Two bits; for each half of the 32 columns, bytes whose bits `2 q` and `2 q + 1` are the code of
    /// that half's quad `q`.
    TwoBits,
    /// Three bits, which are the upper ones of a code of six; the lower two of them as
    /// [`Self::TwoBits`], then bytes whose bit `q` is the highest bit of quad `q`'s code.
    ThreeBits,
    /// A byte a code.
    Bytes,
}

/// How the scales of a panel are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    /// Scale a block that is a power of two, by its exponent in a byte.
    PowerOfTwo,
    /// f16 scale a block.
    Half,
    /// f16 scale and f16 offset a block.
    HalfAndOffset,
    /// f16 scale a block, times an 8-bit integer a group.
    TwoLevel,
    /// f16 scale and f16 offset a block, each times an 8-bit integer a group.
    TwoLevelAndOffset,
    /// The same with integers of four bits, the scale's in the low half of a byte.
    TwoLevelAndOffsetInNibbles,
}

/// The code that means zero. There are few, so that the inputs can be prepared for all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    /// Code 0.
    None,
    /// Code 8, for groups of 32 columns.
    Eight,
    /// Code 16, for groups of 32 columns.
    Sixteen,
    /// Code 128, for groups of 32 columns.
    OneHundredTwentyEight,
    /// Code 32, for groups of 16 columns.
    ThirtyTwo,
}

impl Zero {
    /// Which of the inputs' zero sums is that of a group (of a block of 32 columns).
    pub(super) const fn sum_of(self, group: usize) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Eight => Some(0),
            Self::Sixteen => Some(1),
            Self::OneHundredTwentyEight => Some(2),
            Self::ThirtyTwo => Some(3 + group),
        }
    }
}

/// A block taken apart.
pub(super) struct Parts {
    /// A code (or an index of one) for each of the block's columns.
    pub(super) codes: [u8; MAX_BLOCK],
    /// Scale of the block: the bits of an f16, or with [`Scales::PowerOfTwo`] its exponent.
    pub(super) scale: u32,
    /// Offset of the block: the bits of an f16.
    pub(super) offset: u32,
    /// Factor on the block's scale for each group.
    pub(super) scales: [i8; MAX_GROUPS],
    /// Factor on the block's offset for each group.
    pub(super) offsets: [i8; MAX_GROUPS],
}

impl Parts {
    pub(super) fn new() -> Self {
        Self {
            codes: [0; MAX_BLOCK],
            scale: 0,
            offset: 0,
            scales: [0; MAX_GROUPS],
            offsets: [0; MAX_GROUPS],
        }
    }
}

/// A quantized format, as the kernels see it.
pub(super) trait QuantizedFormat {
    /// ggml's name for it.
    const TYPE: GgmlType;
    /// Columns that share a scale: 16 or 32.
    const GROUP: usize = 32;
    /// How its codes are packed.
    const CODES: Codes;
    /// How its scales are packed.
    const SCALES: Scales;
    /// The zero point.
    const ZERO: Zero = Zero::None;
    /// What the scales are multiplied with where codes are larger than they need be: a power of two.
    const STEP: f32 = 1.0;

    /// Takes a block of [`GgmlType::block_bytes`] bytes apart.
    fn unpack(block: &[u8], parts: &mut Parts);
}

/// Columns in a block of the format.
pub(super) const fn block_columns<F: QuantizedFormat>() -> usize {
    F::TYPE.block_size()
}

/// Bytes that 32 columns of a panel's codes take, a row.
pub(super) const fn code_bytes<F: QuantizedFormat>() -> usize {
    match F::CODES {
        Codes::TwoBits => 8,
        Codes::ThreeBits => 12,
        Codes::Nibbles | Codes::Indices(_) => 16,
        Codes::FiveBits => 20,
        Codes::SixBits => 24,
        Codes::Bytes => 32,
    }
}

/// Bytes that a block's scales and offsets take in a panel, a row.
pub(super) const fn scale_bytes<F: QuantizedFormat>() -> usize {
    let groups = block_columns::<F>() / F::GROUP;
    match F::SCALES {
        Scales::PowerOfTwo => 1,
        Scales::Half => 2,
        Scales::HalfAndOffset => 4,
        Scales::TwoLevel => 2 + groups,
        Scales::TwoLevelAndOffset => 4 + 2 * groups,
        Scales::TwoLevelAndOffsetInNibbles => 4 + groups,
    }
}

/// Whether the format has offsets.
pub(super) const fn has_offsets<F: QuantizedFormat>() -> bool {
    matches!(
        F::SCALES,
        Scales::HalfAndOffset | Scales::TwoLevelAndOffset | Scales::TwoLevelAndOffsetInNibbles
    )
}

/// The `N` bytes that start at byte `at` of a block.
fn field<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..at + N].try_into().expect("the range has N bytes")
}

/// The bits of an f16.
fn half_at(block: &[u8], at: usize) -> u32 {
    u16::from_le_bytes(*field(block, at)).into()
}

/// The bits of what is subtracted in ggml's formats and added here.
fn minus_half_at(block: &[u8], at: usize) -> u32 {
    half_at(block, at) ^ 0x8000
}

/// Spreads 16 bytes of two codes each: `j` and `j + 16`.
fn nibbles(pairs: &[u8], codes: &mut [u8]) {
    for (j, &pair) in pairs[..16].iter().enumerate() {
        codes[j] = pair & 0x0f;
        codes[j + 16] = pair >> 4;
    }
}

pub(super) struct Q4_0;

impl QuantizedFormat for Q4_0 {
    const TYPE: GgmlType = GgmlType::Q4_0;
    const CODES: Codes = Codes::Nibbles;
    const SCALES: Scales = Scales::Half;
    const ZERO: Zero = Zero::Eight;

    fn unpack(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        nibbles(&block[2..], &mut parts.codes);
    }
}

pub(super) struct Q4_1;

impl QuantizedFormat for Q4_1 {
    const TYPE: GgmlType = GgmlType::Q4_1;
    const CODES: Codes = Codes::Nibbles;
    const SCALES: Scales = Scales::HalfAndOffset;

    fn unpack(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        parts.offset = half_at(block, 2);
        nibbles(&block[4..], &mut parts.codes);
    }
}

pub(super) struct Q5_0;

impl QuantizedFormat for Q5_0 {
    const TYPE: GgmlType = GgmlType::Q5_0;
    const CODES: Codes = Codes::FiveBits;
    const SCALES: Scales = Scales::Half;
    const ZERO: Zero = Zero::Sixteen;

    fn unpack(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        parts.codes[..32].copy_from_slice(&five_bits::unpack(field(block, 2), field(block, 6)));
    }
}

pub(super) struct Q5_1;

impl QuantizedFormat for Q5_1 {
    const TYPE: GgmlType = GgmlType::Q5_1;
    const CODES: Codes = Codes::FiveBits;
    const SCALES: Scales = Scales::HalfAndOffset;

    fn unpack(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        parts.offset = half_at(block, 2);
        parts.codes[..32].copy_from_slice(&five_bits::unpack(field(block, 4), field(block, 8)));
    }
}

pub(super) struct Q8_0;

impl QuantizedFormat for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    const CODES: Codes = Codes::Bytes;
    const SCALES: Scales = Scales::Half;
    const ZERO: Zero = Zero::OneHundredTwentyEight;

    fn unpack(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        for (code, byte) in parts.codes.iter_mut().zip(&block[2..34]) {
            *code = byte ^ 0x80;
        }
    }
}

/// The codes of ggml's IQ4 table: its values moved up by 128.
static IQ4_CODES: [u8; 16] = codes_of(&iq4_nl::VALUES);

/// The codes of MXFP4's doubled values, likewise.
static MXFP4_CODES: [u8; 16] = codes_of(&mxfp4::DOUBLED_VALUES);

const fn codes_of(values: &[i8; 16]) -> [u8; 16] {
    let mut codes = [0; 16];
    let mut index = 0;
    while index < 16 {
        codes[index] = (values[index] as i16 + 128) as u8;
        index += 1;
    }
    codes
}

pub(super) struct Iq4Nl;

impl QuantizedFormat for Iq4Nl {
    const TYPE: GgmlType = GgmlType::IQ4_NL;
    const CODES: Codes = Codes::Indices(&IQ4_CODES);
    const SCALES: Scales = Scales::Half;
    const ZERO: Zero = Zero::OneHundredTwentyEight;

    fn unpack(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        nibbles(&block[2..], &mut parts.codes);
    }
}

pub(super) struct Iq4Xs;

impl QuantizedFormat for Iq4Xs {
    const TYPE: GgmlType = GgmlType::IQ4_XS;
    const CODES: Codes = Codes::Indices(&IQ4_CODES);
    const SCALES: Scales = Scales::TwoLevel;
    const ZERO: Zero = Zero::OneHundredTwentyEight;

    fn unpack(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        let high_bits = u16::from_le_bytes(*field(block, 2));
        let low_bits = field::<4>(block, 4);
        for group in 0..8 {
            let low = (low_bits[group / 2] >> (4 * (group % 2))) & 0x0f;
            let high = (high_bits >> (2 * group)) as u8 & 3;
            parts.scales[group] = (low | (high << 4)) as i8 - 32;
            nibbles(&block[8 + 16 * group..], &mut parts.codes[32 * group..]);
        }
    }
}

pub(super) struct Mxfp4;

impl QuantizedFormat for Mxfp4 {
    const TYPE: GgmlType = GgmlType::MXFP4;
    const CODES: Codes = Codes::Indices(&MXFP4_CODES);
    const SCALES: Scales = Scales::PowerOfTwo;
    const ZERO: Zero = Zero::OneHundredTwentyEight;

    fn unpack(block: &[u8], parts: &mut Parts) {
        parts.scale = block[0].into();
        nibbles(&block[1..], &mut parts.codes);
    }
}

pub(super) struct Q2K;

impl QuantizedFormat for Q2K {
    const TYPE: GgmlType = GgmlType::Q2_K;
    const GROUP: usize = 16;
    const CODES: Codes = Codes::TwoBits;
    const SCALES: Scales = Scales::TwoLevelAndOffsetInNibbles;

    fn unpack(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 80);
        parts.offset = minus_half_at(block, 82);
        for group in 0..16 {
            parts.scales[group] = (block[group] & 0x0f) as i8;
            parts.offsets[group] = (block[group] >> 4) as i8;
            let bytes = &block[16 + 32 * (group / 8) + 16 * (group % 2)..][..16];
            let shift = 2 * (group % 8 / 2);
            for (code, byte) in parts.codes[16 * group..].iter_mut().zip(bytes) {
                *code = (byte >> shift) & 3;
            }
        }
    }
}

pub(super) struct Q3K;

impl QuantizedFormat for Q3K {
    const TYPE: GgmlType = GgmlType::Q3_K;
    const GROUP: usize = 16;
    const CODES: Codes = Codes::ThreeBits;
    const SCALES: Scales = Scales::TwoLevel;
    // Four, in eighths.
    const ZERO: Zero = Zero::ThirtyTwo;
    const STEP: f32 = 0.125;

    fn unpack(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 108);
        parts.scales = q3_k::unpack_scales(field(block, 96));
        for group in 0..16 {
            let column = 16 * (group % 2);
            let low = &block[32 + 32 * (group / 8) + column..][..16];
            let high = &block[column..][..16];
            let shift = 2 * (group % 8 / 2);
            let codes = parts.codes[16 * group..].iter_mut();
            for (code, (low, high)) in codes.zip(low.iter().zip(high)) {
                let quant = ((low >> shift) & 3) | (((high >> (group / 2)) & 1) << 2);
                *code = quant << 3;
            }
        }
    }
}

pub(super) struct Q4K;

impl QuantizedFormat for Q4K {
    const TYPE: GgmlType = GgmlType::Q4_K;
    const CODES: Codes = Codes::Nibbles;
    const SCALES: Scales = Scales::TwoLevelAndOffset;

    fn unpack(block: &[u8], parts: &mut Parts) {
        affine_header(block, parts);
        for group in 0..8 {
            let bytes = &block[16 + 32 * (group / 2)..][..32];
            let shift = 4 * (group % 2);
            for (code, byte) in parts.codes[32 * group..].iter_mut().zip(bytes) {
                *code = (byte >> shift) & 0x0f;
            }
        }
    }
}

pub(super) struct Q5K;

impl QuantizedFormat for Q5K {
    const TYPE: GgmlType = GgmlType::Q5_K;
    const CODES: Codes = Codes::FiveBits;
    const SCALES: Scales = Scales::TwoLevelAndOffset;

    fn unpack(block: &[u8], parts: &mut Parts) {
        affine_header(block, parts);
        let fifth_bits = field::<32>(block, 16);
        for group in 0..8 {
            let bytes = &block[48 + 32 * (group / 2)..][..32];
            let shift = 4 * (group % 2);
            let codes = parts.codes[32 * group..].iter_mut();
            for (code, (byte, fifth)) in codes.zip(bytes.iter().zip(fifth_bits)) {
                *code = ((byte >> shift) & 0x0f) | (((fifth >> group) & 1) << 4);
            }
        }
    }
}

/// The header that Q4_K and Q5_K share.
fn affine_header(block: &[u8], parts: &mut Parts) {
    parts.scale = half_at(block, 0);
    parts.offset = minus_half_at(block, 2);
    let (scales, minimums) = six_bit_scales::unpack(field(block, 4));
    parts.scales[..8].copy_from_slice(&scales.map(|scale| scale as i8));
    parts.offsets[..8].copy_from_slice(&minimums.map(|minimum| minimum as i8));
}

pub(super) struct Q6K;

impl QuantizedFormat for Q6K {
    const TYPE: GgmlType = GgmlType::Q6_K;
    const GROUP: usize = 16;
    const CODES: Codes = Codes::SixBits;
    const SCALES: Scales = Scales::TwoLevel;
    const ZERO: Zero = Zero::ThirtyTwo;

    fn unpack(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 208);
        parts.scales = field::<16>(block, 192).map(|scale| scale as i8);
        for group in 0..16 {
            let (half, within) = (group / 8, group % 8);
            let low = &block[64 * half + 16 * (within % 4)..][..16];
            let high = &block[128 + 32 * half + 16 * (within % 2)..][..16];
            let (low_shift, high_shift) = (4 * (within / 4), 2 * (within / 2));
            let codes = parts.codes[16 * group..].iter_mut();
            for (code, (low, high)) in codes.zip(low.iter().zip(high)) {
                *code = ((low >> low_shift) & 0x0f) | (((high >> high_shift) & 3) << 4);
            }
        }
    }
}
