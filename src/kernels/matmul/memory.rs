//! Memory for packed weights and prepared inputs: in huge pages where the system has them, so that
//! reading through it is not held up by looking up where each page is.

use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

/// Bytes that many small matrices share: a huge page has room for several.
const REGION: usize = 32 << 20;

/// Where registers, which are as long as a cache line, do not straddle two.
const LINE: usize = 64;

/// Bytes that begin at a cache line, zero at first.
#[derive(Debug)]
pub(super) struct AlignedBytes {
    /// None where there are no bytes.
    region: Option<Arc<Region>>,
    start: usize,
    length: usize,
}

/// Memory from the system, of which each [`AlignedBytes`] has a part of its own. It goes back when the
/// last of them does.
#[derive(Debug)]
struct Region {
    start: *mut u8,
    /// Keeps the memory.
    _map: MmapMut,
}

// SAFETY: the memory is only reached through the parts, each of which is borrowed as a slice is.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// None where the system has no such memory.
    fn new(length: usize) -> Option<Arc<Self>> {
        let mut map = MmapMut::map_anon(length).ok()?;
        // A system without huge pages refuses, and is only slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Arc::new(Self { start: map.as_mut_ptr(), _map: map }))
    }
}

/// The region that small parts are taken from, and how much of it is taken.
static SHARED: Mutex<Option<(Arc<Region>, usize)>> = Mutex::new(None);

impl AlignedBytes {
    pub(super) const fn empty() -> Self {
        Self { region: None, start: 0, length: 0 }
    }

    /// So many bytes of a region that others have parts of; none where there is no memory.
    pub(super) fn zeroed(length: usize) -> Option<Self> {
        if length == 0 || length > REGION / 2 {
            return Self::alone(length);
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let (region, taken) = match shared.take() {
            Some((region, taken)) if taken + length <= REGION => (region, taken),
            _ => (Region::new(REGION)?, 0),
        };
        *shared = Some((Arc::clone(&region), (taken + length).next_multiple_of(LINE)));
        Some(Self { region: Some(region), start: taken, length })
    }

    /// So many bytes that go back to the system as soon as they are dropped.
    fn alone(length: usize) -> Option<Self> {
        if length == 0 {
            return Some(Self::empty());
        }
        Some(Self { region: Some(Region::new(length)?), start: 0, length })
    }

    /// At least this many bytes of working memory, without which there is no way on.
    ///
    /// # Panics
    /// If there is no memory.
    pub(super) fn reserve(&mut self, length: usize) {
        if self.length < length {
            // What there was may be all that is missing.
            *self = Self::empty();
            *self = Self::alone(length.next_power_of_two()).unwrap_or_else(|| {
                panic!("the system has no {length} bytes of memory");
            });
        }
    }

    fn pointer(&self) -> *mut u8 {
        // SAFETY: the part is inside the region.
        let start = |region: &Arc<Region>| unsafe { region.start.add(self.start) };
        self.region.as_ref().map_or(std::ptr::without_provenance_mut(LINE), start)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: the region has this many bytes there, which nobody else has.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.length) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.length) }
    }

    /// The first bytes as 32-bit words. Where there are too few, they are given up for more.
    pub(super) fn words(&mut self, count: usize) -> &mut [u32] {
        self.reserve(4 * count);
        // SAFETY: as above; a word may have any bits, and begins where a cache line does.
        unsafe { std::slice::from_raw_parts_mut(self.pointer().cast(), count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_zero_and_apart() {
        let mut parts: Vec<AlignedBytes> = [1, 0, 100, 64, REGION / 2, REGION / 2 + 1, 63]
            .map(|length| AlignedBytes::zeroed(length).unwrap())
            .into();
        for (index, part) in parts.iter_mut().enumerate() {
            assert!(part.as_slice().as_ptr().addr().is_multiple_of(LINE));
            assert!(part.as_slice().iter().all(|&byte| byte == 0));
            part.as_mut_slice().fill(index as u8 + 1);
        }
        for (index, part) in parts.iter().enumerate() {
            assert!(part.as_slice().iter().all(|&byte| byte == index as u8 + 1));
        }
    }

    #[test]
    fn words_grow_and_stay() {
        let mut bytes = AlignedBytes::empty();
        bytes.words(5).copy_from_slice(&[1, 2, 3, 4, 5]);
        assert_eq!(bytes.words(3), [1, 2, 3]);
        assert_eq!(bytes.words(100_000).len(), 100_000);
        assert_eq!(bytes.words(0), [0; 0]);
    }
}
