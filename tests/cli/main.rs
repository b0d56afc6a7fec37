//! End-to-end tests that drive the built binary.

mod bench;
mod broken_files;
mod compare;
mod demo;
mod inspect;
mod mmlu_eval;
mod quantize;
mod support;
