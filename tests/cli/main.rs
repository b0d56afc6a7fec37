//! End-to-end tests that drive the built binary.

mod baseline;
mod bench;
mod broken_files;
mod compare;
mod convert;
mod demo;
mod divergence;
mod docs;
mod endpoint;
mod endpoint_faults;
mod engine;
mod eval_set;
mod export;
mod families;
mod fetch;
mod finished;
mod generate;
mod http_server;
mod importance;
mod inspect;
mod kserve;
mod llama;
mod metrics;
mod mmlu_eval;
mod model_server;
#[cfg(feature = "s3")]
mod object_server;
mod page;
mod perplexity;
mod profile;
mod protocols;
mod quantize;
mod quantize_formats;
mod quantize_reference;
mod quantize_sources;
mod question_sets;
mod records;
mod robust;
mod search;
mod serve;
mod service;
mod split;
#[cfg(feature = "s3")]
mod storage;
mod support;
mod trust;
