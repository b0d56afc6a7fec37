//! A file for readers that map what they read.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The path of a file of this process that holds these bytes until the next call.
pub fn holding(bytes: &[u8]) -> &'static Path {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
        std::env::temp_dir().join(format!("quantkit-fuzz-{}", std::process::id()))
    });
    std::fs::write(&*PATH, bytes).expect("room for a small file");
    &PATH
}
