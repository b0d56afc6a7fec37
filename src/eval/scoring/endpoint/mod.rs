//! Scoring by a server: vLLM, SGLang, TensorRT-LLM, llama-server.
//!
//! The server tokenizes. A choice's score is the sum of the log-probabilities of its text's tokens
//! after those that the texts of all choices begin with, under every protocol. The door is
//! `score_job`.

mod client;
mod dialect;
mod options;
mod score;

pub(in crate::eval) use client::Client;
pub(in crate::eval) use dialect::{Dialect, Server};
pub use options::EndpointOptions;
pub(in crate::eval) use score::{Job, JobResult, score_job};
