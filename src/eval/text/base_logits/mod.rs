//! llama.cpp's file of what a model predicts on a text, which `llama-perplexity --kl-divergence`
//! compares other models with.
//!
//! All numbers are little-endian:
//!
//! - `_logits_`, 8 bytes;
//! - the tokens of a window, of the vocabulary, and the windows, 32 bits each;
//! - all windows' tokens, 32 bits each;
//! - for each scored position of each window, which are those of its second half but the last: a
//!   scale and the smallest log-probability, each an f32; for each token a code of 16 bits, so that
//!   its log-probability is scale · code + smallest; and 16 bits more where the vocabulary is odd.
//!
//! A token that is 16 nats less likely than the likeliest has code 0, as all less likely ones have.

mod coding;
mod read;
mod write;

pub use coding::CodedRow;
pub use read::{BaseLogits, CodedRows};
pub(super) use write::BaseLogitsWriter;

const MAGIC: &[u8; 8] = b"_logits_";
/// Bytes before the tokens.
const HEAD_BYTES: usize = 20;
