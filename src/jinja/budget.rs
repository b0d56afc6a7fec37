//! What a template may use up. A model's file must not be able to hang its reader or to take its
//! memory.

use std::cell::Cell;

use super::error::TemplateError;

/// Expressions, rounds of loops, and the like.
const STEPS: u64 = 10_000_000;
/// Bytes of all texts and lists that are ever made, whether they are still there or not.
const BYTES: usize = 64 << 20;
/// Bytes that are looked through for the price of a step.
const BYTES_A_STEP: usize = 64;
/// Expressions, statements and calls inside one another.
const DEPTH: usize = 800;

/// Counts what is used.
#[derive(Debug, Default)]
pub(super) struct Budget {
    steps: Cell<u64>,
    bytes: Cell<usize>,
    depth: Cell<usize>,
}

impl Budget {
    /// Counts steps.
    pub(super) fn step(&self, count: u64) -> Result<(), TemplateError> {
        let steps = self.steps.get().saturating_add(count);
        self.steps.set(steps);
        if steps > STEPS {
            return Err(TemplateError::limit(format!("it takes more than {STEPS} steps")));
        }
        Ok(())
    }

    /// Counts looking through `bytes` bytes.
    pub(super) fn read(&self, bytes: usize) -> Result<(), TemplateError> {
        self.step(1 + (bytes / BYTES_A_STEP) as u64)
    }

    /// Counts the memory of something that is about to be made.
    pub(super) fn take(&self, bytes: usize) -> Result<(), TemplateError> {
        self.read(bytes)?;
        let bytes = self.bytes.get().saturating_add(bytes);
        self.bytes.set(bytes);
        if bytes > BYTES {
            return Err(TemplateError::limit(format!(
                "it makes more than {} MiB of text and lists",
                BYTES >> 20
            )));
        }
        Ok(())
    }

    /// Goes one level deeper; [`Budget::leave`] comes back.
    pub(super) fn enter(&self) -> Result<(), TemplateError> {
        self.step(1)?;
        if self.depth.get() >= DEPTH {
            return Err(TemplateError::limit(format!("it is nested more than {DEPTH} deep")));
        }
        self.depth.set(self.depth.get() + 1);
        Ok(())
    }

    /// Comes back from one level.
    pub(super) fn leave(&self) {
        self.depth.set(self.depth.get() - 1);
    }
}
