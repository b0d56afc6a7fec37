//! What storage says of an object.

use super::address::Address;

/// An object that storage has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// Where.
    pub address: Address,
    /// Bytes.
    pub size: u64,
    /// The entity tag, which other content would change.
    pub tag: Option<String>,
    /// When it was written, as text.
    pub modified: String,
}
