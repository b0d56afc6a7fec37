//! Scoring by a server: vLLM, SGLang, TensorRT-LLM, llama-server.
//!
//! The server tokenizes. A choice's score is the sum of the log-probabilities of its text's tokens
//! after those that the texts of all choices begin with, under every protocol. Nothing that it answers
//! is believed before it is checked: its tokens must spell the text (`spelling`), and its
//! log-probabilities must be such as a model gives (`tokens`, `choices`). The door is `score_job`.

mod answers;
mod choices;
mod client;
mod dialect;
mod options;
mod score;
mod spelling;
mod tokens;

pub(in crate::eval) use client::{Client, Refusal};
pub(in crate::eval) use dialect::{Dialect, Server};
pub use options::EndpointOptions;
pub(in crate::eval) use score::{Job, JobResult, score_job};
