//! End-to-end tests that drive the built binary.

mod broken_files;
mod inspect;
mod quantize;
mod support;
