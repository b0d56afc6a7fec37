//! End-to-end tests that drive the built binary.

mod bench;
mod broken_files;
mod compare;
mod convert;
mod demo;
mod export;
mod inspect;
mod mmlu_eval;
mod quantize;
mod support;
