//! What a store keeps of a position.

use std::sync::Arc;

/// Head sizes are padded to a multiple of this, so that every kernel has whole registers.
const HEAD_MULTIPLE: usize = 16;

/// How the elements of keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// 16-bit integers with one f32 scale a row: more precise than f16.
    #[default]
    I16,
    /// 8-bit integers with one f32 scale a row: half the memory.
    I8,
}

impl KvType {
    /// All of them, in the enum's order.
    pub const ALL: [Self; 2] = [Self::I16, Self::I8];

    /// What `--kv-type` and results call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::I16 => "i16",
            Self::I8 => "i8",
        }
    }

    /// Bytes of an element.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::I16 => 2,
            Self::I8 => 1,
        }
    }

    /// The largest element.
    pub(super) fn limit(self) -> f32 {
        match self {
            Self::I16 => 32_767.0,
            Self::I8 => 127.0,
        }
    }
}

/// What a position's keys and values consist of in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayer {
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a key, and of a value.
    pub head_size: usize,
}

impl KvLayer {
    /// Bytes that a position takes.
    pub fn bytes(self, kind: KvType) -> usize {
        let row = padded(self.head_size) * kind.bytes() + size_of::<f32>();
        2 * self.kv_heads * row
    }
}

/// What a position's keys and values consist of: layer by layer, as far as layers keep any. Copies
/// share their memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvShape {
    layers: Arc<[PlacedLayer]>,
}

/// A layer, and where it lies among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlacedLayer {
    pub(super) layer: KvLayer,
    /// Bytes that a position takes in the layers before, by [`KvType`].
    pub(super) bytes_before: [usize; 2],
}

impl KvShape {
    /// These layers, in order.
    pub fn new(layers: impl IntoIterator<Item = KvLayer>) -> Self {
        let mut bytes_before = [0; 2];
        let place = |layer: KvLayer| {
            let placed = PlacedLayer { layer, bytes_before };
            for (before, kind) in bytes_before.iter_mut().zip(KvType::ALL) {
                *before += layer.bytes(kind);
            }
            placed
        };
        Self { layers: layers.into_iter().map(place).collect() }
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The layer at `slot`, if there is one.
    pub fn layer(&self, slot: usize) -> Option<KvLayer> {
        self.layers.get(slot).map(|placed| placed.layer)
    }

    /// Bytes that a position takes, over all layers.
    pub fn bytes_per_token(&self, kind: KvType) -> usize {
        self.layers.iter().map(|placed| placed.layer.bytes(kind)).sum()
    }

    /// # Panics
    /// If there is no such layer.
    pub(super) fn placed(&self, slot: usize) -> PlacedLayer {
        assert!(slot < self.layers.len(), "no layer {slot}");
        self.layers[slot]
    }
}

/// A head size with its padding.
pub(in super::super) fn padded(head_size: usize) -> usize {
    head_size.next_multiple_of(HEAD_MULTIPLE)
}
