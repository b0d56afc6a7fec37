//! What parts that were written together have in common: a hash of the whole model, which is taken
//! while its tensors are written, in any order and by any number of threads.

use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::support::hash::sha256_bytes;

/// Hexadecimal digits of an identity.
pub(super) const IDENTITY_DIGITS: usize = 32;

/// The sum of the hashes of all pieces of a model's tensors. A sum does not depend on the order, so
/// the same pieces always have the same one.
#[derive(Debug, Default)]
pub(super) struct ContentSum {
    halves: [AtomicU64; 2],
}

impl ContentSum {
    /// Adds bytes of a tensor, by its number, that start `offset` bytes from its first one.
    pub(super) fn add(&self, tensor: usize, offset: u64, bytes: &[u8]) {
        let mut hash = Sha256::new();
        hash.update((tensor as u64).to_le_bytes());
        hash.update(offset.to_le_bytes());
        hash.update(bytes);
        for (half, eight) in self.halves.iter().zip(hash.finalize().as_chunks::<8>().0) {
            // Wraps around.
            half.fetch_add(u64::from_le_bytes(*eight), Ordering::Relaxed);
        }
    }

    /// What the parts with these headers have in common.
    pub(super) fn identity<'a>(self, headers: impl Iterator<Item = &'a [u8]>) -> String {
        let mut bytes: Vec<u8> = headers.flatten().copied().collect();
        for half in self.halves {
            bytes.extend(half.into_inner().to_le_bytes());
        }
        let mut digits = sha256_bytes(&bytes);
        digits.truncate(IDENTITY_DIGITS);
        digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_matter_and_every_byte_does() {
        let identity = |pieces: [(usize, u64, &str); 2], header: &str| {
            let sum = ContentSum::default();
            for (tensor, offset, text) in pieces {
                sum.add(tensor, offset, text.as_bytes());
            }
            sum.identity([header.as_bytes()].into_iter())
        };
        let (a, b) = ((0, 0, "ab"), (1, 0, "cd"));
        let expected = identity([a, b], "GGUF");
        assert_eq!(expected.len(), IDENTITY_DIGITS);
        assert_eq!(identity([b, a], "GGUF"), expected);
        assert_ne!(identity([a, (1, 0, "ce")], "GGUF"), expected);
        assert_ne!(identity([a, (1, 2, "cd")], "GGUF"), expected);
        assert_ne!(identity([(1, 0, "ab"), (0, 0, "cd")], "GGUF"), expected);
        assert_ne!(identity([a, b], "GGUE"), expected);
    }
}
