//! A reading position in bytes that may end anywhere. Its errors say what was expected and where the
//! bytes ended.

/// Reads little-endian values from the front of a slice.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Bytes that follow.
    pub(crate) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    /// The next `count` bytes, which `what` describes.
    pub(crate) fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], String> {
        if count > self.remaining() {
            return Err(format!(
                "expected {what} of {count} bytes at byte {}, but only {} bytes follow; the file \
                 is incomplete or damaged: download or copy it again",
                self.position,
                self.remaining()
            ));
        }
        let start = self.position;
        self.position += count as usize;
        Ok(&self.bytes[start..self.position])
    }

    /// Fails if `count` items of at least `item_bytes` each cannot follow.
    pub(crate) fn check_room(&self, count: u64, item_bytes: u64, what: &str) -> Result<(), String> {
        if count > self.remaining() / item_bytes {
            return Err(format!(
                "declares {count} {what} at byte {}, but only {} bytes follow; the file is \
                 incomplete or damaged: download or copy it again",
                self.position,
                self.remaining()
            ));
        }
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().expect("take returns as many bytes as asked for"))
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string: its length as u64, then that many bytes of UTF-8.
    pub(crate) fn string(&mut self, what: &str) -> Result<&'a str, String> {
        let length = self.u64(what)?;
        let start = self.position;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|error| {
            format!(
                "expected {what} in UTF-8 at byte {start}, found an invalid byte at {}; the file \
                 is damaged and needs to be made again",
                start + error.valid_up_to()
            )
        })
    }
}
