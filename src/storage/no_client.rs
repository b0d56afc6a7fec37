//! The client of a quantkit that was built without storage: there is none.

use super::{Address, Object, StorageError};

#[derive(Debug)]
pub(super) enum Client {}

impl Client {
    pub(super) fn connect(address: &Address) -> Result<Self, StorageError> {
        Err(StorageError::NotBuilt { address: address.to_string() })
    }

    pub(super) fn endpoint(&self) -> &str {
        match *self {}
    }

    pub(super) fn find(&self, _: &Address) -> Result<Object, StorageError> {
        match *self {}
    }

    pub(super) fn list(&self, _: &Address) -> Result<Vec<Object>, StorageError> {
        match *self {}
    }

    pub(super) fn read_from(
        &self,
        _: &Object,
        _: u64,
        _: &mut dyn FnMut(&[u8]) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        match *self {}
    }

    pub(super) fn read(&self, _: &Address) -> Result<Option<Vec<u8>>, StorageError> {
        match *self {}
    }

    pub(super) fn write(&self, _: &Address, _: Vec<u8>) -> Result<(), StorageError> {
        match *self {}
    }

    pub(super) fn remove(&self, _: &Address) -> Result<(), StorageError> {
        match *self {}
    }
}
