//! The memory of a step's operations.

use std::ops::Range;

use crate::kernels::attention::{AttentionItem, AttentionScratch, LayerWriter, Span};
use crate::kernels::elementwise::Rows;
use crate::kernels::matmul;
use crate::model::ops::operations::{Buffer, Rotation, View};

/// The activations of a step, and memory that its operations use again.
#[derive(Debug, Default)]
pub(in crate::model) struct Workspace {
    pub(super) tokens: usize,
    pub(super) buffers: Buffers,
    pub(super) rotations: Vec<Rotation>,
    pub(super) query_factors: Vec<f32>,
    /// What matrices are multiplied with, for an observer.
    pub(super) input: Values,
    pub(super) products: matmul::Workspace,
    pub(super) attention: AttentionScratch,
    // Memory of vectors that are filled anew in every layer.
    pub(super) places: Vec<Place<'static>>,
    pub(super) spans: Vec<Span<'static>>,
    pub(super) parts: Vec<AttentionItem<'static>>,
}

/// Where a sequence's keys and values of a layer go.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// Its tokens in the step.
    pub(super) tokens: Range<usize>,
    /// The position of the first of them in the segment.
    pub(super) position: usize,
    pub(super) writer: LayerWriter<'a>,
}

/// Memory that is kept from step to step.
#[derive(Debug, Default)]
pub(super) struct Values {
    memory: Vec<f32>,
    length: usize,
}

impl Values {
    /// Makes room for `length` elements. What they hold is unspecified.
    pub(super) fn resize(&mut self, length: usize) -> &mut [f32] {
        if self.memory.len() < length {
            // Nothing is to be copied.
            self.memory.clear();
            self.memory.resize(length, 0.0);
        }
        self.length = length;
        self.values_mut()
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.memory[..self.length]
    }

    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.length]
    }
}

/// One memory a [`Buffer`].
#[derive(Debug, Default)]
pub(super) struct Buffers {
    all: [Values; Buffer::COUNT],
}

impl Buffers {
    pub(super) fn fill(&mut self, buffer: Buffer, values: &[f32]) {
        self.all[buffer as usize].resize(values.len()).copy_from_slice(values);
    }

    pub(super) fn values(&self, buffer: Buffer) -> &[f32] {
        self.all[buffer as usize].values()
    }

    pub(super) fn values_mut(&mut self, buffer: Buffer) -> &mut [f32] {
        self.all[buffer as usize].values_mut()
    }

    /// Two different buffers.
    pub(super) fn two_mut(&mut self, buffers: [Buffer; 2]) -> [&mut [f32]; 2] {
        let places = buffers.map(|buffer| buffer as usize);
        let values = self.all.get_disjoint_mut(places).expect("the buffers differ");
        values.map(Values::values_mut)
    }

    /// Three different buffers.
    pub(super) fn three_mut(&mut self, buffers: [Buffer; 3]) -> [&mut [f32]; 3] {
        let places = buffers.map(|buffer| buffer as usize);
        let values = self.all.get_disjoint_mut(places).expect("the buffers differ");
        values.map(Values::values_mut)
    }

    /// Takes the memory of a buffer, with room for `length` elements. They keep their values if the
    /// buffer had room for them already. The memory has to be put back.
    pub(super) fn take(&mut self, buffer: Buffer, length: usize) -> Vec<f32> {
        let values = &mut self.all[buffer as usize];
        values.resize(length);
        std::mem::take(&mut values.memory)
    }

    pub(super) fn put_back(&mut self, buffer: Buffer, memory: Vec<f32>) {
        self.all[buffer as usize].memory = memory;
    }

    /// Shortens a buffer to `length` elements.
    pub(super) fn shorten(&mut self, buffer: Buffer, length: usize) {
        self.all[buffer as usize].length = length;
    }

    /// Some columns of a buffer's rows.
    pub(super) fn rows(&self, view: View, tokens: usize) -> Rows<'_> {
        let values = self.values(view.buffer);
        let stride = values.len() / tokens.max(1);
        Rows::new(&values[view.start.min(values.len())..], tokens, view.width, stride)
    }
}
