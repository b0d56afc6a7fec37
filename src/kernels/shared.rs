//! A slice that several threads write to, each to its own elements.

use std::marker::PhantomData;
use std::ops::Range;

/// See the module.
pub(super) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: elements are only reached through `slice`, whose callers keep apart.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: it is a borrowed slice.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(super) fn of(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), slice: PhantomData }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Some of the elements.
    ///
    /// # Safety
    /// Nobody else has a slice with any of these elements.
    ///
    /// # Panics
    /// If there are no such elements.
    pub(super) unsafe fn slice(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "the slice has the elements");
        // SAFETY: in bounds by the assertion; nobody else's by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
