//! End-to-end tests that drive the built binary.

mod bench;
mod broken_files;
mod compare;
mod convert;
mod demo;
mod divergence;
mod endpoint;
mod engine;
mod eval_set;
mod export;
mod fetch;
mod generate;
mod http_server;
mod importance;
mod inspect;
mod mmlu_eval;
mod perplexity;
mod profile;
mod protocols;
mod quantize;
mod quantize_reference;
mod quantize_sources;
mod records;
mod search;
mod split;
mod support;
