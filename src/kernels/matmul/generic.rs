//! The kernels once for every instruction set, over the few vector operations that they need.
//!
//! A register holds one 32-bit lane for each of some rows of a panel: four codes, an integer sum or
//! an f32. A tile is `R` such registers of rows times `T` tokens; its sums stay in registers.

use super::activations::{BLOCK, CODE_WORDS, MAGIC, SCALE, SCALED_SUM, ZERO_SUM, part_at};
use super::float::FloatFormat;
use super::format::{Codes, QuantizedFormat, Scales, Zero, block_columns, has_offsets};
use super::panel::{FLOAT_ROWS, QUANTIZED_ROWS, codes_at, prefetch_part, scales_at};

/// The registers of an instruction set.
///
/// # Safety
/// Every function needs the implementor's instruction set, and pointers that are readable (or
/// writable) for a register. All of them inline into a caller that was compiled for the set.
pub(super) trait RowVector {
    /// Rows in a register.
    const LANES: usize;
    /// What one lane of [`Self::Products`] must not pass, and how many products it takes from a
    /// quad of codes. None where it cannot be passed.
    const LIMIT: Option<Limit>;
    /// Whether codes of eight bits are multiplied as signed numbers, the code 128 being zero,
    /// because as unsigned ones they would be too large.
    const SIGNED_BYTES: bool;

    /// Four bytes or an i32 in each lane.
    type Integers: Copy;
    /// An f32 in each lane.
    type Floats: Copy;
    /// Sums of products of some quads on the way to [`Self::Integers`].
    type Products: Copy;

    /// The same i32 in each lane.
    unsafe fn splat(integer: i32) -> Self::Integers;
    /// A register of bytes.
    unsafe fn load_bytes(source: *const u8) -> Self::Integers;
    /// The low four bits of each byte.
    unsafe fn low_nibbles(bytes: Self::Integers) -> Self::Integers;
    /// The high four bits of each byte.
    unsafe fn high_nibbles(bytes: Self::Integers) -> Self::Integers;
    /// The entry of the table for each byte, all of which are below 16.
    unsafe fn look_up(table: &'static [u8; 16], indices: Self::Integers) -> Self::Integers;
    /// Bit `from` of each byte and its neighbours moved to bit `to` and its neighbours, those that
    /// `mask` has.
    unsafe fn bits(bytes: Self::Integers, from: usize, to: usize, mask: u8) -> Self::Integers;
    /// The bits of both.
    unsafe fn or(a: Self::Integers, b: Self::Integers) -> Self::Integers;

    /// Where sums begin that are to be added to `sum`.
    unsafe fn begin(sum: Self::Integers) -> Self::Products;
    /// Adds codes times quad `quad` of each token, whose block's quads begin where `tokens` says.
    /// `signed`: the code 128 is zero.
    unsafe fn add_quad<const T: usize>(
        products: &mut [Self::Products; T],
        codes: Self::Integers,
        tokens: &[*const u32; T],
        quad: usize,
        signed: bool,
    );
    /// `sum` with what was added since [`Self::begin`].
    unsafe fn end(sum: Self::Integers, products: Self::Products) -> Self::Integers;

    /// The same f32 in each lane.
    unsafe fn broadcast(value: f32) -> Self::Floats;
    /// Powers of two whose exponents are bytes in memory: see
    /// [`crate::quant::formats::mxfp4::half_power_of_two`].
    unsafe fn load_powers(source: *const u8) -> Self::Floats;
    /// f16s from memory, as f32.
    unsafe fn load_halves(source: *const u8) -> Self::Floats;
    /// i8s from memory, as f32.
    unsafe fn load_factors(source: *const u8) -> Self::Floats;
    /// The low and the high halves of bytes in memory, as f32.
    unsafe fn load_nibble_factors(source: *const u8) -> (Self::Floats, Self::Floats);
    /// Weights from memory, as f32.
    unsafe fn load_weights<F: FloatFormat<WIDTH>, const WIDTH: usize>(
        source: *const u8,
    ) -> Self::Floats;
    /// The same bits as f32.
    unsafe fn as_floats(integers: Self::Integers) -> Self::Floats;
    /// `a · b`.
    unsafe fn multiply(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a · b + c`, rounded once.
    unsafe fn multiply_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Writes a register.
    unsafe fn store(values: Self::Floats, target: *mut f32);
}

/// See [`RowVector::LIMIT`].
pub(super) struct Limit {
    pub(super) largest: usize,
    pub(super) products_a_quad: usize,
}

/// Compiles [`quantized_tile`] for an instruction set: the name of the function, the set's features,
/// its registers, and for each number of tokens the registers of rows in a tile.
macro_rules! multiply_quantized {
    ($name:ident, $features:literal, $vector:ty, { $($tokens:literal => $registers:literal),* }) => {
        #[doc = concat!("[`super::portable::multiply_quantized`] with `", $features, "`.")]
        #[target_feature(enable = $features)]
        pub(super) fn $name<F: QuantizedFormat>(
            panel: &[u8],
            columns: usize,
            tokens: Prepared<'_>,
            totals: &mut [f32],
        ) {
            #[target_feature(enable = $features)]
            unsafe fn tile<F: QuantizedFormat, const T: usize, const R: usize>(
                panel: *const u8,
                columns: usize,
                tokens: [*const u32; T],
                totals: *mut f32,
            ) {
                // SAFETY: the caller's, and this function is compiled for the set.
                unsafe {
                    $crate::kernels::matmul::generic::quantized_tile::<$vector, F, T, R>(
                        panel, columns, tokens, totals,
                    );
                }
            }
            assert!(panel.len() >= quantized_bytes::<F>(columns), "the panel is whole");
            let words = ActivationKind::Quantized.words(columns);
            assert!(tokens.stride >= words, "the tokens are whole");
            assert!(totals.len() >= QUANTIZED_ROWS * tokens.rows, "the totals have room");
            let (panel, totals) = (panel.as_ptr(), totals.as_mut_ptr());
            // SAFETY: the panel, the tokens and the totals are as long as the kernel asks.
            unsafe {
                match tokens.rows {
                    $($tokens => tile::<F, $tokens, $registers>(panel, columns, tokens.starts(), totals),)*
                    rows => unreachable!("no tile has {rows} rows"),
                }
            }
        }
    };
}

/// Compiles [`float_tile`] likewise.
macro_rules! multiply_float {
    ($name:ident, $features:literal, $vector:ty, { $($tokens:literal => $registers:literal),* }) => {
        #[doc = concat!("[`super::portable::multiply_float`] with `", $features, "`.")]
        #[target_feature(enable = $features)]
        pub(super) fn $name<F: FloatFormat<WIDTH>, const WIDTH: usize>(
            panel: &[u8],
            columns: usize,
            tokens: Prepared<'_>,
            totals: &mut [f32],
        ) {
            #[target_feature(enable = $features)]
            unsafe fn tile<
                F: FloatFormat<WIDTH>,
                const WIDTH: usize,
                const T: usize,
                const R: usize,
            >(
                panel: *const u8,
                columns: usize,
                tokens: [*const u32; T],
                totals: *mut f32,
            ) {
                // SAFETY: the caller's, and this function is compiled for the set.
                unsafe {
                    $crate::kernels::matmul::generic::float_tile::<$vector, F, WIDTH, T, R>(
                        panel, columns, tokens, totals,
                    );
                }
            }
            assert!(panel.len() >= FLOAT_ROWS * columns * WIDTH, "the panel is whole");
            assert!(tokens.stride >= ActivationKind::Float.words(columns), "the tokens are whole");
            assert!(totals.len() >= FLOAT_ROWS * tokens.rows, "the totals have room");
            let (panel, totals) = (panel.as_ptr(), totals.as_mut_ptr());
            // SAFETY: the panel, the tokens and the totals are as long as the kernel asks.
            unsafe {
                match tokens.rows {
                    $($tokens => tile::<F, WIDTH, $tokens, $registers>(
                        panel, columns, tokens.starts(), totals,
                    ),)*
                    rows => unreachable!("no tile has {rows} rows"),
                }
            }
        }
    };
}

pub(super) use {multiply_float, multiply_quantized};

/// Writes a loop out, up to eight times: one over whole quads is not always unrolled, and must be, so
/// that shifts are constants.
macro_rules! unrolled {
    ($count:expr, $index:ident => $body:expr) => {
        unrolled!(@ $count, $index => $body, 0 1 2 3 4 5 6 7)
    };
    (@ $count:expr, $index:ident => $body:expr, $($value:literal)*) => {
        $(if $value < $count {
            let $index = $value;
            $body
        })*
    };
}

/// Multiplies a whole panel with a tile of `T` tokens; see [`super::portable::multiply_quantized`].
///
/// # Safety
/// `V`'s instruction set; `panel` has `quantized_bytes::<F>(columns)` bytes, each of `tokens` the
/// words of a token with `columns` columns, `totals` room for `T` × 16 values.
#[inline(always)]
pub(super) unsafe fn quantized_tile<
    V: RowVector,
    F: QuantizedFormat,
    const T: usize,
    const R: usize,
>(
    panel: *const u8,
    columns: usize,
    tokens: [*const u32; T],
    totals: *mut f32,
) {
    let blocks = columns / BLOCK;
    for first in (0..QUANTIZED_ROWS).step_by(R * V::LANES) {
        // SAFETY: every offset stays below the lengths that the caller promises.
        unsafe {
            let mut sums = [[V::broadcast(0.0); T]; R];
            for block in 0..blocks {
                if first == 0 {
                    prefetch_part::<F>(panel, block);
                }
                let place = Place {
                    codes: panel.add(codes_at::<F>(block) + 4 * first),
                    panel,
                    first,
                    block,
                    blocks,
                };
                add_group::<V, F, T, R, 0>(place, &tokens, &mut sums);
                if F::GROUP < BLOCK {
                    add_group::<V, F, T, R, 1>(place, &tokens, &mut sums);
                }
            }
            for (register, sums) in sums.into_iter().enumerate() {
                for (t, sum) in sums.into_iter().enumerate() {
                    let row = first + register * V::LANES;
                    V::store(sum, totals.add(t * QUANTIZED_ROWS + row));
                }
            }
        }
    }
}

/// A block of a tile's rows.
#[derive(Clone, Copy)]
struct Place {
    /// The block's codes, from the tile's first row on.
    codes: *const u8,
    /// The whole panel.
    panel: *const u8,
    /// The tile's first row.
    first: usize,
    /// Which block …
    block: usize,
    /// … of how many.
    blocks: usize,
}

/// Adds the products of one group. Which one is a constant, so that all of this is inlined and the
/// sums stay in registers.
#[inline(always)]
unsafe fn add_group<
    V: RowVector,
    F: QuantizedFormat,
    const T: usize,
    const R: usize,
    const GROUP: usize,
>(
    place: Place,
    tokens: &[*const u32; T],
    totals: &mut [[V::Floats; T]; R],
) {
    let Place { block, blocks, .. } = place;
    let groups = BLOCK / F::GROUP;
    // The sums of the whole block come first, those of its halves after it.
    let sums_at = SCALED_SUM + if groups == 1 { 0 } else { 1 + GROUP };
    // SAFETY: the caller's.
    unsafe {
        let sums = integer_sums::<V, F, T, R, GROUP>(place, tokens);
        for (register, (totals, sums)) in totals.iter_mut().zip(sums).enumerate() {
            let row = place.first + register * V::LANES;
            let (scales, offsets) = group_scales::<V, F>(place.panel, block * groups + GROUP, row);
            let magic = V::multiply(scales, V::broadcast(-MAGIC));
            for (t, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                let scaled = V::multiply_add(V::as_floats(sum), scales, magic);
                let scale = float_at(tokens[t], part_at(SCALE, blocks, block));
                *total = V::multiply_add(scaled, V::broadcast(scale), *total);
                if has_offsets::<F>() {
                    let sum = float_at(tokens[t], part_at(sums_at, blocks, block));
                    *total = V::multiply_add(offsets, V::broadcast(sum), *total);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn float_at(token: *const u32, at: usize) -> f32 {
    // SAFETY: the caller stays within the token's words.
    f32::from_bits(unsafe { token.add(at).read() })
}

/// Whether the codes take all eight bits.
const fn codes_are_bytes<F: QuantizedFormat>() -> bool {
    matches!(F::ZERO, Zero::OneHundredTwentyEight)
}

/// Quads whose products may be added up before they have to be widened.
const fn quads_a_run<V: RowVector, F: QuantizedFormat>() -> usize {
    let quads = F::GROUP / 4;
    let Some(Limit { largest, products_a_quad }) = V::LIMIT else { return quads };
    let largest_code = match F::CODES {
        _ if codes_are_bytes::<F>() => 128,
        Codes::TwoBits => 3,
        Codes::ThreeBits => 56,
        Codes::Nibbles => 15,
        Codes::FiveBits => 31,
        Codes::SixBits => 63,
        Codes::Indices(_) | Codes::Bytes => 255,
    };
    let fitting = largest / (largest_code * 127 * products_a_quad);
    assert!(fitting > 0, "one quad at least must fit");
    let mut run = quads;
    while run > fitting {
        run /= 2;
    }
    run
}

/// The exact sums of (code − zero) times activation over one group, for each row and token, on top
/// of [`MAGIC`]'s bits.
#[inline(always)]
unsafe fn integer_sums<
    V: RowVector,
    F: QuantizedFormat,
    const T: usize,
    const R: usize,
    const GROUP: usize,
>(
    Place { codes, block, blocks, .. }: Place,
    tokens: &[*const u32; T],
) -> [[V::Integers; T]; R] {
    let signed = V::SIGNED_BYTES && codes_are_bytes::<F>();
    let run = const { quads_a_run::<V, F>() };
    // SAFETY: a block of 32 columns has code_bytes × 16 bytes of codes; tokens have all words.
    unsafe {
        let mut sums = [[V::splat(MAGIC.to_bits() as i32); T]; R];
        let mut values = *tokens;
        for (t, token) in tokens.iter().enumerate() {
            if let (Some(zero), false) = (F::ZERO.sum_of(GROUP), signed) {
                let zero = token.add(part_at(ZERO_SUM + zero, blocks, block)).read();
                for sums in &mut sums {
                    sums[t] = V::splat(zero as i32);
                }
            }
            values[t] = token.add(CODE_WORDS * block);
        }
        unrolled!(F::GROUP / 4 / run, index => {
            let first = GROUP * F::GROUP / 4 + index * run;
            let mut products = [[V::begin(sums[0][0]); T]; R];
            for (products, sums) in products.iter_mut().zip(&sums) {
                for (product, sum) in products.iter_mut().zip(sums) {
                    *product = V::begin(*sum);
                }
            }
            unrolled!(run, quad => {
                let quad = first + quad;
                for (register, products) in products.iter_mut().enumerate() {
                    let codes = quad_codes::<V, F>(codes.add(4 * register * V::LANES), quad);
                    V::add_quad(products, codes, &values, quad, signed);
                }
            });
            for (sums, products) in sums.iter_mut().zip(products) {
                for (sum, product) in sums.iter_mut().zip(products) {
                    *sum = V::end(*sum, product);
                }
            }
        });
        sums
    }
}

/// The codes of four columns, for each row of a register.
#[inline(always)]
unsafe fn quad_codes<V: RowVector, F: QuantizedFormat>(
    codes: *const u8,
    quad: usize,
) -> V::Integers {
    // SAFETY: the caller's 32 columns have code_bytes × 16 bytes of codes, laid out as `panel` says.
    unsafe {
        let stored = |index: usize| V::load_bytes(codes.add(64 * index));
        let nibbles = || {
            let pairs = stored(quad % 4);
            if quad < 4 { V::low_nibbles(pairs) } else { V::high_nibbles(pairs) }
        };
        let pair = 2 * (quad % 4);
        match F::CODES {
            Codes::Bytes => stored(quad),
            Codes::Nibbles => nibbles(),
            Codes::Indices(table) => V::look_up(table, nibbles()),
            Codes::TwoBits => V::bits(stored(quad / 4), pair, 0, 0x03),
            Codes::ThreeBits => {
                V::or(V::bits(stored(quad / 4), pair, 3, 0x18), V::bits(stored(2), quad, 5, 0x20))
            }
            Codes::FiveBits => V::or(nibbles(), V::bits(stored(4), quad, 4, 0x10)),
            Codes::SixBits => V::or(nibbles(), V::bits(stored(4 + quad / 4), pair, 4, 0x30)),
        }
    }
}

/// The scales and offsets of a group, for a register of rows from `row` on.
#[inline(always)]
unsafe fn group_scales<V: RowVector, F: QuantizedFormat>(
    panel: *const u8,
    group: usize,
    row: usize,
) -> (V::Floats, V::Floats) {
    let groups = block_columns::<F>() / F::GROUP;
    let within = group % groups;
    // SAFETY: each block has scale_bytes × 16 bytes, laid out as `panel` says.
    unsafe {
        let block = panel.add(scales_at::<F>(group / groups));
        let halves = block.add(2 * row);
        let factors = block.add(row);
        let none = V::broadcast(0.0);
        match F::SCALES {
            Scales::PowerOfTwo => (V::load_powers(factors), none),
            Scales::Half => (V::load_halves(halves), none),
            Scales::HalfAndOffset => (V::load_halves(halves), V::load_halves(halves.add(32))),
            Scales::TwoLevel => {
                let factors = V::load_factors(factors.add(32 + 16 * within));
                let halves = V::load_halves(halves);
                // Exact, so that it does not matter when.
                let scales = if F::STEP == 1.0 {
                    halves
                } else {
                    V::multiply(halves, V::broadcast(F::STEP))
                };
                (V::multiply(scales, factors), none)
            }
            Scales::TwoLevelAndOffset => {
                let scale_factors = V::load_factors(factors.add(64 + 32 * within));
                let offset_factors = V::load_factors(factors.add(80 + 32 * within));
                (
                    V::multiply(V::load_halves(halves), scale_factors),
                    V::multiply(V::load_halves(halves.add(32)), offset_factors),
                )
            }
            Scales::TwoLevelAndOffsetInNibbles => {
                let (scale_factors, offset_factors) =
                    V::load_nibble_factors(factors.add(64 + 16 * within));
                (
                    V::multiply(V::load_halves(halves), scale_factors),
                    V::multiply(V::load_halves(halves.add(32)), offset_factors),
                )
            }
        }
    }
}

/// Multiplies a whole panel with a tile of `T` tokens; see [`super::portable::multiply_float`].
///
/// # Safety
/// `V`'s instruction set; `panel` has `columns` × 32 weights, each of `tokens` `columns` words,
/// `totals` room for `T` × 32 values.
#[inline(always)]
pub(super) unsafe fn float_tile<
    V: RowVector,
    F: FloatFormat<WIDTH>,
    const WIDTH: usize,
    const T: usize,
    const R: usize,
>(
    panel: *const u8,
    columns: usize,
    tokens: [*const u32; T],
    totals: *mut f32,
) {
    for first in (0..FLOAT_ROWS).step_by(R * V::LANES) {
        // SAFETY: every offset stays below the lengths that the caller promises.
        unsafe {
            let mut sums = [[V::broadcast(0.0); T]; R];
            for column in 0..columns {
                let weights = panel.add((column * FLOAT_ROWS + first) * WIDTH);
                for (register, sums) in sums.iter_mut().enumerate() {
                    let weights = weights.add(register * V::LANES * WIDTH);
                    let weights = V::load_weights::<F, WIDTH>(weights);
                    for (sum, token) in sums.iter_mut().zip(tokens) {
                        let activation = V::broadcast(float_at(token, column));
                        *sum = V::multiply_add(weights, activation, *sum);
                    }
                }
            }
            for (register, sums) in sums.into_iter().enumerate() {
                for (t, sum) in sums.into_iter().enumerate() {
                    let row = first + register * V::LANES;
                    V::store(sum, totals.add(t * FLOAT_ROWS + row));
                }
            }
        }
    }
}
