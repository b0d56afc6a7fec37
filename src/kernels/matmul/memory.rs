//! Memory for packed weights.

/// Bytes that begin at a cache line, so that a panel's registers never straddle two.
#[derive(Debug)]
pub(super) struct AlignedBytes {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBytes {
    const LINE: usize = 64;

    pub(super) const fn empty() -> Self {
        Self { storage: Vec::new(), start: 0, length: 0 }
    }

    pub(super) fn zeroed(length: usize) -> Self {
        let storage = vec![0; length + Self::LINE - 1];
        let start = storage.as_ptr().align_offset(Self::LINE).min(Self::LINE - 1);
        Self { storage, start, length }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.storage[self.start..][..self.length]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..][..self.length]
    }
}
