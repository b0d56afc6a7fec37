//! The memory of keys and values: integers, each row with a scale of its own, laid out for
//! instructions that multiply pairs of 16-bit integers and add up both products.
//!
//! Keys lie in tiles of [`TILE`] positions, `[head_size / 2][TILE][2]`: neighbouring pairs are the
//! same two dimensions of neighbouring positions. Values lie in pairs of positions,
//! `[positions / 2][head_size][2]`. A register of either is used as it is: no conversion, and no
//! sum across lanes.
//!
//! Sums are kept in 32 bits. The norms of a key and of a query, as integers, stay below
//! [`NORM_LIMIT`], so that by Cauchy and Schwarz no partial sum of their product reaches 2³¹.
//!
//! In f16, the large elements that keys have (tens, where most are below one) would be rounded a
//! hundred times more coarsely than the small ones, in the same memory.

mod shape;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};

use memmap2::MmapMut;

use self::shape::PlacedLayer;
pub(super) use self::shape::padded;
pub use self::shape::{KvLayer, KvShape, KvType};
use crate::kernels::dispatch::for_each_instruction_set;

/// Positions in a tile of keys.
pub(super) const TILE: usize = 16;

/// The largest norm of a row of integers, before rounding. Rounding adds at most √head_size / 2; the
/// square of 46,300 is below 2³¹.
const NORM_LIMIT: f32 = 46_000.0;

/// Rows without an element larger than this are stored as zeros.
const SMALLEST: f32 = 1e-30;

/// Memory from which on huge pages are asked for.
#[cfg(target_os = "linux")]
const HUGE_FROM: usize = 8 << 20;

/// Keys and values of a stretch of a sequence, in all layers.
#[derive(Debug)]
pub struct KeyValues {
    memory: MmapMut,
    kind: KvType,
    shape: KvShape,
    capacity: usize,
}

/// Where one head's keys and values of a layer begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadMemory<'a> {
    /// `[positions / TILE][head_size / 2][TILE][2]`
    pub(super) keys: *const u8,
    /// `[positions / 2][head_size][2]`
    pub(super) values: *const u8,
    /// One a position; NaN where the key or the value was not finite.
    pub(super) key_scales: *const f32,
    /// One a position; always finite.
    pub(super) value_scales: *const f32,
    memory: PhantomData<&'a [u8]>,
}

/// How the parts of [`HeadMemory`] follow each other, and heads within layers.
#[derive(Debug, Clone, Copy)]
struct HeadLayout {
    /// Positions that there is room for.
    capacity: usize,
    /// Bytes of the keys, and of the values.
    plane: usize,
}

/// Where a layer of a store lies.
struct LayerMemory {
    layer: KvLayer,
    layout: HeadLayout,
    /// Bytes before it.
    offset: usize,
}

/// A head's parts, to be written.
struct HeadParts {
    keys: *mut u8,
    values: *mut u8,
    key_scales: *mut f32,
    value_scales: *mut f32,
}

impl HeadLayout {
    fn new(kind: KvType, head_size: usize, capacity: usize) -> Self {
        Self { capacity, plane: capacity * padded(head_size) * kind.bytes() }
    }

    /// Bytes of one head of one layer.
    fn bytes(self) -> usize {
        2 * (self.plane + self.capacity * size_of::<f32>())
    }

    /// The parts of head `index` of those that begin at `start`.
    ///
    /// # Safety
    /// So many heads are there.
    unsafe fn parts(self, start: *mut u8, index: usize) -> HeadParts {
        // SAFETY: the parts lie within the head, which the caller says is there.
        unsafe {
            let keys = start.add(index * self.bytes());
            let key_scales = keys.add(2 * self.plane).cast::<f32>();
            HeadParts {
                keys,
                values: keys.add(self.plane),
                key_scales,
                value_scales: key_scales.add(self.capacity),
            }
        }
    }
}

impl KeyValues {
    /// Room for at least `capacity` positions; `None` if there is no memory for them. The system
    /// hands the memory out as it is used.
    pub fn allocate(kind: KvType, shape: KvShape, capacity: usize) -> Option<Self> {
        let capacity = capacity.max(1).checked_next_multiple_of(TILE)?;
        let bytes = capacity.checked_mul(shape.bytes_per_token(kind))?;
        // Lengths beyond this are refused by the system in ways that differ.
        isize::try_from(bytes).ok()?;
        let memory = MmapMut::map_anon(bytes.max(1)).ok()?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_FROM {
            // Without huge pages it is only slower.
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        Some(Self { memory, kind, shape, capacity })
    }

    /// Positions that there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How the elements are stored.
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// What a position consists of.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Takes over positions of another memory of the same type and shape, as its own first ones.
    ///
    /// # Panics
    /// If type or shape differ, there are no such positions, or the first is not a multiple of
    /// `TILE`.
    pub fn copy(&mut self, other: &Self, positions: Range<usize>) {
        assert_eq!((self.kind, &self.shape), (other.kind, &other.shape), "memories of one model");
        let has_both = positions.end <= other.capacity && positions.len() <= self.capacity;
        assert!(has_both && positions.start.is_multiple_of(TILE), "no such positions");
        // Capacities are whole tiles. What lies behind the positions is written over.
        let count = positions.len().next_multiple_of(TILE);
        for slot in 0..self.shape.layers() {
            for kv_head in 0..self.shape.placed(slot).layer.kv_heads {
                self.copy_head(slot, kv_head, other, positions.start, count);
            }
        }
    }

    fn copy_head(&mut self, slot: usize, kv_head: usize, other: &Self, first: usize, count: usize) {
        let LayerMemory { layer, layout, offset } = self.place(slot);
        let row = padded(layer.head_size) * self.kind.bytes();
        let from = other.head(slot, kv_head);
        // SAFETY: the layer's heads follow each other from its offset on, and this one is there with
        // all its parts. `copy` has checked that the tiles are there in both memories, which are
        // not the same one.
        unsafe {
            let to = layout.parts(self.memory.as_mut_ptr().add(offset), kv_head);
            to.keys.copy_from_nonoverlapping(from.keys.add(first * row), count * row);
            to.values.copy_from_nonoverlapping(from.values.add(first * row), count * row);
            to.key_scales.copy_from_nonoverlapping(from.key_scales.add(first), count);
            to.value_scales.copy_from_nonoverlapping(from.value_scales.add(first), count);
        }
    }

    /// Stores one position's keys and values of a layer, `[kv_heads · head_size]` each.
    ///
    /// # Panics
    /// If the layer or the position is not there, or a length is another.
    pub fn write(&mut self, slot: usize, position: usize, keys: &[f32], values: &[f32]) {
        self.writer(slot).write(position, keys, values);
    }

    /// A handle for storing a layer's keys and values from several threads.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn writer(&mut self, slot: usize) -> LayerWriter<'_> {
        let LayerMemory { layer, layout, offset } = self.place(slot);
        // SAFETY: the layers follow each other, and this one is there.
        let start = unsafe { self.memory.as_mut_ptr().add(offset) };
        LayerWriter { start, kind: self.kind, layer, layout, memory: PhantomData }
    }

    /// One head of a layer.
    ///
    /// # Panics
    /// If there is no such layer or head.
    pub(super) fn head(&self, slot: usize, kv_head: usize) -> HeadMemory<'_> {
        let LayerMemory { layer, layout, offset } = self.place(slot);
        assert!(kv_head < layer.kv_heads, "no such head");
        // SAFETY: the layer's heads follow each other from its offset on, and this one is there. The
        // memory is only read.
        let parts = unsafe {
            let start = self.memory.as_ptr().cast_mut().add(offset);
            layout.parts(start, kv_head)
        };
        HeadMemory {
            keys: parts.keys,
            values: parts.values,
            key_scales: parts.key_scales,
            value_scales: parts.value_scales,
            memory: PhantomData,
        }
    }

    /// # Panics
    /// If there is no such layer.
    fn place(&self, slot: usize) -> LayerMemory {
        let PlacedLayer { layer, bytes_before } = self.shape.placed(slot);
        LayerMemory {
            layer,
            layout: HeadLayout::new(self.kind, layer.head_size, self.capacity),
            offset: self.capacity * bytes_before[self.kind as usize],
        }
    }

    /// Element `index` of the key and of the value at a position, as integers.
    pub(super) fn elements(
        &self,
        slot: usize,
        kv_head: usize,
        position: usize,
        index: usize,
    ) -> (f32, f32) {
        let head_size = self.shape.placed(slot).layer.head_size;
        assert!(position < self.capacity && index < head_size);
        let head = self.head(slot, kv_head);
        let places = [
            (head.keys, key_place(head_size, position, index)),
            (head.values, value_place(head_size, position, index)),
        ];
        // SAFETY: both places lie within the head, as just checked.
        let [key, value] = places.map(|(start, place)| unsafe {
            match self.kind {
                KvType::I16 => f32::from(*start.cast::<i16>().add(place)),
                KvType::I8 => f32::from(*start.cast::<i8>().add(place)),
            }
        });
        (key, value)
    }

    /// The scales of the key and of the value at a position.
    pub(super) fn scales(&self, slot: usize, kv_head: usize, position: usize) -> (f32, f32) {
        assert!(position < self.capacity);
        let head = self.head(slot, kv_head);
        // SAFETY: there are as many scales as positions.
        unsafe { (*head.key_scales.add(position), *head.value_scales.add(position)) }
    }
}

/// Where an element of a key lies, in elements.
fn key_place(head_size: usize, position: usize, index: usize) -> usize {
    let (tile, within) = (position / TILE, position % TILE);
    tile * TILE * padded(head_size) + (index / 2 * TILE + within) * 2 + index % 2
}

/// Where an element of a value lies, in elements.
fn value_place(head_size: usize, position: usize, index: usize) -> usize {
    (position / 2 * padded(head_size) + index) * 2 + position % 2
}

/// Stores keys and values of one layer. Several threads may use it at once, for different positions.
#[derive(Debug, Clone, Copy)]
pub struct LayerWriter<'a> {
    start: *mut u8,
    kind: KvType,
    layer: KvLayer,
    layout: HeadLayout,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: the memory is this handle's and its copies' alone, and they only write to it, atomically.
unsafe impl Send for LayerWriter<'_> {}
// SAFETY: as above.
unsafe impl Sync for LayerWriter<'_> {}

impl LayerWriter<'_> {
    /// Stores one position's keys and values, `[kv_heads · head_size]` each. A head whose key or
    /// value is not finite makes every attention that sees it NaN.
    ///
    /// # Panics
    /// If the position is not there, or a length is another.
    pub fn write(&self, position: usize, keys: &[f32], values: &[f32]) {
        let KvLayer { kv_heads, head_size } = self.layer;
        assert!(position < self.layout.capacity, "no room for position {position}");
        assert_eq!((keys.len(), values.len()), (kv_heads * head_size, kv_heads * head_size));
        let rows = keys.chunks_exact(head_size).zip(values.chunks_exact(head_size));
        for (kv_head, (key, value)) in rows.enumerate() {
            self.write_head(kv_head, position, key, value);
        }
    }

    fn write_head(&self, kv_head: usize, position: usize, key: &[f32], value: &[f32]) {
        let size = padded(self.layer.head_size);
        let norm_limit = match self.kind {
            KvType::I16 => NORM_LIMIT,
            // They cannot get as large.
            KvType::I8 => f32::INFINITY,
        };
        let mut key_scale = row_scale(key, self.kind.limit(), norm_limit);
        let mut value_scale = row_scale(value, self.kind.limit(), f32::INFINITY);
        if !(key_scale.is_finite() && value_scale.is_finite()) {
            (key_scale, value_scale) = (f32::NAN, 0.0);
        }
        // SAFETY: the head and the position are there; so are their places.
        unsafe {
            let HeadParts { keys, values, key_scales, value_scales } =
                self.layout.parts(self.start, kv_head);
            store_scale(key_scales.add(position), key_scale);
            store_scale(value_scales.add(position), value_scale);
            let limit = self.kind.limit();
            let mut elements = [0; CHUNK];
            for (chunk, row) in key.chunks(CHUNK).enumerate() {
                round_row(row, inverse(key_scale), limit, &mut elements);
                let place = key_place(size, position, chunk * CHUNK);
                // The element that is missing from an odd head size is zero.
                let pairs = elements[..row.len().next_multiple_of(2)].chunks_exact(2);
                for (index, pair) in pairs.enumerate() {
                    self.store_pair(keys, place + index * 2 * TILE, pair[0], pair[1]);
                }
            }
            for (chunk, row) in value.chunks(CHUNK).enumerate() {
                round_row(row, inverse(value_scale), limit, &mut elements);
                let place = value_place(size, position, chunk * CHUNK);
                for (index, &element) in elements[..row.len()].iter().enumerate() {
                    self.store_one(values, place + 2 * index, element);
                }
            }
        }
    }

    /// # Safety
    /// `place` and the one after it lie in the plane that begins at `plane`; `place` is even.
    #[inline(always)]
    unsafe fn store_pair(&self, plane: *mut u8, place: usize, first: i16, second: i16) {
        // SAFETY: the caller's; planes begin on a cache line.
        unsafe {
            match self.kind {
                KvType::I16 => {
                    let [a, b] = first.to_ne_bytes();
                    let [c, d] = second.to_ne_bytes();
                    let pair = plane.cast::<i16>().add(place).cast::<u32>();
                    let bits = u32::from_ne_bytes([a, b, c, d]);
                    AtomicU32::from_ptr(pair).store(bits, Ordering::Relaxed);
                }
                KvType::I8 => {
                    let bits = u16::from_ne_bytes([first as u8, second as u8]);
                    let pair = plane.add(place).cast::<u16>();
                    AtomicU16::from_ptr(pair).store(bits, Ordering::Relaxed);
                }
            }
        }
    }

    /// # Safety
    /// `place` lies in the plane that begins at `plane`.
    #[inline(always)]
    unsafe fn store_one(&self, plane: *mut u8, place: usize, element: i16) {
        // SAFETY: the caller's; planes begin on a cache line.
        unsafe {
            match self.kind {
                KvType::I16 => {
                    let element_place = plane.cast::<u16>().add(place);
                    AtomicU16::from_ptr(element_place).store(element as u16, Ordering::Relaxed);
                }
                KvType::I8 => {
                    AtomicU8::from_ptr(plane.add(place)).store(element as u8, Ordering::Relaxed);
                }
            }
        }
    }
}

/// # Safety
/// The place is there, aligned, and read by nobody now.
unsafe fn store_scale(place: *mut f32, scale: f32) {
    // SAFETY: the caller's.
    unsafe { AtomicU32::from_ptr(place.cast()).store(scale.to_bits(), Ordering::Relaxed) };
}

/// Elements that are rounded at a time; even.
const CHUNK: usize = 64;

/// Rounds a query as keys are rounded, to 16 bits, and returns its scale: never 0, and NaN if an
/// element is not finite. Elements beyond the query's become 0.
pub(super) fn round_query(query: &[f32], elements: &mut [i16]) -> f32 {
    let scale = row_scale(query, KvType::I16.limit(), NORM_LIMIT);
    for (query, elements) in query.chunks(CHUNK).zip(elements.chunks_mut(CHUNK)) {
        round_row(query, inverse(scale), KvType::I16.limit(), elements);
    }
    elements[query.len()..].fill(0);
    if scale == 0.0 { f32::MIN_POSITIVE } else { scale }
}

/// 1 / scale; 0 for rows that are stored as zeros.
fn inverse(scale: f32) -> f32 {
    if scale > 0.0 { 1.0 / scale } else { 0.0 }
}

for_each_instruction_set! {
    /// The step between a row's integers, so that neither their magnitude nor their norm is above its
    /// limit: 0 for a row of (almost) nothing, NaN if an element is not finite.
    fn row_scale(row: &[f32], limit: f32, norm_limit: f32) -> f32 {
        // The bits of absolute values are in the order of the values, infinity and NaN last.
        let mut largest = 0;
        for value in row {
            largest = largest.max(value.to_bits() & 0x7FFF_FFFF);
        }
        let largest = f32::from_bits(largest);
        if !largest.is_finite() {
            return f32::NAN;
        }
        if largest < SMALLEST {
            return 0.0;
        }
        if norm_limit == f32::INFINITY {
            return largest / limit;
        }
        // Independent partial sums: the compiler may not reorder a single one. Squares of the
        // values themselves might overflow.
        let inverse = 1.0 / largest;
        let mut sums = [0f32; 16];
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum += (value * inverse) * (value * inverse);
            }
        }
        for (sum, value) in sums.iter_mut().zip(rest) {
            *sum += (value * inverse) * (value * inverse);
        }
        for width in [8, 4, 2, 1] {
            for index in 0..width {
                sums[index] += sums[index + width];
            }
        }
        let norm = sums[0].sqrt();
        largest * (1.0 / limit).max(norm / norm_limit)
    }
}

for_each_instruction_set! {
    /// `row · inverse` rounded to integers, none larger than `limit`, or zeros if `inverse` is 0;
    /// the element that an odd row lacks becomes zero too.
    fn round_row(row: &[f32], inverse: f32, limit: f32, elements: &mut [i16]) {
        /// Adding 1.5·2²³ rounds to a whole number and leaves it in the low bits.
        const ROUND: f32 = 12_582_912.0;
        if inverse == 0.0 {
            elements.fill(0);
            return;
        }
        for (element, value) in elements.iter_mut().zip(row) {
            *element = ((value * inverse).clamp(-limit, limit) + ROUND).to_bits() as i16;
        }
        if let Some(element) = elements.get_mut(row.len()) {
            *element = 0;
        }
    }
}
