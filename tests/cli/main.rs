//! End-to-end tests that drive the built binary.

mod bench;
mod broken_files;
mod compare;
mod inspect;
mod quantize;
mod support;
